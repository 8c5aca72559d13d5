"""The reference load: CPU and memory of the real daemon with two busy buses, at real time."""

import argparse
import dataclasses
import itertools
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.batch import read_batch
from agent.batch.format import SUFFIX
from agent.bus.recording import RecordingSource
from agent.observe.socket import ask
from tests.benchmarks import reference
from tests.benchmarks.processes import Usage, cloud, daemon, usage
from tests.benchmarks.report import Figure, file_system, parser, show

_WARM_UP_S = 8.0
_TAIL_S = 12.0
"""Recordings go on beyond the window, so that the load does not end in it."""
_PLAN = """
version = 1
name = "reference"
database = [{ bus = "*", files = ["reference.dbc"] }]
[[campaign]]
name = "all"
signals = ["*"]
"""


def prepare(folder: Path, seconds: float, url: str) -> Path:
    """Recordings, database, plan and device file; gives the device file."""
    sent = [reference.messages(bus) for bus in range(len(reference.BUSES))]
    (folder / "reference.dbc").write_text(reference.dbc([m for bus in sent for m in bus]), "ascii")
    (folder / "plan.toml").write_text(_PLAN, "ascii")
    device = f'vehicle = "bench"\nplan = "plan.toml"\nstate_dir = "state"\n\
[[uplink]]\nname = "cloud"\nurl = "{url}"\n'
    for bus, messages in zip(reference.BUSES, sent, strict=True):
        block = reference.frames(bus, messages, seconds)
        (folder / f"{bus}.log").write_text(reference.candump(block), "ascii")
        device += f'[[bus]]\nname = "{bus}"\nkind = "recording"\npath = "{bus}.log"\nspeed = 1.0\n'
    path = folder / "agent.toml"
    path.write_text(device, "ascii")
    return path


def read(folder: Path) -> None:
    """Both recordings at their own speed, into nothing, until the process is ended."""
    stop = threading.Event()
    for bus in reference.BUSES:
        source = RecordingSource(bus, str(folder / f"{bus}.log"), speed=1.0)
        threading.Thread(target=source.run, args=(lambda _block: None, stop), daemon=True).start()
    print("reading", flush=True)
    stop.wait()


def reading_alone_s(folder: Path, seconds: float) -> float:
    """CPU seconds that `read` takes in a process of its own."""
    command = [sys.executable, "-m", __spec__.name, "--read", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(_WARM_UP_S)
        began = usage(process.pid)
        time.sleep(seconds)
        spent = usage(process.pid).cpu_s - began.cpu_s
        process.terminate()
    return spent


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """What the daemon used in the window, and what it had done at the end."""

    seconds: float
    before: Usage
    after: Usage
    samples: int
    """Made durable in the window."""
    exit_status: int
    differences: list[str]
    stored_bytes: int
    stored_samples: int
    """Of the batches that the cloud had at the end."""
    marks: list[tuple[float, Usage]]
    """What it had used so many seconds after the window began, now and then."""


def run_daemon(folder: Path, seconds: float, url: str, *, every_s: float, extras: bool) -> Load:
    """The daemon for `seconds` after it has warmed up."""
    config = prepare(folder, _WARM_UP_S + seconds + _TAIL_S, url)
    socket = folder / "state" / "agent.sock"
    with daemon(config, folder, extras=extras) as running:
        time.sleep(_WARM_UP_S)
        spooled = _spooled(ask(socket, "status"))
        before, began = running.usage(), time.monotonic()
        marks = [(0.0, before)]
        while (passed_s := time.monotonic() - began) < seconds:
            time.sleep(min(every_s or seconds, seconds - passed_s))
            marks.append((time.monotonic() - began, running.usage()))
        window_s, after = marks[-1]
        status = ask(socket, "status")
        exit_status = running.stop()
    paths = [*(folder / "cloud").rglob(f"*{SUFFIX}")]
    return Load(
        seconds=window_s,
        before=before,
        after=after,
        samples=_spooled(status) - spooled,
        exit_status=exit_status,
        differences=status["differences"],
        stored_bytes=sum(path.stat().st_size for path in paths),
        stored_samples=sum(table.samples for table in read_batch(*paths)),
        marks=marks,
    )


def _spooled(status: dict[str, Any]) -> int:
    return int(status["ledger"]["uplink"]["cloud"]["spooled"])


def figures(load: Load, reading_s: float | None) -> Iterator[Figure]:
    cpu_s = load.after.cpu_s - load.before.cpu_s
    yield Figure("CPU of one core", 100 * cpu_s / load.seconds, "%", "at most", 4)
    if reading_s is not None:
        yield Figure("  of which reading candump text", 100 * reading_s / load.seconds, "%")
        rest = 100 * (cpu_s - reading_s) / load.seconds
        yield Figure("  without it", rest, "%", "at most", 4)
    yield Figure("memory at the end", load.after.rss_mb, "MB", "at most", 150)
    yield Figure("memory at its peak", load.after.peak_mb, "MB", "at most", 150)
    yield Figure("samples", load.samples / load.seconds, "/s")
    written = load.after.written_bytes - load.before.written_bytes
    yield Figure("written, files and sockets", written / load.seconds / 1000, "kB/s")
    disk = load.after.to_disk_bytes - load.before.to_disk_bytes
    yield Figure("towards the disk", disk / load.seconds / 1000, "kB/s")
    note = f"({load.stored_samples:,} samples at the cloud)"
    yield Figure("bytes a sample", load.stored_bytes / load.stored_samples, "B", note=note)
    if len(load.marks) > 2:
        for (since_s, then), (now_s, now) in itertools.pairwise(load.marks):
            share = 100 * (now.cpu_s - then.cpu_s) / (now_s - since_s)
            note = f"and {share:.2f} % of one core since {since_s / 60:.0f} min"
            yield Figure(f"memory at {now_s / 60:.0f} min", now.rss_mb, "MB", note=note)
    wrong = len(load.differences) + load.exit_status
    note = "; ".join(load.differences) or "(0: the ledger closed, the exit status was 0)"
    yield Figure("sums of the ledger that differ", wrong, "", "at most", 0, note=note)


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--seconds", type=float, default=60, help="the window (default: %(default)s)")
    made.add_argument(
        "--every", type=float, default=0, metavar="S", help="also tell how it was every S seconds"
    )
    made.add_argument("--folder", type=Path, help="where the spool lies")
    made.add_argument("--no-reading", action="store_true", help="leave out reading alone")
    made.add_argument(
        "--extras", action="store_true", help="let the daemon see packages that a vehicle lacks"
    )
    made.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    args = made.parse_args()
    if args.read:
        read(args.read)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        with cloud(folder / "cloud") as url:
            load = run_daemon(folder, args.seconds, url, every_s=args.every, extras=args.extras)
        reading_s = None if args.no_reading else reading_alone_s(folder, args.seconds)
        kind = file_system(folder)
    notes = (
        f"Two buses, {reference.FRAMES_A_SECOND:,} frames a second on each: 60 % of 500 kbit/s,",
        f"  a frame has {reference.FRAME_BITS} bits. 100 messages of ten signals, all kept; the",
        "  real daemon and the real cloud as processes.",
        "Frames come from candump files at their own speed, so reading text is part of the CPU;",
        "  reading alone is the same files at the same speed in a process with nothing behind.",
        f"The window is {load.seconds:.0f} s, after {_WARM_UP_S:.0f} s; the spool is on {kind}.",
    )
    show("Reference load", [*figures(load, reading_s)], notes, as_json=args.json)


if __name__ == "__main__":
    main()
