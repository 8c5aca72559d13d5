"""What the decoder relies on, checked for messages that did not come out of our own DBC reader."""

import math

from agent.blocks import ID_BITS
from agent.signals.dbc.layout import unreachable
from agent.signals.model import Message, Signal

_STANDARD = 0x7FF
_LONGEST = 65_535
_WORD = 64


def fault(message: Message) -> str:
    """Why the decoder must not get this message, or ""."""
    if not 0 <= message.id <= (ID_BITS if message.extended else _STANDARD):
        return f"the id {message.id:#x} is beyond its bits"
    if not 0 <= message.length <= _LONGEST or not message.name:
        return f"the length {message.length} or the name is none"
    by_name: dict[str, Signal] = {}
    nested = False
    for signal in message.signals:
        why = _fault(signal)
        if why:
            return f"{signal.name}: {why}"
        if signal.name in by_name:
            return f"{signal.name}: is there twice"
        by_name[signal.name] = signal
        nested = nested or bool(signal.parent)
    if nested:
        return _multiplexer_fault(message, by_name)
    return ""


def _fault(signal: Signal) -> str:
    schema, length = signal.schema, signal.length
    if not (0 < length <= 8 * _LONGEST and 0 <= signal.start < 8 * _LONGEST and schema.name):
        return f"bits {signal.start}|{length} or the name are none"
    if schema.bits != length:
        return "two lengths"
    kind = schema.kind
    if kind in {"int64", "uint64"}:
        fits = length <= _WORD
    elif kind == "float32":
        fits = length in {16, 32}
    else:
        fits = length == _WORD if kind == "float64" else length > _WORD
    if not fits:
        return f"{length} bits are no {kind}"
    # Beyond doubles, an int raises and a float is not finite.
    try:
        numbers = (schema.scale, schema.offset, schema.minimum or 0, schema.maximum or 0)
        if not all(map(math.isfinite, numbers)):
            return "a scale or limit that is no number"
    except OverflowError:
        return "a scale that is beyond all bounds"
    return ""


def _multiplexer_fault(message: Message, by_name: dict[str, Signal]) -> str:
    for signal in message.signals:
        if not signal.parent:
            continue
        parent = by_name.get(signal.parent)
        if parent is None or not parent.multiplexer or parent.length > _WORD:
            return f"{signal.name}: its multiplexer {signal.parent} is none"
        if any(not 0 <= value < 1 << _WORD for value in signal.selected_by):
            return f"{signal.name}: a multiplexer value beyond 64 bits"
    lost = unreachable(message.signals)
    return f"{min(lost)}: its multiplexers select each other" if lost else ""
