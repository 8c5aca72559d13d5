"""Every message of every database file, with payloads of every length, against plain integers.

The reference takes a signal's bits out of one whole number made of the payload, and says which
signals a payload has: those that lie wholly inside the received length and whose multiplexers, as
far as they lie inside, select them. It is checked itself, with the bits taken one by one.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.blocks import EXTENDED, FrameBlock, SignalTable
from agent.settings import packaged
from agent.signals import Database, Decoder
from agent.signals.model import Message, Signal
from tests.shared_data import SHARED, needs_shared
from tests.signals.dbctext import BIG, LITTLE, Msg, Sig

FILES = [
    *sorted((SHARED / "dbc").glob("*.dbc")),
    *(packaged(f"dbc/{name}.dbc") for name in ("ev", "gbt27930")),
]
LONGEST = 64
PART = 50
"""So many payloads of each length at a time: whole numbers of all of them take much memory."""
ORDERS: dict[int, Literal["big", "little"]] = {BIG: "big", LITTLE: "little"}


class Payloads(NamedTuple):
    """Of one message: uint8[n, 64], zero beyond the lengths, and int[n]."""

    data: NDArray[np.uint8]
    length: NDArray[np.int64]


class Expected(NamedTuple):
    """One signal: which payloads have it, and the number that its bits are in all of them."""

    there: NDArray[np.bool_]
    bits: list[int]


def sig(signal: Signal) -> Sig:
    """The signal as tests describe one; its first bit from the number that the file states."""
    byte, bit = divmod(signal.start, 8)
    return Sig(
        signal.name,
        8 * byte + 7 - bit if signal.big_endian else signal.start,
        signal.length,
        BIG if signal.big_endian else LITTLE,
        signed=signal.schema.kind == "int64",
        is_float=signal.schema.kind.startswith("float"),
        multiplexer=signal.multiplexer,
        parent=signal.parent,
        values=tuple(sorted(signal.selected_by)),
    )


def described(message: Message) -> Msg:
    signals = [sig(s) for s in message.signals]
    return Msg(message.name, message.id, message.length, signals, message.extended)


def expected(message: Msg, payloads: Payloads) -> dict[str, Expected]:
    """What each signal is in each payload, by whole numbers."""
    rows = [row.tobytes() for row in payloads.data]
    words = {
        LITTLE: [int.from_bytes(row, "little") for row in rows],
        BIG: [int.from_bytes(row, "big") for row in rows],
    }
    by_name = {s.name: s for s in message.signals}
    found: dict[str, Expected] = {}

    def of(signal: Sig) -> Expected:
        known = found.get(signal.name)
        if known is not None:
            return known
        below = 8 * LONGEST - signal.first - signal.length if signal.order == BIG else signal.first
        mask = (1 << signal.length) - 1
        # A signal beyond the longest payload is in none.
        bits = [word >> max(0, below) & mask for word in words[signal.order]]
        there = payloads.length >= signal.end
        if signal.parent:
            parent = of(by_name[signal.parent])
            chosen = frozenset(signal.values)
            there &= parent.there & np.array([value in chosen for value in parent.bits], bool)
        found[signal.name] = Expected(there, bits)
        return found[signal.name]

    for signal in message.signals:
        of(signal)
    return found


def raw_of(signal: Sig, bits: int) -> int | bytes:
    """What the decoder must give: integers, and floats as the bytes of a double."""
    if signal.is_float:
        code = {16: "e", 32: "f", 64: "d"}[signal.length]
        (number,) = struct.unpack(f">{code}", bits.to_bytes(signal.length // 8, "big"))
        return struct.pack(">d", number)
    return bits - (1 << signal.length) if signal.signed and bits >> signal.length - 1 else bits


def comparable(signal: Sig, column: NDArray[Any]) -> list[int | bytes]:
    """A column of the decoder in the form of `raw_of`."""
    if column.ndim == 2:
        order = ORDERS[signal.order]
        return [int.from_bytes(row.tobytes(), order) for row in column]
    if column.dtype.kind == "f":
        return [struct.pack(">d", number) for number in column.tolist()]
    numbers: list[int | bytes] = column.tolist()
    return numbers


def random_payloads(rng: np.random.Generator, message: Msg, lengths: NDArray[np.int64]) -> Payloads:
    """Random bytes; in half of the payloads multiplexers select one signal after the other."""
    data = rng.integers(0, 256, (len(lengths), LONGEST), np.uint8)
    by_name = {s.name: s for s in message.signals}
    selected = [s for s in message.signals if s.parent and s.values]
    for row in range(0, len(lengths) if selected else 0, 2):
        signal = selected[row // 2 % len(selected)]
        while signal.parent and signal.values:
            parent = by_name[signal.parent]
            put(data[row], parent, signal.values[int(rng.integers(len(signal.values)))])
            signal = parent
    data[np.arange(LONGEST) >= lengths[:, None]] = 0
    return Payloads(data, lengths)


def put(row: NDArray[np.uint8], signal: Sig, number: int) -> None:
    order = ORDERS[signal.order]
    below = 8 * LONGEST - signal.first - signal.length if signal.order == BIG else signal.first
    if below >= 0 and signal.end <= LONGEST:
        word = int.from_bytes(row.tobytes(), order) & ~((1 << signal.length) - 1 << below)
        word |= (number & (1 << signal.length) - 1) << below
        row[:] = np.frombuffer(word.to_bytes(LONGEST, order), np.uint8)


def block_of(messages: Sequence[Msg], payloads: Sequence[Payloads], width: int) -> FrameBlock:
    """The frames of all messages, mixed; the time of each is its number in the list of all."""
    counts = [len(p.length) for p in payloads]
    n = sum(counts)
    order = np.random.default_rng(n).permutation(n)
    ids = [m.id | (EXTENDED if m.extended else 0) for m in messages]
    return FrameBlock.from_arrays(
        bus="bus",
        time=order,
        id=np.repeat(np.array(ids, np.uint32), counts)[order],
        length=np.concatenate([p.length for p in payloads])[order],
        data=np.concatenate([p.data for p in payloads])[order, :width],
    )


def wrong(
    messages: Sequence[Msg], payloads: Sequence[Payloads], tables: Iterable[SignalTable]
) -> list[str]:
    """What is missing, more than there should be, or another value."""
    parts: dict[tuple[str, str], list[tuple[NDArray[np.int64], list[int | bytes]]]] = {}
    by_message = {m.name: {s.name: s for s in m.signals} for m in messages}
    for table in tables:
        for name in table.names:
            column = comparable(by_message[table.message][name], table.raw[name])
            parts.setdefault((table.message, name), []).append((table.time, column))
    found = []
    begin = 0
    for message, of_message in zip(messages, payloads, strict=True):
        for name, (there, bits) in expected(message, of_message).items():
            signal = by_message[message.name][name]
            frames = np.flatnonzero(there)
            right = [(begin + i, raw_of(signal, bits[i])) for i in frames.tolist()]
            mine = parts.pop((message.name, name), [])
            got = sorted(
                (time, value)
                for times, values in mine
                for time, value in zip(times.tolist(), values, strict=True)
            )
            if got != right:
                found.append(f"{message.name}.{name}")
        begin += len(of_message.length)
    return found + [f"{message}.{name} was never asked for" for message, name in parts]


def blocks_of(
    messages: Sequence[Msg], rows: int, rng: np.random.Generator
) -> Iterator[tuple[list[Payloads], FrameBlock]]:
    """Blocks that have, of every message, `rows` payloads of each length in turn.

    Those of 8 bytes have one length each, for whole messages are decoded together; then come mixed
    lengths, in 8 and in 64 bytes, a part of the rows at a time.
    """
    shapes = [(np.full(rows, length), 8) for length in range(9)]
    for begin in range(0, rows, PART):
        part = min(PART, rows - begin)
        shapes += [(np.arange(9).repeat(part), 8), (np.arange(LONGEST + 1).repeat(part), LONGEST)]
    for lengths, width in shapes:
        payloads = [random_payloads(rng, m, rng.permutation(lengths)) for m in messages]
        yield payloads, block_of(messages, payloads, width)


def check(path: Path, rows: int, at_once: int, seed: int) -> None:
    database = Database.load([path])
    messages = [described(m) for m in database.messages("bus")]
    decoder = Decoder(database)
    rng = np.random.default_rng(seed)
    for begin in range(0, len(messages), at_once):
        some = messages[begin : begin + at_once]
        for payloads, block in blocks_of(some, rows, rng):
            before = decoder.counts.decoded + decoder.counts.undecodable
            assert wrong(some, payloads, decoder.decode(block)) == []
            assert decoder.counts.decoded + decoder.counts.undecodable - before == len(block)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_signal_of_a_thousand_payloads_is_right_and_nothing_else_is_there(
    path: Path,
) -> None:
    check(path, rows=13, at_once=200, seed=1)  # in each of 83 blocks or lengths


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_signal_of_a_thousand_payloads_of_every_length_is_right(path: Path) -> None:
    check(path, rows=1000, at_once=8, seed=2)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_the_reference_agrees_with_bits_taken_one_by_one(path: Path) -> None:
    rng = np.random.default_rng(3)
    for message in map(described, Database.load([path]).messages("bus")):
        payloads = random_payloads(rng, message, rng.integers(0, LONGEST + 1, 3))
        by_name = {s.name: s for s in message.signals}
        columns = expected(message, payloads)
        for i, length in enumerate(payloads.length.tolist()):
            mine = {
                name: raw_of(by_name[name], column.bits[i])
                for name, column in columns.items()
                if column.there[i]
            }
            theirs = message.present(bytes(payloads.data[i, :length]))
            assert mine == {
                name: struct.pack(">d", raw) if isinstance(raw, float) else raw
                for name, raw in theirs.items()
            }


@needs_shared
def test_the_files_of_real_vehicles_are_among_them() -> None:
    assert len(FILES) > 10
