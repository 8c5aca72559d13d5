"""What is written comes back, through the product's reader and through an independent one."""

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.batch import BatchReader, BatchWriter, read_batch
from agent.blocks import MEANINGS, SignalSchema, SignalTable, TableSchema
from agent.errors import BatchError
from tests.batch.independent_reader import Batch, Table, read

Kind = Literal["int64", "uint64", "float32", "float64", "bytes"]
KINDS: tuple[Kind, ...] = ("int64", "uint64", "float32", "float64", "bytes")
INTS = st.integers(-(2**63), 2**63 - 1)
NUMBERS = st.one_of(st.integers(-1000, 1000), st.floats(allow_nan=False, allow_infinity=False))
ABSENT = {  # what it means when a signal in the file lacks a key
    "scale": 1,
    "offset": 0,
    "unit": "",
    "choices": {},
    "minimum": None,
    "maximum": None,
    "vss": "",
    "codes": [],
}
Rows = dict[str, list[tuple[Any, ...]]]  # by message: the time, then the signals, as text


@st.composite
def table_schemas(draw: st.DrawFn) -> list[TableSchema]:
    found = []
    for number in range(draw(st.integers(1, 4))):
        signals: list[SignalSchema] = []
        for kind in KINDS:
            for _ in range(draw(st.integers(0, 2))):
                bits = {"float32": 32, "float64": 64}.get(kind)
                choices = st.dictionaries(INTS, st.text(max_size=3), max_size=2)
                ends = st.tuples(INTS, INTS).map(sorted)
                codes = st.tuples(ends, st.sampled_from(MEANINGS[1:]))
                signals.append(
                    SignalSchema(
                        f"signal {len(signals)}",
                        kind,
                        bits or draw(st.integers(1, 100 if kind == "bytes" else 64)),
                        scale=draw(NUMBERS),
                        offset=draw(NUMBERS),
                        unit=draw(st.text(max_size=3)),
                        choices=tuple(sorted(draw(choices).items())),
                        minimum=draw(st.none() | NUMBERS),
                        maximum=draw(st.none() | NUMBERS),
                        vss=draw(st.sampled_from(("", "Vehicle.Speed"))),
                        codes=tuple((*e, m) for e, m in draw(st.lists(codes, max_size=2))),
                    )
                )
        source = draw(st.none() | st.integers(0, 255))
        branch = draw(st.sampled_from(("", "Group=3")))
        found.append(TableSchema("bus", f"message {number}", tuple(signals), source, branch))
    return found


def random_words(rng: np.random.Generator, shape: tuple[int, int]) -> Any:
    """Columns of 64 bits each: constant, slow, at the edges, or anything."""
    words = rng.integers(0, 2**64, shape, np.uint64, endpoint=False)
    for column in words:
        match rng.integers(4):
            case 0:
                column[:] = column[:1]
            case 1:
                step = np.uint64(2) ** rng.integers(0, 40, dtype=np.uint64)
                column[:] = column[:1] + np.cumsum(column % step, dtype=np.uint64)
            case 2:
                column[:] = rng.choice(np.array([0, 1, 2**63 - 1, 2**63, 2**64 - 1], "u8"))
    return words


def random_table(rng: np.random.Generator, schema: TableSchema, resolution: int) -> SignalTable:
    rows = int(rng.choice([1, 1, 2, 5, 20]))
    kinds = [signal.kind for signal in schema.signals]
    time = int(rng.integers(-(2**40), 2**40)) + np.cumsum(rng.integers(-5, 100, rows))
    words = {kind: random_words(rng, (kinds.count(kind), rows)) for kind in KINDS[:4]}
    columns: dict[Kind, Any] = {
        "int64": words["int64"].view(np.int64),
        "uint64": words["uint64"],
        "float32": words["float32"].astype(np.uint32).view(np.float32),
        "float64": words["float64"].view(np.float64),
    }
    payloads = tuple(
        rng.integers(0, 256, (rows, -(-signal.bits // 8)), np.uint8)
        for signal in schema.signals
        if signal.kind == "bytes"
    )
    return SignalTable(schema, time * resolution, columns, payloads)


def described(schema: TableSchema) -> dict[str, Any]:
    """The schema as the page says that it stands in the file, the absent keys filled in."""
    signals = [
        {key: getattr(signal, key) for key in ("name", "kind", "bits", *ABSENT)}
        | {"choices": dict(signal.choices), "codes": [list(code) for code in signal.codes]}
        for signal in schema.signals
    ]
    found = {key: getattr(schema, key) for key in ("bus", "message", "source", "branch", "clock")}
    return {**found, "signals": signals}


def described_record(schema: dict[str, Any]) -> dict[str, Any]:
    found = {"source": None, "branch": ""} | schema
    del found["id"]
    return {**found, "signals": [ABSENT | signal for signal in schema["signals"]]}


def plain(column: Any) -> list[str]:
    """Each value as text: exact, and NaN is NaN, and -0.0 is not 0.0."""
    if column.ndim == 2:
        return [repr(bytes(row)) for row in column]
    return [repr(number) for number in column.tolist()]


def product_rows(tables: Sequence[SignalTable]) -> Rows:
    found: Rows = defaultdict(list)
    for table in tables:
        columns = [plain(table.raw[signal.name]) for signal in table.schema.signals]
        found[table.schema.message] += zip(plain(table.time), *columns, strict=True)
    return dict(found)


def independent_rows(tables: Sequence[Table]) -> Rows:
    found: Rows = defaultdict(list)
    for table in tables:
        columns = [
            [repr(number) for number in table.columns[signal["name"]]]
            for signal in table.schema["signals"]
        ]
        time = [repr(moment) for moment in table.time]
        found[table.schema["message"]] += zip(time, *columns, strict=True)
    return dict(found)


@settings(max_examples=100, deadline=None)
@given(
    schemas=table_schemas(),
    chunks=st.lists(st.integers(0, 15), max_size=5)
    | st.lists(st.integers(0, 15), min_size=17, max_size=40),
    resolution=st.sampled_from((1, 1_000, 1_000_000)),
    seed=st.integers(0, 2**32),
)
def test_what_is_written_comes_back(
    schemas: list[TableSchema], chunks: list[int], resolution: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    written: list[SignalTable] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "some.batch")
        with BatchWriter(path, vehicle="v", resolution_ns=resolution) as writer:
            for chunk in chunks:  # each bit is a table that is present
                for number, schema in enumerate(schemas):
                    for _ in range((chunk >> number & 1) * int(rng.integers(1, 3))):
                        written.append(random_table(rng, schema, resolution))
                        writer.add(written[-1])
                writer.flush()
        batch = read(path.read_bytes())
        product = list(read_batch(path))

    assert batch.lost == 0
    assert batch.header["resolution_ns"] == resolution
    assert batch.footer is not None
    assert batch.footer["chunks"] == sum(chunk % 2 ** len(schemas) > 0 for chunk in chunks)
    times = np.concatenate([table.time for table in written] or [np.zeros(0, np.int64)]).tolist()
    assert batch.footer["first"] == min(times, default=None)
    assert batch.footer["last"] == max(times, default=None)
    expected = product_rows(written)
    assert independent_rows(batch.tables) == expected
    by_message = {schema.message: schema for schema in schemas}
    for table in batch.tables:
        assert described_record(table.schema) == described(by_message[table.schema["message"]])

    assert product_rows(product) == expected
    assert sorted(table.schema.message for table in product) == sorted(expected)
    for got in product:
        assert got.schema == by_message[got.schema.message]
        of_schema = [table for table in written if table.schema == got.schema]
        for signal in got.schema.signals:  # the very bits, those of a NaN included
            bits = b"".join(table.raw[signal.name].tobytes() for table in of_schema)
            assert got.raw[signal.name].tobytes() == bits


def damaged_product(path: Path, data: bytes) -> tuple[Rows, int] | None:
    """What the product reads and how many chunks it lost; None where it refuses the file."""
    path.write_bytes(data)
    try:
        reader = BatchReader(path)
        tables = [body for kind, body in reader.records() if kind == "samples"]
    except BatchError:
        return None
    return product_rows(tables), reader.lost_chunks


def damaged_independent(data: bytes) -> Batch | None:
    try:
        return read(data)
    except ValueError:
        return None


def small_file(path: Path, chunks: int) -> Rows:
    """Two tables that come and go; every row differs from all others."""
    first = TableSchema("b", "first", (SignalSchema("a", "int64", 12),))
    second = TableSchema("b", "second", (SignalSchema("t", "bytes", 24),))
    written = []
    with BatchWriter(path, vehicle="v") as writer:
        for chunk in range(chunks):
            time = (np.arange(2) + 2 * chunk) * 1_000_000
            if chunk % 5 < 4:
                values = np.array([[chunk**3, -(chunk**5)]])
                written.append(SignalTable(first, time, {"int64": values}, ()))
                writer.add(written[-1])
            if chunk % 5 in (0, 3, 4):
                payload = np.array([[chunk, 0, 1], [255, chunk, 2]], np.uint8)
                written.append(SignalTable(second, time, {}, (payload,)))
                writer.add(written[-1])
            writer.flush()
    return product_rows(written)


def test_a_file_cut_anywhere_keeps_what_stands_before(tmp_path: Path) -> None:
    written = small_file(tmp_path / "whole.batch", 18)
    data = (tmp_path / "whole.batch").read_bytes()
    header_end = 24 + int.from_bytes(data[16:20], "little")
    before: Rows = {}
    for cut in range(len(data) + 1):
        batch = damaged_independent(data[:cut])
        product = damaged_product(tmp_path / "cut.batch", data[:cut])
        assert (batch is None) == (product is None) == (cut < header_end)
        if batch is None or product is None:
            continue
        rows, lost = product
        assert rows == independent_rows(batch.tables)
        assert lost == batch.lost == 0  # an end that was never written is no damage
        for message, of_message in rows.items():
            assert of_message == written[message][: len(of_message)]
            assert len(of_message) >= len(before.get(message, []))
        before = rows
    assert before == written


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Rows, Path]:
    """A sealed file of several frames, its rows, and where damaged copies of it may be put."""
    folder = tmp_path_factory.mktemp("damage")
    rows = small_file(folder / "sound.batch", 40)
    return (folder / "sound.batch").read_bytes(), rows, folder / "damaged.batch"


@settings(max_examples=600, deadline=None)
@given(
    flips=st.lists(
        st.tuples(st.integers(0, 2**20), st.integers(1, 255)), min_size=1, max_size=6, unique=True
    )
)
def test_damage_loses_chunks_but_never_invents_a_value(
    sound: tuple[bytes, Rows, Path], flips: list[tuple[int, int]]
) -> None:
    whole, written, path = sound
    damaged = bytearray(whole)
    for place, bits in flips:
        damaged[place % len(whole)] ^= bits
    batch = damaged_independent(bytes(damaged))
    product = damaged_product(path, bytes(damaged))
    assert (batch is None) == (product is None)
    if batch is None or product is None:
        return
    independent = independent_rows(batch.tables)
    for rows in (independent, product[0]):
        for message, of_message in rows.items():
            assert len(set(of_message)) == len(of_message)
            assert set(of_message) <= set(written[message])
    if independent != written:
        assert batch.lost > 0
    if product[0] != written and damaged[-4:] == b"BAEV" and len(flips) == 1:
        assert product[1] > 0
    if len(flips) == 1:
        assert independent == product[0]


def test_a_zeroed_stretch_in_the_middle_is_damage_and_not_the_end(
    sound: tuple[bytes, Rows, Path],
) -> None:
    whole, written, path = sound
    middle = len(whole) // 2
    damaged = whole[:middle] + bytes(200) + whole[middle + 200 :]
    product = damaged_product(path, damaged)
    assert product is not None
    rows, lost = product
    assert lost > 0
    assert rows["first"][-1] == written["first"][-1]  # the frames behind it are read


@pytest.mark.parametrize(("rows", "width"), [(9_500, 1785), (70_000, 1000)])
def test_what_does_not_fit_one_chunk_becomes_several(tmp_path: Path, rows: int, width: int) -> None:
    rng = np.random.default_rng(rows)
    schema = TableSchema("b", "big", (SignalSchema("t", "bytes", 8 * width),))
    payload = rng.integers(0, 256, (rows, width), np.uint8)
    if width == 1000:
        payload[:] = 0
    table = SignalTable(schema, np.arange(rows) * 1_000_000, {}, (payload,))
    path = tmp_path / "big.batch"
    with BatchWriter(path, vehicle="v") as writer:
        writer.add(table)
        writer.add(table.take(slice(0, 5)))
    reader = BatchReader(path)
    got = [value for kind, value in reader.records() if kind == "samples"]
    assert reader.lost_chunks == 0
    assert np.array_equal(np.concatenate([t.payloads[0] for t in got])[:rows], payload)
    assert sum(len(t) for t in got) == rows + 5


def test_a_group_of_chunks_is_kept_or_cut_off_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    schema = TableSchema("b", "big", tuple(SignalSchema(f"s{i}", "uint64", 64) for i in range(8)))
    words = rng.integers(0, 2**63, (8, 400_000), np.uint64)
    big = SignalTable(schema, np.arange(400_000) * 1_000_000, {"uint64": words})
    path = tmp_path / "group.batch"
    with BatchWriter(path, vehicle="v") as writer:
        writer.add(big.take(slice(0, 10)))
        writer.flush()
        one = writer.size
        writer.add(big)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 9 // 10])
    reader = BatchReader(path)
    assert reader.scan().end == one
    assert sum(v.samples for kind, v in reader.records() if kind == "samples") == 80
