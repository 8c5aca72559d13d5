"""Recordings for tests, written by python-can where it can, and by hand where it cannot.

`drive` makes messages; `write` makes a recording of them in a format; `rows_of_messages` and
`rows_of_blocks` bring what python-can and what this project reads to the same shape.
"""

import random
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import can

from agent.blocks import (
    ERROR,
    EXTENDED,
    FD_BIT_RATE_SWITCH,
    FD_ERROR_STATE,
    FD_FRAME,
    REMOTE,
    SENT,
    FrameBlock,
)

START = 1_700_000_000.0
FD_SIZES = (1, 7, 8, 12, 16, 20, 24, 32, 48, 64)


class Row(NamedTuple):
    """One frame as both sides see it, apart from its time."""

    bus: str
    id: int
    flags: int
    length: int
    data: bytes


def drive(
    count: int,
    *,
    seed: int = 1,
    channels: tuple[Any, ...] = (0, 1),
    kinds: tuple[str, ...] = ("classic",),
    start: float = START,
) -> list[can.Message]:
    """Messages of the given kinds (classic, fd, remote, error), some milliseconds apart."""
    rng = random.Random(seed)
    ticks = 0
    messages = []
    for _ in range(count):
        ticks += rng.randrange(1, 9_000)
        kind = rng.choice(kinds)
        extended = rng.random() < 0.4
        number = rng.randrange(1 << 29 if extended else 1 << 11)
        size = rng.choice(FD_SIZES) if kind == "fd" else rng.randrange(9)
        common: dict[str, Any] = {
            "timestamp": start + ticks / 1e6,
            "channel": rng.choice(channels),
        }
        if kind == "error":
            messages.append(can.Message(is_error_frame=True, **common))
            continue
        messages.append(
            can.Message(
                arbitration_id=number,
                is_extended_id=extended,
                is_remote_frame=kind == "remote",
                is_fd=kind == "fd",
                is_rx=rng.random() < 0.8,
                bitrate_switch=kind == "fd" and rng.random() < 0.5,
                error_state_indicator=kind == "fd" and rng.random() < 0.2,
                dlc=size,
                data=None if kind == "remote" else rng.randbytes(size),
                **common,
            )
        )
    return messages


_WRITERS: dict[str, Callable[..., Any]] = {
    "log": can.CanutilsLogWriter,
    "asc": can.ASCWriter,
    "blf": can.BLFWriter,
    "trc": can.TRCWriter,
    "mf4": can.MF4Writer,
}
READERS: dict[str, Callable[..., Any]] = {
    "log": can.CanutilsLogReader,
    "asc": can.ASCReader,
    "blf": can.BLFReader,
    "trc": can.TRCReader,
    "mf4": can.MF4Reader,
}
KINDS = {
    "log": ("classic", "fd", "remote", "error"),
    "asc": ("classic", "fd", "remote", "error"),
    "blf": ("classic", "fd", "remote", "error"),
    "trc": ("classic",),
    "mf4": ("classic", "fd", "remote", "error"),
    "csv": ("classic",),
}


def write(path: Path, messages: Iterable[can.Message], **options: Any) -> Path:
    """Write messages as the suffix of the path says."""
    kind = path.suffix[1:]
    if kind == "csv":
        path.write_bytes(gvret(messages))
        return path
    with _WRITERS[kind](path, **options) as writer:
        for message in messages:
            writer.on_message_received(message)
    return path


def microseconds(message: can.Message) -> int:
    return round(Decimal(message.timestamp) * 1_000_000)


def gvret(messages: Iterable[can.Message], *, direction: bool = False) -> bytes:
    """SavvyCAN's GVRET csv, with or without the newer column `Dir`."""
    head = "Time Stamp,ID,Extended,Dir,Bus,LEN" if direction else "Time Stamp,ID,Extended,Bus,LEN"
    lines = [head + "".join(f",D{n}" for n in range(1, 9))]
    for m in messages:
        way = f"{'Rx' if m.is_rx else 'Tx'}," if direction else ""
        data = "".join(f",{byte:02X}" for byte in m.data)
        extended = "true" if m.is_extended_id else "false"
        lines.append(
            f"{microseconds(m)},{m.arbitration_id:08X},{extended},{way}{m.channel},{m.dlc}{data}"
        )
    return ("\r\n".join(lines) + "\r\n").encode()


def trc(version: str, messages: Iterable[can.Message], *, start: str = "45244.5") -> bytes:
    """A PEAK trace of a version that python-can reads and does not write; times from 0.1 ms on."""
    head = [] if version == "1.0" else [f";$FILEVERSION={version}", f";$STARTTIME={start}"]
    if version == "2.0":
        head.append(";$COLUMNS=N,O,T,I,d,l,D")
    if version == "2.1":
        head.append(";$COLUMNS=N,O,T,B,I,d,R,L,D")
    lines = [*head, ";   Start time: 14.11.2023", ";", ";---+--   ----+----  --+--  ----+---"]
    for n, m in enumerate(messages, 1):
        time = f"{(microseconds(m) - int(START) * 1_000_000) / 1000:.3f}"
        if version == "1.0":
            time = str(round(float(time)))
        number = f"{m.arbitration_id:08X}" if m.is_extended_id else f"{m.arbitration_id:04X}"
        way = "Rx" if m.is_rx else "Tx"
        data = "RTR" if m.is_remote_frame else m.data.hex(" ").upper()
        kind = "RR" if m.is_remote_frame else "DT"
        if m.is_fd:
            kind = {(0, 0): "FD", (1, 0): "FB", (1, 1): "FE", (0, 1): "BI"}[
                int(m.bitrate_switch), int(m.error_state_indicator)
            ]
        size, code = m.dlc, can.util.len2dlc(m.dlc)
        two = "" if m.is_remote_frame else data
        lines.append(
            {
                "1.0": f"{n:6}) {time:>10} {number} {size} {data}",
                "1.1": f"{n:6}) {time:>10} {way} {number} {size} {data}",
                "1.3": f"{n:6}) {time:>10} {m.channel} {way} {number} - {size} {data}",
                "2.0": f"{n:6} {time:>10} {kind} {number} {way} {size} {two}",
                "2.1": f"{n:6} {time:>10} {kind} {m.channel} {number} {way} - {code} {two}",
            }[version]
        )
    return ("\r\n".join(lines) + "\r\n").encode()


def row_of_message(message: can.Message, *, first_channel: int = 0) -> Row:
    """A message as a row; a numbered channel counts from `first_channel` in the file."""
    channel = message.channel
    bus = str(channel + first_channel) if isinstance(channel, int) else str(channel)
    if message.is_error_frame:
        # Ids and data of error frames are nothing that python-can keeps.
        return Row("", ERROR, 0, 0, b"")
    flags = 0 if message.is_rx else SENT
    if message.is_fd:
        flags |= FD_FRAME
        flags |= FD_BIT_RATE_SWITCH * message.bitrate_switch
        flags |= FD_ERROR_STATE * message.error_state_indicator
    number = message.arbitration_id
    number |= EXTENDED * message.is_extended_id | REMOTE * message.is_remote_frame
    return Row(bus, number, flags, message.dlc, bytes(message.data))


def row_times(messages: Iterable[can.Message]) -> list[float]:
    return [m.timestamp for m in messages]


def rows_of_blocks(blocks: Iterable[FrameBlock]) -> list[tuple[int, Row]]:
    """Time in nanoseconds and row of each frame; error frames as `row_of_message` has them."""
    rows = []
    for block in blocks:
        for n in range(len(block)):
            length, number = int(block.length[n]), int(block.id[n])
            assert not block.data[n, length:].any()
            row = Row(
                block.bus,
                number,
                int(block.flags[n]),
                length,
                b"" if number & REMOTE else block.data[n, :length].tobytes(),
            )
            if number & ERROR:
                row = Row("", ERROR, 0, 0, b"")
            rows.append((int(block.time[n]), row))
    return rows
