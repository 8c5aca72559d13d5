"""`edge-agent run`: the daemon."""

import argparse
import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.bus.early import EarlyFrames
    from agent.collect import Plan
    from agent.ota.store import Store
    from agent.settings import Device

_LEVELS = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def add_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = sub.add_parser(
        "run",
        help="run the agent",
        description="Run the agent until SIGTERM or SIGINT; it then seals and leaves within 2 s.",
    )
    add_config(parser)
    parser.add_argument(
        "--drain",
        action="store_true",
        help="with recordings: leave when all is read and every batch is acknowledged",
    )
    parser.set_defaults(run=run)


def add_config(parser: argparse.ArgumentParser) -> None:
    """The option that names the device file."""
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        default=Path("/etc/edge-agent/agent.toml"),
        metavar="FILE",
        help="the device file (default: %(default)s)",
    )


def find_config(path: Path) -> Path:
    """The device file, or the one of that name that comes with the program."""
    from agent.settings import find

    return find(path, "config")


def run(args: argparse.Namespace) -> int:
    """Load the device file, open the buses of the kernel, then load all else and run.

    Raises:
        AgentError: something is wrong with configuration, plan, databases, recordings or spool.
    """
    from agent.settings import load_device

    device = load_device(find_config(args.config))
    set_up_logging(device.log_level)
    early = _Early(device)
    try:
        # Most of a start goes into these imports; the buses are read meanwhile.
        import asyncio

        from agent.daemon import Daemon

        with _bundles(device) as bundles:
            plan, bundle = _plan(device, bundles)
            for finding in plan.database.findings:
                logging.getLogger("edge_agent.signals").warning("%s", finding)
            daemon = Daemon(device, plan, early=early.take, bundle=bundle, bundles=bundles)
            early.stop()
            return asyncio.run(daemon.run(drain=args.drain))
    finally:
        early.stop()


@contextlib.contextmanager
def _bundles(device: "Device") -> "Iterator[Store | None]":
    """Where plans that came over the air are kept; None where the device takes none."""
    if device.ota is None:
        yield None
        return
    from agent.ota.store import Store

    store = Store(Path(device.state_dir) / "ota")
    store.open()
    try:
        yield store
    finally:
        store.close()


def _plan(device: "Device", bundles: "Store | None") -> "tuple[Plan, str]":
    """The plan to begin with, and the bundle that it came with, if any."""
    if bundles is None:
        from agent.ota import load_factory_plan

        return load_factory_plan(device), ""
    from agent.clock import SystemClock, certain
    from agent.ignition import signal_of
    from agent.ota.start import load_running_plan

    def check(plan: "Plan") -> object:
        return signal_of(device.ignition, plan)

    plan, bundle = load_running_plan(device, bundles, certain(SystemClock()), check)
    return plan, bundle.title if bundle else ""


class _Early:
    """The CAN interfaces of the kernel, open and read from the first moment on."""

    def __init__(self, device: "Device") -> None:
        from agent.bus.canraw import CanSocket
        from agent.bus.early import EarlyReader
        from agent.errors import BusError
        from agent.settings import SocketCanBus

        self._sockets: dict[str, CanSocket] = {}
        for bus in device.bus:
            if isinstance(bus, SocketCanBus):
                with contextlib.suppress(BusError):  # it is waited for later
                    self._sockets[bus.name] = CanSocket(
                        bus.interface,
                        receive_buffer_bytes=bus.receive_buffer_kib << 10,
                        hardware_stamps=bus.hardware_stamps,
                    )
        self._reader = EarlyReader(self._sockets.values())
        self._reader.start()

    def take(self, bus: str) -> "EarlyFrames | None":
        """What a bus has given so far, and its socket."""
        opened = self._sockets.pop(bus, None)
        return None if opened is None else self._reader.hand_over(opened)

    def stop(self) -> None:
        """Close what nobody took."""
        self._reader.stop()


def set_up_logging(level: str) -> None:
    """Entries of the journal below systemd, with fields; else lines on standard error."""
    from agent.observe.journal import journal_handler

    handler: logging.Handler | None = journal_handler()
    if handler is None:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Priority() if "JOURNAL_STREAM" in os.environ else _Plain())
    root = logging.getLogger("edge_agent")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False


class _Plain(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        record.levelname = record.levelname.lower()
        return super().format(record)


class _Priority(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"<{_LEVELS.get(record.levelname.lower(), 6)}>{super().format(record)}"
