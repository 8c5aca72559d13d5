"""Decoded columns of shelves, read when they are first asked for, and kept within a bound.

A column is what one batch has of one signal: physical values as float64, NaN where a value is no
measurement (a code such as "not available", an infinity); payloads as uint8[n, w]. The column of
the name "" is the time, as it is in the batch.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.batch.columns import ReadSchema
from agent.bench.cloud.shelf import Blob, Shelves, pack
from agent.bench.cloud.store import Stored
from agent.bench.cloud.summary import read
from agent.blocks import Float64, SignalSchema
from agent.errors import BatchError

_log = logging.getLogger(__name__)

TIME: Final = ""
ROOM_BYTES: Final = 256 << 20
MOST_SAMPLES: Final = 20_000_000
_OVERHEAD_BYTES: Final = 400
"""Of an entry: the array's own head, the key and their places."""

Column = NDArray[Any]
_Key = tuple[str, str, int]


class Table(NamedTuple):
    """A table of a batch: where it lies in the shelf, and of which schema it is."""

    stored: Stored
    offset: int
    size: int
    schema: ReadSchema


class Columns:
    """Reads columns; thread-safe, and no lock is held while it reads."""

    def __init__(
        self,
        shelves: Shelves,
        room_bytes: int = ROOM_BYTES,
        most_samples: int = MOST_SAMPLES,
    ) -> None:
        """`most_samples` bounds what is read at once, of the signals of one message."""
        self.most_samples = most_samples
        self._shelves = shelves
        self._room = room_bytes
        self._lock = threading.Lock()
        self._known: OrderedDict[_Key, dict[str, Column]] = OrderedDict()
        """Columns of a table by signal; never changed, but replaced."""
        self._bytes = 0

    @property
    def nbytes(self) -> int:
        """What the columns that are kept take."""
        return self._bytes

    def get(self, tables: Sequence[Table], names: Iterable[str]) -> list[dict[str, Column]]:
        """Of each table the time and those signals of `names` that it has.

        Raises:
            BatchError, OSError: a batch is gone.
        """
        wanted = [TIME, *dict.fromkeys(names)]
        found: list[dict[str, Column]] = []
        missing: dict[Stored, list[int]] = {}
        has = {
            number: {n for n in wanted if n == TIME or n in schema.table.place}
            for number, schema in {id(t.schema): t.schema for t in tables}.items()
        }
        with self._lock:
            for number, table in enumerate(tables):
                key = _key(table)
                columns = self._known.get(key)
                if columns is not None and columns.keys() >= has[id(table.schema)]:
                    self._known.move_to_end(key)
                else:
                    missing.setdefault(table.stored, []).append(number)
                found.append(columns or {})
        for stored, numbers in missing.items():
            blobs = self.blobs(stored, [(tables[n].offset, tables[n].size) for n in numbers])
            for number, blob in zip(numbers, blobs, strict=True):
                columns, schema = found[number], tables[number].schema
                more = {n: _column(blob, schema, n) for n in has[id(schema)] - columns.keys()}
                found[number] = {**columns, **more}  # what others may be reading is left alone
            self._keep({_key(tables[n]): found[n] for n in numbers})
        return found

    def blobs(self, stored: Stored, pieces: Sequence[tuple[int, int]]) -> list[Blob]:
        """Tables of a batch by offset and size; its shelf is made again where it is lost.

        Raises:
            BatchError, OSError: the batch is gone, too.
        """
        try:
            return [Blob.unpack(piece) for piece in self._shelves.read(stored, pieces)]
        except (OSError, BatchError) as e:
            _log.info("the shelf of batch %s is made again: %s", stored.batch_id, e)
        data = pack(stored, *read(stored))
        self._shelves.keep(stored, data)
        return [Blob.unpack(data[offset : offset + size]) for offset, size in pieces]

    def _keep(self, fresh: Mapping[_Key, dict[str, Column]]) -> None:
        with self._lock:
            for key, columns in fresh.items():
                known = self._known.pop(key, {})
                joined = {**known, **columns}
                self._known[key] = joined
                self._bytes += _size(joined) - (_size(known) if known else 0)
            while self._bytes > self._room and self._known:
                self._bytes -= _size(self._known.popitem(last=False)[1])


def _key(table: Table) -> _Key:
    return table.stored.vehicle, table.stored.batch_id, table.offset


def _size(columns: Mapping[str, Column]) -> int:
    return _OVERHEAD_BYTES + sum(c.nbytes + _OVERHEAD_BYTES for c in columns.values())


def _column(blob: Blob, schema: ReadSchema, name: str) -> Column:
    if name == TIME:
        return blob.time()
    raw = blob.raw(schema, name)
    return raw if raw.ndim == 2 else measured(schema.table.by_name[name], raw)


def measured(signal: SignalSchema, raw: NDArray[Any]) -> Float64:
    """A numeric column in its unit, float64[n]; NaN where it is no measurement, or no number."""
    try:
        with np.errstate(all="ignore"):
            values = signal.physical(raw)
    except OverflowError:  # a scale beyond all doubles
        return np.full(len(raw), np.nan)
    known = np.isfinite(values)
    if signal.codes:
        known &= signal.validity(raw) == 0
    return values if known.all() else np.where(known, values, np.nan)
