"""The bench with real processes: parts start, faults have their effect and go, all arrives."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.batch import BatchReader
from agent.bench.play import CandumpSink
from agent.bench.vehicle import VirtualVehicle
from agent.bench.world import BenchError, Options, World
from agent.cli import main
from agent.clock import SECOND, BootNs
from agent.errors import AgentError, ConfigError
from agent.ledger import differences
from agent.settings import packaged
from tests.processes import LIMIT_S

Status = Mapping[str, Any]


class Bench:
    """A world, and how to wait for what is seen of it."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def press(self, name: str, **parameters: Any) -> None:
        state = await self.world.press(name, True, parameters)
        assert state["active"]

    async def off(self, *names: str) -> None:
        for name in names:
            assert not (await self.world.press(name, False, {}))["active"]

    async def shows(self, condition: Callable[[Status], Any], what: str) -> None:
        """Wait until the agent's status is so."""

        async def so() -> bool:
            status = await self.world.status()
            return status is not None and bool(condition(status))

        await self.until(so, what)

    async def sends(self, why: str) -> None:
        """Wait until one more batch is sent."""
        sent = uplink(await self.world.status() or {})["sent_batches"]
        await self.shows(lambda s: uplink(s)["sent_batches"] > sent, why)

    async def until(self, condition: Callable[[], Awaitable[Any]], what: str) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + LIMIT_S
        while not await condition():
            self.world.agent.check()
            assert loop.time() < end, f"waited in vain: {what}; {await self.world.status()}"
            await asyncio.sleep(0.05)


def bench(options: Options, test: Callable[[Bench], Coroutine[Any, Any, None]]) -> list[str]:
    """Run a test on a bench; gives what was told."""
    told: list[str] = []

    async def run() -> None:
        async with World.open(options, told.append) as world:
            await test(Bench(world))

    asyncio.run(run())
    return told


def uplink(status: Status) -> Any:
    return status["uplinks"][0]


def frames_of(status: Status) -> Any:
    return status["ledger"]["bus"]["powertrain"]


def counts(status: Status) -> Any:
    return status["ledger"]["uplink"]["cloud"]


def test_link_cloud_disk_bus_and_power_fail_and_everything_arrives(tmp_path: Path) -> None:
    async def test(on: Bench) -> None:
        world = on.world
        await on.shows(lambda s: counts(s)["acknowledged"] > 0, "a first batch")

        # Each time until something was sent again: else the agent waits twice as long each time.
        await on.press("link-down")
        await on.shows(lambda s: uplink(s)["answers"].get("network"), "an agent without a link")
        await on.off("link-down")
        await on.press("disk-full")
        await on.shows(lambda s: s["spool"]["trouble"], "an agent without a disk")
        await on.off("disk-full")
        await on.shows(lambda s: not s["spool"]["trouble"], "a disk that is written again")
        await on.sends("the link is back")
        await on.press("lost-ack")
        await on.shows(lambda s: uplink(s)["answers"].get("412"), "a batch that was there already")
        await on.off("lost-ack")
        await on.press("link-slow", kbit_s=2000, latency_ms=5)
        await on.press("link-lossy", percent=1)
        await on.sends("a bad link is a link")
        await on.press("cloud-status", code=503)
        await on.shows(lambda s: uplink(s)["answers"].get("503"), "a cloud that is busy")
        await on.off("cloud-status")

        await on.press("bus-off")
        await on.shows(lambda s: s["buses"][0]["state"].startswith("waiting"), "no adapter")
        await on.off("bus-off")
        await on.shows(lambda s: s["buses"][0]["state"] == "reading", "the adapter again")

        before = world.agent.pid
        await on.press("power-cut", off_s=3600)
        state = world.state()
        assert (state["agent"]["state"], state["agent"]["status"]) == ("killed", None)
        await on.off("power-cut")
        assert world.agent.pid not in (before, None)
        await on.shows(lambda s: counts(s)["kept"] > 0, "samples of the next process")

        verdict = await world.finish()

        assert verdict.wrong == ()
        assert verdict.runs >= 2
        assert verdict.kept == verdict.arrived > 0
        assert verdict.samples > verdict.arrived
        assert not any(fault["active"] for fault in world.state()["faults"])
        assert json.loads(json.dumps(verdict.as_json()))["good"]

    bench(Options(folder=tmp_path, bus="slcan", seal_after_s=0.5), test)


def test_frames_the_clock_and_updates_are_disturbed_and_everything_arrives(tmp_path: Path) -> None:
    def health(status: Status, what: str, count: str) -> int:
        found = status["health"].get("powertrain")
        return int(found[what][count]) if found else 0

    async def test(on: Bench) -> None:
        world = on.world
        # What was never there cannot become silent, nor can stand still what never moved.
        await on.shows(lambda s: frames_of(s)["decoded"] > 2000, "frames of each message")

        await on.press("hostile-update", kind="tampered")
        await on.press("ecu-silent", message="VehicleMotion")
        await on.press("stuck-counter")
        await on.shows(lambda s: "SHA-256" in s["ota"]["trouble"], "an archive that is refused")
        await on.shows(lambda s: health(s, "stuck_counters", "messages"), "a counter that stands")
        await on.shows(lambda s: health(s, "silent", "messages"), "a silent message")
        await on.press("bit-flips", per_million=1000)
        await on.shows(lambda s: health(s, "out_of_range", "samples"), "values that cannot be")
        await on.off("bit-flips", "stuck-counter", "ecu-silent")

        await on.press("hostile-update", kind="harmful")
        await on.shows(lambda s: s["ota"]["rejected"], "a bundle that is rejected")
        assert (await world.status() or {})["ota"]["running"] == "factory"
        await on.off("hostile-update")
        await on.press("update")
        await on.shows(lambda s: s["ota"]["running"].startswith("bench"), "a bundle that runs")
        await on.shows(lambda s: s["ota"]["trial"] is None, "a bundle that did well")

        await on.press("overload", factor=5)
        frames, seconds = world.frames, world.seconds

        async def overloaded() -> bool:
            return world.frames - frames > 2000 * (world.seconds - seconds) > 2000

        await on.until(overloaded, "more frames than the vehicle has")
        await on.off("overload")

        await on.press("clock-jump", seconds=864_000)
        await on.until(lambda: asyncio.to_thread(jumped, tmp_path / "cloud"), "a clock that jumped")
        await on.off("clock-jump")

        verdict = await world.finish()

        assert verdict.wrong == ()
        told = [(update["what"], update["bundle"]) for update in reversed(verdict.updates)]
        assert ("refused", "bench 2") in told
        assert ("committed", "bench 3") in told

    bench(Options(folder=tmp_path, bus="memory", seal_after_s=0.5, trial_s=1), test)


def jumped(folder: Path) -> bool:
    """Whether any batch says that the wall clock was set ahead by some days."""
    anchors: list[Any] = []
    for path in folder.rglob("*.batch"):
        anchors += BatchReader(path).header.get("anchors", [])
        for kind, value in BatchReader(path).records():
            anchors += [value] if kind == "anchor" else []
    offsets = [each["wall"] - each["boot"] for each in anchors]
    return bool(offsets) and max(offsets) - min(offsets) > 800_000 * SECOND


def test_a_vehicle_made_of_a_database_file_keeps_everything(tmp_path: Path) -> None:
    async def test(on: Bench) -> None:
        await on.world.driven()
        verdict = await on.world.finish()

        assert verdict.wrong == ()
        row = verdict.ledger["campaign"]["everything"]
        assert row["kept"] == row["offered"] > 0
        assert on.world.state()["vehicle"] == "bench-dbc"

    dbc = packaged("dbc/truck.dbc")
    options = Options(dbc=(dbc,), folder=tmp_path, seconds=1, bus="slcan", seal_after_s=0.5)
    told = bench(options, test)

    assert [line.split()[0] for line in told[:6]] == [
        *("folder", "cloud", "bus", "agent", "plan", "vehicle")
    ]
    plan = (tmp_path / "plan-dbc.toml").read_text()
    assert 'files = ["dbc/truck.dbc"]' in plan
    (tmp_path / "plan-dbc.toml").write_text(plan.replace("everything", "all-of-it"))

    async def again(on: Bench) -> None:
        assert "all-of-it" in (await on.world.status() or {})["ledger"]["campaign"]
        assert (await on.world.finish()).good

    bench(options, again)  # what was edited stays, and so does the spool


def test_a_recording_drives_it_and_each_frame_is_read(tmp_path: Path) -> None:
    log = tmp_path / "drive.log"
    sink = CandumpSink(str(log), "can0")
    frames = VirtualVehicle(1, BootNs(SECOND)).frames(30)
    sink.send(frames)
    sink.close()

    async def test(on: Bench) -> None:
        await on.world.driven()
        verdict = await on.world.finish()

        assert verdict.wrong == ()
        (bus,) = verdict.ledger["bus"].values()
        assert verdict.frames == bus["decoded"] == len(frames)
        assert differences(dict(verdict.ledger)) == []

    dbc = (packaged("dbc/ev.dbc"),)
    bench(Options(log=log, dbc=dbc, speed=20, bus="memory", seal_after_s=0.5), test)


def test_an_agent_that_does_not_start_is_said_with_its_words(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(
        'version = 1\nname = "x"\n[[database]]\nbus = "*"\n'
        f'files = ["{packaged("dbc/ev.dbc")}"]\n'
        '[[campaign]]\nname = "all"\nsignals = ["Nothing"]\n'
    )

    async def test(_: Bench) -> None:
        raise AssertionError

    with pytest.raises(AgentError) as caught:
        bench(Options(plan=plan, folder=tmp_path / "bench", bus="memory"), test)

    assert "Nothing" in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_an_agent_that_ends_by_itself_is_noticed(tmp_path: Path) -> None:
    async def test(on: Bench) -> None:
        assert on.world.agent.pid is not None
        os.kill(on.world.agent.pid, signal.SIGKILL)

        with pytest.raises(BenchError, match=r"the agent ended by itself \(-9\)"):
            await on.world.driven()

        verdict = await on.world.finish()
        assert "ended by itself" in verdict.wrong[0]
        assert not verdict.good

    bench(Options(folder=tmp_path, bus="memory"), test)


def test_two_benches_cannot_share_a_folder(tmp_path: Path) -> None:
    options = Options(folder=tmp_path, bus="memory", seal_after_s=0.5)

    async def test(on: Bench) -> None:
        with pytest.raises(ConfigError, match="another bench runs in this folder"):
            async with World.open(options):
                pass
        await on.shows(lambda s: counts(s)["kept"] > 0, "samples, in spite of that")

    bench(options, test)


def test_a_parameter_that_cannot_be_changes_nothing(tmp_path: Path) -> None:
    async def test(on: Bench) -> None:
        for name, parameters in (
            ("nonsense", {}),
            ("link-slow", {"kbit_s": 0}),
            ("ecu-silent", {"message": "NoSuchMessage"}),
            ("ecu-silent", {"node": "NoSuchNode"}),
            ("stuck-counter", {"signal": "No.Such"}),
        ):
            with pytest.raises(ConfigError):
                await on.world.press(name, True, parameters)
        assert not any(fault["active"] for fault in on.world.state()["faults"])
        assert (await on.world.finish()).good

    bench(Options(folder=tmp_path, bus="memory", seal_after_s=0.5), test)


class TestCommand:
    @staticmethod
    async def _start(*options: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "agent.cli", "bench", "--listen", "127.0.0.1:0", *options),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    def test_ctrl_c_ends_it_in_order_and_the_verdict_is_json(self, tmp_path: Path) -> None:
        async def run() -> None:
            process = await self._start(
                *("--json", "--bus", "memory", "--folder", str(tmp_path)),
                *("--fault", "link-slow:kbit_s=4000"),
            )
            assert process.stderr is not None
            while b"page" not in (line := await process.stderr.readline()):
                assert line, "it ended"
            process.send_signal(signal.SIGINT)
            out, errors = await asyncio.wait_for(process.communicate(), LIMIT_S)

            assert process.returncode == 0, errors.decode()
            verdict = json.loads(out)
            assert verdict["good"]
            assert verdict["wrong"] == []
            assert b"Traceback" not in errors

        asyncio.run(run())

    def test_it_ends_by_itself_and_says_that_everything_arrived(self, tmp_path: Path) -> None:
        async def run() -> None:
            process = await self._start("--seconds", "1", "--bus", "slcan")
            out, errors = await asyncio.wait_for(process.communicate(), LIMIT_S)

            assert process.returncode == 0, errors.decode()
            assert errors == b""
            text = out.decode()
            assert text.endswith("everything that was kept is at the cloud.\n")
            folder = next(w for w in text.split() if w.startswith("/"))
            assert not await asyncio.to_thread(os.path.exists, folder)

        asyncio.run(run())

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--vehicle", "ev", "--dbc", "x.dbc"], "name one of them"),
            (["--log", "x.log"], "name what describes the recording: --dbc FILE, or --plan PLAN"),
            (["--log", "x.log", "--dbc", "DBC"], "x.log"),
            (["--dbc", "nothing.dbc"], "nothing.dbc: there is no such file"),
            (["--loop"], "--loop is of a recording"),
            (["--speed", "0"], "--speed must be above 0"),
            (["--speed", "-1"], "--speed must be above 0"),
            (["--seconds", "0"], "--seconds must be above 0"),
            (["--listen", "8080"], "write HOST:PORT"),
            (["--fault", "nonsense"], "there are: link-down"),
            (["--fault", "link-slow:kbit_s=x"], "kbit_s = x is no number"),
            (["--plan", "nothing.toml"], "nothing.toml"),
            (["--folder", "/proc/nothing"], "/proc/nothing: cannot be used"),
            (["--bus", "can0"], "--bus can0: is none of auto, vcan"),
            (["--bus", "vcan654321"], "ip link add vcan654321 type vcan"),
            (["--scenario", "demo", "--fault", "link-down"], "a scenario has its own steps"),
        ],
    )
    def test_misuse_is_said_in_a_sentence(
        self, options: Iterable[str], says: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        dbc = str(packaged("dbc/ev.dbc"))
        words = [dbc if each == "DBC" else each for each in options]

        status = main(["bench", "--listen", "127.0.0.1:0", *words])

        assert status in (1, 2)
        assert says in capsys.readouterr().err
