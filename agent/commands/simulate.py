"""`edge-agent simulate`: a virtual vehicle on a serial adapter, a CAN interface or a file."""

import argparse
import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from agent.errors import ConfigError

if TYPE_CHECKING:
    from agent.bench.pages import Vehicle
    from agent.blocks import FrameBlock
    from agent.clock import BootNs

# A file is dated from the first second of 2026, UTC, so that a seed gives the same file each time.
_LOG_START_NS = 1_767_225_600 * 1_000_000_000
_CHUNK_S = 1.0
_SHOWN = 3


def add_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = sub.add_parser(
        "simulate",
        help="put a virtual vehicle on a bus",
        description="Put a virtual vehicle on a bus. At least one of --slcan, --vcan and --log "
        "says where; dbc/ev.dbc describes the signals of the cars, dbc/truck.dbc those of the "
        "truck. With --dbc, database files of your own describe the vehicle: all their messages "
        "are sent, and their signals move within their ranges.",
    )
    parser.add_argument(
        "--vehicle",
        choices=("car", "truck", "charging"),
        help="an electric car that drives (the default), a truck with SAE J1939, 250 kbit/s, or "
        "an electric car in charging sessions",
    )
    parser.add_argument(
        "--dbc",
        nargs="+",
        metavar="FILE",
        help="a vehicle with the messages of these database files, in place of --vehicle",
    )
    parser.add_argument(
        "--j1939", action="store_true", help="with --dbc: all 29-bit ids are of SAE J1939"
    )
    parser.add_argument(
        "--bitrate",
        type=int,
        default=500,
        metavar="KBIT",
        help="with --dbc: of the bus, in kbit/s; at most 60 %% of it are used (default: 500)",
    )
    parser.add_argument(
        "--slcan",
        metavar="PATH",
        help="make a serial adapter at PATH (a pseudo-terminal) and wait until it is opened",
    )
    parser.add_argument("--vcan", metavar="IFACE", help="send on this SocketCAN interface")
    parser.add_argument(
        "--ecus",
        action="store_true",
        help="with --vcan: ECUs answer OBD-II (0x7DF, 0x7E0) and UDS (0x7E0, 0x7E4) requests there",
    )
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
        ConfigError: options that make no sense together, or nothing in the files can be sent.
        DatabaseError: a database file cannot be used.
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
    if args.dbc and args.vehicle:
        raise ConfigError("--dbc describes a vehicle of its own: leave out --vehicle")
    if args.j1939 and not args.dbc:
        raise ConfigError("--j1939 says how the files of --dbc are read: it needs them")
    if args.ecus and not args.vcan:
        raise ConfigError("--ecus answer on a SocketCAN interface: add --vcan IFACE")
    start = BootNs(_LOG_START_NS)
    vehicle = _described(args, start) if args.dbc else _vehicle(args.vehicle, args.seed, start)

    with stopped_by_signals(stop), contextlib.ExitStack() as stack:
        note = stack.enter_context(_ecus(args, vehicle.bus)) if args.ecus else None

        def blocks() -> "Iterator[FrameBlock]":
            until = 0.0
            while args.seconds is None or until < args.seconds:
                until += _CHUNK_S
                end = until if args.seconds is None else min(until, args.seconds)
                block = vehicle.frames(end)
                if note:
                    note(block)
                yield block

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


@contextlib.contextmanager
def _ecus(args: argparse.Namespace, bus: str) -> "Iterator[Callable[[FrameBlock], None]]":
    """ECUs that answer while this lasts; gives what is to be told of the frames that are sent."""
    from agent.bench.answering import Answering
    from agent.bench.ecus import Watch, vehicle_ecus
    from agent.settings import packaged
    from agent.signals import Database

    own = packaged("dbc/truck.dbc" if args.vehicle == "truck" else "dbc/ev.dbc")
    watch = Watch(Database.load(args.dbc or [own], j1939=args.j1939), bus)
    with Answering(args.vcan, vehicle_ecus(watch.readings)):
        yield watch.note


def _described(args: argparse.Namespace, start: "BootNs") -> "Vehicle":
    from agent.bench.anydbc import DatabaseVehicle

    vehicle = DatabaseVehicle(
        args.dbc, args.seed, start, j1939=args.j1939, bitrate=args.bitrate * 1000
    )
    if vehicle.left:
        shown = [f"{name} ({why})" for name, why in list(vehicle.left.items())[:_SHOWN]]
        more = len(vehicle.left) - len(shown)
        rest = f" and {more} more" if more else ""
        print(f"not sent or 0: {', '.join(shown)}{rest}", file=sys.stderr)
    return vehicle


def _vehicle(name: str | None, seed: int, start: "BootNs") -> "Vehicle":
    if name == "truck":
        from agent.bench.truck import VirtualTruck

        return VirtualTruck(seed, start)
    if name == "charging":
        from agent.bench.charging import ChargingVehicle

        return ChargingVehicle(seed, start)
    from agent.bench.vehicle import VirtualVehicle

    return VirtualVehicle(seed, start)
