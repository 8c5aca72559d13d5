"""The demo's command line, and the order of things."""

import argparse
import asyncio
import contextlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agent.bench import demo
from agent.bench.demo import telling
from agent.bench.demo.arrived import Arrived
from agent.bench.demo.processes import start_cloud
from agent.bench.demo.recording import Recording, compare, decode_directly, write_config
from agent.bench.demo.runs import Prepared, Run, drive_live, drive_recorded
from agent.bench.link import Link
from agent.errors import AgentError, ConfigError
from agent.settings import packaged

_PLAYED_S: Final = 10.0
"""How long truck and charging car take; a whole haul, a whole session."""
_CAR: Final = ("strong-start",)
_TRUCK: Final = ("hot-engine", "trouble-code", "long-descent", "trip")
_CHARGING: Final = ("weak-cell", "charging-stops", "charging", "trip")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="demo", description=str(demo.__doc__).splitlines()[0])
    parser.add_argument("--log", type=Path, help="a recording, in place of the virtual vehicles")
    parser.add_argument("--dbc", type=Path, action="append", help="its database files")
    parser.add_argument("--channel", default="", help="only this channel of the recording")
    parser.add_argument("--j1939", action="store_true", help="match 29-bit ids by PGN")
    parser.add_argument("--seconds", type=float, default=33.0, help="how long the car drives")
    parser.add_argument(
        "--folder", type=Path, default=Path(".demo"), help="for everything it makes"
    )
    args = parser.parse_args(arguments)
    try:
        if bool(args.log) != bool(args.dbc):
            raise ConfigError("name a recording and its database files: LOG=drive.blf DBC=car.dbc")
        folder = args.folder.absolute()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if args.log:
            recording = Recording(args.log, args.dbc, args.channel, args.j1939)
            wrong = asyncio.run(_own_recording(recording, folder, args.seconds))
        else:
            for name in ("car", "truck", "charging"):
                (folder / name).mkdir()
            wrong = asyncio.run(_three_vehicles(folder, args.seconds))
    except AgentError as e:
        sys.stderr.write(f"demo: {e}\n")
        return 2 if isinstance(e, ConfigError) else 1
    except KeyboardInterrupt:
        return 130
    telling.say()
    telling.say("Not everything is as it should be." if wrong else "All is as it should be.")
    return 1 if wrong else 0


async def _own_recording(recording: Recording, folder: Path, seconds: float) -> list[str]:
    expected = decode_directly(recording)
    telling.say(f"Everything that this makes lies in {folder}")
    speed = max(1.0, expected.seconds / seconds)
    config = write_config(recording, folder, speed)
    telling.note(f"played at {speed:.1f} times its own speed")
    async with contextlib.AsyncExitStack() as stack:
        port = await start_cloud(stack, folder)
        link = await stack.enter_async_context(Link("127.0.0.1", port))
        run = Run(folder, config, link, folder / "cloud")
        await run.start(stack)
        await run.watch(seconds, step_s=1, cut=True)
        arrived, wrong = run.verdict(await run.end(), whole_ledger=True)
    wrong += (differing := compare(arrived.files, expected))
    for sentence in differing:
        telling.note(f"WRONG: {sentence}")
    telling.note("Each signal was compared with the recording decoded directly.")
    if not wrong:
        _look_into(arrived)
    return wrong


async def _three_vehicles(folder: Path, seconds: float) -> list[str]:
    telling.say(f"Everything that this makes lies in {folder}")
    async with contextlib.AsyncExitStack() as stack:
        port = await start_cloud(stack, folder)
        link = await stack.enter_async_context(Link("127.0.0.1", port))
        cloud = folder / "cloud"
        # Written while the car drives.
        truck = await Prepared.begin(stack, folder / "truck", "truck", 240)
        charging = await Prepared.begin(stack, folder / "charging", "charging", 300)

        telling.title(1, "A car, live on a serial adapter; the link is cut in between")
        car = Run(folder / "car", packaged("config/bench.toml"), link, cloud, _CAR)
        arrived, wrong = await drive_live(stack, car, seconds)
        telling.title(2, "A truck with SAE J1939: the engine becomes too hot on a hill")
        wrong += await drive_recorded(stack, truck, link, cloud, seconds=_PLAYED_S, expected=_TRUCK)
        telling.title(3, "A car that charges; one of its cells is weak")
        wrong += await drive_recorded(
            stack, charging, link, cloud, seconds=_PLAYED_S, expected=_CHARGING
        )
    if not wrong:
        _look_into(arrived)
    return wrong


def _look_into(arrived: Arrived) -> None:
    telling.say()
    telling.say(f"Look into them: {Path(sys.executable).parent}/edge-agent batch show")
    telling.say(f"  {arrived.files[0]}")


if __name__ == "__main__":
    sys.exit(main())
