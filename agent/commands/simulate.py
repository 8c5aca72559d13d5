"""`edge-agent simulate`: a virtual vehicle on a serial adapter, a CAN interface or a file."""

import argparse
import contextlib
import json
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from agent.errors import ConfigError

if TYPE_CHECKING:
    from agent.bench.pages import Vehicle
    from agent.clock import BootNs

# A file is dated from the first second of 2026, UTC, so that a seed gives the same file each time.
_LOG_START_NS = 1_767_225_600 * 1_000_000_000
_CHUNK_S = 1.0


def add_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = sub.add_parser(
        "simulate",
        help="put a virtual vehicle on a bus",
        description="Put a virtual vehicle on a bus. At least one of --slcan, --vcan and --log "
        "says where; dbc/ev.dbc describes the signals of the cars, dbc/truck.dbc those of the "
        "truck.",
    )
    parser.add_argument(
        "--vehicle",
        choices=("car", "truck", "charging"),
        default="car",
        help="an electric car that drives (the default), a truck with SAE J1939, 250 kbit/s, or "
        "an electric car in charging sessions",
    )
    parser.add_argument(
        "--slcan",
        metavar="PATH",
        help="make a serial adapter at PATH (a pseudo-terminal) and wait until it is opened",
    )
    parser.add_argument("--vcan", metavar="IFACE", help="send on this SocketCAN interface")
    parser.add_argument("--log", metavar="FILE", help="write a recording as candump -L does")
    parser.add_argument("--seconds", type=float, metavar="N", help="simulated time; else no end")
    parser.add_argument(
        "--speed",
        type=float,
        metavar="X",
        help="times as fast as real; 0 is flat out (default: 1, or 0 with --log alone)",
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="which one (default: 1)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run until the simulated time or a signal ends it.

    Raises:
        ConfigError: options that make no sense together.
        BusError: a sink cannot be opened, or failed.
    """
    from agent.bench.play import (
        AdapterSink,
        CandumpSink,
        Sink,
        SocketCanSink,
        play,
        stopped_by_signals,
        terminal,
    )
    from agent.blocks import FrameBlock
    from agent.clock import BootNs

    only_log = bool(args.log) and not (args.slcan or args.vcan)
    speed = args.speed if args.speed is not None else (0.0 if only_log else 1.0)
    if not (args.slcan or args.vcan or args.log):
        raise ConfigError("say where the frames go: --slcan PATH, --vcan IFACE or --log FILE")
    if speed < 0 or (args.seconds is not None and args.seconds <= 0):
        raise ConfigError("--speed must not be negative, and --seconds must be above 0")
    if only_log and not speed and args.seconds is None:
        raise ConfigError("say how much to write: --seconds N")
    stop = threading.Event()
    vehicle = _vehicle(args.vehicle, args.seed, BootNs(_LOG_START_NS))

    def blocks() -> Iterator[FrameBlock]:
        until = 0.0
        while args.seconds is None or until < args.seconds:
            until += _CHUNK_S
            yield vehicle.frames(until if args.seconds is None else min(until, args.seconds))

    with stopped_by_signals(stop), contextlib.ExitStack() as stack:
        sinks: list[Sink] = []
        if args.vcan:
            sinks.append(SocketCanSink(args.vcan, stop))
            stack.callback(sinks[-1].close)
        if args.log:
            sinks.append(CandumpSink(args.log, vehicle.bus))
            stack.callback(sinks[-1].close)
        if args.slcan:
            sinks.append(AdapterSink(args.slcan, stop))
            stack.callback(sinks[-1].close)
        played = play(blocks(), sinks, stop, speed=speed, progress=terminal())
    print(json.dumps(played.as_json()) if args.json else played.as_text())
    return 0


def _vehicle(name: str, seed: int, start: "BootNs") -> "Vehicle":
    if name == "truck":
        from agent.bench.truck import VirtualTruck

        return VirtualTruck(seed, start)
    if name == "charging":
        from agent.bench.charging import ChargingVehicle

        return ChargingVehicle(seed, start)
    from agent.bench.vehicle import VirtualVehicle

    return VirtualVehicle(seed, start)
