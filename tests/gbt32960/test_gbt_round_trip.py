"""What is encoded reads the same again, in the codec and in a decoder that was written apart."""

from fractions import Fraction
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.gbt32960.envelope import Frame, parse
from agent.gbt32960.layout import Code, Item, Number
from tests.gbt32960 import generate, second
from tests.gbt32960.examples import CODECS, COMMANDS, ITEMS, numbers_of, raw_of, values_of
from tests.gbt32960.second_scales import physical
from tests.gbt32960.translate import RENAMED, data_of

VIN = "LTEST000000000001"
NUMBERS = [
    (edition, name, number)
    for edition, codec in CODECS.items()
    for name, number in numbers_of(codec)
]


def check(edition: str, command: int, values: dict[str, Any], ack: int = 0xFE) -> None:
    codec = CODECS[edition]
    body = codec.encode(command, values, ack)
    frame = parse(Frame(codec, command, ack, VIN, body).to_bytes())
    assert frame.decode() == values
    assert codec.encode(command, values, ack, checked=False) == body
    codec.physical(command, values, ack)
    # The echo of an answer is any bytes here, and the second decoder reads what they say.
    if not values.get("echo"):
        assert second.decode(frame.to_bytes())["data"] == data_of(frame)


@pytest.mark.parametrize(("edition", "kind"), ITEMS)
@settings(max_examples=15)
@given(data=st.data())
def test_each_information_type(edition: str, kind: int, data: st.DataObject) -> None:
    fields = CODECS[edition].layout.items[kind].fields
    item = Item(kind, data.draw(values_of(fields)))
    check(edition, 0x02, {"time": 1_783_378_515_000_000_000, "items": [item]})


@pytest.mark.parametrize(("edition", "command", "ack"), COMMANDS)
@settings(max_examples=10)
@given(data=st.data())
def test_each_command_and_answer(edition: str, command: int, ack: int, data: st.DataObject) -> None:
    values = data.draw(values_of(CODECS[edition].fields(command, ack)))
    check(edition, command, values, ack)


@pytest.mark.parametrize("answer", [False, True])
@pytest.mark.parametrize(
    ("edition", "command"),
    [(edition, command) for edition, all_ in generate.COMMANDS.items() for command in all_],
)
def test_frames_that_were_written_apart(edition: int, command: int, answer: bool) -> None:
    for seed in range(12):
        raw = generate.random_frame(Random(seed), edition, command, answer=answer)
        frame = parse(raw)
        assert frame.to_bytes() == raw
        values = frame.decode()
        again = frame.codec.encode(frame.command, values, frame.ack)
        assert again == frame.body
        said = second.decode(raw)
        assert said["data"] == data_of(frame)
        assert (said["vin"], said["ack"], said["edition"]) == (frame.vin, frame.ack, edition)


def check_raw(edition: str, name: str, number: Number, raw: int) -> None:
    """A raw value becomes itself through its unit, which the second decoder has, too."""
    value = number.physical(raw)
    if isinstance(value, Code):
        assert raw == {Code.ABNORMAL: number.abnormal, Code.INVALID: number.invalid}[value]
        return
    assert number.raw(value) == raw
    if not number.labels:
        assert abs(Fraction(value) - physical(int(edition), field_of(edition, name), raw)) < 1e-9


@pytest.mark.parametrize(("edition", "name", "number"), NUMBERS)
def test_ends_labels_and_codes(edition: str, name: str, number: Number) -> None:
    special = {number.abnormal, number.invalid, *number.labels, *(number.range or ())} - {None}
    for raw in special:
        assert raw is not None
        if not number.parts:
            check_raw(edition, name, number, raw)
            assert number.allowed(raw)
    if number.range and not number.parts:
        outside = {number.range[0] - 1, number.range[1] + 1} - special
        assert [raw for raw in outside if 0 <= raw <= number.full and number.allowed(raw)] == []


@settings(max_examples=300)
@given(chosen=st.sampled_from(NUMBERS), data=st.data())
def test_any_raw_value(chosen: tuple[str, str, Number], data: st.DataObject) -> None:
    check_raw(*chosen, data.draw(raw_of(chosen[2])))


@settings(max_examples=300)
@given(
    number=st.sampled_from([row[2] for row in NUMBERS if row[2].range and not row[2].parts]),
    share=st.floats(0, 1),
)
def test_a_value_in_its_unit_is_kept_within_half_a_step(number: Number, share: float) -> None:
    assert number.range is not None
    low, high = (raw / number.steps + number.offset for raw in number.range)
    value = low + (high - low) * share
    kept = number.physical(number.raw(value))
    assert not isinstance(kept, Code)
    assert abs(kept - value) <= 0.5 / number.steps * (1 + 1e-6) + 1e-9


def field_of(edition: str, name: str) -> str:
    """A field of the codec as the second decoder's scales name it."""
    *records, field = name.split(".")
    record = {
        "motors.motors": "motor",
        "cell_voltages.packs": "pack_voltages",
        "temperatures.packs": "pack_temperatures",
        "stacks.stacks": "stack",
    }.get(".".join(records), records[0])
    if (edition, record) == ("2025", "fuel_cell"):
        record = "hydrogen"
    return f"{record}.{RENAMED.get(record, {}).get(field, field)}"
