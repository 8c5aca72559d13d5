"""The arrays that rooms hand on: a block of frames, and a table of samples.

Never an object per frame or per sample. A `FrameBlock` holds n frames of one bus. A `SignalTable`
holds n rows that have the same signals present: one bus, message, source, multiplexer branch and
set of signals that the received length covers. Values are raw, the integer as it is on the bus;
`TableSchema` says how they become physical.

The values of a table are one two-dimensional array a type, shape (signals of that type, n), so that
a whole message is shifted, masked, thinned and packed at once. `table.raw[name]` is a row of it: a
view.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Int64 = NDArray[np.int64]
UInt64 = NDArray[np.uint64]
UInt32 = NDArray[np.uint32]
UInt16 = NDArray[np.uint16]
UInt8 = NDArray[np.uint8]
Float64 = NDArray[np.float64]

# Flag bits of an id, as in linux/can.h.
EXTENDED = 0x8000_0000
REMOTE = 0x4000_0000
ERROR = 0x2000_0000
ID_BITS = 0x1FFF_FFFF

# `flags`, as in struct canfd_frame; SENT is ours: the recorder sent this frame itself.
FD_BIT_RATE_SWITCH = 0x01
FD_ERROR_STATE = 0x02
FD_FRAME = 0x04
SENT = 0x80

MAX_BLOCK_FRAMES = 16_384

TimeBase = Literal["boot", "recorded", "wall"]
"""What times count: `boot` nanoseconds since this boot began; `recorded` nanoseconds as a recording
has them; `wall` (only of tables that were read back and dated) nanoseconds since 1970, UTC."""

Kind = Literal["int64", "uint64", "float32", "float64", "bytes"]
NUMERIC_KINDS: tuple[Kind, ...] = ("int64", "uint64", "float32", "float64")

_EXACT = 1 << 53

Codes = tuple[tuple[int, int, str], ...]
"""Raw values that are no measurements: (first, last, meaning), none over another."""
MEANINGS = ("", "not available", "error", "reserved")
"""What the numbers of `validity` mean; 0 is a value as any other."""


@dataclasses.dataclass(frozen=True, slots=True)
class FrameBlock:
    """n frames of one bus, in the order in which they were received.

    Shapes and dtypes: time int64[n] (nanoseconds), id uint32[n] (with the kernel's flag bits),
    length uint16[n] (bytes), flags uint8[n], data uint8[n, w] with w = 8 or 64 (or the width of
    reassembled payloads), zero beyond the length.
    """

    bus: str
    time: Int64
    id: UInt32
    length: UInt16
    flags: UInt8
    data: UInt8
    clock: TimeBase = "boot"

    @classmethod
    def from_arrays(
        cls,
        *,
        bus: str,
        time: ArrayLike,
        id: ArrayLike,  # noqa: A002 - the field's term
        length: ArrayLike,
        flags: ArrayLike | None = None,
        data: ArrayLike,
        clock: TimeBase = "boot",
    ) -> Self:
        """Check and convert arrays of equal length n.

        Raises:
            ValueError: shapes that do not fit, or a length beyond the data.
        """
        times = np.ascontiguousarray(time, np.int64)
        n = len(times)
        ids = np.ascontiguousarray(id, np.uint32)
        lengths = np.ascontiguousarray(length, np.uint16)
        bits = np.zeros(n, np.uint8) if flags is None else np.ascontiguousarray(flags, np.uint8)
        payload = np.ascontiguousarray(data, np.uint8)
        if payload.ndim != 2 or not len(ids) == len(lengths) == len(bits) == len(payload) == n:
            raise ValueError(
                f"time, id, length, flags and data must agree in n: {n}, {len(ids)}, "
                f"{len(lengths)}, {len(bits)}, {payload.shape}"
            )
        if n and int(lengths.max()) > payload.shape[1]:
            raise ValueError(
                f"length {lengths.max()} is beyond the {payload.shape[1]} bytes of data"
            )
        return cls(bus, times, ids, lengths, bits, payload, clock)

    def __len__(self) -> int:
        return len(self.time)

    def __getitem__(self, rows: slice | NDArray[Any]) -> "FrameBlock":
        data = self.data
        if not isinstance(rows, slice) and data.shape[1] % 8 == 0 and data.flags.c_contiguous:
            # Eight bytes at once: several times as fast as byte by byte.
            picked = data.view(np.uint64)[rows].view(np.uint8)
        else:
            picked = data[rows]
        return FrameBlock(
            self.bus,
            self.time[rows],
            self.id[rows],
            self.length[rows],
            self.flags[rows],
            picked,
            self.clock,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class SignalSchema:
    """One signal of a table: what its raw column means.

    physical = raw * scale + offset. `choices` names raw values; `bits` is the length on the bus.
    `codes` says which raw values are no measurements; `physical` computes with them as with any.
    """

    name: str
    kind: Kind
    bits: int
    scale: float = 1
    offset: float = 0
    unit: str = ""
    choices: tuple[tuple[int, str], ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    vss: str = ""
    codes: Codes = ()

    @property
    def needs_whole_arithmetic(self) -> bool:
        """Products may lie beyond 2**53: whole numbers are multiplied whole, and rounded once."""
        scale, offset = self.scale, self.offset
        if self.kind not in ("int64", "uint64") or (scale == 1 and offset == 0):
            return False
        whole = isinstance(scale, int) or (float(scale).is_integer() and float(offset).is_integer())
        if not whole:
            return False
        largest = abs(int(scale)) << self.bits
        # A whole number may be too large to be added to a float.
        return largest > _EXACT or largest + abs(offset) > _EXACT

    def physical(self, raw: NDArray[Any]) -> Float64:
        """Raw values in the unit, float64[n]: the same doubles as cantools computes."""
        scale, offset = self.scale, self.offset
        if scale == 1 and offset == 0:
            return raw.astype(np.float64)
        if self.needs_whole_arithmetic:
            if float(offset).is_integer():
                offset = int(offset)
            return np.array([_scaled(v, int(scale), offset) for v in raw.tolist()], np.float64)
        with np.errstate(all="ignore"):  # NaN stays NaN; a result beyond all doubles is infinite
            return raw.astype(np.float64) * float(scale) + float(offset)

    def code_of(self, raw: NDArray[Any]) -> NDArray[np.intp]:
        """The place in `codes` of each raw value, intp[n]; -1 for measurements."""
        place = np.full(len(raw), -1, np.intp)
        if self.kind in ("int64", "uint64"):
            for number, (first, last, _) in enumerate(self.codes):
                place[(raw >= first) & (raw <= last)] = number
        return place

    def validity(self, raw: NDArray[Any]) -> UInt8:
        """What raw values say, uint8[n]: 0 valid, 1 not available, 2 error, 3 reserved."""
        if not self.codes:
            return np.zeros(len(raw), np.uint8)
        known = {meaning: number for number, meaning in enumerate(MEANINGS)}
        # A meaning that a later version has given is no value either.
        kinds = [known.get(meaning) or len(MEANINGS) - 1 for _, _, meaning in self.codes]
        return np.array([*kinds, 0], np.uint8)[self.code_of(raw)]


def _scaled(value: int, scale: int, offset: float) -> float:
    try:
        return float(value * scale + offset)
    except OverflowError:
        return math.inf if (value < 0) == (scale < 0) else -math.inf


@dataclasses.dataclass(frozen=True)
class TableSchema:
    """What the rows of a table have in common; equal tables share one schema object.

    `source` is a J1939 source address, None elsewhere. `branch` names the multiplexer values that
    select these signals, such as `Group=3` or `S1=1,PID=12`, and is empty where nothing is
    multiplexed.
    """

    bus: str
    message: str
    signals: tuple[SignalSchema, ...]
    source: int | None = None
    branch: str = ""
    clock: TimeBase = "boot"
    entries: bool = dataclasses.field(default=False, compare=False)
    """Rows of one time are the entries of one list: they are kept or thinned together."""

    @functools.cached_property
    def _hash(self) -> int:
        return hash((self.bus, self.message, self.source, self.branch, self.names, self.clock))

    def __hash__(self) -> int:
        return self._hash  # a schema is a key for every table; hashing all its signals is slow

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.signals)

    @functools.cached_property
    def place(self) -> Mapping[str, tuple[Kind, int]]:
        """Signal name -> (kind, row in the array of that kind), in the order of `signals`."""
        filled: dict[Kind, int] = {}
        place: dict[str, tuple[Kind, int]] = {}
        for signal in self.signals:
            row = filled.get(signal.kind, 0)
            place[signal.name] = (signal.kind, row)
            filled[signal.kind] = row + 1
        return place

    @functools.cached_property
    def by_name(self) -> Mapping[str, SignalSchema]:
        return {s.name: s for s in self.signals}

    def subset(self, names: Sequence[str]) -> "TableSchema":
        """The schema with fewer signals, in this schema's order."""
        chosen = set(names)
        return dataclasses.replace(self, signals=tuple(s for s in self.signals if s.name in chosen))


class _Columns(Mapping[str, NDArray[Any]]):
    """`table.raw`: signal name -> its row, a view (bytes signals: an array of dtype S)."""

    def __init__(self, table: "SignalTable") -> None:
        self._table = table

    def __getitem__(self, name: str) -> NDArray[Any]:
        kind, row = self._table.schema.place[name]
        if kind == "bytes":
            return self._table.payloads[row]
        column: NDArray[Any] = self._table.values[kind][row]
        return column

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.schema.names)

    def __len__(self) -> int:
        return len(self._table.schema.names)


class Scaled(Protocol):
    """Physical values that were, or will be, made for many tables at once."""

    def physical(self, kind: Kind) -> Float64 | None:
        """Of `values[kind]`; None where they must be made from the raw values."""
        ...


@dataclasses.dataclass(slots=True)  # frozen costs a microsecond a table; nobody changes one
class SignalTable:
    """n samples of each signal of a schema.

    Shapes and dtypes: time int64[n] (nanoseconds of `schema.clock`); `values[kind]` kind[signals of
    that kind, n]; `payloads`, a tuple of uint8[n, w], one for each signal of kind bytes.
    """

    schema: TableSchema
    time: Int64
    values: Mapping[Kind, NDArray[Any]]
    payloads: tuple[UInt8, ...] = ()
    campaign: str = ""
    scaled: Scaled | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def bus(self) -> str:
        return self.schema.bus

    @property
    def message(self) -> str:
        return self.schema.message

    @property
    def source(self) -> int | None:
        return self.schema.source

    @property
    def branch(self) -> str:
        return self.schema.branch

    @property
    def clock(self) -> TimeBase:
        return self.schema.clock

    @property
    def names(self) -> tuple[str, ...]:
        return self.schema.names

    @property
    def raw(self) -> Mapping[str, NDArray[Any]]:
        return _Columns(self)

    @property
    def samples(self) -> int:
        """How many values the table holds: rows times signals."""
        return len(self.time) * len(self.schema.signals)

    @property
    def nbytes(self) -> int:
        return (
            self.time.nbytes
            + sum(v.nbytes for v in self.values.values())
            + sum(p.nbytes for p in self.payloads)
        )

    def __len__(self) -> int:
        return len(self.time)

    def physical(self, name: str) -> Float64:
        """The signal in its unit, float64[n].

        Raises:
            KeyError: no such signal in this table.
            ValueError: a signal of kind bytes has no physical value.
        """
        kind, row = self.schema.place[name]
        if self.scaled is not None and (values := self.scaled.physical(kind)) is not None:
            column: Float64 = values[row]
            return column
        if kind == "bytes":
            raise ValueError(f"{self.message}.{name} holds bytes, not a number")
        return self.schema.by_name[name].physical(self.values[kind][row])

    def validity(self, name: str) -> UInt8:
        """Which samples are measurements, uint8[n]: 0 valid, 1 not available, 2 error, 3 reserved.

        Raises:
            KeyError: no such signal in this table.
        """
        return self.schema.by_name[name].validity(self.raw[name])

    def physical_values(self, kind: Kind) -> Float64:
        """All signals of a kind in their units, float64[signals of that kind, n], as `values`."""
        if self.scaled is not None and (values := self.scaled.physical(kind)) is not None:
            return values
        of_kind = (s for s in self.schema.signals if s.kind == kind)
        raw = self.values[kind]
        return np.stack([s.physical(raw[row]) for row, s in enumerate(of_kind)])

    def take(self, rows: NDArray[Any] | slice) -> "SignalTable":
        """Some of the rows, by index, mask or slice."""
        return dataclasses.replace(
            self,
            time=self.time[rows],
            values={kind: array[:, rows] for kind, array in self.values.items()},
            payloads=tuple(p[rows] for p in self.payloads),
            scaled=None,
        )

    def select(self, schema: TableSchema) -> "SignalTable":
        """Only the signals of `schema`, which is a `subset` of this table's."""
        place = self.schema.place
        values: dict[Kind, NDArray[Any]] = {}
        for kind, array in self.values.items():
            rows = [place[s.name][1] for s in schema.signals if s.kind == kind]
            if rows:
                values[kind] = array if len(rows) == len(array) else array[rows]
        payloads = tuple(
            self.payloads[place[s.name][1]] for s in schema.signals if s.kind == "bytes"
        )
        return dataclasses.replace(
            self, schema=schema, values=values, payloads=payloads, scaled=None
        )


@dataclasses.dataclass(slots=True)
class KeptFrames:
    """Raw frames that a campaign keeps, as they were on the bus; the ledger counts each as one."""

    block: FrameBlock
    campaign: str = ""

    @property
    def samples(self) -> int:
        return len(self.block)

    @property
    def nbytes(self) -> int:
        block = self.block
        arrays = (block.time, block.id, block.length, block.flags, block.data)
        return sum(array.nbytes for array in arrays)

    def __len__(self) -> int:
        return len(self.block)


@dataclasses.dataclass(slots=True)
class Event:
    """Something that happened: what a trigger found, a trip, a charging session.

    `value` is a map that msgpack can pack, with at least `kind`, `name`, `time` (ns), `clock` and
    `campaign`; docs/batch-format.md names the other keys. It holds no sample.
    """

    value: dict[str, Any]

    @property
    def samples(self) -> int:
        return 0

    @property
    def nbytes(self) -> int:
        """About what it takes in memory."""
        return _weight(self.value)

    @property
    def complete(self) -> bool:
        """Whether nothing of it is still to come, so that it may be sent at once."""
        return self.value.get("complete") is True


@dataclasses.dataclass(slots=True)
class Reports:
    """Reports of the vehicle to a platform, as they go on the wire; the ledger counts rows.

    Shapes and dtypes: time int64[n] (nanoseconds of `clock`), `bodies` n of them. A body has the
    information items of one frame, without the time, which is told when it is sent, and without a
    signature. Rows of one time are the frames of one sample.
    """

    form: str
    """Standard and edition, such as gbt32960-2016."""
    time: Int64
    bodies: tuple[bytes, ...]
    clock: TimeBase = "boot"
    live: bool = False
    """Whether they may go out at once; not stored."""
    awake: bool = True
    """False, without any row: the vehicle is off, and no more reports come; not stored."""

    @property
    def samples(self) -> int:
        return len(self.bodies)

    @property
    def nbytes(self) -> int:
        return self.time.nbytes + sum(50 + len(body) for body in self.bodies)

    def __len__(self) -> int:
        return len(self.bodies)


Kept = SignalTable | KeptFrames | Event | Reports
"""What a campaign keeps, and the spool takes."""


def _weight(value: Any) -> int:
    """Bytes of a value of maps and lists, roughly; a part counts wherever it occurs."""
    if isinstance(value, Mapping):
        return 64 + sum(_weight(k) + _weight(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return 64 + sum(map(_weight, value))
    return 50 + len(value) if isinstance(value, str | bytes) else 32


def concatenate(tables: Sequence[SignalTable]) -> SignalTable:
    """Tables of one schema, one after another."""
    if len(tables) == 1:
        return tables[0]
    first = tables[0]
    return SignalTable(
        first.schema,
        np.concatenate([t.time for t in tables]),
        {k: np.concatenate([t.values[k] for t in tables], axis=1) for k in first.values},
        tuple(np.concatenate([t.payloads[i] for t in tables]) for i in range(len(first.payloads))),
        first.campaign,
    )
