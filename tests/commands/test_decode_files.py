"""`edge-agent decode` into pictures and measurements, read back by the libraries of others."""

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asammdf
import numpy as np
import pytest
from matplotlib import image

from agent.cli import main
from agent.settings import packaged
from tests.commands.test_status_watch import Terminal
from tests.signals.dbctext import Msg, Sig, text

BEGIN = 1_767_225_600
MOTOR = Msg("Motor", 0x100, 8, [Sig("Speed", 0, 16), Sig("Heat", 16, 8, scale="0.5", offset="-40")])
GEAR = Msg("Gear", 0x200, 1, [Sig("Lever", 0, 8), Sig("Mode", 0, 4)])
GROUP = Msg("Group", 0x18FEF100, 8, [Sig("V", 0, 8)], extended=True)
CHOICES = 'VAL_ 512 Lever 0 "Park" 1 "Drive $x^$" ;\n'


class Desk:
    """A recording of a minute and a database in a folder, and the command."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys
        self.log = folder / "drive.log"
        self.dbc = folder / "car.dbc"
        self.dbc.write_text(text([MOTOR, GEAR, GROUP]) + CHOICES, "utf-8")
        lines = []
        for n in range(600):
            at = f"({BEGIN + n / 10:.6f})"
            lines.append(f"{at} can0 100#{n:04X}{n % 250:02X}\n"[:-1])
            if n % 100 == 0:
                lines.append(f"{at} can0 200#{n // 100 % 2:02X}")
                lines.append(f"{at} can0 18FEF10B#05")
        self.log.write_text("\n".join(lines) + "\n", "utf-8")

    def run(self, *words: str | Path) -> tuple[int, str, str]:
        status = main(["decode", str(self.log), "--dbc", str(self.dbc), *map(str, words)])
        out, err = self.capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys)


def inked(picture: np.ndarray[Any, Any]) -> float:
    """The share of a picture's points that are not white."""
    return float((picture[:, :, :3].min(axis=2) < 0.9).mean())


# -- MDF 4 ---------------------------------------------------------------------------------------


def test_mf4_has_values_units_texts_and_times(desk: Desk) -> None:
    target = desk.folder / "drive.mf4"
    status, out, _ = desk.run("--mf4", target, "--j1939")
    assert status == 0
    assert out.rstrip().endswith(f"-> {target}")
    with asammdf.MDF(target) as mdf:
        assert mdf.start_time == datetime.fromtimestamp(BEGIN, UTC)
        heat = mdf.get("Motor.Heat")
        assert heat.samples.tolist() == [n % 250 * 0.5 - 40 for n in range(600)]
        assert np.allclose(heat.timestamps, np.arange(600) / 10, atol=1e-6, rtol=0)
        assert mdf.get("Motor.Heat", raw=True).samples.tolist() == [n % 250 for n in range(600)]
        lever = mdf.get("Gear.Lever")
        assert lever.samples.tolist() == [b"Park", b"Drive $x^$"] * 3
        assert lever.timestamps.tolist() == [0, 10, 20, 30, 40, 50]
        assert mdf.get("Group.V@0x0b").samples.tolist() == [5] * 6
        groups: list[Any] = list(mdf.groups)
        names = {group.channel_group.acq_name for group in groups}
    assert names == {"Motor", "Gear", "Group@0x0b"}


def test_mf4_of_many_stretches_is_as_long_as_the_recording(desk: Desk) -> None:
    log, target = desk.folder / "ev.log", desk.folder / "ev.mf4"
    main(["simulate", "--log", str(log), "--seconds", "30", "--seed", "7"])
    dbc = packaged("dbc/ev.dbc")
    desk.capsys.readouterr()
    assert main(["decode", str(log), "--dbc", str(dbc), "--mf4", str(target)]) == 0
    with asammdf.MDF(target) as mdf:
        speed = mdf.get("VehicleMotion.VehicleSpeed")
        assert speed.unit == "km/h"
        assert len(speed.samples) == 3000
        assert np.all(np.diff(speed.timestamps) > 0)
        gear = mdf.get("DriverInputs.GearSelector")
        assert set(gear.samples.tolist()) <= {b"Park", b"Reverse", b"Neutral", b"Drive"}


def test_a_value_without_a_text_leaves_a_number(desk: Desk) -> None:
    desk.log.write_text("(5.0) can0 200#00\n(6.0) can0 200#07\n", "utf-8")
    target = desk.folder / "drive.mf4"
    assert desk.run("--mf4", target)[0] == 0
    with asammdf.MDF(target) as mdf:
        values = mdf.get("Gear.Lever").samples
        assert mdf.get("Gear.Lever").timestamps.tolist() == [0, 1]
        assert np.isnan(values[0])
        assert values[1] == 7


# -- pictures ------------------------------------------------------------------------------------


def test_a_picture_has_a_panel_for_each_signal(desk: Desk) -> None:
    pictures = []
    for signals in (["Motor.Speed"], ["Motor.*", "Gear.Lever"]):
        target = desk.folder / f"{len(signals)}.png"
        status, out, _ = desk.run("--plot", *signals, "-o", target)
        assert status == 0
        assert out.rstrip().endswith(f"-> {target}")
        pictures.append(image.imread(target))
    one, three = pictures
    assert one.shape[1] == three.shape[1] == 1440
    assert three.shape[0] - one.shape[0] == 2 * 216
    for picture in pictures:
        assert 0.005 < inked(picture) < 0.5
    # Each third has ink, and none is as another.
    thirds = [three[at : at + 250] for at in (50, 270, 490)]
    assert all(inked(third) > 0.005 for third in thirds)
    assert not np.array_equal(thirds[0], thirds[1])


def test_sources_and_odd_names_are_drawn_too(desk: Desk) -> None:
    plain = text([GROUP])
    odd = plain.replace(' "" ', ' "$%_{°🚗" ')
    assert odd != plain
    desk.dbc.write_text(odd, "utf-8")
    desk.log.write_text("(5.0) can0 18FEF10B#05\n(6.0) can1 18FEF10C#07\n", "utf-8")
    target = desk.folder / "odd.png"
    status, _, err = desk.run("--plot", "V", "-o", target, "--j1939")
    assert (status, err) == (0, "")
    assert inked(image.imread(target)) > 0.005


def test_nothing_to_draw_is_said_and_leaves_no_file(desk: Desk) -> None:
    desk.log.write_text("(5.0) can0 100#E803500000000000\n", "utf-8")
    target = desk.folder / "none.png"
    status, out, err = desk.run("--plot", "Gear.Lever", "-o", target)
    assert (status, out) == (1, "")
    assert f"nothing is drawn: {desk.log} has no sample of Gear.Lever" in err
    assert not target.exists()


def test_the_desk_says_what_cannot_be_drawn(desk: Desk) -> None:
    many = [Msg(f"M{n}", n + 1, 8, [Sig("A", 0, 8)]) for n in range(30)]
    desk.dbc.write_text(text(many), "utf-8")
    desk.log.write_text("".join(f"({n}.0) can0 {n + 1:03X}#01\n" for n in range(30)), "utf-8")
    status, _, err = desk.run("--plot", "M*.A", "-o", desk.folder / "x.png")
    assert status == 2
    assert "names more than 24 signals" in err


@pytest.mark.parametrize(
    ("words", "module", "said"),
    [
        (("--plot", "Speed"), "matplotlib", "vehicle-edge-agent[plot]"),
        (("--mf4", "x.mf4"), "asammdf", "vehicle-edge-agent[mdf]"),
    ],
)
def test_an_extra_that_is_missing_is_named(
    desk: Desk, words: tuple[str, ...], module: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == module]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(desk.folder)
    status, _, err = desk.run(*words)
    assert status == 2
    assert said in err
    assert not list(desk.folder.glob("*.part"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-o", "x.png"), "-o names the picture of --plot"),
        (("--plot", "Speed", "--signals", "Heat"), "leave out --signals"),
        (("--live", "can0"), "name a recording, or a bus with --live"),
        (("--seconds", "3"), "--seconds is of --live"),
    ],
)
def test_what_does_not_go_together_is_said(desk: Desk, words: tuple[str, ...], said: str) -> None:
    status, _, err = desk.run(*words)
    assert status == 2
    assert said in err


# -- progress ------------------------------------------------------------------------------------


def test_a_terminal_sees_how_far_it_is(desk: Desk) -> None:
    desk.log.write_text("(5.000000) can0 100#E803500000000000\n" * 40_000, "utf-8")
    terminal = Terminal("decode", str(desk.log), "--dbc", str(desk.dbc))
    try:
        shown = terminal.until(lambda shown: "40,000 decoded" in shown)
    finally:
        terminal.close()
    assert re.search(r"\r\S*drive\.log: \d+ %, 16,384 frames, [\d,]+ frames/s, \d+ s left", shown)
    # The line is gone before the answer comes.
    assert shown.rpartition(" s left")[2].startswith("\x1b[K\r\x1b[K")
