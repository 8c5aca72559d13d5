"""Messages of several frames: put together whole, or not at all and counted."""

import dataclasses
import itertools
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.blocks import ERROR, EXTENDED, REMOTE
from agent.signals import Counts, Database, Decoder
from agent.signals.model import Message
from agent.signals.transport import Reassembler, TransportCounts, fast_packet_groups
from tests.signals import transfers
from tests.signals.dbctext import LITTLE, Msg, Sig, text
from tests.signals.transfers import MS, Frame, Receiver, Whole, block_of, timed, wholes

ANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

GROUP = 0xFECA
TO_ONE = 0x0200  # PDU1: the destination is a part of the id
FAST = 0x1F805
FAST_ID = 0x0DF80523
TEXT = bytes(range(1, 31))


def put_together(
    frames: Sequence[Frame], fast: Iterable[int] = (), borders: Iterable[int] = ()
) -> tuple[list[Whole], dict[str, int]]:
    """The messages by width and in order, and the counters that are not 0, of frames in blocks."""
    reassembler = Reassembler(fast)
    found: list[Whole] = []
    edges = [0, *sorted(borders), len(frames)]
    for begin, end in itertools.pairwise(edges):
        part = frames[begin:end]
        parts, blocks = reassembler.take(block_of(part))
        assert parts.tolist() == Receiver(part, fast).parts
        found += wholes(blocks)
    return by_width(found), counted(reassembler.counts)


def by_width(messages: Iterable[Whole]) -> list[Whole]:
    return sorted(messages, key=lambda whole: -(-len(whole.data) // 8))


def counted(counts: TransportCounts) -> dict[str, int]:
    return {name: n for name, n in dataclasses.asdict(counts).items() if n}


# -- one message ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [9, 14, 15, 20, 21, 223, 1784, 1785])
def test_a_message_to_all_is_whole_with_its_last_packet(size: int) -> None:
    data = bytes(i % 251 for i in range(size))
    frames = timed(transfers.to_all(0x17, GROUP, data))
    found, counts = put_together(frames)
    assert found == [Whole(frames[-1].time, EXTENDED | 0x1CFECA17, data)]
    assert counts == {"completed": 1}


def test_a_message_between_two_nodes_has_their_addresses_in_its_id() -> None:
    frames = timed(transfers.to_one(0xF4, 0x56, TO_ONE, TEXT, window=2))
    found, counts = put_together(frames)
    last_packet = frames[-2].time  # the acknowledgement follows
    assert found == [Whole(last_packet, EXTENDED | 0x1C0256F4, TEXT)]
    assert counts == {"completed": 1}


def test_a_destination_in_the_announced_group_is_not_part_of_it() -> None:
    frames = timed(transfers.to_one(0xF4, 0x56, TO_ONE | 0x56, TEXT))
    assert [w.id for w in put_together(frames)[0]] == [EXTENDED | 0x1C0256F4]


def test_a_group_of_format_pdu2_keeps_its_low_byte_and_no_destination() -> None:
    frames = timed(transfers.to_one(0x00, 0xF9, 0xFEEC, TEXT))
    assert [w.id for w in put_together(frames)[0]] == [EXTENDED | 0x1CFEEC00]


def test_a_last_packet_without_padding_is_enough() -> None:
    *frames, last = timed(transfers.to_all(1, GROUP, TEXT))
    found, _ = put_together([*frames, last._replace(data=last.data[:3])])
    assert [w.data for w in found] == [TEXT]


def test_nothing_but_data_frames_with_29_bits_are_parts() -> None:
    ids = [0x4EB, 0x00EBFF01, EXTENDED | REMOTE | 0x1CEBFF01, EXTENDED | ERROR | 0x1CECFF01]
    ids += [EXTENDED | i for i in (0x1CEAFF01, 0x1CEDFF01, 0x1DEBFF01, 0x1EECFF01)]
    frames = [Frame(i, number, bytes(8)) for i, number in enumerate(ids)]
    parts, blocks = Reassembler().take(block_of(frames))
    assert not parts.any()
    assert blocks == []


# -- trouble -------------------------------------------------------------------------------------


def test_packets_that_come_again_between_two_nodes_fill_what_was_missed() -> None:
    rts, cts, one, two, three, four, five, end = transfers.to_one(1, 2, TO_ONE, TEXT)
    again = transfers.clear_to_send(2, 1, TO_ONE, 2, 2)
    frames = timed([rts, cts, one, three, four, again, two, three, five, end])
    found, counts = put_together(frames)
    assert [w.data for w in found] == [TEXT]
    assert counts == {"completed": 1}


def test_packets_that_come_again_and_differ_are_of_another_message() -> None:
    rts, cts, one, _, three, *_ = transfers.to_one(1, 2, TO_ONE, TEXT)
    other = transfers.packet(1, 2, 1, bytes(30))
    assert put_together(timed([rts, cts, one, three, other])) == ([], {"broken_sequence": 1})


def test_an_acknowledgement_ends_what_has_a_gap() -> None:
    frames = transfers.to_one(1, 2, TO_ONE, TEXT)
    del frames[3]
    assert put_together(timed(frames)) == ([], {"broken_sequence": 1})


def test_a_gap_in_a_message_to_all_breaks_it_at_once() -> None:
    frames = transfers.to_all(1, GROUP, TEXT)
    late = [*frames[:2], *frames[3:], frames[2]]
    assert put_together(timed(late)) == ([], {"broken_sequence": 1})


def test_the_same_frame_twice_in_a_row_is_harmless() -> None:
    frames = transfers.to_all(1, GROUP, TEXT) + transfers.fast(FAST_ID, 1, TEXT)
    doubled = [frame for frame in frames for _ in range(2)]
    found, counts = put_together(timed(doubled), [FAST])
    assert [w.data for w in found] == [TEXT, TEXT]
    assert counts["completed"] == 2


@pytest.mark.parametrize("sender_gives_up", [True, False])
def test_either_end_may_abort(sender_gives_up: bool) -> None:
    frames = transfers.to_one(1, 2, TO_ONE, TEXT)
    who, whom = (1, 2) if sender_gives_up else (2, 1)
    frames[4:4] = [transfers.abort(who, whom, TO_ONE)]
    assert put_together(timed(frames)) == ([], {"aborted": 1})


def test_an_abort_of_another_message_changes_nothing() -> None:
    frames = transfers.to_one(1, 2, TO_ONE, TEXT)
    frames[4:4] = [transfers.abort(2, 1, 0x0300), transfers.abort(3, 1, TO_ONE)]
    assert put_together(timed(frames))[1] == {"completed": 1}


def test_a_new_announcement_replaces_the_session() -> None:
    old = transfers.to_all(1, GROUP, TEXT)[:3]
    new = transfers.to_all(1, 0xFECB, TEXT[::-1])
    found, counts = put_together(timed([*old, *new]))
    assert [(w.id & 0x1FFFFFFF, w.data) for w in found] == [(0x1CFECB01, TEXT[::-1])]
    assert counts == {"completed": 1, "replaced": 1}


def test_a_request_that_is_sent_again_before_any_packet_is_one_message() -> None:
    frames = transfers.to_one(1, 2, TO_ONE, TEXT)
    assert put_together(timed([frames[0], *frames]))[1] == {"completed": 1}


def test_a_request_for_another_message_shows_in_the_receivers_answer() -> None:
    rts = transfers.request(1, 2, TO_ONE, TEXT)
    missed = transfers.to_one(1, 2, 0x0300, TEXT)[1:]
    assert put_together(timed([rts, *missed])) == ([], {"broken_sequence": 1})


@pytest.mark.parametrize(
    ("kind", "size", "packets", "group", "to"),
    [
        (32, 8, 2, GROUP, 0xFF),
        (32, 0, 0, GROUP, 0xFF),
        (32, 9, 0, GROUP, 0xFF),
        (32, 1786, 255, GROUP, 0xFF),
        (32, 65535, 255, GROUP, 0xFF),
        (32, 21, 4, GROUP, 0xFF),
        (32, 22, 3, GROUP, 0xFF),
        (32, 9, 2, 0x40000, 0xFF),
        (32, 9, 2, GROUP, 0x10),
        (16, 9, 2, GROUP, 0xFF),
    ],
)
def test_an_announcement_that_cannot_be_opens_nothing(
    kind: int, size: int, packets: int, group: int, to: int
) -> None:
    data = transfers.announcement(kind, size, packets, group)
    frames = [transfers.control(1, to, data)]
    frames += [transfers.packet(1, to, n, bytes(70)) for n in range(1, 11)]
    assert put_together(timed(frames)) == ([], {"broken_size": 1})


@pytest.mark.parametrize(("gap_ms", "good"), [(750, True), (751, False)])
def test_750_ms_may_lie_between_packets_to_all(gap_ms: int, good: bool) -> None:
    frames = timed(transfers.to_all(1, GROUP, TEXT), step=gap_ms * MS)
    found, counts = put_together(frames)
    assert len(found) == good
    assert counts == ({"completed": 1} if good else {"timed_out": 1})


@pytest.mark.parametrize(("gap_ms", "good"), [(1250, True), (1251, False)])
def test_1250_ms_may_lie_between_frames_of_two_nodes(gap_ms: int, good: bool) -> None:
    frames = timed(transfers.to_one(1, 2, TO_ONE, TEXT), step=gap_ms * MS)
    assert len(put_together(frames)[0]) == good


def test_a_receiver_that_holds_the_line_renews_the_time() -> None:
    rts, cts, *packets = transfers.to_one(1, 2, TO_ONE, TEXT)
    hold = transfers.clear_to_send(2, 1, TO_ONE, 0, 0xFF)
    waiting = timed([rts, hold, hold, hold, cts], step=1000 * MS)
    found, _ = put_together([*waiting, *timed(packets, 4100 * MS)])
    assert len(found) == 1


def test_a_session_ends_also_when_only_other_traffic_follows() -> None:
    begun = timed(transfers.to_all(1, GROUP, TEXT)[:3])
    reassembler = Reassembler()
    reassembler.take(block_of(begun))
    assert reassembler.open == 1
    reassembler.take(block_of([Frame(20 * MS + 751 * MS, 0x123, b"")]))
    assert reassembler.open == 0
    assert counted(reassembler.counts) == {"timed_out": 1}


def test_a_clock_that_is_set_back_ends_sessions_and_not_what_follows() -> None:
    begun = timed(transfers.to_all(1, GROUP, TEXT)[:3], 3_600_000 * MS)
    after = timed(transfers.to_all(2, GROUP, TEXT))
    assert put_together([*begun, *after])[1] == {"completed": 1, "timed_out": 1}
    slow = timed(transfers.to_all(2, GROUP, TEXT), step=800 * MS)
    assert put_together([*begun, *slow])[1] == {"timed_out": 2}


def test_the_oldest_of_too_many_sessions_is_given_up() -> None:
    opened = [transfers.to_all(sender, GROUP, TEXT)[0] for sender in range(5)]
    rest = [frame for sender in range(5) for frame in transfers.to_all(sender, GROUP, TEXT)[1:]]
    reassembler = Reassembler(sessions=4)
    found = wholes(reassembler.take(block_of(timed([*opened, *rest])))[1])
    assert [w.id & 0xFF for w in found] == [1, 2, 3, 4]
    assert counted(reassembler.counts) == {"completed": 4, "evicted": 1}
    assert reassembler.counts.lost == 1


# -- fast packets --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 6, 7, 13, 14, 222, 223])
def test_a_fast_packet_of_any_size(size: int) -> None:
    data = bytes(i % 251 for i in range(size))
    frames = timed(transfers.fast(FAST_ID, 5, data))
    assert put_together(frames, [FAST]) == (
        [Whole(frames[-1].time, EXTENDED | FAST_ID, data)],
        {"completed": 1},
    )


def test_fast_packets_of_several_sequences_and_senders_interleave() -> None:
    streams = [
        transfers.fast(FAST_ID, 0, TEXT),
        transfers.fast(FAST_ID, 1, TEXT[1:]),
        transfers.fast(FAST_ID + 1, 0, TEXT[2:]),
    ]
    mixed = [frame for frames in zip(*streams, strict=False) for frame in frames]
    found, _ = put_together(timed(mixed), [FAST])
    assert sorted(w.data for w in found) == [TEXT, TEXT[1:], TEXT[2:]]


def test_what_a_recorder_has_put_together_is_no_part() -> None:
    block = block_of([Frame(0, EXTENDED | FAST_ID, TEXT)], width=64)
    assert not Reassembler([FAST]).take(block)[0].any()


@pytest.mark.parametrize(
    ("group", "length", "is_fast"),
    [
        (0x1ED00, 20, True),
        (0x1F805, 43, True),
        (0x1FFFF, 9, True),
        (0x1F805, 8, False),
        (0x0FECA, 20, False),
        (0x1EB00, 20, False),
        (0x2F805, 20, False),
    ],
)
def test_long_messages_of_the_ranges_of_nmea_2000_are_fast_packets(
    group: int, length: int, is_fast: bool
) -> None:
    message = Message("M", group << 8, extended=True, length=length, signals=(), j1939=True)
    assert fast_packet_groups([message]) == ({group} if is_fast else set())
    assert not fast_packet_groups([dataclasses.replace(message, j1939=False)])


# -- any traffic ---------------------------------------------------------------------------------


def traffic(rng: random.Random) -> list[Frame]:
    """Transfers that interleave, with frames lost, doubled, moved, cut and changed."""
    streams: list[list[tuple[int, bytes]]] = []
    for _ in range(rng.randint(1, 6)):
        sender, to = rng.choice([1, 2]), rng.choice([3, 1])
        size = rng.choice([9, 14, 20, 20, 35])
        data = bytes(rng.choice([7, 9]) for _ in range(size))
        group = rng.choice([GROUP, TO_ONE])
        streams.append(
            rng.choice(
                [
                    transfers.to_all(sender, group, data),
                    transfers.to_one(sender, to, group, data, rng.choice([1, 2, 16])),
                    transfers.fast(FAST_ID + sender, rng.choice([0, 1]), data),
                    [transfers.abort(sender, to, group)],
                    [(0x123, b"")] * 3,
                ]
            )
        )
    frames = []
    alone = rng.random() < 0.5
    while any(streams):
        stream = next(s for s in streams if s) if alone else rng.choice([s for s in streams if s])
        frames.append(stream.pop(0))
    for _ in range(rng.choice([0, 0, 1, 1, 2, 5])):
        at = rng.randrange(len(frames))
        number, data = frames[at]
        change = rng.randrange(5)
        if change == 0 and len(frames) > 1:
            del frames[at]
        elif change == 1:
            frames.insert(at, frames[at])
        elif change == 2:
            frames.insert(rng.randrange(len(frames)), frames.pop(at))
        elif change == 3:
            frames[at] = number, data[: rng.randrange(9)]
        elif data:
            place = rng.randrange(len(data))
            frames[at] = number, data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]
    steps = rng.choice([[10], [10, 20], [10, 10, 10, 740, 760, 1300], [10, 10, 10, -5, -3000]])
    made = []
    time = 0
    for number, data in frames:
        time += rng.choice(steps) * MS
        made.append(Frame(time, number, data))
    return made


@ANY
@given(st.randoms(use_true_random=False), st.sets(st.integers(0, 40)))
def test_any_traffic_in_any_blocks_is_what_a_slow_receiver_makes_of_it(
    rng: random.Random, borders: set[int]
) -> None:
    frames = traffic(rng)
    receiver = Receiver(frames, [FAST])
    expected = (by_width(receiver.wholes), dict(receiver.outcomes))
    assert put_together(frames, [FAST]) == expected
    assert put_together(frames, [FAST], {b for b in borders if b < len(frames)}) == expected


hostile = st.lists(
    st.tuples(
        st.integers(-1000, 1000),
        st.sampled_from([0xEC, 0xEB, 0xEC, 0xEB, 0x1F8]),
        st.sampled_from([1, 2, 0xFF]),
        st.sampled_from([1, 2, 0xFF]),
        st.one_of(
            st.binary(max_size=8),
            st.builds(
                lambda kind, size, packets: transfers.announcement(kind, size, packets, GROUP),
                st.sampled_from([16, 32, 17, 19, 255]),
                st.integers(7, 24),
                st.integers(0, 4),
            ),
            st.builds(lambda n: bytes([n, 1, 2, 3, 4, 5, 6, 7]), st.integers(0, 5)),
        ),
    ),
    min_size=1,
    max_size=40,
)


@ANY
@given(hostile)
def test_any_frames_at_all_raise_nothing_and_match_the_slow_receiver(
    rows: list[tuple[int, int, int, int, bytes]],
) -> None:
    time = 0
    frames = []
    for step, form, to, sender, data in rows:
        time += step * MS
        number = form << 16 | (5 if form == 0x1F8 else to) << 8 | sender
        frames.append(Frame(time, EXTENDED | 0x0C00_0000 | number, data))
    receiver = Receiver(frames, [FAST])
    found, counts = put_together(frames, [FAST])
    assert found == by_width(receiver.wholes)
    assert counts == dict(receiver.outcomes)


def test_memory_is_bounded_on_a_bus_of_nothing_but_announcements() -> None:
    rng = np.random.default_rng(1)
    reassembler = Reassembler([FAST], sessions=16)
    for _ in range(4):
        n = 4000
        low = rng.integers(0, 1 << 16, n).astype(np.uint32)
        forms = rng.choice(np.array([0x1CEC0000, 0x1CEB0000, 0x0DF80500], np.uint32), n)
        ids = np.where(forms == 0x0DF80500, low & 0xFF | forms, low | forms) | EXTENDED
        data = rng.integers(0, 256, (n, 8)).astype(np.uint8)
        control = forms == 0x1CEC0000
        data[control] = np.frombuffer(transfers.announcement(16, 1785, 255, GROUP), np.uint8)
        frames = [
            Frame(i, number, bytes(payload))
            for i, (number, payload) in enumerate(zip(ids.tolist(), data, strict=True))
        ]
        reassembler.take(block_of(frames))
        assert reassembler.open <= 32
    assert reassembler.counts.evicted > 1000


# -- through the decoder -------------------------------------------------------------------------


def database(folder: Path, *messages: Msg) -> Database:
    path = folder / "long.dbc"
    path.write_text(text(messages, j1939=True), "utf-8")
    return Database.load([path])


LONG = Msg(
    "Long",
    0x18FECAFE,
    20,
    [Sig("First", 0, 8), Sig("Middle", 60, 16), Sig("Last", 152, 8, LITTLE, signed=True)],
    extended=True,
)


def test_a_message_of_many_frames_decodes_like_one(tmp_path: Path) -> None:
    decoder = Decoder(database(tmp_path, LONG))
    data = bytes(range(1, 20)) + b"\x80"
    frames = timed(transfers.to_all(7, GROUP, data))
    (table,), counts = decoder.decode_counted(block_of(frames))
    assert (table.message, table.source, table.time.tolist()) == ("Long", 7, [frames[-1].time])
    assert {name: column.tolist() for name, column in table.raw.items()} == {
        "First": [1],
        "Middle": [0x908 >> 4 | (0xA & 0xF) << 12],
        "Last": [-128],
    }
    assert counts == Counts(transport=4, reassembled=1)


def test_a_shorter_message_gives_the_signals_that_it_covers(tmp_path: Path) -> None:
    decoder = Decoder(database(tmp_path, LONG))
    short = timed(transfers.to_all(7, GROUP, bytes(10)))
    single = Frame(10**9, EXTENDED | 0x18FECA08, bytes(8))
    tables, counts = decoder.decode_counted(block_of([*short, single]))
    assert sorted((t.source, sorted(t.names)) for t in tables) == [
        (7, ["First", "Middle"]),
        (8, ["First"]),
    ]
    assert counts == Counts(decoded=1, short=1, transport=3, reassembled=1)


def test_messages_are_put_together_across_blocks_and_buses_apart(tmp_path: Path) -> None:
    decoder = Decoder(database(tmp_path, LONG))
    frames = timed(transfers.to_all(7, GROUP, bytes(20)))
    tables = []
    for frame in frames:
        for bus in ("a", "b"):
            tables += decoder.decode(block_of([frame], bus))
    assert [t.bus for t in tables] == ["a", "b"]
    assert decoder.counts == Counts(transport=8, reassembled=2)


def test_messages_that_do_not_become_whole_are_counted(tmp_path: Path) -> None:
    decoder = Decoder(database(tmp_path, LONG))
    frames = timed(transfers.to_all(7, GROUP, bytes(20)))[:-1]
    tables, counts = decoder.decode_counted(block_of([*frames, Frame(10**10, 0x1, b"")]))
    assert tables == []
    assert counts == Counts(transport=3, unknown=1, transport_lost=1)


def test_messages_that_no_file_describes_are_put_together_and_left(tmp_path: Path) -> None:
    decoder = Decoder(database(tmp_path, LONG))
    block = block_of(timed(transfers.to_all(7, 0xFEEC, bytes(20))))
    assert decoder.decode_counted(block) == ([], Counts(transport=4))
    assert decoder.knows(block).all()


def test_without_j1939_these_are_frames_like_any(tmp_path: Path) -> None:
    path = tmp_path / "plain.dbc"
    path.write_text(text([LONG]), "utf-8")
    decoder = Decoder(Database.load([path]))
    block = block_of(timed(transfers.to_all(7, GROUP, bytes(20))))
    assert decoder.decode_counted(block) == ([], Counts(unknown=4))


def test_a_file_that_describes_the_transport_itself_is_obeyed_too(tmp_path: Path) -> None:
    raw = Msg("TPDT", 0x1CEBFFFE, 8, [Sig("Number", 0, 8)], extended=True)
    decoder = Decoder(database(tmp_path, LONG, raw))
    tables, counts = decoder.decode_counted(block_of(timed(transfers.to_all(7, GROUP, bytes(20)))))
    assert {t.message: len(t) for t in tables} == {"Long": 1, "TPDT": 3}
    assert counts == Counts(decoded=3, transport=1, reassembled=1)


def test_a_fast_packet_is_never_taken_for_its_message(tmp_path: Path) -> None:
    position = Msg("Position", 0x0DF805FE, 43, [Sig("Last", 336, 8)], extended=True)
    decoder = Decoder(database(tmp_path, position))
    data = bytes(42) + b"\x11"
    (table,), counts = decoder.decode_counted(block_of(timed(transfers.fast(FAST_ID, 3, data))))
    assert (table.message, table.source, table.raw["Last"].tolist()) == ("Position", 0x23, [0x11])
    assert counts == Counts(transport=7, reassembled=1)
