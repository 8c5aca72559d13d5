"""`edge-agent decode --live` at a virtual adapter, in a real terminal and into a pipe."""

import json
import os
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from agent.bench.adapter import VirtualAdapter
from agent.bench.vehicle import VirtualVehicle
from agent.blocks import FrameBlock
from agent.cli import main
from agent.clock import BootNs
from agent.settings import packaged
from tests.commands.test_status_watch import HEIGHT, WIDTH, Terminal, screens

LIMIT_S: Final = 60.0
STEP_S: Final = 0.1


class Bus:
    """An adapter on which the virtual car drives in real time while a program has it open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.silent = threading.Event()
        self._stop = threading.Event()
        self.adapter = VirtualAdapter(path, self._stop)
        self._thread = threading.Thread(target=self._drive)
        self._thread.start()

    def _drive(self) -> None:
        if not self.adapter.wait_opened():
            return
        vehicle = VirtualVehicle(1, BootNs(0))
        odd = FrameBlock.from_arrays(
            bus="powertrain",
            time=[0, 0],
            id=[0x7E8, 0x7E8],
            length=[1, 1],
            data=np.zeros((2, 8), np.uint8),
        )
        until = 0.0
        while not self._stop.wait(STEP_S):
            until += STEP_S
            block = vehicle.frames(until)
            if not self.silent.is_set():
                self.adapter.send(block)
                self.adapter.send(odd)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(LIMIT_S)
        self.adapter.close()


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    found = Bus(tmp_path / "adapter")
    try:
        yield found
    finally:
        found.close()


def words(bus: Bus, *more: str) -> list[str]:
    return ["decode", "--live", str(bus.path), "--dbc", str(packaged("dbc/ev.dbc")), *more]


def lines_of(bus: Bus, enough: Callable[[dict[str, Any]], Any], *more: str) -> dict[str, Any]:
    """The first line of JSON that is enough; then the command is ended."""
    command = [sys.executable, "-m", "agent.cli", *words(bus, "--json", *more)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            for text in process.stdout:
                line: dict[str, Any] = json.loads(text, parse_constant=pytest.fail)
                if enough(line):
                    return line
        finally:
            process.terminate()
    raise AssertionError("it ended before")


def test_into_a_pipe_it_is_a_line_of_json_a_second(bus: Bus) -> None:
    line = lines_of(bus, lambda line: line["signals"] and line["frames"] > 500)
    assert line["bus"] == str(bus.path)
    assert line["state"] == "reading"
    assert line["known_frames"] < line["frames"]
    assert set(line["unknown"]) == {"7E8"}
    assert line["unknown"]["7E8"] == line["frames"] - line["known_frames"]
    speed = line["signals"]["VehicleMotion.VehicleSpeed"]
    assert speed["unit"] == "km/h"
    assert speed["value"] == 0.0
    assert speed["text"] == "0.00"
    assert speed["rate"] > 10 * line["signals"]["Tyres.TyrePressureRearLeft"]["rate"]
    assert line["signals"]["DriverInputs.GearSelector"]["text"] == "Park"


def test_only_the_signals_that_are_asked_for(bus: Bus) -> None:
    line = lines_of(bus, lambda line: line["signals"], "--signals", "Motor*.*Torque*")
    assert all(name.startswith("Motor") and "Torque" in name for name in line["signals"])


def test_what_has_fallen_silent_grows_old_and_slow(bus: Bus) -> None:
    rates: list[float] = []

    def old(line: dict[str, Any]) -> bool:
        speed = line["signals"].get("VehicleMotion.VehicleSpeed")
        if speed is not None:
            bus.silent.set()
            rates.append(speed["rate"])
        return speed is not None and speed["age_s"] > 2 and speed["rate"] < max(rates) / 2

    line = lines_of(bus, old)
    assert line["state"] == "reading"


def test_for_people_it_is_a_table(bus: Bus, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(bus, "--seconds", "2", "--signals", "VehicleSpeed")) == 0
    out = capsys.readouterr().out
    head, row, unknown, *_ = out.rstrip().split("\n\n")[-1].splitlines()
    assert head.startswith("adapter: reading; ")
    assert head.endswith("of them known, 1 unknown ids")
    assert row.split()[:3] == ["VehicleMotion.VehicleSpeed", "0.00", "km/h"]
    assert unknown.startswith("id 7E8 ")
    assert "\x1b" not in out


def test_in_a_terminal_it_is_painted_scrolled_and_left(bus: Bus) -> None:
    terminal = Terminal(*words(bus))
    try:
        shown = terminal.until(lambda shown: "1 to 5 of " in shown and "/s   0." in shown)
        assert "adapter: reading; " in shown
        assert "\n…splayedCharge  " in shown
        for screen in screens(shown):
            assert len(screen) < HEIGHT
            assert max(map(len, screen)) <= WIDTH
        os.write(terminal._line, b"j\x1b[B")
        terminal.until(lambda shown: "3 to 7 of " in shown)
        os.write(terminal._line, b" ")
        terminal.until(lambda shown: "8 to 12 of " in shown)
        os.write(terminal._line, b"G")
        terminal.until(lambda shown: "id 7E8" in shown and "frames, in no database" in shown)
        os.write(terminal._line, b"\x1b[H")
        terminal.until(lambda shown: "1 to 5 of " in shown.rpartition("id 7E8")[2])
        os.write(terminal._line, b"q")
        assert terminal._process.wait(LIMIT_S) == 0
        # Whoever types next sees it again.
        assert termios.tcgetattr(terminal._line)[3] & termios.ECHO
    finally:
        terminal.close()


def test_an_interrupt_ends_it(bus: Bus) -> None:
    terminal = Terminal(*words(bus))
    terminal.until(lambda shown: "1 to 5 of " in shown)
    assert terminal.interrupt() == 130
    assert "Traceback" not in terminal.until(lambda _: True)


def test_an_adapter_that_is_missing_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["decode", "--live", str(tmp_path / "none"), "--dbc", str(packaged("dbc/ev.dbc"))]
    assert main([*given, "--seconds", "1"]) == 1
    assert "waiting: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--csv", "x.csv"], "--csv is of a recording"),
        (["--plot", "Speed"], "--plot is of a recording"),
        (["--seconds", "0"], "--seconds must be above 0"),
        (["--bitrate", "123"], "123"),
    ],
)
def test_what_a_bus_cannot_do_is_said(
    more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["decode", "--live", "/dev/none", "--dbc", str(packaged("dbc/ev.dbc"))]
    assert main([*given, *more]) == 2
    assert said in capsys.readouterr().err
