"""The newest value of each signal of a vehicle.

It lies in the last row of the newest table that has the signal, wherever that was; only such rows
are read, and again only when a newer one has come.
"""

import dataclasses
import math
import threading
from typing import Any

import numpy as np

from agent.batch.columns import ReadSchema
from agent.bench.cloud.columns import Columns
from agent.bench.cloud.series import choices_of, id_of, kind_of
from agent.bench.cloud.shelf import Blob
from agent.bench.cloud.state import Key, Newest, Order, VehicleState
from agent.bench.cloud.summary import Moment
from agent.blocks import SignalSchema
from agent.clock import best_anchor


class _Described:
    """A signal of a schema: what each of its rows says, and how its values are read."""

    def __init__(self, key: Key, signal: SignalSchema) -> None:
        bus, message, source = key
        self.fixed = {
            "id": id_of(key, signal.name),
            "bus": bus,
            "message": message,
            "source": source,
            "signal": signal.name,
            "unit": signal.unit,
            "kind": kind_of(signal),
            "choices": choices_of(signal),
        }
        self.sorted_by = bus, message, -1 if source is None else source, signal.name
        self._signal = signal
        self._names = {} if signal.kind == "bytes" else dict(signal.choices)

    def row(self, raw: float | bytes) -> dict[str, Any]:
        if isinstance(raw, bytes):
            return {**self.fixed, "value": None, "label": "", "raw": raw.hex()}
        shown = raw if isinstance(raw, int) or math.isfinite(raw) else str(raw)
        return {**self.fixed, "value": self._value(raw), "label": self._label(raw), "raw": shown}

    def _value(self, raw: float) -> float | None:
        signal = self._signal
        try:
            if signal.needs_whole_arithmetic:
                value = float(signal.physical(np.array([raw], signal.kind))[0])
            elif signal.scale == 1 and signal.offset == 0:
                value = float(raw)
            else:
                value = float(raw) * float(signal.scale) + float(signal.offset)
        except OverflowError:  # a scale beyond all doubles
            return None
        return value if math.isfinite(value) else None

    def _label(self, raw: float) -> str:
        name = self._names.get(raw) if isinstance(raw, int) else None
        if name is None and isinstance(raw, int):
            fitting = (m for first, last, m in reversed(self._signal.codes) if first <= raw <= last)
            name = next(fitting, None)
        return name or ""


@dataclasses.dataclass(slots=True)
class _Row:
    """The last row of a schema, as it was read."""

    newest: Newest
    time: int
    values: list[tuple[_Described, dict[str, Any]]]


class Latest:
    """The newest values of one vehicle; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._described: dict[int, list[_Described]] = {}
        self._rows: dict[int, _Row] = {}

    def answer(self, state: VehicleState, columns: Columns) -> list[dict[str, Any]]:
        """One row a signal, by bus, message, source and name.

        Raises:
            BatchError, OSError: a batch is gone.
        """
        with state.lock:
            newest = dict(state.last)
            schemas = state.schemas[:]
            batches = state.summaries[:]
            anchors = tuple(state.anchors)
        with self._lock:
            pending: dict[int, list[tuple[int, Newest]]] = {}
            for number, place in newest.items():
                known = self._rows.get(number)
                if known is None or known.newest != place:
                    pending.setdefault(place.ordinal, []).append((number, place))
            for ordinal, wanted in pending.items():
                places = [(place.offset, place.size) for _, place in wanted]
                blobs = columns.blobs(batches[ordinal].stored, places)
                for (number, place), blob in zip(wanted, blobs, strict=True):
                    self._rows[number] = self._read(number, schemas[number], place, blob)
            rows = [(number, self._rows[number]) for number in newest]
        found: dict[tuple[Any, ...], tuple[Order, dict[str, Any]]] = {}
        for number, row in rows:
            boot_id = batches[row.newest.ordinal].boot_id
            moment = Moment(row.time, schemas[number].table.clock, boot_id)
            anchor = best_anchor(anchors, boot_id)
            when = moment.dated([anchor] if anchor else ()).json()
            for described, value in row.values:
                known_ = found.get(described.sorted_by)
                if known_ is None or known_[0] <= row.newest.order:
                    found[described.sorted_by] = row.newest.order, {**value, **when}
        return [found[name][1] for name in sorted(found)]

    def _read(self, number: int, schema: ReadSchema, place: Newest, blob: Blob) -> _Row:
        table = schema.table
        described = self._described.get(number)
        if described is None:
            key = table.bus, table.message, table.source
            described = [_Described(key, signal) for signal in table.signals]
            self._described[number] = described
        time = blob.time()
        at = len(time) - 1 - int(time[::-1].argmax())
        raws = blob.row(schema, at)
        values = [(d, d.row(raw)) for d, raw in zip(described, raws, strict=True)]
        return _Row(place, int(time[at]), values)
