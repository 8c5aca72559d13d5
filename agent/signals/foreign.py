"""KCD, SYM and ARXML, as cantools reads them.

cantools makes every scaling linear. Where a format says more (several segments, rational
functions), it logs so and takes a part or nothing of it: such a line of its log becomes a finding.
The raw values are exact in any case.
"""

import contextlib
import dataclasses
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cantools

from agent.blocks import SignalSchema
from agent.errors import DatabaseError
from agent.signals.dbc.names import Names
from agent.signals.dbc.report import Report, shown
from agent.signals.dbc.signals import layout, renamed
from agent.signals.dbc.text import decode
from agent.signals.finding import Finding
from agent.signals.model import Message, Signal, kind_of
from agent.signals.sound import fault

_MAX_SYM_BYTES = 1 << 20
"""cantools takes seconds for each megabyte of this format."""
_DECLARED = re.compile(rb"""\s*<\?xml[^>]*?\bencoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_NOT_LINEAR = "Compu method category"
_NOTHING_WRONG = ("Overwriting message", "Compu method category IDENTICAL")
"""Of two messages with one id we keep the first ourselves; and IDENTICAL is read correctly."""


def read(path: Path, data: bytes, kind: str) -> tuple[list[Message], list[Finding]]:
    """The messages of a file in a format of cantools, and what was wrong.

    Raises:
        DatabaseError: cantools refuses it.
    """
    if kind == "sym" and len(data) > _MAX_SYM_BYTES:
        raise DatabaseError(f"{path}: cannot be used: has more than {_MAX_SYM_BYTES >> 20} MB")
    report = Report()
    text = _text(data, report)
    with _told() as lines:
        try:
            database: Any = cantools.database.load_string(
                text, kind, strict=False, sort_signals=None
            )
            messages = [_message(m, report) for m in getattr(database, "messages", ())]
        except Exception as e:  # cantools lets whatever its parsers meet through
            raise DatabaseError(f"{path}: cannot be used: {_first_line(e)}") from e
    for line in lines:
        report.add(
            "cantools", 0, kind.upper(), line, "raw values are exact, read on as far as known"
        )
    good = []
    for message in messages:
        why = fault(message)
        if why:
            report.add("message", 0, f"message {message.name}", why, "left out")
        else:
            good.append(message)
    notes = [Finding(str(path), n.item, n.what, n.done, n.line) for n in report.notes()]
    return good, notes


def _text(data: bytes, report: Report) -> str:
    """XML says what its encoding is; where that is not so, the bytes do."""
    declared = _DECLARED.match(data)
    if declared:
        with contextlib.suppress(LookupError, UnicodeDecodeError):
            return data.decode(declared[1].decode())
    return decode(data, report)[0]


@contextlib.contextmanager
def _told() -> Iterator[list[str]]:
    """What cantools logs in the meantime, each line once."""
    lines: dict[str, None] = {}

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            line = record.getMessage()
            if line.startswith(_NOTHING_WRONG):
                return
            if record.levelno >= logging.WARNING or line.startswith(_NOT_LINEAR):
                lines[shown(line)] = None

    logger = logging.getLogger("cantools")
    handler = Handler()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    told: list[str] = []
    try:
        yield told
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
        told += lines


def _first_line(error: Exception) -> str:
    return shown((str(error) or type(error).__name__).splitlines()[0])


def _message(message: Any, report: Report) -> Message:
    extended = bool(message.is_extended_frame)
    cycle = message.cycle_time
    return Message(
        name=message.name,
        id=message.frame_id,
        extended=extended,
        length=message.length,
        signals=_without_twins([_signal(s, message.name, report) for s in message.signals]),
        j1939=extended and message.protocol == "j1939",
        cycle_ms=None if cycle is None else round(cycle),
    )


def _without_twins(signals: list[Signal]) -> tuple[Signal, ...]:
    """Signals of one name made one where their bits are the same, and else told apart by number.

    These formats describe a signal again in each multiplexer branch, so it is nothing wrong.
    """
    kept: dict[tuple[object, ...], Signal] = {}
    names = Names()
    for signal in signals:
        key = (signal.name, signal.parent, *layout(signal))
        twin = kept.get(key)
        if twin is None:
            kept[key] = renamed(signal, names.give(signal.name), signal.parent)
        else:
            selected = twin.selected_by | signal.selected_by
            kept[key] = dataclasses.replace(twin, selected_by=selected)
    return tuple(kept.values())


def _signal(signal: Any, message: str, report: Report) -> Signal:
    conversion = signal.conversion
    scale, offset = getattr(conversion, "scale", None), getattr(conversion, "offset", None)
    if not isinstance(scale, int | float) or not isinstance(offset, int | float):
        what = f"its scaling is no line ({type(conversion).__name__})"
        report.add("scaling", 0, f"{message}.{signal.name}", what, "raw values are kept unscaled")
        scale, offset = 1, 0
    choices = {}
    for value, label in (conversion.choices or {}).items():
        if float(value).is_integer():
            choices[int(value)] = str(label)
        else:
            what = f'"{label}" is for {value}, which is no raw value'
            report.add("values", 0, f"{message}.{signal.name}", what, "the value is left out")
    selected = frozenset(signal.multiplexer_ids or ())
    return Signal(
        schema=SignalSchema(
            name=signal.name,
            kind=kind_of(
                length=signal.length, signed=signal.is_signed, is_float=conversion.is_float
            ),
            bits=signal.length,
            scale=scale,
            offset=offset,
            unit=signal.unit or "",
            choices=tuple(choices.items()),
            minimum=_plain(signal.minimum),
            maximum=_plain(signal.maximum),
        ),
        start=signal.start,
        length=signal.length,
        big_endian=signal.byte_order == "big_endian",
        multiplexer=signal.is_multiplexer,
        parent=signal.multiplexer_signal or "" if selected else "",
        selected_by=selected if signal.multiplexer_signal else frozenset(),
    )


def _plain(value: Any) -> float | None:
    return None if value is None else float(value)
