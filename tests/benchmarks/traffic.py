"""Frames that benchmarks run on: real recordings where they are there, and the virtual vehicle."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cantools
import numpy as np
from cantools.database.can import Database as CanDatabase
from cantools.database.can import Message

from agent.bench.vehicle import VirtualVehicle, dbc_path
from agent.blocks import MAX_BLOCK_FRAMES, FrameBlock
from agent.bus import read_log
from agent.clock import MILLISECOND, SECOND
from agent.signals import Database, Decoder
from tests.shared_data import SHARED, shared

BLOCK_MS = 500
"""A block closes at this age on a live bus."""

KONA = "Kona, full bus"
VEHICLE = "virtual vehicle, 60 s"


@dataclasses.dataclass(frozen=True)
class Traffic:
    """The frames of some buses, one block a bus, and the files that decode them."""

    name: str
    buses: tuple[FrameBlock, ...]
    dbc: tuple[Path, ...]
    j1939: bool = False

    @functools.cached_property
    def frames(self) -> int:
        return sum(len(bus) for bus in self.buses)

    @functools.cached_property
    def span_ns(self) -> int:
        """From the first frame to where a repetition begins."""
        last = max(int(bus.time.max()) for bus in self.buses)
        return last - self.first_ns + 10 * MILLISECOND

    @functools.cached_property
    def first_ns(self) -> int:
        return min(int(bus.time.min()) for bus in self.buses)

    def database(self) -> Database:
        return Database.load([str(path) for path in self.dbc], j1939=self.j1939)

    def seconds(self) -> Iterator[list[FrameBlock]]:
        """What each second brings: blocks of `BLOCK_MS` of each bus, in the order of time."""
        cut = [_cells(bus, self.first_ns, BLOCK_MS * MILLISECOND) for bus in self.buses]
        a_second = SECOND // (BLOCK_MS * MILLISECOND)
        for begin in range(0, max(map(len, cut)), a_second):
            halves = range(begin, begin + a_second)
            blocks = [cells[i] for i in halves for cells in cut if i < len(cells)]
            yield [block for block in blocks if len(block)]

    def large_blocks(self) -> Iterator[list[FrameBlock]]:
        """Blocks as large as they get, one at a time, as from a recording that is read at once."""
        for bus in self.buses:
            for begin in range(0, len(bus), MAX_BLOCK_FRAMES):
                yield [bus[begin : begin + MAX_BLOCK_FRAMES]]


def later(blocks: Sequence[FrameBlock], shift_ns: int) -> list[FrameBlock]:
    """The same frames at another time."""
    return [dataclasses.replace(block, time=block.time + shift_ns) for block in blocks]


def _cells(bus: FrameBlock, begin_ns: int, span_ns: int) -> list[FrameBlock]:
    cell = (bus.time - begin_ns) // span_ns
    edges = np.searchsorted(cell, np.arange(int(cell[-1]) + 2))
    return [bus[a:b] for a, b in itertools.pairwise(edges.tolist())]


def join(blocks: Sequence[FrameBlock]) -> FrameBlock:
    """Blocks of one width as one, in the order of time."""
    first = blocks[0]
    time = np.concatenate([b.time for b in blocks])
    order = np.argsort(time, kind="stable")
    whole = FrameBlock(
        first.bus,
        time,
        np.concatenate([b.id for b in blocks]),
        np.concatenate([b.length for b in blocks]),
        np.concatenate([b.flags for b in blocks]),
        np.concatenate([b.data for b in blocks]),
        first.clock,
    )
    return whole[order]


def _recording(name: str, log: str, dbc: str, channel: str | None, *, j1939: bool) -> Traffic:
    by_bus: dict[str, list[FrameBlock]] = {}
    with read_log(shared(f"logs/{log}"), channel=channel) as reader:
        for block in reader:
            by_bus.setdefault(block.bus, []).append(block)
    buses = tuple(join(blocks) for _, blocks in sorted(by_bus.items()))
    return Traffic(name, buses, (shared(f"dbc/{dbc}"),), j1939)


def _virtual(seconds: int) -> Traffic:
    return Traffic(VEHICLE, (VirtualVehicle().frames(seconds),), (dbc_path(),))


_RECORDINGS: dict[str, tuple[str, str, str | None, bool]] = {
    KONA: (
        "kona_230112-7-2019-pcan-ccan-power-off-on-ready-off.csv",
        "kona_pcan_fixed.dbc",
        None,
        False,
    ),
    "Kona, battery": ("kona_bms_idle30.asc", "kona_pcan_fixed.dbc", None, False),
    "CANmod.gps": ("css_canmodgps_seq_02.mf4", "canmod-gps.dbc", None, False),
    "OBD polling": ("css_canmodgps_seq_02.mf4", "OBD-v4.4.dbc", None, False),
    "J1939 truck": (
        "css_j1939_truck_400s.mf4",
        "CSS-Electronics-SAE-J1939-DEMO.dbc",
        "1",
        True,
    ),
}


def sources() -> dict[str, Callable[[], Traffic]]:
    """What there is here, to be loaded when it is used."""
    found: dict[str, Callable[[], Traffic]] = {}
    if SHARED.is_dir():
        for name, (log, dbc, channel, j1939) in _RECORDINGS.items():
            found[name] = functools.partial(_recording, name, log, dbc, channel, j1939=j1939)
    found[VEHICLE] = functools.partial(_virtual, 60)
    return found


def cantools_messages(path: Path) -> list[Message]:
    """What cantools makes of a DBC file."""
    database = cantools.database.load_file(str(path), strict=False, encoding="utf-8")
    assert isinstance(database, CanDatabase)
    return database.messages


def decoder(traffic: Traffic) -> Decoder:
    return Decoder(traffic.database())
