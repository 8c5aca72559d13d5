"""The signals of one message: types, multiplexers, value tables, twins."""

import dataclasses

from agent.blocks import SignalSchema
from agent.signals.dbc.attributes import Attributes
from agent.signals.dbc.document import Choices, Document
from agent.signals.dbc.fields import MessageLine, SignalLine
from agent.signals.dbc.layout import FRAME_BYTES, unreachable
from agent.signals.dbc.multiplexing import Multiplexing
from agent.signals.dbc.names import Names, aliased
from agent.signals.dbc.report import Report
from agent.signals.model import Signal, kind_of

_WORD = 64
"""Bits of a number; what is longer is bytes."""
_FLOATS = frozenset({16, 32, 64})


class SignalBuilder:
    """Makes signals out of lines, with notes about those lines."""

    def __init__(self, document: Document, attributes: Attributes, report: Report) -> None:
        self._document = document
        self._attributes = attributes
        self._report = report
        self._tables: dict[int, tuple[tuple[int, str], ...]] = {}

    def of(self, message: MessageLine, name: str, length: int) -> list[tuple[Signal, int]]:
        """Signals with names of their own, each with its line, in the order of the file."""
        report = self._report
        usable = [s for s in message.signals if self._is_usable(s, name, length)]
        multiplexing = Multiplexing(message, usable, self._document, report)
        names = Names()
        called: dict[str, str] = {}
        twins: dict[tuple[object, ...], int] = {}
        signals: list[Signal] = []
        lines: list[int] = []
        selectors: list[set[int]] = []
        for line in usable:
            signal = self._signal(line, message, name, multiplexing)
            key = (signal.name, signal.parent, *layout(signal))
            item = f"{name}.{signal.name}"
            twin = twins.setdefault(key, len(signals))
            if twin < len(signals):
                what, done = "is there twice, with the same bits", "one is left out"
                if not signal.selected_by <= selectors[twin]:
                    selectors[twin] |= signal.selected_by
                    done = "read as one signal of several multiplexer values"
                report.add("duplicate", line.line, item, what, done)
                continue
            own = names.give(signal.name)
            if own != signal.name:
                what = "another signal of the message has this name"
                report.add("duplicate", line.line, item, what, f'is called "{own}"')
            called.setdefault(line.name, own)
            signals.append(renamed(signal, own, signal.parent))
            lines.append(line.line)
            selectors.append(set(signal.selected_by))
        for index, signal in enumerate(signals):
            if signal.parent:
                selected = frozenset(selectors[index])
                more = dataclasses.replace(signal, selected_by=selected)
                signals[index] = renamed(more, signal.name, called.get(signal.parent, ""))
        lost = unreachable(signals)
        for index, signal in enumerate(signals):
            if signal.name in lost:
                what, done = "its multiplexers select each other", "decoded in every frame"
                report.add("multiplexer", lines[index], f"{name}.{signal.name}", what, done)
                signals[index] = renamed(signal, signal.name, "")
        return list(zip(signals, lines, strict=True))

    def _is_usable(self, line: SignalLine, message: str, length: int) -> bool:
        item = f"{message}.{line.name}"
        if line.length == 0:
            self._report.add("length", line.line, item, "has no bits", "left out")
            return False
        first = line.start
        if line.big_endian:
            first = 8 * (first // 8) + 7 - first % 8
        end = (first + line.length + 7) // 8
        if end > max(length, FRAME_BYTES):
            what = f"ends in byte {end}, beyond every frame of a message of {length}"
            self._report.add("fit", line.line, item, what, "left out")
            return False
        return True

    def _signal(
        self, line: SignalLine, message: MessageLine, name: str, multiplexing: Multiplexing
    ) -> Signal:
        report = self._report
        own = self._attributes.long_name(message.number, line.name) or line.name
        own = aliased(own, f"signal {name}", line.line, report)
        item = f"{name}.{own}"
        if line.scale == 0:
            done = "kept: raw values are as they are"
            report.add("scale", line.line, item, "the scale is 0", done)
        if line.minimum is not None and line.maximum is not None and line.minimum > line.maximum:
            what = f"the minimum {line.minimum} is above the maximum {line.maximum}"
            report.add("limits", line.line, item, what, "kept: limits change no value")
        is_float = self._is_float(line, message, item)
        parent, selected_by = multiplexing.of(line)
        values = self._document.choices.get((message.number, line.name))
        # Bytes are nothing wrong, such as a VIN; numbers of such a length are.
        if line.length > _WORD and (line.signed or values or (line.scale, line.offset) != (1, 0)):
            what = f"has {line.length} bits, too many for a number"
            report.add("length", line.line, item, what, "read as bytes")
        return Signal(
            schema=SignalSchema(
                name=own,
                kind=kind_of(length=line.length, signed=line.signed, is_float=is_float),
                bits=line.length,
                scale=line.scale,
                offset=line.offset,
                unit=line.unit,
                choices=self._choices(values[1]) if values else (),
                minimum=None if line.minimum is None else float(line.minimum),
                maximum=None if line.maximum is None else float(line.maximum),
            ),
            start=line.start,
            length=line.length,
            big_endian=line.big_endian,
            multiplexer=multiplexing.selects(line),
            parent=parent,
            selected_by=selected_by,
        )

    def _choices(self, values: Choices) -> tuple[tuple[int, str], ...]:
        """One tuple for a table, however many signals have it."""
        made = self._tables.get(id(values))
        if made is None:
            made = self._tables[id(values)] = tuple(values.items())
        return made

    def _is_float(self, line: SignalLine, message: MessageLine, item: str) -> bool:
        at, kind = self._document.types.get((message.number, line.name), (0, 0))
        if kind not in {1, 2}:
            if kind:
                what = f"SIG_VALTYPE_ {kind} is no type"
                self._report.add("float", at, item, what, "read as an integer")
            return False
        if line.length not in _FLOATS:
            what = f"is a float of {line.length} bits, which there is not"
            self._report.add("float", at, item, what, "read as an integer")
            return False
        if line.length != 32 * kind:
            what = f"is a float of {32 * kind} bits by its type and has {line.length}"
            self._report.add("float", at, item, what, f"read as a float of {line.length} bits")
        return True


def layout(signal: Signal) -> tuple[object, ...]:
    """What makes the values of a signal."""
    s = signal.schema
    return (signal.start, signal.length, signal.big_endian, s.kind, s.scale, s.offset)


def renamed(signal: Signal, name: str, parent: str) -> Signal:
    """The signal with another name or multiplexer; without one, it is always there."""
    if (name, parent) == (signal.name, signal.parent):
        return signal
    return dataclasses.replace(
        signal,
        schema=dataclasses.replace(signal.schema, name=name),
        parent=parent,
        selected_by=signal.selected_by if parent else frozenset(),
    )
