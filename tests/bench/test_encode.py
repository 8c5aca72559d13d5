"""Payloads made on arrays, against what cantools decodes."""

import numpy as np
import pytest
from cantools.database import Database as Reference
from hypothesis import given
from hypothesis import strategies as st

from agent.bench.encode import Encoder, raw_range, to_raw, unused_bits
from agent.signals import dbc
from agent.signals.model import Message

HEAD = 'VERSION ""\n\nNS_ :\n\nBS_:\n\nBU_: A\n\n'


def message_of(text: str) -> Message:
    return dbc.read((HEAD + text).encode()).messages[0]


def reference_of(text: str) -> Reference:
    result = Reference()
    result.add_dbc_string(HEAD + text)
    return result


@st.composite
def layouts(draw: st.DrawFn) -> str:
    """A message of up to 64 bytes whose signals lie side by side, of any order and sign."""
    size = draw(st.sampled_from((1, 3, 8, 12, 64)))
    lines: list[str] = []
    position, big_before = 0, False
    while True:
        bits = draw(st.integers(1, 64))
        big, signed = draw(st.booleans()), draw(st.booleans())
        position += draw(st.integers(0, 9))
        if big != big_before:  # the two orders number the bits of a byte differently
            position = -(-position // 8) * 8
        if position + bits > 8 * size:
            return f"BO_ 100 M: {size} A\n" + "".join(lines)
        start = 8 * (position // 8) + 7 - position % 8 if big else position
        form = f"{start}|{bits}@{0 if big else 1}{'-' if signed else '+'}"
        lines.append(f' SG_ S{len(lines)} : {form} (1,0) [0|0] "" A\n')
        position, big_before = position + bits, big


@given(layouts(), st.data())
def test_any_layout_decodes_to_what_was_encoded(text: str, data: st.DataObject) -> None:
    message, reference = message_of(text), reference_of(text).messages[0]
    wanted = {
        signal.name: data.draw(
            st.lists(st.integers(*raw_range(signal)), min_size=3, max_size=3), label=signal.name
        )
        for signal in message.signals
    }
    arrays = {
        name: np.array(values, np.int64 if min(values) < 0 else np.uint64)
        for name, values in wanted.items()
    }

    payloads = Encoder(message).encode(arrays)

    for row, payload in enumerate(payloads):
        decoded = reference.decode(payload[: message.length].tobytes(), scaling=False)
        assert decoded == {name: values[row] for name, values in wanted.items()}
    assert payloads.shape[1] == (8 if message.length <= 8 else 64)
    assert not payloads[:, message.length :].any()


def test_floats_are_written_bit_for_bit() -> None:
    message = message_of(
        "BO_ 100 M: 8 A\n"
        ' SG_ Little : 0|32@1- (1,0) [0|0] "" A\n'
        ' SG_ Big : 39|32@0- (1,0) [0|0] "" A\n\n'
        "SIG_VALTYPE_ 100 Little : 1;\nSIG_VALTYPE_ 100 Big : 1;\n"
    )
    values = np.array([1.5, -0.0, np.float32(0.1), np.inf])

    payloads = Encoder(message).encode({"Little": values, "Big": values})

    assert payloads[:, :4].copy().view("<f4")[:, 0].tolist() == values.tolist()
    assert payloads[:, 4:].copy().view(">f4")[:, 0].tolist() == values.tolist()


def test_a_multiplexed_signal_is_written_only_where_it_is_selected() -> None:
    message = message_of(
        "BO_ 100 M: 8 A\n"
        ' SG_ Which M : 0|8@1+ (1,0) [0|0] "" A\n'
        ' SG_ One m1 : 8|16@1+ (1,0) [0|0] "" A\n'
        ' SG_ Two m2 : 8|16@1+ (1,0) [0|0] "" A\n'
    )

    payloads = Encoder(message).encode({"Which": np.array([1, 2, 3]), "One": 0x1111, "Two": 0x2222})

    assert payloads[:, 1].tolist() == [0x11, 0x22, 0]


@pytest.mark.parametrize("value", [256, -1])
def test_a_value_that_does_not_fit_is_refused(value: int) -> None:
    message = message_of('BO_ 100 M: 8 A\n SG_ S : 0|8@1+ (1,0) [0|0] "" A\n')

    with pytest.raises(ValueError, match="S holds 0 to 255"):
        Encoder(message).encode({"S": np.array([0, value])})


def test_physical_values_are_rounded_and_clamped() -> None:
    signal = message_of('BO_ 100 M: 8 A\n SG_ S : 0|12@1- (0.5,-10) [-20|100] "V" A\n').signals[0]

    raw = to_raw(signal, [-1000, -20, -10, 0.2, 0.3, 100, 1000])

    assert raw.tolist() == [-20, -20, 0, 20, 21, 220, 220]


def test_the_ends_of_64_bits_are_reached_without_wrapping() -> None:
    signals = message_of(
        'BO_ 100 M: 16 A\n SG_ U : 0|64@1+ (1,0) [0|0] "" A\n SG_ I : 64|64@1- (1,0) [0|0] "" A\n'
    ).signals

    ends = {s.name: to_raw(s, [-1e30, 1e30]).tolist() for s in signals}

    assert ends == {"U": [0, 2**64 - 1], "I": [-(2**63), 2**63 - 1]}


def test_text_and_what_lies_beyond_the_message_are_refused() -> None:
    message = message_of(
        "BO_ 100 M: 16 A\n"
        ' SG_ Text : 0|72@1+ (1,0) [0|0] "" A\n'
        ' SG_ Far : 120|16@1+ (1,0) [0|0] "" A\n'
    )

    for name in ("Text", "Far"):
        with pytest.raises(ValueError, match=f"{name} has"):
            Encoder(message).encode({name: 1})


@given(layouts())
def test_bits_that_no_signal_has_are_those_that_no_signal_sets(text: str) -> None:
    message = message_of(text)
    ends = {s.name: raw_range(s) for s in message.signals}
    # All ones: -1 where signed, the highest number else.
    full = {
        name: np.array([-1]) if low < 0 else np.array([high], np.uint64)
        for name, (low, high) in ends.items()
    }

    payloads = Encoder(message).encode(full)[:, : message.length]

    assert ((payloads ^ unused_bits(message)) == 0xFF).all()
