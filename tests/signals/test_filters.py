"""Kernel filters: what decodes to a wanted signal passes, and nothing else of the database."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.blocks import EXTENDED, REMOTE, FrameBlock
from agent.signals import Database, Decoder
from agent.signals.filters import MOST, kernel_filters
from tests.signals.dbctext import Msg, Sig, text
from tests.signals.reference import load

STANDARD = [Msg(f"S{n}", n, 8, [Sig(f"V{n}", 0, 8)]) for n in (0, 1, 0x100, 0x7FF)]
EXTENDED_ONES = [
    Msg(f"X{n:x}", n, 8, [Sig(f"W{n:x}", 0, 8)], extended=True) for n in (1, 0x100, 0x18FEF100)
]


def passes(filters: list[tuple[int, int]], number: int) -> bool:
    """As the kernel decides."""
    return any(number & mask == wanted & mask for wanted, mask in filters)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    return load(tmp_path_factory.mktemp("plain"), text([*STANDARD, *EXTENDED_ONES]))


@given(data=st.data())
def test_of_plain_ids_exactly_the_wanted_ones_pass(database: Database, data: st.DataObject) -> None:
    every = database.paths()
    wanted = set(data.draw(st.lists(st.sampled_from(every), unique=True)))
    filters = kernel_filters(database, "can0", wanted)
    assert filters is not None
    names = {path.message for path in wanted}
    for message in database.messages("can0"):
        number = message.id | (EXTENDED if message.extended else 0)
        assert passes(filters, number) == (message.name in names)
        assert not passes(filters, number | REMOTE)


@given(
    priority=st.integers(0, 7),
    source=st.integers(0, 255),
    destination=st.integers(0, 255),
    group=st.sampled_from([0xFEF1, 0xEF00, 0x1FEF1]),
)
def test_of_j1939_every_sender_priority_and_destination_passes(
    tmp_path_factory: pytest.TempPathFactory,
    priority: int,
    source: int,
    destination: int,
    group: int,
) -> None:
    message = Msg("Group", group << 8, 8, [Sig("V", 0, 8)], extended=True)
    database = load(tmp_path_factory.getbasetemp(), text([message], j1939=True))
    filters = kernel_filters(database, "can0", database.paths())
    assert filters is not None
    number = EXTENDED | priority << 26 | group << 8 | source
    if group == 0xEF00:
        number |= destination << 8
    block = FrameBlock.from_arrays(
        bus="can0", time=[0], id=[number], length=[8], data=[[0, 0, 0, 0, 0, 0, 0, 0]]
    )
    assert Decoder(database).decode(block)
    assert passes(filters, number)
    assert passes(filters, EXTENDED | 0x1CECFF00 | source)
    assert passes(filters, EXTENDED | 0x1CEBFF00 | source)
    assert not passes(filters, EXTENDED | 0x18FECA00 | source)


def test_more_than_the_kernel_takes_is_no_filter(tmp_path: Path) -> None:
    messages = [Msg(f"M{n}", n, 8, [Sig(f"V{n}", 0, 8)]) for n in range(MOST + 1)]
    database = load(tmp_path, text(messages))
    paths = sorted(database.paths(), key=str)
    assert kernel_filters(database, "can0", paths) is None
    assert len(kernel_filters(database, "can0", paths[:MOST]) or ()) == MOST
