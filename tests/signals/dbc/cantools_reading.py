"""What cantools makes of a DBC file, in this program's model."""

from pathlib import Path
from typing import Any

import cantools

from agent.blocks import SignalSchema
from agent.signals.model import Message, Signal, kind_of


def messages(text: str) -> tuple[Message, ...]:
    """The messages of a file that cantools reads (strict=False)."""
    database: Any = cantools.database.load_string(text, "dbc", strict=False, sort_signals=None)
    return tuple(
        Message(
            name=m.name,
            id=m.frame_id,
            extended=m.is_extended_frame,
            length=m.length,
            signals=tuple(_signal(s) for s in m.signals),
            j1939=m.is_extended_frame and m.protocol == "j1939",
            cycle_ms=m.cycle_time,
        )
        for m in database.messages
    )


def strict_complaint(path: Path, encoding: str) -> str:
    """What cantools says where it is strict, or ""."""
    try:
        cantools.database.load_file(path, encoding=encoding, strict=True)
    except cantools.Error as e:
        return str(e)
    return ""


def _signal(signal: Any) -> Signal:
    conversion = signal.conversion
    choices = tuple((value, str(label)) for value, label in (conversion.choices or {}).items())
    kind = kind_of(length=signal.length, signed=signal.is_signed, is_float=conversion.is_float)
    selected = frozenset(signal.multiplexer_ids or ()) if signal.multiplexer_signal else frozenset()
    return Signal(
        schema=SignalSchema(
            name=signal.name,
            kind=kind,
            bits=signal.length,
            scale=conversion.scale,
            offset=conversion.offset,
            unit=signal.unit or "",
            choices=choices,
            minimum=None if signal.minimum is None else float(signal.minimum),
            maximum=None if signal.maximum is None else float(signal.maximum),
        ),
        start=signal.start,
        length=signal.length,
        big_endian=signal.byte_order == "big_endian",
        multiplexer=signal.is_multiplexer,
        parent=(signal.multiplexer_signal or "") if selected else "",
        selected_by=selected,
    )
