"""The attributes that matter: long names, J1939, cycle times."""

from agent.signals.dbc.document import (
    CYCLE_TIME,
    FRAME_FORMAT,
    LONG_MESSAGE,
    LONG_SIGNAL,
    Definition,
    Document,
)
from agent.signals.dbc.fields import number_of
from agent.signals.dbc.report import Report

_FORMATS = ["StandardCAN", "ExtendedCAN", "reserved", "J1939PG"]
"""Vector's values of VFrameFormat; the others are about CAN FD, which frames say themselves."""


class Attributes:
    def __init__(self, document: Document, report: Report) -> None:
        self._values = document.attributes
        self._report = report
        self._frame_format = document.definitions.get(FRAME_FORMAT)
        if self._frame_format is None and FRAME_FORMAT in document.attributes:
            self._frame_format = Definition("INT", [])
        self._cycle_time = document.definitions.get(CYCLE_TIME)
        if self._cycle_time is None and CYCLE_TIME in document.attributes:
            self._cycle_time = Definition("INT", [])

    def long_name(self, number: int, signal: str = "") -> str:
        """The name that was too long for the 32 characters of old tools, or ""."""
        values = self._values.get(LONG_SIGNAL if signal else LONG_MESSAGE, {})
        return values.get((number, signal), (0, ""))[1]

    def is_j1939(self, number: int) -> bool:
        definition = self._frame_format
        if definition is None:
            return False
        labels = _FORMATS if definition.type == "INT" else definition.choices
        line, value = self._values.get(FRAME_FORMAT, {}).get((number, ""), (0, None))
        if value is None:
            default = definition.default or ""
            return (_label(default, labels) if definition.type == "INT" else default) == "J1939PG"
        label = value if value in labels else _label(value, labels)
        if label is None and definition.type != "INT":
            what = f"the frame format {value} is none of those that are defined"
            self._report.add("attribute", line, f"BO_ {number}", what, "left out")
        return label == "J1939PG"

    def cycle_ms(self, number: int) -> int | None:
        definition = self._cycle_time
        if definition is None:
            return None
        line, value = self._values.get(CYCLE_TIME, {}).get((number, ""), (0, None))
        if value is None:
            value = definition.default or "0"
        cycle = number_of(value)
        if cycle is None:
            what = f'the cycle time "{value}" is no number'
            self._report.add("attribute", line, f"BO_ {number}", what, "left out")
            return None
        return round(cycle) or None


def _label(value: str, labels: list[str]) -> str | None:
    index = number_of(value)
    if index is None or not 0 <= index < len(labels):
        return None
    return labels[int(index)]
