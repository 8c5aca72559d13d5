"""What a platform's session keeps over restarts."""

import logging
from pathlib import Path

import pytest

from agent.clock import SECOND
from agent.uplink.gbt32960.session_types import SerialState
from agent.uplink.gbt32960.state import MOST_BOOTS, State

NAME = "gbt32960-moon.json"


def test_a_new_one_is_empty_and_writes_nothing(tmp_path: Path) -> None:
    state = State(tmp_path, "moon")
    assert (state.serial, state.parameters, state.clock("a")) == (SerialState(), {}, None)
    assert list(tmp_path.iterdir()) == []


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    state = State(tmp_path, "moon")
    state.keep_serial(SerialState(20_641, 17))
    state.keep_parameters({0x02: 20, 0x09: 240})
    state.keep_clock("a", 1_780_000_000 * SECOND)
    again = State(tmp_path, "moon")
    assert again.serial == SerialState(20_641, 17)
    assert again.parameters == {0x02: 20, 0x09: 240}
    assert again.clock("a") == 1_780_000_000 * SECOND
    assert State(tmp_path, "sun").serial == SerialState()


def test_clocks_of_the_newest_boots_are_kept(tmp_path: Path) -> None:
    state = State(tmp_path, "moon")
    for boot in range(MOST_BOOTS + 3):
        state.keep_clock(f"boot-{boot}", boot)
    again = State(tmp_path, "moon")
    assert [again.clock(f"boot-{boot}") for boot in range(4)] == [None, None, None, 3]
    assert again.clock(f"boot-{MOST_BOOTS + 2}") == MOST_BOOTS + 2


def test_a_clock_is_written_again_only_when_it_changes(tmp_path: Path) -> None:
    state = State(tmp_path, "moon")
    state.keep_clock("a", 10 * SECOND)
    (tmp_path / NAME).unlink()
    state.keep_clock("a", 10 * SECOND + 5_000_000)
    assert not (tmp_path / NAME).exists()
    state.keep_clock("a", 12 * SECOND)
    assert State(tmp_path, "moon").clock("a") == 12 * SECOND


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"serial":{"day":1,"serial":70000}}',
        b'{"serial":{"day":-1,"serial":7}}',
        b'{"parameters":{"2":"x"}}',
        b'{"parameters":{"999":1}}',
        b'{"clocks":{"a":1.5}}',
        b'{"serial":{"day":1,"serial":7}',
        b'{"of another program":1}',
    ],
)
def test_a_damaged_file_is_set_aside_and_said(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / NAME).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        state = State(tmp_path, "moon")
    assert (state.serial, state.parameters) == (SerialState(), {})
    assert "damaged" in caplog.text
    assert (tmp_path / "gbt32960-moon.damaged").read_bytes() == content
    state.keep_serial(SerialState(1, 1))
    assert State(tmp_path, "moon").serial == SerialState(1, 1)


def test_what_cannot_be_written_is_in_force_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "folder").write_text("no folder")
    with caplog.at_level(logging.WARNING):
        state = State(tmp_path / "folder", "moon")
        state.keep_serial(SerialState(1, 1))
        state.keep_serial(SerialState(1, 2))
    assert state.serial == SerialState(1, 2)
    assert caplog.text.count("cannot be written") == 1
