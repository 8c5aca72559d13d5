"""`edge-agent dbc check`: the report, and its exit status."""

import json
from pathlib import Path

import pytest

from agent.cli import main
from agent.settings import packaged

ODD = (
    'VERSION ""\nBS_:\nBU_: A\nBO_ 5 M: 8 A\n SG_ S : 0|8@1+ (.5,0) [0|0] "°C" A\n'
    'VAL_ 5 None 0 "x" ;\n'
)


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    path = tmp_path / "odd.dbc"
    path.write_bytes(ODD.encode("cp1252"))
    return path


def test_a_good_file_is_called_good(capsys: pytest.CaptureFixture[str]) -> None:
    path = packaged("dbc/ev.dbc")
    assert main(["dbc", "check", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(path)
    assert lines[1].endswith("signals, ascii")
    assert lines[2:] == ["  Good."]


def test_a_file_that_comes_with_the_program_is_found_by_its_name() -> None:
    assert main(["dbc", "check", "ev.dbc"]) == 0


def test_findings_are_told_with_their_lines(odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dbc", "check", str(odd)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        str(odd),
        "  1 messages, 1 signals, cp1252",
        "  file    encoding cp1252: the file is not UTF-8; read as cp1252",
        "  line 5  M.S: the number .5 has no digit before its point; read as it is meant",
        "  line 6  VAL_ 5 None: message M has no such signal; left out",
        "  3 findings.",
    ]


def test_json_has_the_same(odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dbc", "check", "--json", str(odd)]) == 1
    (file,) = json.loads(capsys.readouterr().out)
    counts = (file["encoding"], file["messages"], file["signals"], file["usable"])
    assert counts == ("cp1252", 1, 1, True)
    assert [f["line"] for f in file["findings"]] == [0, 5, 6]
    assert set(file["findings"][0]) == {"line", "item", "what", "done"}


def test_a_file_of_which_nothing_is_usable_does_not_hide_the_others(
    odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.dbc"
    empty.write_bytes(b"this is no database\n")
    assert main(["dbc", "check", str(empty), str(tmp_path / "gone.dbc"), str(odd)]) == 2
    out = capsys.readouterr().out
    assert "NOT USABLE  has no messages that can be used (line 1: " in out
    assert "NOT USABLE  cannot be read: No such file or directory" in out
    assert "3 findings." in out
