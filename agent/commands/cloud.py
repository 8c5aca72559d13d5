"""`edge-agent cloud`: the reference cloud on this machine."""

import argparse
import contextlib
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import ConfigError

if TYPE_CHECKING:
    import ssl

    from aiohttp import web

    from agent.bench.cloud.identity import Identity
    from agent.bench.cloud.mqtt import BrokerIngest
    from agent.bench.cloud.store import Outcome, Store
    from agent.bench.gbt32960.platform import Platform


def add_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = sub.add_parser(
        "cloud",
        help="the reference cloud: takes batches, keeps them, says what is missing",
        description="Take batches over HTTP, and from a broker too if one is named, keep them in a "
        "folder, and answer what is complete.",
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
        "--shared",
        action="store_true",
        help="let other clouds that are started so keep their batches in the same folder",
    )
    parser.add_argument(
        "--mqtt",
        metavar="URL",
        help="take batches from a broker too: mqtt[s]://[user@]host[:port][/prefix]; clouds of one "
        "group share them",
    )
    parser.add_argument(
        "--mqtt-group",
        default="cloud",
        metavar="NAME",
        help="who shares the batches of a broker (default: %(default)s)",
    )
    parser.add_argument(
        "--mqtt-password-file", default="", metavar="FILE", help="the password for the broker"
    )
    parser.add_argument(
        "--mqtt-ca-file", default="", metavar="FILE", help="certificates (PEM) to trust"
    )
    parser.add_argument(
        "--gbt32960",
        metavar="[HOST:]PORT",
        help="a GB/T 32960 platform beside it, for vehicles of both editions; port 0 picks a free "
        "one",
    )
    parser.add_argument(
        "--ota",
        type=Path,
        metavar="DIR",
        help="let vehicles fetch their configuration from this repository: its metadata and "
        "targets are served below /ota/",
    )
    parser.add_argument(
        "--tls",
        type=Path,
        metavar="DIR",
        help="speak TLS, and take batches only from vehicles with a certificate by the authority "
        "in this folder, which is made if there is none",
    )
    parser.add_argument(
        "--tls-name",
        metavar="HOST",
        help="by which name or address vehicles call this cloud (default: that of --listen)",
    )
    parser.add_argument(
        "--token",
        metavar="VEHICLE",
        help="with --tls: print a token with which this vehicle can enrol once, and leave",
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="a line for each batch, also into a pipe"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM.

    Raises:
        ConfigError: the address cannot be listened on, a folder cannot be used, or that of the
            broker is none.
    """
    import asyncio

    from agent.bench.cloud import create_app
    from agent.bench.cloud.repository import Repository
    from agent.bench.cloud.store import Store
    from agent.bench.gbt32960.view import PlatformView

    if args.token:
        return _print_token(args)
    host, port = _address(args.listen)
    identity, tls = _identity(args, host)
    ota = None if args.ota is None else Repository(args.ota.absolute())
    store = Store(args.data.absolute(), shared=args.shared)
    try:
        ingest = _ingest(args, store)
        told = args.verbose or sys.stdout.isatty()
        platform = _platform(args)
        app = create_app(
            store,
            on_received=_tell if told else None,
            identity=identity,
            ota=ota,
            platform=PlatformView(platform) if platform else None,
        )
        serving = _serve(app, store, (host, port), tls, ingest=ingest, platform=platform)
        return asyncio.run(serving)
    finally:
        store.close()


def _print_token(args: argparse.Namespace) -> int:
    from agent.bench.cloud.enrol import Authority

    if args.tls is None:
        raise ConfigError("--token needs --tls: the folder of the authority")
    print(Authority(args.tls.absolute()).token(args.token))
    return 0


def _identity(
    args: argparse.Namespace, host: str
) -> "tuple[Identity | None, ssl.SSLContext | None]":
    from agent.bench.cloud.enrol import Authority
    from agent.bench.cloud.identity import Identity

    if args.tls is None:
        return None, None
    authority = Authority(args.tls.absolute())
    return Identity(authority), authority.context(args.tls_name or host)


def _ingest(args: argparse.Namespace, store: "Store") -> "BrokerIngest | None":
    if args.mqtt is None:
        return None
    try:
        from agent.bench.cloud.mqtt import BrokerIngest
    except ModuleNotFoundError as e:
        if (e.name or "").partition(".")[0] not in ("aiomqtt", "paho"):
            raise
        raise ConfigError(
            '--mqtt needs a package that is not installed: pip install "vehicle-edge-agent[mqtt]"'
        ) from e
    return BrokerIngest(
        store,
        args.mqtt,
        args.mqtt_group,
        password_file=args.mqtt_password_file,
        ca_file=args.mqtt_ca_file,
        told=_say,
    )


def _platform(args: argparse.Namespace) -> "Platform | None":
    """A platform that keeps what vehicles send beside the batches; it does not listen yet."""
    from agent.bench.gbt32960.platform import Platform
    from agent.bench.gbt32960.record import Record

    if args.gbt32960 is None:
        return None
    if args.shared:
        raise ConfigError("--gbt32960 keeps what comes in a folder of its own: leave out --shared")
    text = args.gbt32960 if ":" in args.gbt32960 else f"127.0.0.1:{args.gbt32960}"
    host, port = _address(text, "--gbt32960")
    return Platform(Record(args.data.absolute() / "gbt32960"), host=host, port=port)


def _address(text: str, option: str = "--listen") -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{option} {text}: write HOST:PORT, such as 127.0.0.1:8080")
    return host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port)


async def _serve(
    app: "web.Application",
    store: "Store",
    address: tuple[str, int],
    tls: "ssl.SSLContext | None",
    *,
    ingest: "BrokerIngest | None",
    platform: "Platform | None",
) -> int:
    import asyncio

    from agent.bench.cloud import serve
    from agent.bench.cloud.server import RECEIVED

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        if platform is not None:
            await stack.enter_async_context(platform)
        url = await stack.enter_async_context(serve(app, *address, tls))
        _say(f"listening on {url}, batches go to {store.root}")
        if platform is not None:
            _say(f"vehicles of GB/T 32960 connect to {platform.url}")
        if ingest is None:
            await stop.wait()
        else:
            await ingest.run(app[RECEIVED], stop)
    return 0


def _tell(outcome: "Outcome") -> None:
    stored = outcome.stored
    samples = "not sealed" if outcome.samples is None else f"{outcome.samples:,} samples"
    _say(f"{stored.vehicle} {stored.batch_id} {stored.size:,} bytes {samples}")


def _say(line: str) -> None:
    # Whoever read the output may be gone; the batches still count.
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)
