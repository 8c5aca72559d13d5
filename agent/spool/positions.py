"""How far a recording that stands in for a bus has been read."""

from collections.abc import Mapping
from typing import Any

Positions = dict[str, dict[str, Any]]
"""Bus -> where its recording was read to: `path`, `size` and `frames`; `ended` if all is given."""


def further(old: Positions, new: Positions) -> Positions:
    """Positions after a block; a position in the same recording never goes back."""
    merged = dict(old)
    for bus, position in new.items():
        known = merged.get(bus)
        if (
            known is None
            or not same_recording(known, position)
            or position["frames"] > known["frames"]
            or position.get("ended", False)
        ):
            merged[bus] = position
    return merged


def same_recording(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two positions speak of the same file."""
    return a.get("path") == b.get("path") and a.get("size") == b.get("size")
