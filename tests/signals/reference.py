"""What cantools makes of a recording, frame by frame: the reference for the decoder.

A frame is named by its number in the recording. cantools is asked for raw and for physical values
of every frame (once for equal payloads: it has no memory), and sources and PGNs are told apart here
and not by the code under test.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import cantools
import numpy as np
from cantools.database.errors import DecodeError

from agent.blocks import ERROR, EXTENDED, ID_BITS, REMOTE, FrameBlock
from agent.bus import read_log
from agent.signals import Counts, Database, Decoder
from tests.shared_data import shared

LOGS = {
    "kona csv": ("kona_230112-7-2019-pcan-ccan-power-off-on-ready-off.csv", None),
    "kona asc": ("kona_bms_idle30.asc", None),
    "gps mf4": ("css_canmodgps_seq_02.mf4", None),
    "truck mf4": ("css_j1939_truck_400s.mf4", "1"),
}
PAIRS = {
    ("kona csv", "kona_pcan_fixed.dbc"): False,
    ("kona asc", "kona_pcan_fixed.dbc"): False,
    ("gps mf4", "canmod-gps.dbc"): False,
    ("gps mf4", "OBD-v4.4.dbc"): False,
    ("truck mf4", "CSS-Electronics-SAE-J1939-DEMO.dbc"): True,
}
"""Recording and database, and whether ids match by PGN."""

Key = tuple[str, int | None, str]
"""Message, J1939 source, signal."""


class Column(NamedTuple):
    """All samples of a signal, in the order received."""

    frame: list[int]
    raw: list[int | float]
    physical: list[float]


Columns = dict[Key, Column]


class Cantools:
    """A DBC file, as cantools decodes with it."""

    def __init__(self, text: str, *, j1939: bool = False) -> None:
        loaded: Any = cantools.database.load_string(text, "dbc", strict=False)
        self.database = loaded
        self._ids = {(m.is_extended_frame, m.frame_id): m for m in loaded.messages}
        self._groups = {
            group_number(m.frame_id): m
            for m in reversed(loaded.messages)
            if m.is_extended_frame and (j1939 or m.protocol == "j1939")
        }
        self._known: dict[tuple[str, bytes], dict[str, tuple[Any, float]] | None] = {}
        self._messages: dict[int, Any] = {}

    def message_of(self, number: int) -> Any:
        """Cantools' message of an id with the kernel's flag bits; None where there is none."""
        if number not in self._messages:
            self._messages[number] = self._find(number)
        return self._messages[number]

    def _find(self, number: int) -> Any:
        if number & (ERROR | REMOTE):
            return None
        extended = bool(number & EXTENDED)
        found = self._ids.get((extended, number & ID_BITS))
        if found is None and extended:
            found = self._groups.get(group_number(number & ID_BITS))
        return found

    def decode(self, message: Any, data: bytes) -> dict[str, tuple[Any, float]] | None:
        """Signal -> (raw, physical); None where cantools cannot tell."""
        key = (message.name, data)
        if key not in self._known:
            self._known[key] = _decode(message, data)
        return self._known[key]

    def columns(self, block: FrameBlock) -> Columns:
        """All samples of a block whose times are frame numbers."""
        columns: Columns = {}
        rows = zip(
            block.time.tolist(), block.id.tolist(), block.length.tolist(), block.data, strict=True
        )
        for frame, number, length, data in rows:
            message = self.message_of(number)
            if message is None:
                continue
            grouped = message.is_extended_frame and group_number(message.frame_id) in self._groups
            source = number & 0xFF if grouped else None
            values = self.decode(message, bytes(data[:length]))
            assert values is not None, f"frame {frame} of {message.name}"
            for name, (raw, physical) in values.items():
                column = columns.setdefault((message.name, source, name), Column([], [], []))
                column.frame.append(frame)
                column.raw.append(raw)
                column.physical.append(physical)
        return columns


def group_number(frame_id: int) -> int:
    """The PGN, by cantools' own functions."""
    j1939: Any = cantools.j1939
    part = j1939.frame_id_unpack(frame_id)
    specific = part.pdu_specific if part.pdu_format >= 240 else 0
    number: int = j1939.pgn_pack(part.reserved, part.data_page, part.pdu_format, specific)
    return number


def _decode(message: Any, data: bytes) -> dict[str, tuple[Any, float]] | None:
    how = {"decode_choices": False, "allow_truncated": True}
    try:
        raw = message.decode(data, scaling=False, **how)
        physical = message.decode(data, scaling=True, **how)
    except DecodeError as error:
        # "unpacking failed": signals of one byte order lie over each other.
        if "expected multiplexer id" in str(error) or "unpacking failed" in str(error):
            return None
        raise
    return {name: (raw[name], float(physical[name])) for name in raw}


def decoded(decoder: Decoder, blocks: list[FrameBlock]) -> Columns:
    """The decoder's samples of blocks whose times are frame numbers, in the order received."""
    parts: dict[Key, list[Any]] = {}
    for block in blocks:
        for table in decoder.decode(block):
            for name in table.names:
                parts.setdefault((table.message, table.source, name), []).append(
                    (table.time, table.raw[name], table.physical(name))
                )
    columns: Columns = {}
    for key, pieces in parts.items():
        frame, raw, physical = (np.concatenate(p) for p in zip(*pieces, strict=True))
        order = np.argsort(frame, kind="stable")
        columns[key] = Column(frame[order].tolist(), raw[order].tolist(), physical[order].tolist())
    return columns


def numbered(blocks: list[FrameBlock]) -> list[FrameBlock]:
    """The same frames, with their number in the recording as their time."""
    made = []
    begin = 0
    for b in blocks:
        times = np.arange(begin, begin + len(b))
        made.append(FrameBlock(b.bus, times, b.id, b.length, b.flags, b.data, b.clock))
        begin += len(b)
    return made


@functools.cache
def recording(log: str) -> list[FrameBlock]:
    """The blocks of one of `LOGS`."""
    name, channel = LOGS[log]
    with read_log(shared(f"logs/{name}"), channel=channel) as reader:
        return list(reader)


@functools.cache
def reference(log: str, dbc: str) -> tuple[Columns, int]:
    """What cantools makes of one of `PAIRS`, and how many frames it knows."""
    path = shared(f"dbc/{dbc}")
    cantools_of = Cantools(path.read_text("utf-8"), j1939=PAIRS[log, dbc])
    columns: Columns = {}
    known = 0
    for block in numbered(recording(log)):
        known += sum(cantools_of.message_of(n) is not None for n in block.id.tolist())
        for key, more in cantools_of.columns(block).items():
            column = columns.setdefault(key, Column([], [], []))
            column.frame.extend(more.frame)
            column.raw.extend(more.raw)
            column.physical.extend(more.physical)
    return columns, known


def total(counts: Counts) -> int:
    """Frames of which something became."""
    return (
        counts.decoded
        + counts.transport
        + counts.remote
        + counts.error
        + counts.unknown
        + counts.undecodable
    )


def load(folder: Path, text: str, *, j1939: bool = False) -> Database:
    """A database of a file with this text."""
    path = folder / "made.dbc"
    path.write_text(text, "utf-8")
    return Database.load([path], j1939=j1939)
