"""CSV and Parquet: what comes out reads back as what went in, to the last bit."""

import csv
import itertools
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pyarrow_parquet
import pytest

from agent.batch import export
from agent.batch.export import CSV_COLUMNS, export_tables
from agent.blocks import SignalSchema, SignalTable, TableSchema, TimeBase
from agent.errors import ConfigError

INT64 = [-(1 << 63), -1, 0, (1 << 53) + 1, (1 << 63) - 1]
UINT64 = [0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
DOUBLE = [0.1, -0.0, 5e-324, 1.7976931348623157e308, 1e22]
SINGLE = [0.1, -1.5, 3.4e38, 1e-45, 0.0]
BYTES = [b"\x00\x01", b"\xff\xfe", b"ab", b",\n", b'""']
TIME = [1_700_000_000_123_456_789 + i for i in range(5)]


def _table(clock: TimeBase = "wall", source: int | None = None) -> SignalTable:
    schema = TableSchema(
        bus="body, left",
        message="Everything",
        signals=(
            SignalSchema("Signed", "int64", 64, unit="m"),
            SignalSchema("Unsigned", "uint64", 64, choices=((0, 'a "b", c'), (1 << 63, "sna"))),
            SignalSchema("Double", "float64", 64, 0.1, 2),
            SignalSchema("Single", "float32", 32),
            SignalSchema("Blob", "bytes", 16),
        ),
        source=source,
        branch="Mux=3",
        clock=clock,
    )
    return SignalTable(
        schema,
        np.array(TIME, np.int64),
        {
            "int64": np.array([INT64], np.int64),
            "uint64": np.array([UINT64], np.uint64),
            "float64": np.array([DOUBLE], np.float64),
            "float32": np.array([SINGLE], np.float32),
        },
        (np.frombuffer(b"".join(BYTES), np.uint8).reshape(5, 2),),
        campaign="all",
    )


def _csv(path: Path) -> dict[str, list[dict[str, str]]]:
    with path.open(encoding="utf-8", newline="") as file:
        return _by_signal(csv.DictReader(file))


def _by_signal(rows: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row["signal"], []).append(row)
    return found


def _parquet(path: Path) -> dict[str, list[dict[str, Any]]]:
    # Timestamps as numbers: Python's datetime has no nanoseconds.
    table = pyarrow_parquet.read_table(path)
    index = table.schema.get_field_index("time")
    return _by_signal(table.set_column(index, "time", table["time"].cast("int64")).to_pylist())


def _bits(values: list[float]) -> list[bytes]:
    return [np.float64(v).tobytes() for v in values]


def test_csv_has_exact_raw_values_and_equal_doubles(tmp_path: Path) -> None:
    table = _table()
    assert export_tables([table], tmp_path / "out.csv", "csv") == 25
    rows = _csv(tmp_path / "out.csv")
    assert [int(r["raw"]) for r in rows["Signed"]] == INT64
    assert [int(r["raw"]) for r in rows["Unsigned"]] == UINT64
    assert _bits([float(r["raw"]) for r in rows["Double"]]) == _bits(DOUBLE)
    assert [np.float32(r["raw"]) for r in rows["Single"]] == [np.float32(v) for v in SINGLE]
    assert [bytes.fromhex(r["raw"]) for r in rows["Blob"]] == BYTES
    for name in ("Signed", "Unsigned", "Double", "Single"):
        assert _bits([float(r["value"]) for r in rows[name]]) == _bits(
            table.physical(name).tolist()
        )
    assert [r["value"] for r in rows["Blob"]] == [""] * 5


def test_csv_has_the_columns_that_describe_a_sample(tmp_path: Path) -> None:
    export_tables([_table(source=49)], tmp_path / "out.csv", "csv")
    rows = _csv(tmp_path / "out.csv")
    assert rows["Unsigned"][0] == {
        "time_ns": "1700000000123456789",
        "time": "2023-11-14T22:13:20.123456789Z",
        "clock": "wall",
        "bus": "body, left",
        "message": "Everything",
        "source": "49",
        "branch": "Mux=3",
        "signal": "Unsigned",
        "raw": "0",
        "value": "0.0",
        "label": 'a "b", c',
        "unit": "",
        "campaign": "all",
    }
    assert [r["label"] for r in rows["Unsigned"]] == ['a "b", c', "", "", "sna", ""]
    assert rows["Signed"][0]["unit"] == "m"


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("clock", ["boot", "recorded"])
def test_times_of_other_clocks_are_no_dates(
    tmp_path: Path, form: export.Format, clock: TimeBase
) -> None:
    path = tmp_path / f"out.{form}"
    export_tables([_table(clock)], path, form)
    row = (_csv(path) if form == "csv" else _parquet(path))["Signed"][0]
    assert row["clock"] == clock
    assert int(row["time_ns"]) == TIME[0]
    assert not row["time"]


def test_parquet_has_exact_raw_values_and_equal_doubles(tmp_path: Path) -> None:
    table = _table()
    assert export_tables([table], tmp_path / "out.parquet", "parquet") == 25
    rows = _parquet(tmp_path / "out.parquet")
    assert [r["raw_int"] for r in rows["Signed"]] == INT64
    assert [r["raw_int"] for r in rows["Unsigned"]] == [*UINT64[:3], None, None]
    assert [r["raw_uint"] for r in rows["Unsigned"]] == [None, None, None, *UINT64[3:]]
    assert _bits([r["raw_float"] for r in rows["Double"]]) == _bits(DOUBLE)
    assert [np.float32(r["raw_float"]) for r in rows["Single"]] == [np.float32(v) for v in SINGLE]
    assert [r["raw_bytes"] for r in rows["Blob"]] == BYTES
    for name in ("Signed", "Unsigned", "Double", "Single"):
        assert _bits([r["value"] for r in rows[name]]) == _bits(table.physical(name).tolist())
    for row in itertools.chain.from_iterable(rows.values()):
        raw = [row[f"raw_{kind}"] for kind in ("int", "uint", "float", "bytes")]
        assert sum(value is not None for value in raw) == 1


def test_parquet_has_the_columns_that_describe_a_sample(tmp_path: Path) -> None:
    export_tables([_table(source=49), _table()], tmp_path / "out.parquet", "parquet")
    rows = _parquet(tmp_path / "out.parquet")
    first = rows["Unsigned"][0]
    assert first["time"] == first["time_ns"] == TIME[0]
    assert (first["bus"], first["message"], first["branch"]) == (
        "body, left",
        "Everything",
        "Mux=3",
    )
    assert [r["label"] for r in rows["Unsigned"][:5]] == ['a "b", c', None, None, "sna", None]
    assert [r["source"] for r in rows["Signed"]] == [49] * 5 + [None] * 5
    assert (first["campaign"], rows["Signed"][0]["unit"]) == ("all", "m")
    schema = pyarrow_parquet.read_schema(tmp_path / "out.parquet")
    assert str(schema.field("time").type) == "timestamp[ns, tz=UTC]"
    assert [n for n in schema.names if not n.startswith("raw_")] == [
        n for n in CSV_COLUMNS if n != "raw"
    ]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_not_a_number_and_infinity_stay_what_they_are(tmp_path: Path, form: export.Format) -> None:
    schema = TableSchema("b", "M", (SignalSchema("S", "float64", 64, 1e300),))
    values = np.array([[math.nan, math.inf, -math.inf, 1e300]])
    path = tmp_path / f"out.{form}"
    export_tables([SignalTable(schema, np.arange(4), {"float64": values})], path, form)
    rows = (_csv(path) if form == "csv" else _parquet(path))["S"]
    read = [float(r["value"]) for r in rows]
    assert math.isnan(read[0])
    assert read[1:] == [math.inf, -math.inf, math.inf]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_long_tables_and_many_small_ones_come_out_whole(
    tmp_path: Path, form: export.Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "ROWS", 64)
    schema = TableSchema("b", "M", (SignalSchema("S", "int64", 32), SignalSchema("T", "int64", 8)))

    def table(begin: int, end: int) -> SignalTable:
        n = np.arange(begin, end)
        return SignalTable(schema, n, {"int64": np.stack([n, n % 100])})

    small = [table(i, i + 3) for i in range(1000, 1300, 3)]
    path = tmp_path / f"out.{form}"
    assert export_tables([table(0, 1000), *small], path, form) == 2600
    rows = _csv(path) if form == "csv" else _parquet(path)
    raw = "raw" if form == "csv" else "raw_int"
    assert [int(r[raw]) for r in rows["S"]] == list(range(1300))
    assert [int(r[raw]) for r in rows["T"]] == [i % 100 for i in range(1300)]
    if form == "parquet":
        assert pyarrow_parquet.ParquetFile(path).num_row_groups > 10


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_code_is_labelled_where_the_value_table_has_no_word(
    tmp_path: Path, form: export.Format
) -> None:
    codes = ((250, 252, "reserved, later"), (254, 254, "error"), (255, 255, "not available"))
    schema = TableSchema(
        "b",
        "M",
        (
            SignalSchema("Coded", "uint64", 8, codes=codes),
            SignalSchema("Both", "uint64", 8, choices=((255, "off"), (0, "on")), codes=codes),
            SignalSchema("Plain", "uint64", 8),
        ),
    )
    raw = np.array([[0, 249, 250, 252, 253, 254, 255]] * 3, np.uint64)
    path = tmp_path / f"out.{form}"
    export_tables([SignalTable(schema, np.arange(7), {"uint64": raw})], path, form)
    rows = _csv(path) if form == "csv" else _parquet(path)
    labels = {name: [r["label"] or "" for r in of_name] for name, of_name in rows.items()}
    middle = ["", "reserved, later", "reserved, later", "", "error"]
    assert labels == {
        "Coded": ["", *middle, "not available"],
        "Both": ["on", *middle, "off"],
        "Plain": [""] * 7,
    }
    assert [float(r["value"]) for r in rows["Coded"]] == raw[0].tolist()  # scaled like any other


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_nothing_to_export_is_an_empty_table(tmp_path: Path, form: export.Format) -> None:
    path = tmp_path / f"out.{form}"
    assert export_tables([], path, form) == 0
    assert (_csv(path) if form == "csv" else _parquet(path)) == {}


def test_an_export_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    def failing() -> Iterator[SignalTable]:
        yield _table()
        raise RuntimeError("the reader broke")

    path = tmp_path / "out.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        export_tables(failing(), path, "csv")
    assert [p.name for p in tmp_path.iterdir()] == ["out.csv"]
    assert path.read_text() == "old"


def test_a_target_that_cannot_be_written_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file"):
        export_tables([_table()], tmp_path / "no" / "out.csv", "csv")


def test_parquet_without_pyarrow_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'vehicle-edge-agent\[cloud\]'"):
        export_tables([_table()], tmp_path / "out.parquet", "parquet")
    assert list(tmp_path.iterdir()) == []
    assert export_tables([_table()], tmp_path / "out.csv", "csv") == 25
