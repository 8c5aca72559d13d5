"""Raw frames as a recording that other tools read: candump, Vector ASC and BLF, ASAM MDF 4.

    .log   candump     the channel is the name of the bus; microseconds
    .asc   Vector      python-can's writer; microseconds, counted from the whole millisecond in
                       which the first frame lies; of error frames only that there was one
    .blf   Vector      python-can's writer; true to less than a microsecond
    .mf4   ASAM MDF 4  asammdf, which is an extra; nanoseconds. python-can's writer would take each
                       frame by itself, and count time from the moment of writing

Where channels have numbers, they are those of the buses in the order of their names: from 1 in
`.asc` and `.blf`, as those formats count, and in `.mf4` as well. Python makes an object of each
frame where python-can's writers want one.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from agent.batch.merged import Merged
from agent.batch.target import whole
from agent.blocks import (
    ERROR,
    EXTENDED,
    FD_BIT_RATE_SWITCH,
    FD_ERROR_STATE,
    FD_FRAME,
    ID_BITS,
    REMOTE,
    SENT,
)
from agent.bus.logs.frames import FD_LENGTHS, Frames
from agent.clock import MILLISECOND, SECOND
from agent.errors import ConfigError

SUFFIXES: Final = (".log", ".asc", ".blf", ".mf4")
_MOST_BYTES: Final = 64
"""Of a CAN frame. What was put together of several has no place in a recording of frames."""


class _Writer(Protocol):
    def write(self, frames: Frames) -> None: ...

    def close(self) -> None:
        """Raises OSError, as `write`."""


def export_frames(merged: Merged, target: Path) -> tuple[int, int]:
    """Write frames to a file of the format that its name tells; how many, and how many not.

    Raises:
        ConfigError: the target cannot be written, or an extra is missing.
        BatchError: as `Merged`.
    """
    count = left = 0
    with whole(target) as part, _opened(target.suffix.lower(), part, merged.buses) as writer:
        for frames in merged:
            fitting = frames.take(frames.length <= _MOST_BYTES)
            count += len(fitting)
            left += len(frames) - len(fitting)
            if len(fitting):
                writer.write(fitting)
    return count, left


@contextlib.contextmanager
def _opened(suffix: str, part: Path, buses: Sequence[str]) -> Iterator[_Writer]:
    writer = _WRITERS[suffix](part, buses)
    try:
        yield writer
    finally:
        writer.close()


class _Candump:
    """`(1436509052.249713) can0 18FEF100#2A366C2BBA R`, as candump -L writes it."""

    def __init__(self, part: Path, buses: Sequence[str]) -> None:
        self._file = part.open("w", encoding="utf-8", newline="\n")
        # A name must be one word.
        self._buses = ["_".join(bus.split()) or "_" for bus in buses]

    def write(self, frames: Frames) -> None:
        digits = frames.data.tobytes().hex().upper()
        width = 2 * frames.data.shape[1]
        columns = (frames.time // 1000, frames.channel, frames.id, frames.flags, frames.length)
        lines = [
            _candump_line(
                time,
                self._buses[channel],
                (number, flags, length),
                digits[n * width : n * width + 2 * length],
            )
            for n, (time, channel, number, flags, length) in enumerate(
                zip(*(column.tolist() for column in columns), strict=True)
            )
        ]
        self._file.write("".join(lines))

    def close(self) -> None:
        self._file.close()


def _candump_line(time: int, bus: str, head: tuple[int, int, int], digits: str) -> str:
    number, flags, length = head
    sign, time = ("-", -time) if time < 0 else ("", time)
    if number & ERROR:
        name = f"{ERROR | number & ID_BITS:08X}"
    else:
        name = f"{number & ID_BITS:08X}" if number & EXTENDED else f"{number & ID_BITS:03X}"
    if number & REMOTE:
        rest = f"#R{length}"
    elif flags & FD_FRAME or length > 8:
        rest = f"##{flags & (FD_BIT_RATE_SWITCH | FD_ERROR_STATE):X}{digits}"
    else:
        rest = f"#{digits}"
    way = "T" if flags & SENT else "R"
    return f"({sign}{time // 1_000_000}.{time % 1_000_000:06d}) {bus} {name}{rest} {way}\n"


class _Messages:
    """Hands frames to a writer of python-can."""

    def __init__(self) -> None:
        self._can = importlib.import_module("can")
        self._to: Any = None

    def write(self, frames: Frames) -> None:
        make, take = self._can.Message, self._to.on_message_received
        data = frames.data.tobytes()
        width = frames.data.shape[1]
        columns = (frames.time, frames.channel, frames.id, frames.flags, frames.length)
        for n, (time, channel, number, flags, length) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        ):
            remote = bool(number & REMOTE)
            fd = bool(flags & FD_FRAME) or length > 8
            take(
                make(
                    timestamp=time / SECOND,
                    channel=channel,  # the writers add one
                    arbitration_id=number & ID_BITS,
                    is_extended_id=bool(number & EXTENDED),
                    is_remote_frame=remote,
                    is_error_frame=bool(number & ERROR),
                    is_fd=fd,
                    is_rx=not flags & SENT,
                    bitrate_switch=fd and bool(flags & FD_BIT_RATE_SWITCH),
                    error_state_indicator=fd and bool(flags & FD_ERROR_STATE),
                    dlc=length,
                    data=None if remote else data[n * width : n * width + length],
                )
            )

    def close(self) -> None:
        self._to.stop()


class _Asc(_Messages):
    def __init__(self, part: Path, buses: Sequence[str]) -> None:
        super().__init__()
        self._file = part.open("w", encoding="utf-8")
        self._to = self._can.ASCWriter(self._file)
        self._begun = False

    def write(self, frames: Frames) -> None:
        if not self._begun:
            # Times count from the first thing that is written, and the head tells milliseconds.
            begin = int(frames.time[0]) // MILLISECOND / 1000
            self._to.log_event("Begin", begin)
            self._begun = True
        super().write(frames)


class _Blf(_Messages):
    def __init__(self, part: Path, buses: Sequence[str]) -> None:
        super().__init__()
        self._to = self._can.BLFWriter(part.open("wb"))


class _Mf4:
    """Bus logging as ASAM has it: a group each for data, error and remote frames."""

    _KINDS = ("CAN_DataFrame", "CAN_ErrorFrame", "CAN_RemoteFrame")
    _COLUMNS = (
        ("BusChannel", "u1"), ("ID", "<u4"), ("IDE", "u1"), ("DLC", "u1"), ("DataLength", "u1"),
        ("DataBytes", ("u1", (_MOST_BYTES,))), ("Dir", "u1"), ("EDL", "u1"), ("BRS", "u1"),
        ("ESI", "u1"),
    )  # fmt: skip

    def __init__(self, part: Path, buses: Sequence[str]) -> None:
        self._asammdf = _asammdf()
        self._file = part.open("w+b")
        self._mdf = self._asammdf.MDF(version="4.10")
        self._add_groups()
        self._begin: int | None = None

    def write(self, frames: Frames) -> None:
        if self._begin is None:
            self._begin = int(frames.time[0]) // SECOND * SECOND
            self._mdf.header.start_time = datetime.fromtimestamp(self._begin // SECOND, UTC)
        begin = self._begin
        error = (frames.id & np.uint32(ERROR)) != 0
        remote = ((frames.id & np.uint32(REMOTE)) != 0) & ~error
        for group, rows in enumerate((~error & ~remote, error, remote)):
            if rows.any():
                some = frames.take(rows)
                seconds = (some.time - begin) / SECOND
                records = self._records(self._KINDS[group], some)
                self._mdf.extend(group, [(seconds, None), (records, None)])

    def _add_groups(self) -> None:
        bus = importlib.import_module("asammdf.blocks.v4_constants")
        source = importlib.import_module("asammdf.blocks.source_utils").Source
        where = source("CAN", "CAN", "", bus.SOURCE_BUS, bus.BUS_TYPE_CAN)
        for kind in self._KINDS:
            self._mdf.append(
                self._asammdf.Signal(
                    name=kind,
                    samples=np.zeros(0, self._type(kind)),
                    timestamps=np.zeros(0),
                    source=where,
                )
            )

    def _type(self, kind: str) -> np.dtype[Any]:
        return np.dtype([(f"{kind}.{name}", type_) for name, type_ in self._COLUMNS])

    def _records(self, kind: str, frames: Frames) -> Any:
        records = np.zeros(len(frames), self._type(kind))
        fd = ((frames.flags & FD_FRAME) != 0) | (frames.length > 8)
        codes = np.searchsorted(FD_LENGTHS, frames.length)
        values = {
            "BusChannel": frames.channel + 1,
            "ID": frames.id & np.uint32(ID_BITS),
            "IDE": (frames.id & np.uint32(EXTENDED)) != 0,
            "DLC": codes,
            "DataLength": frames.length,
            "Dir": (frames.flags & SENT) != 0,
            "EDL": fd,
            "BRS": fd & ((frames.flags & FD_BIT_RATE_SWITCH) != 0),
            "ESI": fd & ((frames.flags & FD_ERROR_STATE) != 0),
        }
        for name, column in values.items():
            records[f"{kind}.{name}"] = column
        records[f"{kind}.DataBytes"][:, : frames.data.shape[1]] = frames.data[:, :_MOST_BYTES]
        return records

    def close(self) -> None:
        self._mdf.save(self._file, compression=2)
        self._mdf.close()
        self._file.close()


_WRITERS: Final[Mapping[str, Callable[[Path, Sequence[str]], _Writer]]] = {
    ".log": _Candump,
    ".asc": _Asc,
    ".blf": _Blf,
    ".mf4": _Mf4,
}


def _asammdf() -> Any:
    try:
        return importlib.import_module("asammdf")
    except ImportError as e:
        raise ConfigError(
            "MDF 4 needs asammdf, which is not installed: pip install 'vehicle-edge-agent[mdf]', "
            "or export to .log or .blf"
        ) from e
