"""What the kernel hands on, byte for byte: frames, stamps, drop counts, and what is neither."""

import struct
from typing import Final

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from agent.blocks import (
    ERROR,
    EXTENDED,
    FD_BIT_RATE_SWITCH,
    FD_ERROR_STATE,
    FD_FRAME,
    REMOTE,
    SENT,
)
from agent.bus.canframes import CanFrames, parse
from tests.bus.messages import (
    CTRUNC,
    DONTROUTE,
    RXQ_OVFL,
    TIMESTAMPING,
    TIMESTAMPNS,
    TRUNC,
    Message,
    classic,
    cmsg,
    drops,
    fd,
    messages,
    stamp,
    stamps,
    timespec,
)

NOW: Final = 1_790_000_000_123_456_789


def one(message: Message, *, control_bytes: int = 64) -> CanFrames:
    return parse(messages([message], control_bytes=control_bytes))


def test_a_classic_frame_has_what_was_sent_and_nothing_of_the_slot_around_it() -> None:
    frames = one(Message(classic(0x123, b"\x01\x02\x03"), stamp(NOW)))

    assert frames.id.tolist() == [0x123]
    assert frames.length.tolist() == [3]
    assert frames.flags.tolist() == [0]
    assert frames.data.tolist() == [[1, 2, 3, 0, 0, 0, 0, 0]]
    assert frames.stamp.tolist() == [NOW]
    assert frames.hardware.tolist() == [-1]
    assert frames.bad == 0
    assert frames.rows is None
    assert frames.drops is None


def test_no_messages_are_no_frames() -> None:
    frames = parse(messages([]))

    assert len(frames) == 0
    assert frames.data.shape == (0, 8)


def test_fd_flags_extended_identifiers_and_own_frames_are_told() -> None:
    frames = parse(
        messages(
            [
                Message(fd(0x1234567 | EXTENDED, bytes(range(64)), flags=0x07), stamp(NOW)),
                Message(fd(0x7FF, b"\x09" * 12, flags=0x01), stamp(NOW)),
                Message(fd(0x7FF, b"\x09", flags=0xF8), stamp(NOW)),
                Message(classic(0x7FF, b"\x09"), stamp(NOW), flags=DONTROUTE),
            ]
        )
    )

    assert frames.id.tolist() == [0x1234567 | EXTENDED, 0x7FF, 0x7FF, 0x7FF]
    assert frames.flags.tolist() == [
        FD_FRAME | FD_BIT_RATE_SWITCH | FD_ERROR_STATE,
        FD_FRAME | FD_BIT_RATE_SWITCH,
        FD_FRAME,
        SENT,
    ]
    assert frames.data.shape == (4, 64)
    assert frames.data[0].tolist() == list(range(64))
    assert frames.data[1].tolist() == [9] * 12 + [0] * 52
    assert frames.data[3].tolist() == [9] + [0] * 63


def test_short_fd_frames_need_no_wide_block() -> None:
    assert one(Message(fd(1, bytes(8)), stamp(NOW))).data.shape == (1, 8)


def test_a_remote_frame_has_a_length_and_no_data() -> None:
    frames = one(Message(classic(0x10 | REMOTE, b"\xff" * 8), stamp(NOW)))

    assert frames.id.tolist() == [0x10 | REMOTE]
    assert frames.length.tolist() == [8]
    assert not frames.data.any()


def test_a_short_identifier_has_eleven_bits_whatever_else_stands_in_its_word() -> None:
    frames = parse(
        messages(
            [
                Message(classic(0x12345), stamp(NOW)),
                Message(classic(0x12345 | EXTENDED), stamp(NOW)),
                Message(classic(0x12345 | ERROR, bytes(8)), stamp(NOW)),
            ]
        )
    )

    assert frames.id.tolist() == [0x345, 0x12345 | EXTENDED, 0x12345 | ERROR]


def test_a_frame_that_lies_about_its_length_costs_itself() -> None:
    frames = parse(
        messages(
            [
                Message(classic(1, b"\x01"), stamp(NOW)),
                Message(classic(2, bytes(8), length=9), stamp(NOW)),
                Message(classic(3, bytes(8), length=255), stamp(NOW)),
                Message(fd(4, bytes(64), length=65), stamp(NOW)),
                Message(fd(5, bytes(64), length=64), stamp(NOW)),
            ]
        )
    )

    assert frames.id.tolist() == [1, 5]
    assert frames.rows is not None
    assert frames.rows.tolist() == [0, 4]
    assert frames.bad == 3


def test_a_message_of_another_size_or_one_that_was_cut_is_no_frame() -> None:
    frames = parse(
        messages(
            [
                Message(classic(1), stamp(NOW), size=15),
                Message(classic(1), stamp(NOW), size=0),
                Message(classic(1), stamp(NOW), size=17),
                Message(fd(1), stamp(NOW), size=2060),
                Message(fd(1), stamp(NOW), flags=TRUNC),
            ]
        )
    )

    assert len(frames) == 0
    assert frames.bad == 5


def test_the_drop_count_of_the_last_message_that_tells_it_counts() -> None:
    rows = [
        Message(classic(1), stamp(NOW)),
        Message(classic(1), stamp(NOW) + drops(5)),
        Message(classic(1), stamp(NOW) + drops(0xFFFF_FFFF)),
        Message(classic(1), stamp(NOW)),
    ]

    frames = parse(messages(rows))

    assert frames.drops == 0xFFFF_FFFF
    assert frames.stamp.tolist() == [NOW] * 4


def test_the_controllers_own_stamp_is_the_third_one() -> None:
    rows = [
        Message(classic(1), stamps(NOW, 77)),
        Message(classic(1), stamps(NOW, 78) + drops(3)),
        Message(classic(1), stamps(NOW, 0)),
        Message(classic(1), stamps(0, 79)),
    ]

    frames = parse(messages(rows, control_bytes=96))

    assert frames.stamp.tolist() == [NOW, NOW, NOW, -1]
    assert frames.hardware.tolist() == [77, 78, -1, 79]
    assert frames.drops == 3


def test_times_that_are_none_are_not_read_as_such() -> None:
    bodies = [
        struct.pack("=qq", -1, 0),
        struct.pack("=qq", 5, -1),
        struct.pack("=qq", 5, 1_000_000_000),
        struct.pack("=qq", 1 << 62, 0),
        bytes(16),
    ]
    rows = [Message(classic(1), cmsg(TIMESTAMPNS, body)) for body in bodies]

    assert parse(messages(rows)).stamp.tolist() == [-1] * len(bodies)


def test_control_messages_in_another_order_or_of_others_are_walked_through() -> None:
    other = cmsg(99, b"\x01\x02\x03")
    rows = [
        Message(classic(1), drops(4) + stamp(NOW)),
        Message(classic(1), other + stamp(NOW)),
        Message(classic(1), drops(9)),
        Message(classic(1)),
        Message(classic(1), cmsg(TIMESTAMPNS, timespec(NOW), level=101)),
        Message(classic(1), cmsg(TIMESTAMPNS, timespec(NOW), length=8)),
        Message(classic(1), cmsg(TIMESTAMPNS, timespec(NOW), length=2**64 - 1)),
        Message(classic(1), stamp(NOW)[:24], flags=CTRUNC),
    ]

    frames = parse(messages(rows))

    assert frames.stamp.tolist() == [NOW, NOW, -1, -1, -1, -1, -1, -1]
    assert frames.drops == 9


# -- any bytes at all ------------------------------------------------------------------------


def expected_control(control: bytes, used: int) -> tuple[int, int, int]:
    """Stamp, hardware stamp and drop count of one message, as cmsg(3) says to go through it."""
    told = {TIMESTAMPNS: [-1], TIMESTAMPING: [-1, -1, -1], RXQ_OVFL: [-1]}
    order = []
    control = control[: min(used, len(control))]
    while len(control) >= 16:
        length, level, kind = struct.unpack_from("=Qii", control)
        if not 16 <= length <= len(control):
            break
        body = control[16:length]
        sizes = {TIMESTAMPNS: 16, TIMESTAMPING: 48, RXQ_OVFL: 4}
        if level == 1 and kind in sizes and len(body) == sizes[kind]:
            if kind == RXQ_OVFL:
                told[kind] = [int.from_bytes(body, "little")]
            else:
                told[kind] = [
                    a * 10**9 + b if 0 <= a < 2**33 and 0 <= b < 10**9 and (a or b) else -1
                    for a, b in struct.iter_unpack("=qq", body)
                ]
                order.append(kind)
        control = control[(length + 7) & ~7 :]
    stamps_told = [told[kind][0] for kind in order]
    return (
        stamps_told[-1] if stamps_told else -1,
        told[TIMESTAMPING][2],
        told[RXQ_OVFL][0],
    )


cmsgs = st.one_of(
    st.integers(0, 2**62).map(stamp),
    st.builds(stamps, st.integers(0, 2**62), st.integers(0, 2**62)),
    st.integers(0, 2**32 - 1).map(drops),
    st.builds(
        cmsg,
        st.sampled_from([TIMESTAMPNS, TIMESTAMPING, RXQ_OVFL, 1, 29]),
        st.binary(max_size=56),
        level=st.sampled_from([1, 1, 1, 0, 101]),
        length=st.one_of(st.none(), st.integers(0, 80), st.just(2**64 - 8)),
    ),
    st.binary(max_size=40),
)
frame_bytes = st.one_of(
    st.builds(
        classic,
        st.integers(0, 2**32 - 1),
        st.binary(max_size=8),
        length=st.one_of(st.none(), st.integers(0, 255)),
    ),
    st.builds(
        fd,
        st.integers(0, 2**32 - 1),
        st.binary(max_size=64),
        flags=st.integers(0, 255),
        length=st.one_of(st.none(), st.integers(0, 255)),
    ),
    st.binary(max_size=72),
)
any_message = st.builds(
    Message,
    frame_bytes,
    st.lists(cmsgs, max_size=3).map(b"".join),
    st.sampled_from([0, 0, 0, DONTROUTE, CTRUNC, TRUNC, 0xFFFF_FFFF]),
    st.one_of(st.none(), st.none(), st.integers(0, 80), st.just(2**32 - 1)),
    st.integers(0, 255),
)


@given(st.lists(any_message, max_size=12), st.sampled_from([32, 64, 96]))
@example([Message(classic(1), stamp(NOW)), Message(classic(1), stamps(NOW, 5))], 64)
@example([Message(classic(1), stamp(NOW) + drops(1) + drops(2))], 96)
@example([Message(classic(1), stamps(5, 6) + stamp(7))], 96)
def test_any_memory_is_parsed_as_message_by_message(rows: list[Message], room: int) -> None:
    frames = parse(messages(rows, control_bytes=room))

    good = []
    told = []
    for place, row in enumerate(rows):
        size = len(row.frame) if row.size is None else row.size
        slot = row.frame.ljust(72, bytes([row.left_behind]))
        control = row.control.ljust(room, bytes([row.left_behind]))[:room]
        seen = expected_control(control, len(row.control))
        told.append(seen[2])
        if size in (16, 72) and slot[4] <= (8 if size == 16 else 64) and not row.flags & TRUNC:
            good.append((place, size, slot, seen, row.flags))

    assert len(frames) == len(good)
    assert frames.bad == len(rows) - len(good)
    assert frames.drops == next((count for count in reversed(told) if count >= 0), None)
    assert (list(range(len(rows))) if frames.rows is None else frames.rows.tolist()) == [
        place for place, *_ in good
    ]
    for n, (_, size, slot, seen, flags) in enumerate(good):
        raw = int.from_bytes(slot[:4], "little")
        identifier = raw if raw & (EXTENDED | ERROR) else raw & (REMOTE | 0x7FF)
        length = slot[4]
        used = 0 if raw & REMOTE else length
        assert frames.id[n] == identifier
        assert frames.length[n] == length
        assert frames.data[n].tobytes() == slot[8 : 8 + used].ljust(frames.data.shape[1], b"\0")
        wanted = (SENT if flags & DONTROUTE else 0) | (slot[5] & 3 | FD_FRAME if size == 72 else 0)
        assert frames.flags[n] == wanted
        assert (frames.stamp[n], frames.hardware[n]) == seen[:2]
    assert frames.data.dtype == np.uint8
    assert frames.data.shape[1] == (64 if any(slot[4] > 8 for _, _, slot, _, _ in good) else 8)
