"""`edge-agent bench --vehicles N`: many light vehicles against one cloud."""

import argparse
import asyncio
import json
import signal
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from agent.bench.faults import parse
from agent.bench.load import AnyLoad, FleetVerdict, Load, LoadOptions
from agent.bench.loadverdict import Figures
from agent.errors import ConfigError

_STEP_S = 1.0
_STEP_OF_A_LOG_S = 10.0
_USUAL_S = 120.0
_LINK_DOWN = "link-down"


class Told(Protocol):
    """Lines for a person; `live` is whether the last one can be written again and again."""

    live: bool

    def line(self, text: str) -> None: ...

    def clear(self) -> None: ...

    def progress(self, text: str, *, last: bool = False) -> None: ...


Asked = TypeVar("Asked", bound=LoadOptions)


def load_options(args: argparse.Namespace, address: tuple[str, int]) -> LoadOptions:
    """What was asked for; see `given_options`."""
    return LoadOptions(**given_options(args, address))


def given_options(args: argparse.Namespace, address: tuple[str, int]) -> Mapping[str, Any]:
    """What was asked for, as `LoadOptions` has it.

    Raises:
        ConfigError: it cannot be, or goes with a single vehicle only.
    """
    single = {
        "--vehicle": args.vehicle,
        "--dbc": args.dbc,
        "--log": args.log,
        "--channel": args.channel,
        "--j1939": args.j1939,
        "--loop": args.loop,
        "--speed": args.speed != 1,
        "--plan": args.plan,
        "--bus": args.bus != "auto",
        "--scenario": args.scenario,
    }
    given = [name for name, value in single.items() if value]
    if given:
        raise ConfigError(f"{given[0]} is of one vehicle: leave it out with --vehicles")
    faults = [parse(text)[0] for text in args.fault]
    if any(name != _LINK_DOWN for name in faults):
        raise ConfigError(f"--vehicles knows one fault: {_LINK_DOWN}, in the middle third")
    options = {
        "vehicles": args.vehicles,
        "seconds": _USUAL_S if args.seconds is None else args.seconds,
        "folder": args.folder,
        "host": address[0],
        "port": address[1],
        "seed": args.seed,
        "link": bool(faults),
    }
    LoadOptions(**options).check()
    return options


async def run_load(args: argparse.Namespace, options: LoadOptions, told: Told) -> int:
    """Vehicles that keep samples; see `run_any`."""
    return await run_any(args, Load, options, told)


async def run_any(
    args: argparse.Namespace, kind: type[AnyLoad[Asked, Any]], options: Asked, told: Told
) -> int:
    """Run to the end, or to a signal, which stops the vehicles; a second one ends at once.

    Args:
        args: of the command line.
        kind: of load.
        options: what it is made of.
        told: lines for a person.

    Raises:
        AgentError: a part does not start, or ends by itself.
    """
    stop = asyncio.Event()
    running = asyncio.create_task(_run(args, kind, options, told, stop=stop))

    def signalled() -> None:
        if stop.is_set():
            running.cancel()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signalled)
    try:
        verdict = await running
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    told.clear()
    if args.json:
        print(json.dumps(verdict.as_json()))
    else:
        print("\n".join(["", *verdict.lines()]))
    return 0 if verdict.good else 1


async def _run(
    args: argparse.Namespace,
    kind: type[AnyLoad[Asked, Any]],
    options: Asked,
    told: Told,
    *,
    stop: asyncio.Event,
) -> FleetVerdict:
    async with kind.open(options, told.line) as load:
        told.line(f"page     {load.url}/  (Ctrl-C ends the vehicles)")
        if args.open:
            import webbrowser

            await asyncio.to_thread(webbrowser.open, load.url)
        cutting = asyncio.create_task(_cut_in_the_middle(load, told))
        try:
            await _driven(load, told, stop)
        finally:
            cutting.cancel()
            await asyncio.gather(cutting, return_exceptions=True)
        return await load.finish(told.progress if told.live else _nobody)


async def _driven(load: AnyLoad[Any, Any], told: Told, stop: asyncio.Event) -> None:
    """A line again and again, until the vehicles have stopped."""
    driving = asyncio.create_task(load.drive())
    stopping = asyncio.create_task(stop.wait())
    step_s = _STEP_S if told.live else _STEP_OF_A_LOG_S
    before: Figures | None = None
    try:
        while not (driving.done() or stopping.done()):
            await asyncio.wait(
                [driving, stopping], timeout=step_s, return_when=asyncio.FIRST_COMPLETED
            )
            now = load.figures()
            told.progress(now.line(load.options.vehicles, before))
            before = now
        load.halt()
        await driving
        told.progress(load.figures().line(load.options.vehicles), last=True)
    finally:
        load.halt()
        stopping.cancel()
        await asyncio.gather(driving, stopping, return_exceptions=True)


async def _cut_in_the_middle(load: AnyLoad[Any, Any], told: Told) -> None:
    """Cut the link for the middle third, if there is one."""
    if load.link is None:
        return
    third_s = load.options.seconds / 3
    await asyncio.sleep(third_s)
    load.link.cut()
    told.line(f"the link is down for {third_s:.0f} s")
    try:
        await asyncio.sleep(third_s)
    finally:
        load.link.restore()
        told.line("the link is up")


def _nobody(text: str) -> None:
    """Where nobody looks, the end is told by the verdict alone."""
