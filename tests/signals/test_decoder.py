"""The compiled decoder against cantools, and against bits taken one by one."""

import dataclasses
import itertools
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent.blocks import ERROR, EXTENDED, REMOTE, FrameBlock, SignalSchema, SignalTable
from agent.settings import packaged
from agent.signals import Database, Decoder
from agent.signals.database import SignalPath
from tests.shared_data import needs_shared, shared
from tests.signals import reference
from tests.signals.dbctext import BIG, LITTLE, Msg, Sig, text
from tests.signals.reference import Cantools, Columns, decoded, load, numbered, total

ANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

Frame = tuple[int, bytes]
"""Id with flag bits, and payload."""


def block_of(frames: Sequence[Frame], width: int = 8, bus: str = "bus") -> FrameBlock:
    """A block whose times are frame numbers."""
    data = b"".join(payload.ljust(width, b"\0") for _, payload in frames)
    return FrameBlock.from_arrays(
        bus=bus,
        time=range(len(frames)),
        id=[number for number, _ in frames],
        length=[len(payload) for _, payload in frames],
        data=np.frombuffer(data, np.uint8).reshape(len(frames), width),
    )


def samples(tables: Sequence[SignalTable]) -> dict[tuple[int, str], Any]:
    """(frame number, signal) -> raw value, with floats as their bits: NaN equals itself."""
    return {
        (frame, name): exactly(value)
        for table in tables
        for name in table.names
        for frame, value in zip(table.time.tolist(), table.raw[name].tolist(), strict=True)
    }


def exactly(value: float) -> int | str:
    """An integer as it is; a float so that equal ones are equal, and NaN is NaN."""
    if isinstance(value, int):
        return value
    return "nan" if math.isnan(value) else struct.pack(">d", value).hex()


# -- recordings and databases of real vehicles ---------------------------------------------------


@needs_shared
@pytest.mark.parametrize(("log", "dbc"), reference.PAIRS)
def test_a_real_recording_gives_the_samples_of_cantools(log: str, dbc: str) -> None:
    database = Database.load([shared(f"dbc/{dbc}")], j1939=reference.PAIRS[log, dbc])
    decoder = Decoder(database)
    blocks = numbered(reference.recording(log))
    columns = decoded(decoder, blocks)
    expected, known = reference.reference(log, dbc)
    assert columns.keys() == expected.keys()
    assert differing(columns, expected) == []
    assert total(decoder.counts) == sum(len(block) for block in blocks)
    assert decoder.counts.decoded == known


@needs_shared
def test_signals_of_a_real_recording_are_the_same_when_only_they_are_asked_for() -> None:
    database = Database.load([shared("dbc/kona_pcan_fixed.dbc")])
    blocks = numbered(reference.recording("kona csv"))
    everything = decoded(Decoder(database), blocks)
    wanted = {path for i, path in enumerate(database.paths()) if i % 7 == 0}
    few = decoded(Decoder.of_paths(database, wanted), blocks)
    expected = {
        key: column
        for key, column in everything.items()
        if SignalPath("*", key[0], key[2]) in wanted
    }
    assert few == expected
    assert few


def traffic(cantools_of: Cantools, rounds: int) -> FrameBlock:
    """Random payloads for every message that cantools can decode, and an id that nobody knows."""
    rng = np.random.default_rng(7)
    frames = []
    for message in cantools_of.database.messages * rounds:
        number = message.frame_id | (EXTENDED if message.is_extended_frame else 0)
        # A random multiplexer may have no branch; another draw may.
        tries = (rng.bytes(message.length) for _ in range(8))
        payload = next((p for p in tries if cantools_of.decode(message, p) is not None), None)
        if payload is not None:
            frames.append((number, payload))
    frames = [frames[i] for i in rng.permutation(len(frames))]
    return block_of([*frames, (0x1FFF_FFFF | EXTENDED, bytes(8))], 64)


@needs_shared
@pytest.mark.parametrize(
    "name",
    [
        path.name
        for path in sorted(shared("dbc").glob("*.dbc"))
        if path.name not in ("kona_pcan.dbc", "cp1252.dbc")  # refused, see test_database
    ],
)
def test_random_traffic_of_a_real_database_gives_the_samples_of_cantools(name: str) -> None:
    path = shared(f"dbc/{name}")
    content = path.read_bytes()
    try:
        cantools_of = Cantools(content.decode("utf-8"))
    except UnicodeDecodeError:
        cantools_of = Cantools(content.decode("cp1252"))
    block = traffic(cantools_of, 4)
    decoder = Decoder(Database.load([path]))
    wrong = differing(decoded(decoder, [block]), cantools_of.columns(block))
    assert wrong == []
    assert total(decoder.counts) == len(block)


def differing(mine: Columns, theirs: Columns) -> list[reference.Key]:
    """Signals whose samples are not the same to the bit."""

    def bits(columns: Columns, key: reference.Key) -> object:
        column = columns.get(key)
        if column is None:
            return None
        values = (list(map(exactly, v)) for v in (column.raw, column.physical))
        return (column.frame, *values)

    return [key for key in mine.keys() | theirs.keys() if bits(mine, key) != bits(theirs, key)]


# -- this project's own database, for where the recordings are missing ---------------------------


def test_random_traffic_of_the_demo_vehicle_gives_the_samples_of_cantools() -> None:
    path = packaged("dbc/ev.dbc")
    cantools_of = Cantools(path.read_text("utf-8"))
    block = traffic(cantools_of, 60)
    decoder = Decoder(Database.load([path]))
    columns = decoded(decoder, [block])
    assert differing(columns, cantools_of.columns(block)) == []
    assert {key[0] for key in columns} == {m.name for m in cantools_of.database.messages}
    assert total(decoder.counts) == len(block)


# -- messages that nobody would write ------------------------------------------------------------

FACTORS = st.one_of(
    st.sampled_from(["1", "2", "-1", "10", "1.0", "3.0", "0.1", "0.01", "0.03125", "-0.5"]),
    st.integers(-(10**6), 10**6).filter(bool).map(str),
    st.integers(10**15, 2**64 - 1).map(str),  # beyond, a batch has no whole numbers
    st.decimals("-1000", "1000", places=6).filter(bool).map(lambda d: f"{d:f}"),
)
OFFSETS = st.one_of(
    st.sampled_from(["0", "-40", "0.5", "-273.15", "1000.0"]),
    st.integers(-(10**18), 10**18).map(str),
    st.decimals("-100000", "100000", places=5).map(lambda d: f"{d:f}"),
)


@st.composite
def plain_signals(draw: st.DrawFn, size: int, name: str) -> Sig:
    is_float = draw(st.integers(0, 4)) == 0
    lengths = [n for n in (16, 32, 64) if n <= 8 * size]
    if is_float and lengths:
        length = draw(st.sampled_from(lengths))
        signed = True
    else:
        is_float = False
        length = draw(st.integers(1, min(64, 8 * size)))
        signed = draw(st.booleans())
    return Sig(
        name,
        draw(st.integers(0, 8 * size - length)),
        length,
        draw(st.sampled_from([BIG, LITTLE])),
        signed,
        is_float,
        draw(FACTORS),
        draw(OFFSETS),
    )


@st.composite
def messages(draw: st.DrawFn) -> Msg:
    """Any message: signals anywhere, selected by up to three multiplexers."""
    size = draw(st.sampled_from([1, 2, 5, 8, 8, 8, 12, 64]))
    signals = [draw(plain_signals(size, f"P{i}")) for i in range(draw(st.integers(1, 5)))]
    multiplexers: list[Sig] = []
    for i in range(draw(st.integers(0, 3))):
        length = draw(st.integers(1, 5))
        multiplexer = Sig(
            f"M{i}",
            draw(st.integers(0, 8 * size - length)),
            length,
            draw(st.sampled_from([BIG, LITTLE])),
            multiplexer=True,
        )
        if multiplexers:
            above = draw(st.sampled_from(multiplexers))
            values = draw(branch_values(above))
            multiplexer = dataclasses.replace(multiplexer, parent=above.name, values=values)
        multiplexers.append(multiplexer)
    simple = len(multiplexers) == 1
    for multiplexer in multiplexers:
        for j in range(draw(st.integers(1, 3))):
            plain = draw(plain_signals(size, f"{multiplexer.name}S{j}"))
            values = draw(branch_values(multiplexer))[: 1 if simple else None]
            signals.append(dataclasses.replace(plain, parent=multiplexer.name, values=values))
    chosen = [*multiplexers, *signals]
    if draw(st.booleans()):
        chosen = apart(chosen)
    return Msg("Any", draw(st.integers(0, 0x7FF)), size, chosen or signals[:1])


def apart(signals: Sequence[Sig]) -> list[Sig]:
    """Those that share no bit with an earlier one, and whose multiplexer is still there.

    cantools decodes a whole message only where no two signals of one byte order overlap.
    """
    taken: set[int] = set()
    kept: dict[str, Sig] = {}
    for signal in signals:
        bits = signal.places()
        if taken & bits or (signal.parent and signal.parent not in kept):
            continue
        taken |= bits
        kept[signal.name] = signal
    return list(kept.values())


def branch_values(multiplexer: Sig) -> st.SearchStrategy[tuple[int, ...]]:
    numbers = st.integers(0, (1 << multiplexer.length) - 1)
    return st.lists(numbers, min_size=1, max_size=3, unique=True).map(lambda v: tuple(sorted(v)))


def database_of(message: Msg, tmp_path_factory: pytest.TempPathFactory) -> Database:
    return load(tmp_path_factory.getbasetemp(), text([message]))


@ANY
@given(message=messages(), data=st.data())
def test_any_message_gives_the_samples_of_cantools_and_of_its_bits(
    tmp_path_factory: pytest.TempPathFactory, message: Msg, data: st.DataObject
) -> None:
    payloads = data.draw(
        st.lists(st.binary(min_size=message.size, max_size=message.size), min_size=1, max_size=8)
    )
    width = data.draw(st.sampled_from([8, 64])) if message.size <= 8 else 64
    block = block_of([(message.id, p) for p in payloads], width)
    decoder = Decoder(database_of(message, tmp_path_factory))
    tables = decoder.decode(block)
    assert samples(tables) == {
        (frame, name): exactly(value)
        for frame, payload in enumerate(payloads)
        for name, value in message.present(payload).items()
    }
    assert total(decoder.counts) == len(block)
    cantools_of = Cantools(text([message]))
    (theirs,) = cantools_of.database.messages
    for table in tables:
        for name in table.names:
            convert = theirs.get_signal_by_name(name).conversion.raw_to_scaled
            for raw, physical in zip(
                table.raw[name].tolist(), table.physical(name).tolist(), strict=True
            ):
                assert exactly(physical) == exactly(float(convert(raw, decode_choices=False)))
    for frame, payload in enumerate(payloads):
        values = cantools_of.decode(theirs, payload)
        if values is not None:
            mine = {key[1]: raw for key, raw in samples(tables).items() if key[0] == frame}
            assert mine == {name: exactly(raw) for name, (raw, _) in values.items()}


@ANY
@given(message=messages(), data=st.data())
def test_a_short_frame_gives_exactly_the_signals_wholly_inside(
    tmp_path_factory: pytest.TempPathFactory, message: Msg, data: st.DataObject
) -> None:
    payloads = data.draw(st.lists(st.binary(max_size=message.size), min_size=1, max_size=12))
    block = block_of([(message.id, p) for p in payloads], 8 if message.size <= 8 else 64)
    decoder = Decoder(database_of(message, tmp_path_factory))
    assert samples(decoder.decode(block)) == {
        (frame, name): exactly(value)
        for frame, payload in enumerate(payloads)
        for name, value in message.present(payload).items()
    }
    shortest = min(s.end for s in message.signals)
    assert decoder.counts.undecodable == sum(len(p) < shortest for p in payloads)
    assert decoder.counts.short == sum(len(p) < message.size for p in payloads)
    assert total(decoder.counts) == len(block)


@ANY
@given(message=messages(), data=st.data())
def test_some_signals_have_the_values_that_they_have_among_all(
    tmp_path_factory: pytest.TempPathFactory, message: Msg, data: st.DataObject
) -> None:
    payloads = data.draw(st.lists(st.binary(max_size=message.size), min_size=1, max_size=12))
    names = {s.name for s in message.signals}
    wanted = data.draw(st.sets(st.sampled_from(sorted(names)), min_size=1))
    block = block_of([(message.id, p) for p in payloads], 8 if message.size <= 8 else 64)
    database = database_of(message, tmp_path_factory)
    everything = samples(Decoder(database).decode(block))
    some = samples(Decoder(database, [f"Any.{name}" for name in wanted]).decode(block))
    assert some == {key: value for key, value in everything.items() if key[1] in wanted}


@ANY
@given(message=messages(), data=st.data())
def test_where_a_block_ends_changes_no_sample(
    tmp_path_factory: pytest.TempPathFactory, message: Msg, data: st.DataObject
) -> None:
    payloads = data.draw(st.lists(st.binary(max_size=message.size), min_size=2, max_size=12))
    cuts = data.draw(st.sets(st.integers(1, len(payloads) - 1)))
    numbers = st.sampled_from([message.id, message.id | EXTENDED, message.id | REMOTE])
    block = block_of([(data.draw(numbers), p) for p in payloads], 8 if message.size <= 8 else 64)
    database = database_of(message, tmp_path_factory)
    whole, pieces = Decoder(database), Decoder(database)
    edges = [0, *sorted(cuts), len(block)]
    parts = [table for a, b in itertools.pairwise(edges) for table in pieces.decode(block[a:b])]
    assert samples(parts) == samples(whole.decode(block))
    assert pieces.counts == whole.counts


def test_a_table_keeps_its_rows_in_the_order_received(tmp_path: Path) -> None:
    message = Msg("Any", 1, 8, [Sig("A", 0, 8), Sig("M", 8, 2, multiplexer=True)])
    frames = [(1, bytes([i, i % 4, *bytes(6)])) for i in range(200)]
    for table in Decoder(load(tmp_path, text([message]))).decode(block_of(frames)):
        assert (np.diff(table.time) > 0).all()


@example(2**53 + 1, "3", "-7")
@example(2**64 - 1, "3", "-7")
@example(2**63 + 1, "1", "1")
@example(3, "12345678901234567890", "-1")
@example(2**32 - 1, "4503599627370497", "1")
@given(
    st.integers(0, 2**64 - 1),
    st.integers(-(10**6), 10**20).filter(bool).map(str),
    st.integers(-(10**18), 10**18).map(str),
)
def test_whole_factors_and_offsets_are_rounded_once(raw: int, scale: str, offset: str) -> None:
    signal = Sig("A", 0, 64, scale=scale, offset=offset)
    schema = SignalSchema("A", "uint64", 64, int(scale), int(offset))
    assert schema.physical(np.array([raw], np.uint64)).tolist() == [float(signal.exact(raw))]


def test_a_whole_factor_of_64_bits_is_kept_exactly(tmp_path: Path) -> None:
    """Once read as a double, it gave physical values that were one step too small."""
    path = tmp_path / "large.dbc"
    path.write_text(text([Msg("M", 1, 8, [Sig("A", 0, 1, scale="11400714819323197441")])]))
    (message,) = Database.load([path]).messages("any")
    assert message.by_name["A"].schema.scale == 11400714819323197441


# -- one rule each -------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [BIG, LITTLE])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("size", [12, 64])
@pytest.mark.parametrize("length", [58, 63, 64])
def test_a_signal_may_touch_nine_bytes(
    tmp_path: Path, order: int, signed: bool, size: int, length: int
) -> None:
    firsts = [f for f in range(8 * size - length) if f % 8 + length > 64]
    signals = [Sig(f"A{f}", f, length, order, signed) for f in firsts]
    message = Msg("Any", 5, size, signals)
    payloads = [np.random.default_rng(i).bytes(size) for i in range(4)]
    tables = Decoder(load(tmp_path, text([message]))).decode(
        block_of([(5, p) for p in payloads], 64)
    )
    assert samples(tables) == {
        (frame, s.name): s.raw(payload) for frame, payload in enumerate(payloads) for s in signals
    }


@pytest.mark.parametrize("order", [BIG, LITTLE])
@pytest.mark.parametrize(("first", "length"), [(0, 72), (3, 65), (13, 200), (8, 504)])
def test_a_signal_of_over_64_bits_keeps_its_bits_in_bus_order(
    tmp_path: Path, order: int, first: int, length: int
) -> None:
    signal = Sig("Text", first, length, order)
    payload = np.random.default_rng(3).bytes(64)
    (table,) = Decoder(load(tmp_path, text([Msg("Any", 5, 64, [signal])]))).decode(
        block_of([(5, payload)], 64)
    )
    value = table.raw["Text"][0].tobytes()
    number = int.from_bytes(value if order == BIG else value[::-1], "big")
    assert number == signal.bits(payload)
    with pytest.raises(ValueError, match=r"Any\.Text holds bytes"):
        table.physical("Text")


def test_a_multiplexer_value_without_a_branch_still_gives_the_plain_signals(
    tmp_path: Path,
) -> None:
    message = Msg(
        "Any",
        5,
        8,
        [
            Sig("Group", 0, 8, multiplexer=True),
            Sig("Plain", 8, 8),
            Sig("One", 16, 8, parent="Group", values=(1,)),
            Sig("Two", 16, 16, parent="Group", values=(2,)),
        ],
    )
    frames = [(5, bytes([group, 7, 8, 0, 0, 0, 0, 0])) for group in (1, 9, 2, 0, 1)]
    decoder = Decoder(load(tmp_path, text([message])))
    tables = {table.branch: table for table in decoder.decode(block_of(frames))}
    assert {branch: table.time.tolist() for branch, table in tables.items()} == {
        "Group=1": [0, 4],
        "": [1, 3],
        "Group=2": [2],
    }
    assert set(tables[""].names) == {"Group", "Plain"}
    assert tables[""].raw["Group"].tolist() == [9, 0]
    assert decoder.counts.decoded == 5
    assert decoder.counts.no_branch == 2


def test_remote_and_error_frames_are_counted_and_not_decoded(tmp_path: Path) -> None:
    message = Msg("Any", 5, 8, [Sig("A", 0, 8)])
    frames = [(5, bytes(8)), (5 | REMOTE, b""), (5 | ERROR, bytes(8)), (5 | ERROR | REMOTE, b"")]
    decoder = Decoder(load(tmp_path, text([message])))
    tables, counts = decoder.decode_counted(block_of([*frames, (6, bytes(8))]))
    assert [table.time.tolist() for table in tables] == [[0]]
    assert (counts.decoded, counts.remote, counts.error, counts.unknown) == (1, 1, 2, 1)
    assert decoder.knows(block_of(frames)).tolist() == [True, False, False, False]


def test_11_bit_and_29_bit_ids_with_the_same_number_are_different_messages(
    tmp_path: Path,
) -> None:
    short = Msg("Short", 0x123, 8, [Sig("A", 0, 8)])
    long = Msg("Long", 0x123, 8, [Sig("A", 8, 8)], extended=True)
    frames = [(0x123, bytes(range(8))), (0x123 | EXTENDED, bytes(range(8)))]
    tables = Decoder(load(tmp_path, text([short, long]))).decode(block_of(frames))
    assert {(t.message, t.time.tolist()[0], t.raw["A"].tolist()[0]) for t in tables} == {
        ("Short", 0, 0),
        ("Long", 1, 1),
    }
    for alone in (short, long):
        decoder = Decoder(load(tmp_path, text([alone])))
        assert [t.message for t in decoder.decode(block_of(frames))] == [alone.name]
        assert decoder.counts.unknown == 1


PDU2 = Msg("Broadcast", 0x18FEF100, 8, [Sig("Speed", 8, 16)], extended=True)
PDU1 = Msg("Addressed", 0x18EA00FE, 8, [Sig("Wanted", 0, 24)], extended=True)


@pytest.mark.parametrize("stated", [True, False])
def test_j1939_matches_by_group_and_tells_sources_apart(tmp_path: Path, stated: bool) -> None:
    """Priority and sender are no part of the group; of PDU1 the destination is not either."""
    database = load(tmp_path, text([PDU2, PDU1], j1939=stated), j1939=not stated)
    frames = [
        (0x18FEF100 | EXTENDED, bytes(8)),
        (0x0CFEF10B | EXTENDED, bytes(8)),
        (0x18FEF200 | EXTENDED, bytes(8)),
        (0x18EA0B21 | EXTENDED, bytes(8)),
        (0x19FEF100 | EXTENDED, bytes(8)),
        (0x0CFEF100 | EXTENDED, bytes(8)),
    ]
    decoder = Decoder(database)
    tables = decoder.decode(block_of(frames))
    assert {(t.message, t.source): t.time.tolist() for t in tables} == {
        ("Broadcast", 0x00): [0, 5],
        ("Broadcast", 0x0B): [1],
        ("Addressed", 0x21): [3],
    }
    assert decoder.counts.unknown == 2


def test_of_several_messages_of_one_group_the_one_of_the_sender_is_taken(tmp_path: Path) -> None:
    """Proprietary groups mean something else from each sender; priority still does not count."""
    engine = Msg("OfEngine", 0x18FF1200, 8, [Sig("A", 0, 8)], extended=True)
    brakes = Msg("OfBrakes", 0x18FF120B, 8, [Sig("B", 0, 16)], extended=True)
    frames = [(n | EXTENDED, bytes(8)) for n in (0x18FF1200, 0x18FF120B, 0x0CFF120B, 0x18FF1221)]
    decoder = Decoder(load(tmp_path, text([engine, brakes], j1939=True)))
    tables = decoder.decode(block_of(frames))
    assert {(t.message, t.source): t.time.tolist() for t in tables} == {
        ("OfEngine", 0x00): [0],
        ("OfBrakes", 0x0B): [1, 2],
        ("OfEngine", 0x21): [3],
    }


def test_without_j1939_a_29_bit_id_matches_whole_and_has_no_source(tmp_path: Path) -> None:
    frames = [(0x18FEF100 | EXTENDED, bytes(8)), (0x18FEF10B | EXTENDED, bytes(8))]
    decoder = Decoder(load(tmp_path, text([PDU2])))
    tables = decoder.decode(block_of(frames))
    assert [(t.message, t.source, t.time.tolist()) for t in tables] == [("Broadcast", None, [0])]


def test_a_bus_without_files_of_its_own_has_those_of_every_bus(tmp_path: Path) -> None:
    for name, message in (("own", "Own"), ("any", "Any")):
        content = text([Msg(message, 5, 8, [Sig("A", 0, 8)])])
        (tmp_path / f"{name}.dbc").write_text(content, "utf-8")
    database = Database.load({"can0": [tmp_path / "own.dbc"], "*": [tmp_path / "any.dbc"]})
    decoder = Decoder(database)
    for bus, message in (("can0", "Own"), ("can1", "Any")):
        (table,) = decoder.decode(block_of([(5, bytes(8))], bus=bus))
        assert (table.bus, table.message) == (bus, message)


def test_frames_of_a_long_message_in_an_8_byte_block_give_what_fits(tmp_path: Path) -> None:
    message = Msg("Any", 5, 64, [Sig("Near", 0, 16), Sig("Far", 100, 16)])
    frames = [(5, bytes([1, 2, *bytes(6)])), (5, b"\1")]
    decoder = Decoder(load(tmp_path, text([message])))
    (table,) = decoder.decode(block_of(frames))
    assert (table.names, table.raw["Near"].tolist()) == (("Near",), [0x201])
    assert (decoder.counts.decoded, decoder.counts.undecodable) == (1, 1)


@pytest.mark.parametrize("j1939", [False, True])
def test_an_empty_block_gives_nothing(tmp_path: Path, j1939: bool) -> None:
    decoder = Decoder(load(tmp_path, text([PDU2]), j1939=j1939))
    assert decoder.decode(block_of([])) == []
    assert decoder.knows(block_of([])).tolist() == []
    assert total(decoder.counts) == 0
