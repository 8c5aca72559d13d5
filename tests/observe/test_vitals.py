"""What the kernel tells, from a tree like that of a board, and from this computer's."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from agent.observe.vitals import Vitals


def board(root: Path, **files: str) -> Vitals:
    """A computer whose files below / are these; `__` stands for /."""
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "utf-8")
    return Vitals(root, root)


def zone(number: int) -> str:
    return f"sys__class__thermal__thermal_zone{number}__temp"


def flash(name: str, attribute: str) -> str:
    return f"sys__block__{name}__device__{attribute}"


def told(vitals: Vitals) -> dict[str, Any]:
    return {key: value for key, value in vitals.look().items() if key != "disk"}


def test_the_hottest_zone_counts(tmp_path: Path) -> None:
    vitals = board(tmp_path, **{zone(0): "47125\n", zone(1): "61000\n", zone(2): "-5000\n"})
    assert told(vitals) == {"temperature_c": 61.0}


@pytest.mark.parametrize("nonsense", ["-274000\n", "2000000\n", "", "hot\n", "\xff", "1e3\n"])
def test_a_sensor_that_is_not_there_is_left_out(tmp_path: Path, nonsense: str) -> None:
    assert told(board(tmp_path, **{zone(0): nonsense})) == {}
    (tmp_path / "sys/class/thermal/thermal_zone1/temp").mkdir(parents=True)
    assert told(board(tmp_path, **{zone(2): "-3000\n"})) == {"temperature_c": -3.0}


def test_an_emmc_tells_how_worn_it_is(tmp_path: Path) -> None:
    vitals = board(
        tmp_path,
        **{
            flash("mmcblk0", "life_time"): "0x02 0x0b\n",
            flash("mmcblk0", "pre_eol_info"): "0x01\n",
            flash("mmcblk0boot0", "life_time"): "0x02 0x0b\n",
            flash("mmcblk1", "type"): "SD\n",
        },
    )
    assert told(vitals) == {"flash": {"mmcblk0": {"life": [2, 11], "end_of_life": 1}}}


@pytest.mark.parametrize(
    ("life", "end"),
    [
        pytest.param("0x00 0x00\n", "0x00\n", id="not defined"),
        pytest.param("0x01\n", "0x01 0x01\n", id="other numbers of words"),
        pytest.param("0xff 0x01\n", "0x04\n", id="reserved"),
        pytest.param("one two\n", "\n", id="no numbers"),
    ],
)
def test_wear_that_means_nothing_is_left_out(tmp_path: Path, life: str, end: str) -> None:
    files = {flash("mmcblk0", "life_time"): life, flash("mmcblk0", "pre_eol_info"): end}
    assert told(board(tmp_path, **files)) == {}


def test_the_free_space_is_that_of_the_state_folder(tmp_path: Path) -> None:
    disk = Vitals(tmp_path).look()["disk"]
    assert 0 <= disk["free_bytes"] <= disk["size_bytes"]
    assert disk["size_bytes"] > 0
    assert "disk" not in Vitals(tmp_path / "gone", tmp_path).look()


def test_a_process_tells_its_time_and_its_memory(tmp_path: Path) -> None:
    vitals = Vitals(tmp_path)
    before = vitals.process()
    ballast = bytearray(64 << 20)
    while vitals.process()["cpu_s"] <= before["cpu_s"]:
        math.factorial(500)
    assert vitals.process()["memory_bytes"] - before["memory_bytes"] > len(ballast) // 2
    assert vitals.process()["cpu_s"] > before["cpu_s"]


@pytest.mark.parametrize("content", ["", "12\n", "a b c\n"])
def test_memory_that_is_not_told_is_left_out(tmp_path: Path, content: str) -> None:
    assert board(tmp_path, proc__self__statm=content).process().keys() == {"cpu_s"}


def test_this_computer_is_told_as_json(tmp_path: Path) -> None:
    vitals = Vitals(tmp_path)
    assert json.loads(json.dumps(vitals.look())).keys() >= {"disk"}
