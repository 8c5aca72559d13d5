"""ASAM MDF 4 bus logging (.mf4), read through asammdf by columns, 32,768 records at a time.

Groups that hold `CAN_DataFrame`, `CAN_RemoteFrame` or `CAN_ErrorFrame` of a CAN bus are read;
several of them are merged by time, equal times in the order of the groups, as a merge that looks
at one record of each would. Time is the header's start time plus the master channel. asammdf gives
the latter as float64 seconds; rounded to nanoseconds that is exact for 52 days from the start.

asammdf is optional, takes a second to import and trusts what it reads: it is imported when it is
needed, sees a file only after `mf4_check`, and whatever it raises becomes one sentence. What cannot
be checked from here are the offsets into data of variable length (`VLSD`): where those are damaged,
its compiled code may still end the process. A compressed or unfinalised recording is read from a
temporary copy, because asammdf needs to seek and, for the latter, to write.
"""

import dataclasses
import importlib
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from agent.blocks import (
    ERROR,
    FD_BIT_RATE_SWITCH,
    FD_ERROR_STATE,
    FD_FRAME,
    ID_BITS,
    REMOTE,
    SENT,
    Int64,
    UInt8,
)
from agent.bus.logs.frames import Frames, Tally, bytes_of_dlc, join, mark_extended
from agent.bus.logs.mf4_check import check
from agent.bus.logs.source import Source
from agent.errors import BusError

MAGIC = (b"MDF     ", b"UnFinMF ")
RECORDS = 32_768
MAX_UNPACKED_BYTES = 4 << 30
"""A compressed .mf4 is unpacked onto the disk; more than this is a trap and not a drive."""

_KINDS = ("CAN_DataFrame", "CAN_RemoteFrame", "CAN_ErrorFrame")
_BUS_EVENT = 0x2  # cg_flags, bit 1
_BUS_SOURCE, _CAN_BUS = 2, 2  # si_type, si_bus_type
_VIRTUAL = (3, 6)  # cn_type of channels that have no bytes in the record
_LOCAL_TIME = 0x1  # hd_time_flags, bit 0
_UNFINISHED_AT = 60
_FAR_NS = 1 << 61
_SECOND = 1_000_000_000


def read(source: Source, tally: Tally) -> Iterator[Frames]:
    """As the other parsers.

    Raises:
        BusError: asammdf is missing, or finds no way to read the file.
    """
    try:
        asammdf = importlib.import_module("asammdf")
    except ImportError as error:
        raise BusError(
            f"{source.path} is an MDF 4 recording, and reading those needs asammdf: "
            "pip install 'vehicle-edge-agent[mdf]'."
        ) from error
    with ExitStack() as stack:
        file = stack.enter_context(_seekable(source, tally))
        check(file, str(source.path))
        file.seek(0)
        try:
            mdf = asammdf.MDF(file, process_bus_logging=False)
            stack.callback(mdf.close)
            yield from _merge(_groups(mdf, source, tally), _start_ns(mdf.header))
        except (BusError, GeneratorExit):
            raise
        except Exception as error:
            # asammdf has no exception that covers what it may raise on damaged files.
            _quieten(error)
            raise BusError(
                f"{source.path} is damaged or no MDF 4 recording: {error or type(error).__name__}."
            ) from error


def _quieten(error: Exception) -> None:
    """Let a half-made reader of asammdf be closed: it deletes attributes it may not have yet."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        half_made = frame.f_locals.get("self")
        if type(half_made).__name__ == "MDF4":
            for name in ("header", "identification"):
                if not hasattr(half_made, name):
                    setattr(half_made, name, None)


def _seekable(source: Source, tally: Tally) -> IO[bytes]:
    if not source.head.startswith(b"4.", 8):
        version = source.head[8:12].decode("ascii", "replace")
        raise BusError(f"{source.path} is MDF {version}; only MDF 4 holds bus logging.")
    unfinished = any(source.head[_UNFINISHED_AT : _UNFINISHED_AT + 2])
    if not source.compression and not unfinished:
        return source.path.open("rb")
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    size = 0
    while data := source.read(1 << 20):
        size += len(data)
        if size > MAX_UNPACKED_BYTES:
            copy.close()
            raise BusError(f"{source.path} unpacks to more than {MAX_UNPACKED_BYTES >> 30} GiB.")
        copy.write(data)
    copy.flush()
    copy.seek(0)
    if source.broken:
        tally.skip(f"{source.broken}; what came before was read")
    return copy


def _start_ns(header: Any) -> int:
    """The start of the measurement in nanoseconds since 1970, UTC.

    A header may say that its time is local and not of which zone: then it is this machine's.
    """
    absolute = int(header.abs_time)
    if not header.time_flags & _LOCAL_TIME:
        return absolute if absolute < _FAR_NS else 0
    seconds = header.start_time.replace(microsecond=0).timestamp()
    return int(seconds) * _SECOND + absolute % _SECOND


@dataclasses.dataclass
class _Group:
    """One channel group: read piece by piece, `waiting` for its turn in the merge."""

    mdf: Any
    index: int
    kind: str
    records: int
    source: Source
    tally: Tally
    total: int
    place: int = 0
    latest: int = -(1 << 62)
    waiting: Frames | None = None
    order: Int64 = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))

    def fill(self) -> bool:
        """Make frames wait; False when the group is at its end."""
        while not len(self.order):
            if self.place >= self.records:
                return False
            signal = self.mdf.get(
                self.kind,
                group=self.index,
                record_offset=self.place,
                record_count=min(RECORDS, self.records - self.place),
            )
            if not len(signal):
                self.tally.skip(f"group {self.index} is cut; what came before was read")
                self.records = self.place
                return False
            self.place += len(signal)
            self.source.share = min(
                (self.source.share or 0.0) + len(signal) / max(self.total, 1), 1.0
            )
            frames = _frames(self.kind, signal.samples, np.asarray(signal.timestamps))
            if lost := len(signal) - len(frames):
                self.tally.skip(f"records of group {self.index} that make no frame", count=lost)
            if len(frames):
                self.waiting = frames
                self.order = np.maximum(np.maximum.accumulate(frames.time), self.latest)
                self.latest = int(self.order[-1])
        return True

    def pop(self, count: int) -> tuple[Frames, Int64]:
        if self.waiting is None:
            raise ValueError("nothing waits")
        frames, order = self.waiting.take(slice(count)), self.order[:count]
        self.waiting, self.order = self.waiting.take(slice(count, None)), self.order[count:]
        return frames, order


def _groups(mdf: Any, source: Source, tally: Tally) -> list[_Group]:
    found = []
    for index, group in enumerate(mdf.groups):
        about = group.channel_group
        bus = about.acq_source
        if not about.flags & _BUS_EVENT or not about.cycles_nr or bus is None:
            continue
        if not bus.source_type & _BUS_SOURCE or bus.bus_type != _CAN_BUS:
            continue
        channels = {channel.name for channel in group.channels}
        kind = next((k for k in _KINDS if k in channels), None)
        if kind is not None:
            _check_columns(group, source)
            found.append(_Group(mdf, index, kind, int(about.cycles_nr), source, tally, 0))
    for one in found:
        one.total = sum(group.records for group in found)
    source.share = 0.0
    return found


def _check_columns(group: Any, source: Source) -> None:
    """Refuse a column outside its record: asammdf would read whatever memory lies there."""
    bits = 8 * group.channel_group.samples_byte_nr
    for channel in group.channels:
        if channel.channel_type in _VIRTUAL:
            continue
        end = 8 * channel.byte_offset + channel.bit_offset + channel.bit_count
        if end > bits or not channel.bit_count:
            raise BusError(f"{source.path} is damaged: column {channel.name} is not in its record.")


def _merge(groups: list[_Group], start_ns: int) -> Iterator[Frames]:
    """By time, as far as every group has been read; `order` never falls within a group."""
    while groups := [group for group in groups if group.fill()]:
        ends = [int(group.order[-1]) for group in groups]
        border = min(ends)
        first = ends.index(border)
        parts = []
        for n, group in enumerate(groups):
            # A later group waits with its frames of the border's time: the first may have more.
            side = "right" if n <= first else "left"
            count = int(np.searchsorted(group.order, border, side=side))  # type: ignore[call-overload]
            if count:
                parts.append(group.pop(count))
        merged = join([frames for frames, _ in parts])
        merged.time = merged.time + start_ns
        if len(parts) == 1:
            yield merged
        else:
            yield merged.take(np.argsort(np.concatenate([o for _, o in parts]), kind="stable"))


def _fit(data: UInt8, width: int) -> UInt8:
    fitted = np.zeros((len(data), width), np.uint8)
    fitted[:, : min(width, data.shape[1])] = data[:, :width]
    return fitted


def _frames(kind: str, samples: NDArray[Any], seconds: NDArray[Any]) -> Frames:
    """Records as frames; those that make none are left out."""
    n = len(samples)

    def column(name: str) -> Int64:
        full = f"{kind}.{name}"
        if full not in (samples.dtype.names or ()):
            return np.zeros(n, np.int64)
        return _integers(samples[full])

    ok = np.isfinite(seconds) & (np.abs(seconds) < _FAR_NS / _SECOND)
    time = np.rint(np.where(ok, seconds, 0) * _SECOND).astype(np.int64)
    number = column("ID")
    ok &= number >= 0
    remote, error = kind == "CAN_RemoteFrame", kind == "CAN_ErrorFrame"
    fd = (column("EDL") == 1) & (not remote) & (not error)
    if remote:
        ok &= (column("DLC") >= 0) & (column("DLC") <= 15)
        length = bytes_of_dlc(column("DLC"), fd)
    else:
        length = column("DataLength")
    ok &= (length >= 0) & (length <= 64)
    length = np.where(ok, length, 0)
    data = np.zeros((n, 8), np.uint8)
    if not remote and f"{kind}.DataBytes" in (samples.dtype.names or ()):
        width = 64 if int(length.max(initial=0)) > 8 else 8
        data = _fit(_bytes(samples[f"{kind}.DataBytes"]), width)
        data[np.arange(width) >= length[:, None]] = 0
    elif not remote:
        length = np.zeros(n, np.int64)

    ids = mark_extended(number & ID_BITS, column("IDE") == 1)
    ids |= np.uint32(REMOTE if remote else ERROR if error else 0)
    flags = np.where(fd, FD_FRAME, 0) | np.where(column("Dir") == 1, SENT, 0)
    flags |= np.where(fd & (column("BRS") == 1), FD_BIT_RATE_SWITCH, 0)
    flags |= np.where(fd & (column("ESI") == 1), FD_ERROR_STATE, 0)
    return Frames(
        time,
        ids,
        length.astype(np.uint16),
        flags.astype(np.uint8),
        data,
        column("BusChannel"),
    ).take(ok)


def _integers(values: NDArray[Any]) -> Int64:
    """A column as whole numbers, -1 where it has none. A direction may be a word."""
    if values.dtype.kind == "S":
        sent: Int64 = (np.char.lower(values) == b"tx").astype(np.int64)
        return sent
    if values.dtype.kind == "f":
        usable = np.isfinite(values) & (np.abs(values) < _FAR_NS)
        values = np.where(usable, values, -1)
    whole: Int64 = values.astype(np.int64)
    return whole


def _bytes(values: NDArray[Any]) -> UInt8:
    """The bytes of data as uint8[n, w], whatever way the file stores them."""
    if values.ndim == 1:
        values = np.ascontiguousarray(values)
        return values.view(np.uint8).reshape(len(values), values.dtype.itemsize)
    return values.reshape(len(values), -1).astype(np.uint8)
