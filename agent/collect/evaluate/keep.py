"""What moves from one evaluator of conditions to the next: over a change of plan, or a restart."""

from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from agent.blocks import Float64, Int64, SignalSchema, SignalTable, TableSchema
from agent.signals.database import SignalPath

Nanoseconds = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]


class KeptHistory(Struct, forbid_unknown_fields=True):
    """The samples of windows: arrays of equal length."""

    time: bytes
    values: bytes
    raw: bytes

    @classmethod
    def of(cls, time: Int64, values: Float64, raw: Int64) -> "KeptHistory":
        return cls(time.tobytes(), values.tobytes(), raw.tobytes())

    def arrays(self) -> tuple[Int64, Float64, Int64]:
        """The arrays.

        Raises:
            ValueError: they cannot be what was kept.
        """
        time: Int64 = column(self.time, np.dtype(np.int64))
        values: Float64 = column(self.values, np.dtype(np.float64))
        raw: Int64 = column(self.raw, np.dtype(np.int64))
        if not len(time) == len(values) == len(raw):
            raise ValueError(f"{len(time)}, {len(values)}, {len(raw)} samples of one window")
        if (np.diff(time) < 0).any() or np.isnan(values).any():
            raise ValueError("samples of a window are not in order, or not valid")
        return time, values, raw


class KeptSlot(Struct, forbid_unknown_fields=True):
    """A signal."""

    bus: str
    message: str
    signal: str
    kind: str
    seen: bool
    time: Nanoseconds
    raw: Nanoseconds
    preceded: bool
    previous: Nanoseconds
    valid_time: Nanoseconds
    changed: bool
    text: bytes = b""
    history: KeptHistory | None = None

    @property
    def path(self) -> SignalPath:
        return SignalPath(self.bus, self.message, self.signal)


class KeptTable(Struct, forbid_unknown_fields=True):
    """Rows that are not decided yet, with the signals that conditions read."""

    bus: str
    message: str
    source: int | None
    branch: str
    time: bytes
    columns: dict[str, bytes]

    @classmethod
    def of(cls, table: SignalTable, names: list[str]) -> "KeptTable":
        columns = {}
        for name in names:
            kind, row = table.schema.place[name]
            array = table.payloads[row] if kind == "bytes" else table.values[kind][row]
            columns[name] = array.tobytes()
        time = table.time.tobytes()
        return cls(table.bus, table.message, table.source, table.branch, time, columns)

    def table(self, schemas: dict[str, SignalSchema]) -> SignalTable:
        """The table again, with the signals in `schemas`.

        Raises:
            ValueError: it cannot be what was kept.
        """
        time: Int64 = column(self.time, np.dtype(np.int64))
        values: dict[Any, list[NDArray[Any]]] = {}
        texts = []
        signals = tuple(schemas[name] for name in self.columns if name in schemas)
        for schema in signals:
            data = self.columns[schema.name]
            if schema.kind == "bytes":
                width, rest = divmod(len(data), max(len(time), 1))
                if rest or not width:
                    raise ValueError(f"{len(data)} bytes are no {len(time)} texts")
                texts.append(np.frombuffer(data, np.uint8).reshape(len(time), width))
                continue
            array = column(data, np.dtype(schema.kind))
            if len(array) != len(time):
                raise ValueError(f"{len(array)} values at {len(time)} times")
            values.setdefault(schema.kind, []).append(array)
        schema_of_table = TableSchema(self.bus, self.message, signals, self.source, self.branch)
        stacked = {kind: np.stack(arrays) for kind, arrays in values.items()}
        return SignalTable(schema_of_table, time, stacked, tuple(texts))


class KeptGroup(Struct, kw_only=True, forbid_unknown_fields=True):
    """The conditions that read the same buses."""

    buses: list[str]
    found: list[str]
    firsts: dict[str, Nanoseconds]
    began: Nanoseconds
    horizon: Nanoseconds
    slots: list[KeptSlot] = msgspec.field(default_factory=list)
    timers: dict[str, tuple[Nanoseconds, bool]] = msgspec.field(default_factory=dict)
    edges: dict[str, bool] = msgspec.field(default_factory=dict)
    truths: dict[str, bool] = msgspec.field(default_factory=dict)
    pending: list[KeptTable] = msgspec.field(default_factory=list)


class Kept(Struct, forbid_unknown_fields=True):
    version: Literal[1]
    reached: dict[str, Nanoseconds]
    groups: list[KeptGroup]


def to_state(kept: Kept) -> dict[str, Any]:
    """What msgpack can pack."""
    state: dict[str, Any] = msgspec.to_builtins(kept, builtin_types=(bytes,))
    return state


def from_state(state: Any) -> Kept:
    """Check the form of a state.

    Raises:
        ValueError: it is none.
    """
    try:
        return msgspec.convert(state, Kept)
    except msgspec.ValidationError as error:
        raise ValueError(f"no state of conditions: {error}") from error


def column(data: bytes, dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array of what was kept.

    Raises:
        ValueError: the bytes are no whole number of values.
    """
    if len(data) % dtype.itemsize:
        raise ValueError(f"{len(data)} bytes are no values of {dtype}")
    return np.frombuffer(data, dtype)
