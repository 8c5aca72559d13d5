"""Raw values that are no measurements: "not available", "error", "reserved".

A sender without a sensor, or with a broken one, says so in the value itself. Raw values stay what
they are on the bus, and so do physical ones; the schema says which raw values are codes.

What SAE J1939-71 says (its tables of signal ranges and of discrete parameters) holds for unsigned
whole numbers of J1939 messages:

    bits       error                  not available
    2          2                      3
    4 to 7     all ones but the last  all ones
    8 to 32    highest 8 bits FE      highest 8 bits FF

The first line is the standard's own, and the last one is for 8, 16 and 32 bits; other lengths
follow it here. Of 1 and 3 bits and of more than 32 nothing is said, so nothing is
taken for a code. NMEA 2000, which shares the bus (PGN from 0x1ED00 on), measures up to all ones
less two: there only the last two numbers are codes.

It is a convention and not part of a database file, so what the file says goes before:

- a value table that has another word for one of these numbers: it is no code; one that has a word
  of the same meaning confirms it;
- a maximum that reaches into the codes: they are values;
- a multiplexer selects with all its values; and diagnostics over CAN (PGN 0xDA00 and 0xDB00, ISO
  15765) are none of J1939's data.

What a plan says of a signal takes the place of all this.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from agent.blocks import Codes, SignalSchema
from agent.errors import ConfigError
from agent.settings import CodesOfSignals
from agent.signals.model import Message

_DIAGNOSTIC = frozenset({0xDA00, 0xDB00})
_NMEA_2000 = range(0x1ED00, 0x20000)
_WORDS: Mapping[str, re.Pattern[str]] = {
    "not available": re.compile(
        r"\bn[ /.]?a\b|\bsna\b|not?[ _-]?avail|unavail|not (supported|installed|fitted)"
        r"|don'?t[ _-]?care|take no action|no action",
        re.IGNORECASE,
    ),
    "error": re.compile(r"err(or)?\b|fault|fail|invalid|defect", re.IGNORECASE),
}
_NUMBER = r"[+-]?(?:0[xX][0-9a-fA-F_]+|[0-9][0-9_]*)"
_RANGE = re.compile(rf"\s*({_NUMBER})\s*(?:-\s*({_NUMBER})\s*)?\Z")


def with_j1939(message: Message) -> Message:
    """A message with the codes of J1939 in its signals, if it is one of J1939."""
    if not message.j1939 or message.pgn in _DIAGNOSTIC:
        return message
    narrow = message.pgn in _NMEA_2000
    signals = tuple(
        s
        if s.multiplexer or not (codes := of_j1939(s.schema, narrow=narrow))
        else dataclasses.replace(s, schema=dataclasses.replace(s.schema, codes=codes))
        for s in message.signals
    )
    return dataclasses.replace(message, signals=signals)


def of_j1939(schema: SignalSchema, *, narrow: bool = False) -> Codes:
    """The codes that J1939 gives a signal; `narrow` is as NMEA 2000 has them."""
    bits = schema.bits
    if schema.kind != "uint64" or not (bits == 2 or 4 <= bits <= 32):
        return ()
    size = 1 << (0 if narrow else max(0, bits - 8))
    top = 1 << bits
    found = (
        (top - size, top - 1, "not available"),
        (top - 2 * size, top - size - 1, "error"),
    )
    highest = _highest_raw(schema)
    return tuple(code for code in found if _holds(schema, code, highest))


def _holds(schema: SignalSchema, code: tuple[int, int, str], highest: float) -> bool:
    first, last, meaning = code
    texts = [text for raw, text in schema.choices if first <= raw <= last]
    if texts:
        return all(_WORDS[meaning].search(text) for text in texts)
    return highest < first


def _highest_raw(schema: SignalSchema) -> float:
    """The raw value of the limit that the database states; -1 where it states none."""
    low, high = schema.minimum, schema.maximum
    limit = high if schema.scale > 0 else low
    if limit is None or low == high or not schema.scale:
        return -1
    raw = (limit - schema.offset) / schema.scale
    return round(raw, 6) if math.isfinite(raw) else math.inf


def of_plan(entry: CodesOfSignals) -> Codes:
    """The codes that an entry of a plan lists, sorted.

    Raises:
        ConfigError: a text is no number and no range, or one number has two meanings.
    """
    lists = (
        (entry.not_available, "not available"),
        (entry.error, "error"),
        (entry.reserved, "reserved"),
    )
    codes = sorted((*_range(item), meaning) for items, meaning in lists for item in items)
    for (_, last, meaning), (first, _, other) in itertools.pairwise(codes):
        if first <= last:
            also = f"both {meaning} and {other}" if meaning != other else f"{meaning} twice"
            raise ConfigError(f"codes: {first} ({first:#x}) is {also}")
    return tuple(codes)


def _range(item: int | str) -> tuple[int, int]:
    if isinstance(item, int):
        return item, item
    match = _RANGE.match(item)
    try:
        if match:
            first = int(match[1], 0)
            last = first if match[2] is None else int(match[2], 0)
            if first <= last:
                return first, last
    except ValueError:  # such as 007 or 1__0
        pass
    raise ConfigError(
        f'codes: "{item}" is no number and no range; write 255, "0xFF" or "0xFF00-0xFFFF"'
    )


def fits(schema: SignalSchema, codes: Iterable[tuple[int, int, str]]) -> bool:
    """Whether the signal can have all these raw values."""
    if schema.kind not in ("int64", "uint64"):
        return False
    signed = schema.kind == "int64"
    least = -(1 << schema.bits - 1) if signed else 0
    most = (1 << schema.bits - signed) - 1
    return all(least <= first and last <= most for first, last, _ in codes)


def merged(known: Codes, more: Codes, name: str) -> Codes:
    """What two entries of a plan say of one signal.

    Raises:
        ConfigError: they say different things of one number.
    """
    whole = sorted({*known, *more})
    for (_, last, _), (first, _, _) in itertools.pairwise(whole):
        if first <= last:
            raise ConfigError(f"codes: two entries say what {first} of {name} means")
    return tuple(whole)


def refusal(names: Sequence[str], codes: Codes) -> ConfigError:
    """Why an entry of a plan can hold for none of the signals that it names."""
    shown = ", ".join(f"{a:#x}" if a == b else f"{a:#x}-{b:#x}" for a, b, _ in codes)
    few = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return ConfigError(
        f"codes: {few}: no whole number that has {shown or 'codes'} among its values"
    )
