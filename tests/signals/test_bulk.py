"""Many messages in one block: however they are decoded together, each value is that of its bits."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent.blocks import FrameBlock, SignalTable
from agent.signals import Decoder
from tests.signals.dbctext import BIG, LITTLE, Msg, Sig, text
from tests.signals.reference import load

ANY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FIRST_ID = 0x100

Values = dict[str, tuple[NDArray[Any], bytes]]
"""Signal -> raw values, and the doubles that they become."""


def traffic(rows: Sequence[int], seed: int) -> FrameBlock:
    """Full frames of as many ids, so many of each, in any order; times are frame numbers."""
    generator = np.random.default_rng(seed)
    ids = np.repeat(np.arange(len(rows), dtype=np.uint32) + FIRST_ID, rows)
    generator.shuffle(ids)
    data = generator.integers(0, 256, (len(ids), 8), np.uint8)
    data[::7] = 0
    data[1::7] = 255
    n = len(ids)
    return FrameBlock.from_arrays(bus="bus", time=range(n), id=ids, length=[8] * n, data=data)


def read(signal: Sig, data: NDArray[np.uint8]) -> NDArray[Any]:
    """A signal's raw values, bit by bit."""
    order: Literal["big", "little"] = "big" if signal.order == BIG else "little"
    bits = np.unpackbits(data, axis=1, bitorder=order)
    bits = bits[:, signal.first : signal.first + signal.length]
    value = np.zeros(len(data), np.uint64)
    for column in bits.T if signal.order == BIG else bits.T[::-1]:
        value = value * np.uint64(2) + column
    if not signal.signed:
        return value
    unused = np.uint64(64 - signal.length)
    return (value << unused).view(np.int64) >> unused.view(np.int64)


def expected(message: Msg, data: NDArray[np.uint8]) -> Values:
    found: Values = {}
    for signal in message.signals:
        raw = read(signal, data)
        physical = raw.astype(np.float64) * float(signal.scale) + float(signal.offset)
        found[signal.name] = (raw, physical.tobytes())
    return found


def check(tables: Sequence[SignalTable], messages: Sequence[Msg], block: FrameBlock) -> None:
    """Each table has the frames of its message, in order, and the values of their bits."""
    by_name = {m.name: m for m in messages}
    assert sorted(t.message for t in tables) == sorted(
        m.name for m in messages if (block.id == m.id).any()
    )
    for table in tables:
        message = by_name[table.message]
        frames = np.flatnonzero(block.id == message.id)
        assert table.time.tolist() == frames.tolist()
        physical = {kind: table.physical_values(kind) for kind in table.values}
        for name, (raw, doubles) in expected(message, block.data[frames]).items():
            kind, row = table.schema.place[name]
            assert np.shares_memory(table.raw[name], table.values[kind])
            assert table.raw[name].dtype == raw.dtype
            assert table.raw[name].tolist() == raw.tolist()
            assert table.physical(name).tobytes() == doubles
            assert physical[kind][row].tobytes() == doubles


@st.composite
def signals(draw: st.DrawFn, name: str) -> Sig:
    # Lengths and places at which a step of decoding changes nothing come up often.
    length = draw(st.one_of(st.sampled_from([1, 8, 63, 64]), st.integers(1, 64)))
    last = 64 - length
    first = draw(st.one_of(st.sampled_from([0, last]), st.integers(0, last)))
    scale = draw(st.sampled_from(["1", "0.1", "0.5", "-0.25", "1.5"]))
    offset = draw(st.sampled_from(["0", "-40.5", "0.125"]))
    order = draw(st.sampled_from([BIG, LITTLE]))
    return Sig(name, first, length, order, draw(st.booleans()), False, scale, offset)


@st.composite
def layouts(draw: st.DrawFn) -> list[Sig]:
    return [draw(signals(f"S{i}")) for i in range(draw(st.integers(1, 6)))]


def of(layout: Sequence[int], kinds: Sequence[list[Sig]]) -> list[Msg]:
    """Messages with these kinds of layout, and signals of names of their own."""
    return [
        Msg(
            f"M{number}",
            FIRST_ID + number,
            8,
            [dataclasses.replace(s, name=f"{s.name}of{number}") for s in kinds[kind]],
        )
        for number, kind in enumerate(layout)
    ]


@ANY
@given(data=st.data())
def test_messages_of_few_layouts(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    kinds = data.draw(st.lists(layouts(), min_size=1, max_size=3))
    layout = data.draw(st.lists(st.integers(0, len(kinds) - 1), min_size=1, max_size=40))
    rows = data.draw(
        st.lists(st.integers(0, 20), min_size=len(layout), max_size=len(layout)).filter(any)
    )
    block = traffic(rows, data.draw(st.integers(0, 1000)))
    messages = of(layout, kinds)
    decoder = Decoder(load(tmp_path_factory.getbasetemp(), text(messages)))
    check(decoder.decode(block), messages, block)
    half = block[: len(block) // 2]  # other row counts: messages come together in other ways
    check(decoder.decode(half), messages, half)


@ANY
@given(kinds=st.lists(layouts(), min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_messages_of_many_rows(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[list[Sig]], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    most = [3, 40, 200, 400, 900, 3000][: len(kinds)]
    block = traffic(generator.integers(1, most).tolist(), seed)
    messages = of(range(len(kinds)), kinds)
    decoder = Decoder(load(tmp_path_factory.getbasetemp(), text(messages)))
    check(decoder.decode(block), messages, block)


@pytest.mark.parametrize("orders", [(BIG, BIG), (LITTLE, LITTLE), (BIG, LITTLE)])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("offset", ["0", "-2.5"])
def test_messages_of_one_shape_whose_signals_lie_elsewhere(
    tmp_path: Path, orders: tuple[int, int], signed: bool, offset: str
) -> None:
    kinds = [
        [
            Sig(f"S{i}", i * 5 + k, 5, orders[i % 2], signed, False, "-0.5", offset)
            for i in range(10)
        ]
        for k in range(10)
    ]
    block = traffic([150 + k for k in range(10)], 1)
    messages = of(range(10), kinds)
    check(Decoder(load(tmp_path, text(messages))).decode(block), messages, block)


FAMILIES = (
    Sig("A", 3, 20),
    Sig("A", 4, 20),
    Sig("A", 3, 21),
    Sig("A", 3, 20, BIG),
    Sig("A", 3, 20, signed=True),
    Sig("A", 3, 20, scale="0.1"),
    Sig("A", 3, 20, scale="-0.1"),
    Sig("A", 3, 20, offset="-40"),
    Sig("A", 3, 20, scale="0.1", offset="-40"),
    Sig("A", 0, 20),
    Sig("A", 1, 20),
    Sig("A", 44, 20),
    Sig("A", 44, 20, signed=True),
    Sig("A", 0, 64),
    Sig("A", 0, 64, signed=True),
)


def test_families_of_messages_that_differ_in_one_thing(tmp_path: Path) -> None:
    kinds = [[s, Sig("B", 24, 12, BIG, scale="0.5")] for s in FAMILIES]
    layout = list(range(len(kinds))) * 13
    messages = of(layout, kinds)
    block = traffic([1 + number % 5 for number in range(len(layout))], 2)
    check(Decoder(load(tmp_path, text(messages))).decode(block), messages, block)


@pytest.mark.parametrize("number", range(len(FAMILIES)))
def test_a_message_alone_in_a_large_block(tmp_path: Path, number: int) -> None:
    messages = of([0], [[FAMILIES[number], Sig("B", 24, 12, BIG, scale="0.5")]])
    block = traffic([16_000], 2)
    check(Decoder(load(tmp_path, text(messages))).decode(block), messages, block)


def test_factors_beyond_double_arithmetic_among_messages_of_the_same_layout(tmp_path: Path) -> None:
    exact = [Sig("A", 0, 60, scale="1000", offset="7")]
    made = of([0] * 15, [exact])
    block = traffic([3] * 15, 3)
    for table in Decoder(load(tmp_path, text(made))).decode(block):
        (name,) = table.names
        wanted = [float(1000 * raw + 7) for raw in table.raw[name].tolist()]
        assert table.physical(name).tolist() == wanted
        assert table.physical_values("uint64").tolist() == [wanted]


def test_results_beyond_all_doubles_are_infinite_without_a_warning(tmp_path: Path) -> None:
    made = of([0] * 15, [[Sig("A", 0, 60, scale="1.5e300", offset="0.5")]])
    block = traffic([3] * 15, 4)
    for table in Decoder(load(tmp_path, text(made))).decode(block):
        values = table.physical_values("uint64")
        assert ((values == 0.5) | np.isinf(values)).all()


def test_settings_of_numpy_are_left_as_they_were(tmp_path: Path) -> None:
    kinds = [[Sig(f"S{i}", 8 * i, 8, scale="0.1") for i in range(8)], [Sig("A", 0, 9, scale="0.1")]]
    block = traffic([300, 300], 5)
    decoder = Decoder(load(tmp_path, text(of([0, 1], kinds))))
    with np.errstate(divide="raise"):
        np.setbufsize(4096)
        before = np.geterr()
        for table in decoder.decode(block):
            table.physical_values("uint64")
        assert (np.getbufsize(), np.geterr()) == (4096, before)
