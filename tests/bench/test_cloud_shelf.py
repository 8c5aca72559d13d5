"""A shelf gives back what was put into it, bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent.bench.cloud.shelf import Blob, pack, unpack, unpack_schemas
from agent.bench.cloud.store import Stored
from agent.blocks import NUMERIC_KINDS, Kind, SignalSchema, SignalTable, TableSchema
from agent.clock import WallNs
from agent.errors import BatchError

STORED = Stored("car", "00c0ffee-1-telemetry-1", Path("none"), 7, WallNs(9))


@st.composite
def tables(draw: st.DrawFn) -> SignalTable:
    n = draw(st.integers(1, 20))
    counts: dict[Kind, int] = {kind: draw(st.integers(0, 3)) for kind in NUMERIC_KINDS}
    signals = [SignalSchema(f"{k}{i}", k, 64) for k in NUMERIC_KINDS for i in range(counts[k])]
    widths = draw(st.lists(st.integers(1, 9), max_size=2))
    signals += [SignalSchema(f"bytes{i}", "bytes", 8 * w - 1) for i, w in enumerate(widths)]
    values: dict[Kind, Any] = {
        kind: draw(hnp.arrays(kind, (count, n))) for kind, count in counts.items() if count
    }
    payloads = tuple(draw(hnp.arrays("uint8", (n, width))) for width in widths)
    time = draw(hnp.arrays(np.int64, n))
    schema = TableSchema("bus", "Message", tuple(draw(st.permutations(signals))))
    by_kind = [i for i, s in enumerate(schema.signals) if s.kind == "bytes"]
    shapes = [payloads[int(schema.signals[i].name[5:])] for i in by_kind]
    return SignalTable(schema, time, values, tuple(shapes))


@given(st.lists(tables(), max_size=3))
def test_what_is_put_on_a_shelf_comes_back_bit_for_bit(given_tables: list[SignalTable]) -> None:
    data = pack(STORED, {"samples": 1}, given_tables)
    shelf = unpack(data, STORED)
    offset, size = shelf.schemas
    schemas = unpack_schemas(data[offset : offset + size])
    assert shelf.extract == {"samples": 1}
    assert len(shelf.digests) == len(given_tables)
    for table, digest, place in zip(
        given_tables, shelf.digests, shelf.places.tolist(), strict=True
    ):
        first, last, rows, at, length = place
        assert (first, last, rows) == (table.time.min(), table.time.max(), len(table))
        schema = schemas[digest]
        assert schema.table == table.schema
        blob = Blob.unpack(data[at : at + length])
        assert blob.time().tolist() == table.time.tolist()
        for name in table.names:
            assert blob.raw(schema, name).tobytes() == table.raw[name].tobytes()
        for row in range(len(table)):
            for name, raw in zip(table.names, blob.row(schema, row), strict=True):
                expected = table.raw[name][row]
                if isinstance(raw, bytes):
                    assert raw == expected.tobytes()
                else:
                    assert raw == expected or (np.isnan(expected) and np.isnan(raw))


def test_a_shelf_of_another_batch_is_refused() -> None:
    data = pack(STORED, {}, [])
    other = Stored("car", STORED.batch_id, Path("none"), 8, WallNs(9))
    with pytest.raises(BatchError, match="another batch"):
        unpack(data, other)


@given(st.integers(0, 2000), st.binary(max_size=20))
def test_a_damaged_shelf_is_refused_or_whole(at: int, with_: bytes) -> None:
    schema = TableSchema("bus", "Message", (SignalSchema("A", "int64", 64),))
    time = np.arange(50)
    table = SignalTable(schema, time, {"int64": np.array([np.arange(50) ** 3])})
    data = pack(STORED, {"event": [{"a": 1}]}, [table])
    at %= len(data)
    harmed = data[:at] + with_ + data[at + len(with_) :]
    try:
        shelf = unpack(harmed, STORED)
        (_, _, _, offset, size) = shelf.places[0].tolist()
        blob = Blob.unpack(harmed[offset : offset + size])
        schemas = unpack_schemas(harmed[shelf.schemas[0] : sum(shelf.schemas)])
        raw = blob.raw(schemas[shelf.digests[0]], "A")
    except (BatchError, KeyError):
        return
    assert raw.tolist() == table.raw["A"].tolist()
