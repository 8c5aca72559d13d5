"""`edge-agent bench`: vehicle, agent and cloud on this machine, in one command."""

import argparse
import contextlib
import json
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import AgentError, ConfigError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence

    from agent.bench.ground import Options
    from agent.bench.verdict import Verdict
    from agent.bench.world import World

_USUAL = ("127.0.0.1", 8080)
_STEP_S = 1.0
_STEP_OF_A_LOG_S = 10.0
"""Where nobody looks at a terminal, a line so often."""


def add_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = sub.add_parser(
        "bench",
        help="a virtual vehicle or a recording, the agent, and the cloud with its page",
        description="Start a virtual vehicle (or play a recording), the agent as it runs in a "
        "vehicle, and the reference cloud with its page, all on this machine. Ctrl-C ends it; then "
        "it says whether everything arrived (exit status 0) or not (1).",
    )
    what = parser.add_argument_group("what drives")
    what.add_argument(
        "--vehicle",
        choices=("ev", "truck", "charging"),
        help="an electric car (the default), a truck with SAE J1939, or a car in charging sessions",
    )
    what.add_argument(
        "--dbc",
        nargs="+",
        type=Path,
        action="extend",
        default=[],
        metavar="FILE",
        help="a vehicle that sends all that these files describe; with --log, what describes it",
    )
    what.add_argument("--log", type=Path, metavar="FILE", help="a recording")
    what.add_argument("--channel", default="", metavar="N", help="of the recording, this channel")
    what.add_argument("--j1939", action="store_true", help="match 29-bit ids by PGN")
    what.add_argument("--loop", action="store_true", help="begin the recording again at its end")
    what.add_argument(
        "--speed",
        type=float,
        default=1.0,
        metavar="X",
        help="times as fast as real; 0, flat out, of a recording (default: 1)",
    )
    what.add_argument(
        "--vehicles",
        type=int,
        metavar="N",
        help="a fleet in place of one vehicle: N light ones, with the real spool and uplink, "
        "against one cloud; shows the rate, and ends after 120 s or --seconds",
    )
    what.add_argument(
        "--gbt32960",
        nargs="?",
        const="any",
        choices=("2016", "2025", "any"),
        metavar="EDITION",
        help="the car reports to a GB/T 32960 platform, too, by the edition of 2016 (the default) "
        "or 2025; with --vehicles, light ones do, by both editions unless one is named",
    )
    what.add_argument("--seconds", type=float, metavar="N", help="end after so long")
    what.add_argument("--seed", type=int, default=1, metavar="N", help="which one (default: 1)")
    _add_where(parser.add_argument_group("where"))
    does = parser.add_argument_group("what happens")
    does.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME[:KEY=VALUE,...]",
        help="press this fault at the start; repeatable. Without a name that is known, says which "
        "there are",
    )
    does.add_argument(
        "--scenario",
        type=Path,
        metavar="FILE",
        help="steps and expectations; also the name of one that comes along, such as demo",
    )
    does.add_argument("--open", action="store_true", help="open the page in a browser")
    does.add_argument("--json", action="store_true", help="print the verdict as JSON")
    parser.set_defaults(run=run)


def _add_where(where: "argparse._ArgumentGroup") -> None:
    where.add_argument(
        "--plan",
        type=Path,
        metavar="PLAN",
        help="the collection plan; without one that of the vehicle, or one that keeps everything, "
        "is put into the folder",
    )
    where.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="for everything that it makes; without one, a temporary folder",
    )
    where.add_argument(
        "--listen",
        metavar="HOST:PORT",
        help="of the cloud and its page; port 0 picks a free one (default: 127.0.0.1:8080, or a "
        "free port where that is taken)",
    )
    where.add_argument(
        "--bus",
        default="auto",
        metavar="KIND",
        help="vcan (or an interface, such as vcan1), slcan, a virtual serial adapter, or memory, a "
        "server that python-can reads; auto takes the first that this computer has (the default)",
    )


def run(args: argparse.Namespace) -> int:
    """Run until the vehicle has arrived, or a signal; 0 where all is well.

    Raises:
        ConfigError: options that make no sense, alone or together.
        AgentError: a part does not start.
    """
    import asyncio

    from agent.bench.faults import parse

    if args.vehicles is not None:
        told = _Told(to=sys.stderr if args.json else sys.stdout)
        if args.gbt32960:
            from agent.commands.bench_gbt32960 import run_light

            return asyncio.run(run_light(args, _address_of(args), told))
        from agent.commands.bench_load import load_options, run_load

        load = load_options(args, _address_of(args))
        return asyncio.run(run_load(args, load, told))
    if args.scenario is not None:
        return asyncio.run(_scenario(args))
    options = _options(args)
    faults = [parse(text) for text in args.fault]
    return asyncio.run(_bench(args, options, faults))


def _options(args: argparse.Namespace) -> "Options":
    from agent.bench.ground import Options

    if args.vehicle and (args.dbc or args.log):
        raise ConfigError("--vehicle is one vehicle, --dbc or --log is another: name one of them")
    host, port = _address_of(args)
    options = Options(
        vehicle=args.vehicle or "ev",
        dbc=tuple(path.absolute() for path in args.dbc),
        log=args.log and args.log.absolute(),
        channel=args.channel,
        j1939=args.j1939,
        loop=args.loop,
        speed=args.speed,
        plan=args.plan,
        seconds=args.seconds,
        host=host,
        port=port,
        folder=args.folder,
        bus=args.bus,
        seed=args.seed,
        gbt32960=2025 if args.gbt32960 == "2025" else 2016 if args.gbt32960 else None,
    )
    options.check()
    return options


async def _scenario(args: argparse.Namespace) -> int:
    """Steps and expectations of a file; what is named beside it counts in its place."""
    import asyncio
    import signal

    from agent.bench.scenario import find_scenario, load_scenario
    from agent.bench.scenario.runner import Where, run_scenario

    if args.fault:
        raise ConfigError("--fault is for a bench without a scenario: a scenario has its own steps")
    scenario = load_scenario(find_scenario(str(args.scenario)), _given(args))
    told = _Told(to=sys.stderr if args.json else sys.stdout)
    running = asyncio.create_task(
        run_scenario(scenario, Where(args.folder, *_address_of(args)), say=told.line)
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, running.cancel)
    try:
        verdict = await running
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    if args.json:
        print(json.dumps(verdict.as_json()))
    else:
        for line in verdict.lines():
            print(line)
    return verdict.status


def _given(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Options in place of what a scenario says: table -> key -> value."""
    vehicle: dict[str, Any] = {
        "kind": "log" if args.log else "dbc" if args.dbc else args.vehicle,
        "log": args.log and str(args.log.absolute()),
        "dbc": [str(path.absolute()) for path in args.dbc],
        "channel": args.channel,
        "j1939": args.j1939,
        "loop": args.loop,
        "seconds": args.seconds,
        "speed": None if args.speed == 1 else args.speed,
        "seed": None if args.seed == 1 else args.seed,
    }
    agent = {"bus": None if args.bus == "auto" else args.bus}
    top = {"plan": args.plan and str(args.plan.absolute())}
    tables = {"vehicle": vehicle, "agent": agent, "": top}
    found = {name: {k: v for k, v in table.items() if v} for name, table in tables.items()}
    return {name: table for name, table in found.items() if table}


def _address_of(args: argparse.Namespace) -> tuple[str, int]:
    """Where to listen; where nobody said it, the usual port if it is free."""
    if args.listen:
        return address(args.listen)
    with socket.socket() as usual:
        usual.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            usual.bind(_USUAL)
        except OSError:
            return _USUAL[0], 0
    return _USUAL


def address(text: str) -> tuple[str, int]:
    """Host and port of --listen.

    Raises:
        ConfigError: it is none.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"--listen {text}: write HOST:PORT, such as 127.0.0.1:8080")
    return host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port)


async def _bench(
    args: argparse.Namespace,
    options: "Options",
    faults: "Sequence[tuple[str, Mapping[str, Any]]]",
) -> int:
    import asyncio
    import signal

    from agent.bench.world import World

    told = _Told(to=sys.stderr if args.json else sys.stdout)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    opening = asyncio.create_task(stop.wait())
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(opening.cancel)
        starting = asyncio.create_task(stack.enter_async_context(World.open(options, told.line)))
        await asyncio.wait([starting, opening], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            raise KeyboardInterrupt
        world = await starting
        for name, parameters in faults:
            await world.press(name, True, parameters)
            told.line(f"fault    {name}")
        told.line(f"page     {world.url}/  (Ctrl-C ends the bench)")
        if args.open:
            import webbrowser

            await asyncio.to_thread(webbrowser.open, world.url)
        trouble = await _watched(world, stop, told)
        told.line("the vehicle has stopped; what waits is sent, then the agent leaves")
        verdict = await _finished(world, stop)
        wrong = [trouble] if trouble and trouble not in verdict.wrong else []
    if args.json:
        told.clear()
        print(json.dumps(verdict.as_json() | {"wrong": [*wrong, *verdict.wrong]}))
    else:
        _show(verdict, wrong)
    return 1 if wrong or verdict.wrong else 0


async def _finished(world: "World", stop: "asyncio.Event") -> "Verdict":
    """The end in order; a second signal ends it at once."""
    import asyncio

    stop.clear()
    finishing = asyncio.create_task(world.finish())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([finishing, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not finishing.done():
        finishing.cancel()
        await asyncio.gather(finishing, return_exceptions=True)
        raise KeyboardInterrupt
    return await finishing


async def _watched(world: "World", stop: "asyncio.Event", told: "_Told") -> str:
    """Show how it goes until it ends; why, where that was no end in order."""
    import asyncio

    driving = asyncio.ensure_future(world.driven())
    stopping = asyncio.ensure_future(stop.wait())
    step_s = _STEP_S if told.live else _STEP_OF_A_LOG_S
    try:
        while not (driving.done() or stopping.done()):
            told.progress(_progress(world))
            await asyncio.wait(
                [driving, stopping], timeout=step_s, return_when=asyncio.FIRST_COMPLETED
            )
        told.progress(_progress(world), last=True)
    finally:
        stopping.cancel()
        if not driving.done():
            driving.cancel()
        await asyncio.gather(driving, stopping, return_exceptions=True)
    if driving.cancelled():
        return ""
    error = driving.exception()
    if error is not None and not isinstance(error, AgentError):
        raise error
    return str(error or "")


def _progress(world: "World") -> str:
    """A line about the moment."""
    state = world.state()
    status, active = state["agent"]["status"], world.switchboard.active
    parts = [f"{world.seconds:5.0f} s", f"{world.frames:,} frames"]
    if status is None:
        parts.append(f"agent {state['agent']['state']}")
    else:
        row = status["ledger"]["uplink"]["cloud"]
        (sender,) = (each for each in status["uplinks"] if each["name"] == "cloud")
        parts += [
            f"{row['kept']:,} samples kept",
            f"{row['acknowledged']:,} at the cloud",
            f"{sender['sent_batches']:,} batches",
            *_reported(world),
            "ledger closes" if not status["differences"] else "LEDGER DOES NOT CLOSE",
        ]
    if active:
        parts.append("faults: " + ", ".join(active))
    return "  ".join(parts)


def _reported(world: "World") -> list[str]:
    """How many reports the platform has, where there is one."""
    if world.platform is None:
        return []
    n = sum(vehicle.reports for vehicle in world.platform.record.vehicles.values())
    return [f"{n:,} reports at the platform"]


class _Told:
    """Lines for a person; on a terminal the last one is written again and again."""

    def __init__(self, to: Any) -> None:
        self._to = to
        self._width = 0
        self.live = bool(to.isatty())

    def line(self, text: str) -> None:
        self._write(f"{self._over()}{text}\n")

    def clear(self) -> None:
        self._write(self._over())

    def progress(self, text: str, *, last: bool = False) -> None:
        if self.live and not last:
            over = self._over()
            self._width = len(text)
            self._write(over + text)
        else:
            self.line(text)

    def _over(self) -> str:
        over = f"\r{' ' * self._width}\r" if self._width else ""
        self._width = 0
        return over

    def _write(self, text: str) -> None:
        # Whoever read the output may be gone; the bench still ends in order.
        with contextlib.suppress(BrokenPipeError):
            self._to.write(text)
            self._to.flush()


def _show(verdict: "Verdict", wrong: "Sequence[str]") -> None:
    from agent.observe.report import ledger_lines

    print()
    if verdict.ledger:
        for line in ledger_lines(verdict.ledger):
            print(line)
        print()
    print(
        f"The vehicle sent {verdict.frames:,} frames. The cloud has {verdict.batches:,} batches "
        f"with {verdict.samples:,} samples and {_many(len(verdict.events), 'event')}, of "
        f"{_many(verdict.runs, 'run')} of the agent."
    )
    if verdict.platform is not None:
        _show_platform(verdict.platform)
    for sentence in (*wrong, *verdict.wrong):
        print(f"WRONG: {sentence}")
    if not (wrong or verdict.wrong):
        print("The ledger closes, and everything that was kept is at the cloud.")


def _show_platform(found: "Mapping[str, Any]") -> None:
    print(
        f"The agent made {found['made']:,} reports of {found['edition']}, and the platform has "
        f"{found['reports']:,}: {found['live']:,} live, {found['reissued']:,} reissued, "
        f"{found['copies']:,} of them copies; {_many(len(found['gaps']), 'gap')}."
    )
    for name in found["gaps"][:10]:
        print(f"gap {name}")
    for name in found["alarms"][:10]:
        print(f"alarm {name}")


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}{'s'[: n != 1]}"
