"""Cell voltages of 2016: one pack in several frames.

A frame of type 0x08 carries at most 200 cells of a pack, and a greater pack goes in several frames
of the same time, each with the number of its first cell, from 1. The edition of 2025 has no limit
and needs none of this.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from agent.gbt32960.layout import Code, GbtError

CELLS_PER_FRAME: Final = 200
PACKS_PER_FRAME: Final = 250
# number, voltage, current, total, first, count
_ROW_BYTES: Final = 10


@dataclasses.dataclass(frozen=True, slots=True)
class Pack:
    """A whole pack, in raw values.

    Attributes:
        cells: the voltages that are known, by cell number in ascending order.
        total: how many cells the pack says that it has.
    """

    number: int
    voltage: int
    current: int
    cells: Mapping[int, int]
    total: int

    @property
    def missing(self) -> int:
        """How many cells did not come."""
        return self.total - len(self.cells)


def split_packs(packs: Iterable[Pack], max_bytes: int = 60_000) -> Iterator[dict[str, Any]]:
    """The values of one 0x08 item a frame, as many frames as it takes, all of the same time.

    Args:
        packs: with no cell missing.
        max_bytes: the greatest size of an item; the rest of the frame needs room, too.

    Raises:
        GbtError: a cell is missing, or there are more than 65531.
    """
    waiting = [list(_chunks(pack)) for pack in packs]
    while waiting:
        # A round takes the next part of every pack, so most vehicles need one frame a 200 cells.
        rows: list[dict[str, Any]] = []
        size = 0
        for chunks in waiting:
            row = chunks[0]
            row_bytes = _ROW_BYTES + 2 * len(row["cells"])
            if rows and (size + row_bytes > max_bytes or len(rows) == PACKS_PER_FRAME):
                yield {"packs": rows}
                rows, size = [], 0
            rows.append(chunks.pop(0))
            size += row_bytes
        yield {"packs": rows}
        waiting = [chunks for chunks in waiting if chunks]


def _chunks(pack: Pack) -> Iterator[dict[str, Any]]:
    if not 0 < pack.total <= 65531 or list(pack.cells) != list(range(1, pack.total + 1)):
        raise GbtError(f"pack {pack.number} has not all of its {pack.total} cells, or too many")
    cells = list(pack.cells.values())
    for first in range(0, pack.total, CELLS_PER_FRAME):
        yield {
            "number": pack.number,
            "voltage": pack.voltage,
            "current": pack.current,
            "total_cells": pack.total,
            "first_cell": first + 1,
            "cells": cells[first : first + CELLS_PER_FRAME],
        }


def join_packs(parts: Iterable[Mapping[str, Any]]) -> list[Pack]:
    """Whole packs from the values of all 0x08 items of one time, in any order, also with repeats.

    A pack takes voltage and current from its first part. Memory is bounded by the cells that came,
    not by the number that a pack says it has.

    Raises:
        GbtError: the parts of a pack disagree on its size, or a part lies outside of it.
    """
    packs: dict[int, Pack] = {}
    cells: dict[int, dict[int, int]] = {}
    for part in parts:
        rows = part["packs"]
        for row in () if isinstance(rows, Code) else rows:
            number, total, first = row["number"], row["total_cells"], row["first_cell"]
            pack = packs.setdefault(number, Pack(number, row["voltage"], row["current"], {}, total))
            values: Sequence[int] = () if isinstance(row["cells"], Code) else row["cells"]
            if pack.total != total:
                raise GbtError(f"pack {number} has {pack.total} cells in one part, {total} in one")
            if first < 1 or first + len(values) - 1 > total:
                last = first + len(values) - 1
                raise GbtError(f"pack {number} has {total} cells, and cells {first} to {last} came")
            cells.setdefault(number, {}).update(enumerate(values, first))
    return [
        dataclasses.replace(pack, cells=dict(sorted(cells[pack.number].items())))
        for pack in packs.values()
    ]
