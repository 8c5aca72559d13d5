"""`edge-agent cloud`: the reference cloud on this machine."""

import argparse
import contextlib
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import ConfigError

if TYPE_CHECKING:
    from agent.bench.cloud.store import Outcome, Store


def add_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = sub.add_parser(
        "cloud",
        help="the reference cloud: takes batches, keeps them, says what is missing",
        description="Take batches over HTTP, keep them in a folder, and answer what is complete.",
    )
    parser.add_argument(
        "--listen",
        default="127.0.0.1:8080",
        metavar="HOST:PORT",
        help="where to listen; port 0 picks a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("cloud-data"),
        metavar="DIR",
        help="where batches are kept (default: %(default)s)",
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="a line for each batch, also into a pipe"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM.

    Raises:
        ConfigError: the address cannot be listened on, or the folder cannot be used.
    """
    import asyncio

    from agent.bench.cloud.store import Store

    host, port = _address(args.listen)
    store = Store(args.data.absolute())
    try:
        return asyncio.run(_serve(store, host, port, told=args.verbose or sys.stdout.isatty()))
    finally:
        store.close()


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"--listen {text}: write HOST:PORT, such as 127.0.0.1:8080")
    return host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port)


async def _serve(store: "Store", host: str, port: int, *, told: bool) -> int:
    import asyncio

    from agent.bench.cloud import create_app, serve

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    app = create_app(store, on_received=_tell if told else None)
    async with serve(app, host, port) as url:
        _say(f"listening on {url}, batches go to {store.root}")
        await stop.wait()
    return 0


def _tell(outcome: "Outcome") -> None:
    stored = outcome.stored
    samples = "not sealed" if outcome.samples is None else f"{outcome.samples:,} samples"
    _say(f"{stored.vehicle} {stored.batch_id} {stored.size:,} bytes {samples}")


def _say(line: str) -> None:
    # Whoever read the output may be gone; the batches still count.
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)
