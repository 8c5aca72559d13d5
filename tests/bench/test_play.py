"""`simulate` and `replay`: frames onto a bus, from the command line down."""

import argparse
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.bench.charging import ChargingVehicle
from agent.bench.pages import Vehicle
from agent.bench.play import play
from agent.bench.truck import VirtualTruck
from agent.bench.vehicle import VirtualVehicle
from agent.blocks import EXTENDED, FrameBlock
from agent.bus import read_log
from agent.bus.slcan import SlcanSource
from agent.commands import replay, simulate
from agent.errors import BusError, ConfigError


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    sub = parser.add_subparsers()
    simulate.add_parser(sub)
    replay.add_parser(sub)
    args = parser.parse_args(arguments)
    return int(args.run(args))


def until(condition: Callable[[], bool]) -> None:
    """Look until something is so; the deadline is far, and only for a test that would hang."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "this never became so"
        time.sleep(0.005)


def joined(blocks: Iterable[FrameBlock], field: str) -> bytes:
    return b"".join(getattr(block, field).tobytes() for block in blocks)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[list[FrameBlock]]:
    """What a source on the serial path has read."""
    source = SlcanSource("powertrain", tmp_path / "tty", block_ms=20, retry_s=0.02)
    blocks: list[FrameBlock] = []
    stop = threading.Event()
    thread = threading.Thread(target=source.run, args=(blocks.append, stop), daemon=True)
    thread.start()
    yield blocks
    stop.set()
    thread.join()


class Memory:
    """A sink that keeps what it gets."""

    name = "memory"

    def __init__(self) -> None:
        self.blocks: list[FrameBlock] = []

    def ready(self) -> bool:
        return True

    def send(self, block: FrameBlock) -> int:
        self.blocks.append(block)
        return len(block)

    def close(self) -> None:
        pass


def at(*times_ms: int) -> FrameBlock:
    n = len(times_ms)
    return FrameBlock.from_arrays(
        bus="a",
        time=np.array(times_ms) * 1_000_000,
        id=np.arange(n),
        length=np.zeros(n),
        data=np.zeros((n, 8)),
    )


class TestPlay:
    def test_frames_are_not_sent_before_their_time(self) -> None:
        sink = Memory()
        began = time.monotonic()

        played = play([at(5_000, 5_100, 5_200)], [sink], threading.Event(), speed=2)

        assert time.monotonic() - began >= 0.1
        assert len(sink.blocks) == 3
        assert played.as_json()["sent"] == {"memory": 3}

    def test_times_that_go_back_hold_nothing_up(self) -> None:
        sink = Memory()

        played = play([at(0, 60, 10), at(5)], [sink], threading.Event())

        assert played.frames == 4

    def test_a_stop_ends_it_in_between(self) -> None:
        stop, sink = threading.Event(), Memory()

        def blocks() -> Iterator[FrameBlock]:
            yield at(0)
            stop.set()
            yield at(1)

        assert play(blocks(), [sink], stop, speed=0).frames == 1


class TestSimulate:
    def test_a_log_holds_the_frames_of_the_vehicle_and_reads_back(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        log = tmp_path / "drive.log"

        assert run("simulate", "--log", str(log), "--seconds", "2.5", "--seed", "4", "--json") == 0

        wanted = VirtualVehicle(4).frames(2.5)
        blocks = list(read_log(log))
        assert joined(blocks, "id") == wanted.id.tobytes()
        assert joined(blocks, "data") == wanted.data.tobytes()
        assert blocks[0].bus == "powertrain"
        result = json.loads(capsys.readouterr().out)
        assert result["frames"] == result["sent"][str(log)] == len(wanted)

    @pytest.mark.parametrize(
        ("name", "vehicle"),
        [("car", VirtualVehicle), ("truck", VirtualTruck), ("charging", ChargingVehicle)],
    )
    def test_there_are_three_vehicles(
        self, tmp_path: Path, name: str, vehicle: Callable[[int], Vehicle]
    ) -> None:
        log = tmp_path / "drive.log"

        arguments = ("--log", str(log), "--seconds", "6", "--seed", "2")
        assert run("simulate", "--vehicle", name, *arguments) == 0

        wanted = vehicle(2).frames(6)
        blocks = list(read_log(log))
        assert joined(blocks, "id") == wanted.id.tobytes()
        assert joined(blocks, "data") == wanted.data.tobytes()
        assert {block.bus for block in blocks} == {wanted.bus}

    def test_flat_out_every_frame_reaches_a_reader_of_the_serial_path(
        self, tmp_path: Path, reader: list[FrameBlock]
    ) -> None:
        path = str(tmp_path / "tty")

        assert run("simulate", "--slcan", path, "--seconds", "3", "--speed", "0") == 0

        wanted = VirtualVehicle(1).frames(3)
        until(lambda: sum(map(len, reader)) == len(wanted))
        assert joined(reader, "data") == wanted.data.tobytes()

    def test_a_signal_ends_it_cleanly(
        self, tmp_path: Path, reader: list[FrameBlock], capsys: pytest.CaptureFixture[str]
    ) -> None:
        def end() -> None:
            until(lambda: bool(reader))
            os.kill(os.getpid(), signal.SIGTERM)

        before = signal.getsignal(signal.SIGTERM)
        ender = threading.Thread(target=end)
        ender.start()
        assert run("simulate", "--slcan", str(tmp_path / "tty")) == 0
        ender.join()

        assert capsys.readouterr().out.startswith("sent ")
        assert not (tmp_path / "tty").is_symlink()
        assert signal.getsignal(signal.SIGTERM) is before

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ([], "say where"),
            (["--log", "x"], "how much"),
            (["--log", "x", "--seconds", "0"], "above 0"),
            (["--slcan", "x", "--speed", "-1"], "negative"),
        ],
    )
    def test_options_that_make_no_sense_are_refused(self, arguments: list[str], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            run("simulate", *arguments)

    def test_an_interface_that_is_missing_is_a_sentence(self) -> None:
        with pytest.raises(BusError, match="no-can-here"):
            run("simulate", "--vcan", "no-can-here")


class TestReplay:
    def test_a_recording_reaches_a_reader_of_the_serial_path(
        self, tmp_path: Path, reader: list[FrameBlock], capsys: pytest.CaptureFixture[str]
    ) -> None:
        log, path = tmp_path / "drive.log", str(tmp_path / "tty")
        run("simulate", "--log", str(log), "--seconds", "2")
        capsys.readouterr()

        assert run("replay", str(log), "--slcan", path, "--speed", "0", "--json") == 0

        wanted = VirtualVehicle(1).frames(2)
        until(lambda: sum(map(len, reader)) == len(wanted))
        assert joined(reader, "id") == wanted.id.tobytes()
        assert joined(reader, "data") == wanted.data.tobytes()
        assert EXTENDED & int(np.bitwise_or.reduce(wanted.id))
        assert json.loads(capsys.readouterr().out)["skipped"] == 0

    def test_of_several_channels_the_first_is_played_and_the_rest_is_said(
        self, tmp_path: Path, reader: list[FrameBlock], capsys: pytest.CaptureFixture[str]
    ) -> None:
        log = tmp_path / "two.log"
        log.write_text("(1.000000) can0 123#11\n(1.000100) can1 456#22\n(1.000200) can0 123#33\n")
        arguments = ("replay", str(log), "--slcan", str(tmp_path / "tty"))

        assert run(*arguments) == 0
        until(lambda: joined(reader, "data")[::8] == b"\x11\x33")
        assert "1 frames of other channels" in capsys.readouterr().err

        reader.clear()
        assert run(*arguments, "--channel", "can1") == 0
        until(lambda: joined(reader, "data")[::8] == b"\x22")

    def test_in_a_loop_it_begins_again(self, tmp_path: Path, reader: list[FrameBlock]) -> None:
        log = tmp_path / "short.log"
        log.write_text("(1.000000) can0 123#11\n(1.000100) can0 123#22\n")

        def end() -> None:
            until(lambda: joined(reader, "data")[::8].startswith(b"\x11\x22\x11\x22\x11"))
            os.kill(os.getpid(), signal.SIGINT)

        ender = threading.Thread(target=end)
        ender.start()
        assert run("replay", str(log), "--slcan", str(tmp_path / "tty"), "--loop") == 0
        ender.join()

    def test_a_recording_that_is_missing_is_a_sentence(self, tmp_path: Path) -> None:
        with pytest.raises(BusError, match=r"missing\.log"):
            run("replay", str(tmp_path / "missing.log"), "--vcan", "no-can-here")
