"""`make demo`: the main job on one machine, with the link cut in the middle, checked at the end.

Processes of their own: the reference cloud, the agent, and the virtual vehicle on a serial adapter
(or the agent plays a recording). Between agent and cloud lies a relay that is cut and restored. At
the end the ledger must close, and the cloud must have every sample: with a recording, each signal's
count and sum are compared with the recording decoded directly.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.batch import BatchReader
from agent.bench.link import Link
from agent.blocks import SignalTable
from agent.bus import read_log
from agent.errors import AgentError, BusError, ConfigError
from agent.ledger import differences
from agent.observe.report import ledger_lines, size
from agent.observe.socket import ask
from agent.settings import packaged
from agent.signals import Database, Decoder

_START_S = 20.0
_END_S = 60.0
_SEAL_S = "2"


class DemoError(AgentError):
    """The demo did not end as it should; the message says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.splitlines()[0])
    parser.add_argument("--log", type=Path, help="a recording, in place of the virtual vehicle")
    parser.add_argument("--dbc", type=Path, action="append", help="its database files")
    parser.add_argument("--channel", default="", help="only this channel of the recording")
    parser.add_argument("--j1939", action="store_true", help="match 29-bit ids by PGN")
    parser.add_argument("--seconds", type=float, default=45.0, help="how long the vehicle drives")
    parser.add_argument(
        "--folder", type=Path, default=Path(".demo"), help="for everything it makes"
    )
    args = parser.parse_args(arguments)
    try:
        if bool(args.log) != bool(args.dbc):
            raise ConfigError("name a recording and its database files: LOG=drive.blf DBC=car.dbc")
        args.folder = args.folder.absolute()
        shutil.rmtree(args.folder, ignore_errors=True)
        args.folder.mkdir(parents=True)
        return asyncio.run(_demo(args))
    except AgentError as e:
        print(f"demo: {e}", file=sys.stderr)
        return 2 if isinstance(e, ConfigError) else 1
    except KeyboardInterrupt:
        return 130


async def _demo(args: argparse.Namespace) -> int:
    folder: Path = args.folder
    expected = _decode_directly(args) if args.log else None
    print(f"Everything that this makes lies in {folder}")
    async with contextlib.AsyncExitStack() as stack:
        port, cloud = await _start_cloud(stack, folder)
        link = await stack.enter_async_context(Link("127.0.0.1", port))
        environment = _environment(folder, link.port)
        if args.log:
            config = _recording_config(args, folder, expected)
        else:
            config = packaged("config/bench.toml")
        vehicle = None if args.log else await _start_vehicle(stack, folder, args.seconds)
        agent = await _start_agent(stack, folder, config, environment, drain=bool(args.log))
        print(f"  agent    pid {agent.pid}: {config}")
        print()
        await _drive(args, folder, link, agent, vehicle)
        sent = await _sent_by(vehicle) if vehicle else None
        status = await _end(folder, agent, sent)
        await _stop(cloud)
    return _verdict(folder, status, sent, expected)


# -- processes -------------------------------------------------------------------------------


async def _spawn(
    stack: contextlib.AsyncExitStack,
    log: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
) -> asyncio.subprocess.Process:
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "agent.cli",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **(environment or {})},
            # A Ctrl-C is for the demo, which ends the others in order.
            process_group=0,
        )
    stack.push_async_callback(_stop, process)
    return process


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _start_cloud(
    stack: contextlib.AsyncExitStack, folder: Path
) -> tuple[int, asyncio.subprocess.Process]:
    process = await _spawn(
        stack,
        folder / "cloud.log",
        *("cloud", "--listen", "127.0.0.1:0", "--data", str(folder / "cloud")),
    )
    line = await _first_line(process, folder / "cloud.log")
    print(f"  cloud    pid {process.pid}: {line}")
    address = next(word for word in line.replace(",", " ").split() if word.startswith("http://"))
    return int(address.rsplit(":", 1)[1].rstrip("/")), process


async def _first_line(process: asyncio.subprocess.Process, log: Path) -> str:
    line = b""
    with contextlib.suppress(TimeoutError):
        line = await asyncio.wait_for(_out(process).readline(), _START_S)
    if not line:
        raise DemoError(f"the process did not start; see {log}:\n{_tail(log)}")
    return line.decode().strip()


def _out(process: asyncio.subprocess.Process) -> asyncio.StreamReader:
    if process.stdout is None:
        raise AssertionError
    return process.stdout


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-5:])


def _environment(folder: Path, port: int) -> dict[str, str]:
    """What differs from config/bench.toml: folders and ports of this run."""
    return {
        "EDGE_AGENT_STATE_DIR": str(folder / "state"),
        "EDGE_AGENT_SOCKET": str(_socket(folder)),
        "EDGE_AGENT_BATCH__SEAL_AFTER_S": _SEAL_S,
        "EDGE_AGENT_UPLINK__CLOUD__URL": f"http://127.0.0.1:{port}",
    }


def _socket(folder: Path) -> Path:
    """A socket's path must be short, the demo's folder need not be."""
    path = folder / "agent.sock"
    return path if len(os.fsencode(path)) < 100 else Path("/tmp") / f"demo-{os.getpid()}.sock"  # noqa: S108


async def _start_vehicle(
    stack: contextlib.AsyncExitStack, folder: Path, seconds: float
) -> asyncio.subprocess.Process:
    adapter = folder / "can"
    process = await _spawn(
        stack,
        folder / "vehicle.log",
        *("simulate", "--slcan", str(adapter), "--seconds", f"{seconds:g}", "--json"),
    )
    async for _ in _ticks(_START_S):
        if adapter.is_symlink():
            break
        if process.returncode is not None:
            raise DemoError(f"the virtual vehicle did not start:\n{_tail(folder / 'vehicle.log')}")
    print(f"  vehicle  pid {process.pid}: a virtual electric car on the serial adapter {adapter}")
    return process


async def _start_agent(
    stack: contextlib.AsyncExitStack,
    folder: Path,
    config: Path,
    environment: dict[str, str],
    *,
    drain: bool,
) -> asyncio.subprocess.Process:
    if not drain:
        environment["EDGE_AGENT_BUS__POWERTRAIN__DEVICE"] = str(folder / "can")
    options = ["--drain"] if drain else []
    process = await _spawn(
        stack,
        folder / "agent.log",
        *("run", "-c", str(config), *options),
        environment=environment,
    )
    async for _ in _ticks(_START_S):
        if process.returncode not in (None, 0):
            raise DemoError(f"the agent did not start:\n{_tail(folder / 'agent.log')}")
        if process.returncode == 0 or await _status(folder) is not None:
            break
    return process


async def _ticks(limit_s: float, step_s: float = 0.1) -> AsyncIterator[float]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    while (passed := loop.time() - began) < limit_s:
        yield passed
        await asyncio.sleep(step_s)
    raise DemoError(f"waited {limit_s:.0f} s in vain")


async def _status(folder: Path) -> dict[str, Any] | None:
    try:
        status: dict[str, Any] = await asyncio.to_thread(ask, _socket(folder), "status")
    except AgentError:
        return None
    return status


# -- the recording ---------------------------------------------------------------------------

Totals = dict[str, tuple[int, float]]
"""Signal -> count of samples, sum of physical values."""


def _add(totals: Totals, table: SignalTable) -> None:
    for s in table.schema.signals:
        name = f"{table.message}.{s.name}" + ("" if table.source is None else f"@{table.source}")
        count, total = totals.get(name, (0, 0.0))
        value = 0.0 if s.kind == "bytes" else float(table.physical(s.name).sum())
        totals[name] = (count + len(table), total + value)


def _decode_directly(args: argparse.Namespace) -> dict[str, Any]:
    """What the cloud must have in the end, and how long the recording is."""
    print(f"Reading {args.log} ...")
    decoder = Decoder(Database.load(args.dbc, j1939=args.j1939))
    totals: Totals = {}
    ids: collections.Counter[int] = collections.Counter()
    first = last = None
    frames = 0
    with read_log(args.log, channel=args.channel or None, bus="bus") as reader:
        for block in reader:
            frames += len(block)
            low, high = int(block.time.min()), int(block.time.max())
            first = low if first is None else min(first, low)
            last = high if last is None else max(last, high)
            ids.update(block.id.tolist() if frames < 100_000 else ())
            for table in decoder.decode(block):
                _add(totals, table)
    if first is None or last is None:
        raise BusError(f"{args.log}: there are no frames")
    if not totals:
        common = ", ".join(f"{i & 0x1FFF_FFFF:X}" for i, _ in ids.most_common(8))
        raise DemoError(
            f"0 % decoded: no frame of {args.log} is described by "
            f"{', '.join(map(str, args.dbc))}. Ids that occur most: {common}"
        )
    share = decoder.counts.decoded / frames
    samples = sum(count for count, _ in totals.values())
    print(
        f"  {frames:,} frames in {(last - first) / 1e9:.1f} s, {share:.1%} decoded, "
        f"{len(totals):,} signals, {samples:,} samples"
    )
    return {"totals": totals, "samples": samples, "seconds": (last - first) / 1e9}


def _recording_config(
    args: argparse.Namespace, folder: Path, expected: dict[str, Any] | None
) -> Path:
    speed = max(1.0, (expected or {})["seconds"] / args.seconds)
    plan = folder / "plan.toml"
    files = json.dumps([str(path.absolute()) for path in args.dbc])
    plan.write_text(
        f'version = 1\nname = "demo"\n\n[[database]]\nbus = "*"\nfiles = {files}\n'
        f"j1939 = {str(args.j1939).lower()}\n\n"
        '[[campaign]]\nname = "everything"\nsignals = ["*"]\n'
    )
    config = folder / "agent.toml"
    config.write_text(
        'vehicle = "demo"\nplan = "plan.toml"\nstate_dir = "state"\n\n[[bus]]\nname = "bus"\n'
        f'kind = "recording"\npath = {json.dumps(str(args.log.absolute()))}\n'
        f"channel = {json.dumps(args.channel)}\nspeed = {speed:g}\n\n"
        '[[uplink]]\nname = "cloud"\nurl = "http://127.0.0.1:8080"\n'
    )
    print(f"  played at {speed:.1f} times its own speed")
    return config


# -- the run ---------------------------------------------------------------------------------


async def _drive(
    args: argparse.Namespace,
    folder: Path,
    link: Link,
    agent: asyncio.subprocess.Process,
    vehicle: asyncio.subprocess.Process | None,
) -> None:
    """Show progress until the vehicle has driven; cut the link in the middle third."""
    watched = vehicle or agent
    cut_at, restore_at = args.seconds * 0.35, args.seconds * 0.65
    restored = False
    async for passed in _ticks(args.seconds * 3 + _END_S, 1.0):
        if watched.returncode is not None:
            break
        if agent.returncode not in (None, 0):
            raise DemoError(f"the agent ended early:\n{_tail(folder / 'agent.log')}")
        if not restored and not link.is_cut and passed >= cut_at:
            print("  --- the link to the cloud is cut ---")
            link.cut()
        if link.is_cut and passed >= restore_at:
            print("  --- the link is back ---")
            link.restore()
            restored = True
        status = await _status(folder)
        if status:
            print(_progress(passed, status, up=not link.is_cut), flush=True)
    link.restore()


def _progress(passed: float, status: dict[str, Any], *, up: bool) -> str:
    bus = next(iter(status["ledger"]["bus"].values()))
    uplink = next(iter(status["ledger"]["uplink"].values()))
    sender = status["uplinks"][0]
    lanes = status["spool"]["lanes"]["cloud"].values()
    waiting = sum(lane["batches"] for lane in lanes), sum(lane["bytes"] for lane in lanes)
    spooled, stored = uplink["spooled"], uplink["bytes"]
    open_bytes = sum(o["durable_bytes"] for o in status["spool"]["open"].values())
    each = (stored + open_bytes) / spooled if spooled else 0
    return (
        f"  {passed:3.0f} s  link {'up  ' if up else 'DOWN'}  {bus['received']:>9,} frames  "
        f"{uplink['kept']:>11,} samples  {sender['sent_batches']:>3} batches sent, "
        f"{waiting[0]:>2} wait ({size(waiting[1])})  {each:.2f} bytes a sample"
    )


async def _sent_by(vehicle: asyncio.subprocess.Process) -> int:
    output = await _out(vehicle).read()
    await vehicle.wait()
    return int(json.loads(output.splitlines()[-1])["frames"])


async def _end(folder: Path, agent: asyncio.subprocess.Process, sent: int | None) -> dict[str, Any]:
    """Let the agent finish, and give its last status."""
    if agent.returncode is None and sent is not None:
        async for _ in _ticks(_END_S):
            status = await _status(folder)
            if status is None:
                raise DemoError(f"the agent does not answer:\n{_tail(folder / 'agent.log')}")
            (bus,) = status["ledger"]["bus"].values()
            (uplink,) = status["ledger"]["uplink"].values()
            done = bus["received"] >= sent and not bus["queued"] and not uplink["memory"]
            if done and not status["spool"]["lanes"].get("cloud"):
                break
        print("  --- the car has arrived; the agent is told to stop ---")
        agent.send_signal(signal.SIGTERM)
    await asyncio.wait_for(agent.wait(), _END_S)
    if agent.returncode:
        raise DemoError(f"the agent ended badly:\n{_tail(folder / 'agent.log')}")
    last: dict[str, Any] = json.loads((folder / "state" / "last-run.json").read_text())
    return last


def _verdict(
    folder: Path, status: dict[str, Any], sent: int | None, expected: dict[str, Any] | None
) -> int:
    print()
    for line in ledger_lines(status["ledger"]):
        print(line)
    wrong = list(differences(status["ledger"]))
    (bus,) = status["ledger"]["bus"].values()
    (uplink,) = status["ledger"]["uplink"].values()
    files = sorted((folder / "cloud").rglob("*.batch"))
    arrived = sum(BatchReader(path).count_samples() for path in files)
    stored = sum(path.stat().st_size for path in files)
    print()
    print(f"The cloud has {len(files)} batches, {size(stored)}, with {arrived:,} samples: ", end="")
    print(f"{stored / arrived:.2f} bytes a sample." if arrived else "nothing.")
    if sent is not None:
        print(f"The car sent {sent:,} frames, the agent read {bus['received']:,}.")
        if sent != bus["received"]:
            wrong.append(f"the car sent {sent:,} frames, but {bus['received']:,} were read")
    if arrived != uplink["kept"]:
        wrong.append(f"{uplink['kept']:,} samples were kept, but {arrived:,} are in the cloud")
    if expected is not None:
        wrong += _compare(files, expected)
        print("Each signal was compared with the recording decoded directly.")
    for sentence in wrong:
        print(f"WRONG: {sentence}")
    print("Not everything is as it should be." if wrong else "Every sample is in the cloud.")
    if not wrong:
        print(f"Look into them: {Path(sys.executable).parent}/edge-agent batch show {files[0]}")
    return 1 if wrong else 0


def _compare(files: list[Path], expected: dict[str, Any]) -> list[str]:
    totals: Totals = {}
    for path in files:
        for kind, value in BatchReader(path).records():
            if kind == "samples":
                _add(totals, value)
    wrong = []
    for name, (count, total) in expected["totals"].items():
        here = totals.get(name, (0, 0.0))
        tolerance = 1e-9 * max(1.0, abs(total))
        if here[0] != count or not (abs(here[1] - total) <= tolerance or total != total):  # noqa: PLR0124 - NaN
            wrong.append(f"{name}: {count:,} samples that sum to {total:g}, in the cloud {here}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
