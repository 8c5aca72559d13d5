"""Reading a status, which is maps and lists as JSON has them, and may lack any part."""

import math
from collections.abc import Mapping, Sequence
from typing import Any


def at(status: object, *keys: str) -> Any:
    """The value at a place; None where there is no such place."""
    for key in keys:
        if not isinstance(status, Mapping):
            return None
        status = status.get(key)
    return status


def listed(value: object) -> list[Mapping[str, Any]]:
    """The maps of a list."""
    return [each for each in sequence(value) if isinstance(each, Mapping)]


def sequence(value: object) -> Sequence[Any]:
    """A list, or an empty one."""
    return value if isinstance(value, list | tuple) else ()


def mapped(value: object) -> Mapping[str, Any]:
    """A map, or an empty one."""
    return value if isinstance(value, Mapping) else {}


def number(value: object) -> float | None:
    """An int of 64 bits stays one; True is 1; what is no finite number is None."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 63 else None
    return value if isinstance(value, float) and math.isfinite(value) else None


def first_word(state: object) -> str:
    """`waiting` of "waiting: no such device"; at most 16 characters."""
    return str(state).partition(":")[0].strip()[:16] if state else ""


def words(text: object, most: int) -> str:
    """A text of at most so many bytes in UTF-8."""
    data = str(text).encode("utf-8", "replace") if text else b""
    return (
        data.decode() if len(data) <= most else f"{data[: most - 3].decode('utf-8', 'ignore')}..."
    )
