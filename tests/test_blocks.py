"""The arrays that rooms hand on."""

import math
from typing import Any

import numpy as np
import pytest

from agent.blocks import (
    FrameBlock,
    Kind,
    SignalSchema,
    SignalTable,
    TableSchema,
    concatenate,
)

SCHEMA = TableSchema(
    bus="can0",
    message="Any",
    signals=(
        SignalSchema("Small", "int64", 8, 0.5, -40, "degC"),
        SignalSchema("Wide", "uint64", 64),
        SignalSchema("Next", "int64", 16),
        SignalSchema("Real", "float32", 32, 2),
        SignalSchema("Text", "bytes", 72),
    ),
)


def table(rows: int, first: int = 0) -> SignalTable:
    """Row i holds i in each of its columns, in one way or another."""
    n = np.arange(first, first + rows)
    return SignalTable(
        SCHEMA,
        n * 1000,
        {
            "int64": np.stack([n, -n]).astype(np.int64),
            "uint64": (n.astype(np.uint64) + np.uint64(2**63))[None, :],
            "float32": np.array([n / 4], np.float32),
        },
        (np.repeat(n.astype(np.uint8)[:, None], 9, axis=1),),
    )


def frames(**changes: Any) -> FrameBlock:
    arrays: dict[str, Any] = {
        "bus": "can0",
        "time": [1, 2, 3],
        "id": [5, 6, 7],
        "length": [8, 0, 3],
        "data": np.arange(24).reshape(3, 8),
    }
    return FrameBlock.from_arrays(**(arrays | changes))


def test_a_block_has_the_types_that_every_room_relies_on() -> None:
    block = frames()
    types = (a.dtype for a in (block.time, block.id, block.length, block.flags, block.data))
    assert list(types) == [np.int64, np.uint32, np.uint16, np.uint8, np.uint8]
    assert (len(block), block.clock, block.flags.tolist()) == (3, "boot", [0, 0, 0])


@pytest.mark.parametrize(
    "changes",
    [
        {"id": [1, 2]},
        {"length": [1]},
        {"flags": [0, 0]},
        {"data": np.zeros((2, 8))},
        {"data": np.zeros(24)},
    ],
)
def test_arrays_that_do_not_agree_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must agree in n"):
        frames(**changes)


def test_a_length_beyond_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match="length 9 is beyond the 8 bytes"):
        frames(length=[1, 9, 2])


def test_a_block_without_frames_is_a_block() -> None:
    block = frames(time=[], id=[], length=[], data=np.zeros((0, 8)))
    assert len(block) == 0


@pytest.mark.parametrize("rows", [slice(1, 3), np.array([1, 2]), np.array([False, True, True])])
def test_part_of_a_block_is_a_block(rows: Any) -> None:
    part = frames(clock="recorded")[rows]
    assert (part.bus, part.clock) == ("can0", "recorded")
    assert (part.time.tolist(), part.id.tolist()) == ([2, 3], [6, 7])
    assert part.data[:, 0].tolist() == [8, 16]


def test_a_column_is_a_view_of_the_array_of_its_kind() -> None:
    made = table(4)
    assert np.shares_memory(made.raw["Next"], made.values["int64"])
    assert made.raw["Next"].tolist() == [0, -1, -2, -3]
    assert made.raw["Wide"].tolist() == [2**63 + i for i in range(4)]
    assert made.raw["Text"].shape == (4, 9)
    assert list(made.raw) == list(made.names)
    assert len(made.raw) == 5


def test_physical_values_are_raw_times_scale_plus_offset() -> None:
    made = table(3)
    assert made.physical("Small").tolist() == [-40.0, -39.5, -39.0]
    assert made.physical("Real").tolist() == [0.0, 0.5, 1.0]
    assert made.physical("Wide").dtype == np.float64


def test_bytes_have_no_physical_value_and_unknown_names_none_at_all() -> None:
    with pytest.raises(ValueError, match=r"Any\.Text holds bytes, not a number"):
        table(1).physical("Text")
    with pytest.raises(KeyError):
        table(1).physical("Nothing")


@pytest.mark.parametrize(
    ("kind", "raw", "scale", "offset", "expected"),
    [
        ("uint64", 2**64 - 1, 3, 0, float((2**64 - 1) * 3)),
        ("uint64", 2**53 + 1, 1, 1, float(2**53 + 2)),
        ("uint64", 2**53 + 1, 3.0, 0, float((2**53 + 1) * 3)),
        ("uint64", 2**53 + 1, 3.0, 0.5, float(2**53 + 1) * 3.0 + 0.5),
        ("int64", -(2**63), -1, 0, float(2**63)),
        ("int64", -(2**63), 1, 0.5, float(-(2**63)) + 0.5),
        ("uint64", 7, 10**20 + 1, -3, float(7 * (10**20 + 1) - 3)),
        ("uint64", 2, 1e308, 0, math.inf),
        ("int64", -2, 1e308, 0, -math.inf),
        ("uint64", 3, 1e300, 1e300, float(4 * int(1e300))),
        ("uint64", 2, 1e308, -1e308, float(int(1e308))),
        ("float64", 1e300, 1e300, 0, math.inf),
    ],
)
def test_products_beyond_53_bits_are_rounded_once(
    kind: Kind, raw: float, scale: float, offset: float, expected: float
) -> None:
    schema = SignalSchema("A", kind, 64, scale, offset)
    assert schema.physical(np.array([raw], kind)).tolist() == [expected]


def test_equal_schemas_are_one_key() -> None:
    other = TableSchema(**{f: getattr(SCHEMA, f) for f in ("bus", "message", "signals")})
    assert {SCHEMA: 1}[other] == 1
    assert SCHEMA.subset(SCHEMA.names) == SCHEMA


def test_a_subset_keeps_the_order_of_the_whole() -> None:
    assert SCHEMA.subset(["Text", "Next", "Small"]).names == ("Small", "Next", "Text")


def test_selecting_signals_keeps_their_values() -> None:
    whole = table(3)
    part = whole.select(SCHEMA.subset(["Text", "Next", "Real"]))
    assert part.names == ("Next", "Real", "Text")
    for name in part.names:
        assert np.array_equal(part.raw[name], whole.raw[name])
    assert (part.samples, whole.samples) == (9, 15)


@pytest.mark.parametrize("rows", [slice(1, 3), np.array([1, 2]), np.array([False, True, True])])
def test_taking_rows_takes_them_of_every_column(rows: Any) -> None:
    part = table(3).take(rows)
    assert part.time.tolist() == [1000, 2000]
    assert part.raw["Next"].tolist() == [-1, -2]
    assert part.raw["Text"][:, 3].tolist() == [1, 2]


def test_tables_of_one_schema_are_joined_in_order() -> None:
    joined = concatenate([table(2), table(3, 2), table(1, 5)])
    whole = table(6)
    assert joined.time.tolist() == whole.time.tolist()
    for name in whole.names:
        assert np.array_equal(joined.raw[name], whole.raw[name])
    assert joined.nbytes == whole.nbytes == 6 * (8 + 16 + 8 + 4 + 9)
