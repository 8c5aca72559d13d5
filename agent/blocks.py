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
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self

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
        return FrameBlock(
            self.bus,
            self.time[rows],
            self.id[rows],
            self.length[rows],
            self.flags[rows],
            self.data[rows],
            self.clock,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class SignalSchema:
    """One signal of a table: what its raw column means.

    physical = raw * scale + offset. `choices` names raw values; `bits` is the length on the bus.
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

    def physical(self, raw: NDArray[Any]) -> Float64:
        """Raw values in the unit, float64[n]: the same doubles as cantools computes."""
        if self.scale == 1 and self.offset == 0:
            return raw.astype(np.float64)
        whole_scale = float(self.scale).is_integer()
        if self.kind in ("int64", "uint64") and whole_scale and self.bits > 32:
            largest = (1 << self.bits) * abs(self.scale) + abs(self.offset)
            if largest > _EXACT:
                # Products beyond 2**53: whole numbers are multiplied whole, and rounded once.
                offset = int(self.offset) if float(self.offset).is_integer() else self.offset
                scale = int(self.scale)
                return np.array([float(v * scale + offset) for v in raw.tolist()], np.float64)
        return raw.astype(np.float64) * float(self.scale) + float(self.offset)


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


@dataclasses.dataclass(frozen=True, slots=True)
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
        signal = self.schema.by_name[name]
        if signal.kind == "bytes":
            raise ValueError(f"{self.message}.{name} holds bytes, not a number")
        return signal.physical(self.raw[name])

    def take(self, rows: NDArray[Any] | slice) -> "SignalTable":
        """Some of the rows, by index, mask or slice."""
        return dataclasses.replace(
            self,
            time=self.time[rows],
            values={kind: array[:, rows] for kind, array in self.values.items()},
            payloads=tuple(p[rows] for p in self.payloads),
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
        return dataclasses.replace(self, schema=schema, values=values, payloads=payloads)


def concatenate(tables: Sequence[SignalTable]) -> SignalTable:
    """Tables of one schema, one after another."""
    if len(tables) == 1:
        return tables[0]
    first = tables[0]
    return dataclasses.replace(
        first,
        time=np.concatenate([t.time for t in tables]),
        values={k: np.concatenate([t.values[k] for t in tables], axis=1) for k in first.values},
        payloads=tuple(
            np.concatenate([t.payloads[i] for t in tables]) for i in range(len(first.payloads))
        ),
    )
