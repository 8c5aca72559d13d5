"""Frames out of a stream of bytes: cut, joined, damaged, and from somebody who means harm."""

import itertools
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.gbt32960.codec import GBT2016, GBT2025
from agent.gbt32960.envelope import MAX_FRAME, Frame, Stream, bcc, request
from tests.gbt32960.generate import envelope, random_frame
from tests.gbt32960.second import scan

HEARTBEAT = request(GBT2016, 0x07, "LTEST000000000001").to_bytes()
LOGOUT = request(GBT2025, 0x04, "LTEST000000000002", bytes.fromhex("1a070706370f0001")).to_bytes()


def fed(stream: Stream, *pieces: bytes) -> list[bytes]:
    return [frame.to_bytes() for piece in pieces for frame in stream.feed(piece)]


def given_up(stream: Stream) -> list[bytes]:
    """What is found when no byte follows."""
    found = []
    while stream.pending_bytes:
        found += [frame.to_bytes() for frame in stream.give_up()]
    return found


def false_start(length: int) -> bytes:
    return b"##" + bytes(20) + length.to_bytes(2, "big")


def test_a_frame_at_a_time() -> None:
    stream = Stream()
    assert fed(stream, HEARTBEAT, LOGOUT) == [HEARTBEAT, LOGOUT]
    assert (stream.frames, stream.skipped_bytes, stream.bad_frames) == (2, 0, 0)
    assert stream.pending_bytes == 0


def test_frames_of_both_editions_in_one_piece() -> None:
    assert fed(Stream(), HEARTBEAT + LOGOUT + HEARTBEAT) == [HEARTBEAT, LOGOUT, HEARTBEAT]


def test_one_byte_at_a_time() -> None:
    stream, found = Stream(), []
    for place, byte in enumerate(HEARTBEAT + LOGOUT, 1):
        found += fed(stream, bytes([byte]))
        assert len(found) == (place >= len(HEARTBEAT)) + (place == len(HEARTBEAT + LOGOUT))
    assert found == [HEARTBEAT, LOGOUT]


@pytest.mark.parametrize("cut", range(len(HEARTBEAT + LOGOUT) + 1))
def test_cut_in_two_at_any_byte(cut: int) -> None:
    both = HEARTBEAT + LOGOUT
    assert fed(Stream(), both[:cut], both[cut:]) == [HEARTBEAT, LOGOUT]


def test_garbage_before_between_and_after_costs_itself() -> None:
    stream = Stream()
    found = fed(stream, b"GET / HTTP/1.1\r\n\r\n", HEARTBEAT + b"\0$\0" + LOGOUT + b"end #")
    assert found == [HEARTBEAT, LOGOUT]
    assert (stream.skipped_bytes, stream.bad_frames) == (18 + 3 + 4, 0)
    assert stream.pending_bytes == 1  # it may be the first half of a mark
    assert given_up(stream) == []
    assert stream.skipped_bytes == 26


def test_three_marks_in_a_row_hide_no_frame() -> None:
    stream = Stream()
    assert fed(stream, b"#" + HEARTBEAT) == []
    # Read from the first mark its length is that of some later bytes, which never come.
    assert given_up(stream) == [HEARTBEAT]


def test_a_wrong_check_byte_loses_that_frame_only() -> None:
    stream = Stream()
    broken = HEARTBEAT[:-1] + bytes([HEARTBEAT[-1] ^ 1])
    assert fed(stream, broken + LOGOUT) == [LOGOUT]
    assert (stream.frames, stream.bad_frames, stream.skipped_bytes) == (1, 1, len(broken))


@pytest.mark.parametrize("length", [65532, 65535])
def test_a_length_that_no_frame_has_is_no_start(length: int) -> None:
    stream = Stream()
    assert fed(stream, false_start(length) + LOGOUT) == [LOGOUT]
    assert (stream.bad_frames, stream.skipped_bytes) == (1, 24)


def test_the_longest_frame_there_is() -> None:
    frame = Frame(GBT2016, 0xC0, 0xFE, "LTEST000000000001", bytes(65531)).to_bytes()
    assert len(frame) == MAX_FRAME
    stream = Stream()
    found = fed(stream, *(frame[at : at + 1000] for at in range(0, len(frame), 1000)), HEARTBEAT)
    assert found == [frame, HEARTBEAT]


def test_a_frame_behind_a_false_start_is_found_when_the_rest_does_not_come() -> None:
    stream = Stream()
    assert fed(stream, false_start(60_000) + LOGOUT) == []
    assert stream.pending_bytes == 24 + len(LOGOUT)
    assert [frame.to_bytes() for frame in stream.give_up()] == [LOGOUT]
    assert (stream.pending_bytes, stream.skipped_bytes, stream.bad_frames) == (0, 24, 1)


def test_a_frame_behind_a_false_start_is_found_when_the_rest_does_not_fit() -> None:
    stream = Stream()
    assert fed(stream, false_start(100) + LOGOUT) == []
    assert fed(stream, b"\x55" * 100) == [LOGOUT]


def test_giving_up_with_nothing_begun_changes_nothing() -> None:
    stream = Stream()
    assert stream.give_up() == []
    assert (stream.frames, stream.skipped_bytes, stream.bad_frames) == (0, 0, 0)


def test_a_mark_inside_a_data_unit_is_data() -> None:
    frame = envelope(2016, 0xC0, b"##$$" * 30 + HEARTBEAT)
    assert fed(Stream(), frame + HEARTBEAT) == [frame, HEARTBEAT]


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(b"#", id="marks"),
        pytest.param(b"$$#", id="mixed"),
        pytest.param(b"##\x01" + bytes(19) + b"\xff\xfb", id="greatest length"),
        pytest.param(b"##\x01" + bytes(19) + b"\xff\xff", id="too great"),
        pytest.param(b"##" + bytes(21), id="short"),
        pytest.param(b"\0", id="no mark"),
    ],
)
def test_an_endless_stream_of_starts_is_walked_once_and_not_kept(pattern: bytes) -> None:
    """With work that grows with the square of it, this would outlast the time-out many times."""
    stream = Stream()
    piece = pattern * (1_000_000 // len(pattern))
    total = 0
    for size in (1, 4096, 100_000, len(piece)):
        for at in range(0, len(piece) if size > 1 else 3000, size):
            total += len(piece[at : at + size])
            stream.feed(piece[at : at + size])
            assert stream.pending_bytes < MAX_FRAME
    found = sum(len(frame) for frame in given_up(stream))
    assert stream.pending_bytes == 0
    assert stream.skipped_bytes + found <= total


def test_what_is_held_at_the_end_is_given_up_in_one_walk() -> None:
    """Each of the starts in it hides the next, so each has to be given up by itself."""
    stream = Stream()
    unit = b"##" + bytes(20) + b"\xff\xfb"
    stream.feed(unit * 2700)
    assert given_up(stream) == []
    assert stream.bad_frames == 2700


pieces = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 2**32), st.sampled_from([2016, 2025])).map(
            lambda seed: random_frame(Random(seed[0]), seed[1], 0x04)
        ),
        st.just(HEARTBEAT),
        st.binary(max_size=30),
        st.text("#$", max_size=12).map(str.encode),
        st.integers(0, 0xFFFF).map(false_start),
        st.just(HEARTBEAT[:-1]),
        st.just(LOGOUT[:20]),
    ),
    max_size=8,
)


@settings(max_examples=150)
@given(parts=pieces, cuts=st.lists(st.floats(0, 1), max_size=6))
def test_any_mixture_is_taken_apart_as_the_second_decoder_does(
    parts: list[bytes], cuts: list[float]
) -> None:
    data = b"".join(parts)
    at = [0, *sorted(int(cut * len(data)) for cut in cuts), len(data)]
    stream = Stream()
    found = fed(stream, *(data[a:b] for a, b in itertools.pairwise(at)))
    found += given_up(stream)
    assert found == [frame for _, frame in scan(data)]
    assert stream.frames == len(found)
    assert stream.skipped_bytes + sum(map(len, found)) == len(data)


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x01\x02\x04", bytes(range(256)) * 3])
def test_the_check_byte_is_the_xor_of_all(data: bytes) -> None:
    wanted = 0
    for byte in data:
        wanted ^= byte
    assert bcc(data) == wanted
