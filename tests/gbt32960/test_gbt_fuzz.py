"""Nonsense and damage: both decoders say what is wrong, or read the same."""

from random import Random
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.gbt32960 import signature
from agent.gbt32960.envelope import Frame, parse
from agent.gbt32960.layout import GbtError
from tests.gbt32960 import generate, second
from tests.gbt32960.examples import CODECS, COMMANDS
from tests.gbt32960.translate import data_of, has_surrogates

VIN = "LTEST000000000001"
commands = st.sampled_from(COMMANDS)
# A change puts some bytes in the place of some others.
changes = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 4), st.binary(max_size=4)), min_size=1, max_size=3
)


def changed(data: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    for place, removed, put in edits:
        at = int(place * len(data))
        data = data[:at] + put + data[at + removed :]
    return data


def read(frame: Frame) -> Any:
    """What the codec says, or what it says is wrong."""
    try:
        return data_of(frame)
    except GbtError as error:
        return error


def read_apart(frame: Frame) -> Any:
    try:
        return second.decode(frame.to_bytes())["data"]
    except ValueError as error:
        return error


def agree(frame: Frame) -> None:
    mine, theirs = read(frame), read_apart(frame)
    if isinstance(mine, GbtError):
        assert isinstance(theirs, ValueError), (mine, theirs)
        assert mine.offset is not None
        assert 0 <= mine.offset <= len(frame.body)
        return
    if isinstance(theirs, ValueError):
        # The codec keeps what is no text, as bytes in disguise.
        assert "is no text" in str(theirs)
        assert has_surrogates(mine)
        return
    if not has_surrogates(mine):
        assert mine == theirs
    values = frame.decode()
    assert frame.codec.encode(frame.command, values, frame.ack, checked=False) == frame.body
    frame.codec.physical(frame.command, values, frame.ack)


@settings(max_examples=150)
@given(kind=commands, body=st.binary(max_size=80))
@example(("2016", 0x01, 0xFE), bytes.fromhex("1a0707063710 0001") + bytes(20) + b"\xff\xff")
@example(("2016", 0x02, 0xFE), bytes.fromhex("1a0707063710 ff010000 0000"))
@example(("2025", 0x02, 0xFE), bytes.fromhex("1a0707063710 07 01 01 0000 0000 fffd"))
@example(("2025", 0x0B, 0x01), bytes.fromhex("1a0707063710"))
def test_random_data_units(kind: tuple[str, int, int], body: bytes) -> None:
    edition, command, ack = kind
    agree(Frame(CODECS[edition], command, ack, VIN, body))


@settings(max_examples=150)
@given(kind=commands, body=st.binary(max_size=60))
def test_random_data_units_with_a_time(kind: tuple[str, int, int], body: bytes) -> None:
    edition, command, ack = kind
    agree(Frame(CODECS[edition], command, ack, VIN, bytes.fromhex("1a0707063710") + body))


@settings(max_examples=250)
@given(kind=commands, seed=st.integers(0, 2**32), edits=changes)
def test_damaged_data_units(
    kind: tuple[str, int, int], seed: int, edits: list[tuple[float, int, bytes]]
) -> None:
    edition, command, ack = kind
    whole = generate.random_frame(Random(seed), int(edition), command, answer=ack != 0xFE)
    body = changed(parse(whole).body, edits)[:65531]
    agree(Frame(CODECS[edition], command, ack, VIN, body))


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32), edits=changes)
def test_damaged_frames(seed: int, edits: list[tuple[float, int, bytes]]) -> None:
    data = changed(generate.random_frame(Random(seed), 2016, 0x04), edits)
    try:
        parse(data)
        whole = True
    except GbtError:
        whole = False
    assert whole == (second.scan(data) == [(0, data)])


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), edits=changes)
def test_a_damaged_signature(seed: int, edits: list[tuple[float, int, bytes]]) -> None:
    body = changed(parse(generate.random_frame(Random(seed), 2025, 0x02)).body, edits)
    try:
        covered, block = signature.split(body)
    except GbtError:
        return
    assert body.startswith(covered)
    assert (block is None) == (covered == body)
