"""Bytes passed to write() and bytes at the block device, for each byte that the spool stores."""

import contextlib
import dataclasses
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from agent.blocks import SignalSchema, SignalTable, TableSchema
from agent.clock import SystemClock
from agent.ledger import Ledger
from agent.settings import Batch, Spool
from agent.spool.filesystem import RealFileSystem
from agent.spool.store import SpoolStore, StreamKey
from tests.benchmarks.report import Figure, file_system, parser, show

KEY = StreamKey("telemetry", ("cloud",))
RATES_KB_S = (1, 6, 50)
_SECTOR = 512
_DEVICE_MB = 192
_NOTES = (
    "Noise, which packs no smaller, at a steady rate; the daemon's defaults: a commit each second,",
    "  a batch sealed after 60 s or 1 MiB. All rates run side by side, each in a spool of its own.",
    "stored: the sealed batches. write(): what the spool passes to it, also headers and counters.",
    "block device: sectors written as /sys/block/.../stat has them, journal and metadata included,",
    "  from the empty file system to the unmounted one.",
)


class _Counting(RealFileSystem):
    """The kernel's file system, with a count of what is passed to write()."""

    def __init__(self) -> None:
        self.written = 0
        self.syncs = 0

    def write_at(self, handle: int, offset: int, data: bytes) -> None:
        super().write_at(handle, offset, data)
        self.written += len(data)

    def sync(self, handle: int) -> None:
        super().sync(handle)
        self.syncs += 1


@dataclasses.dataclass(slots=True)
class Run:
    """What one rate came to."""

    rate: int
    """Bytes a second."""
    stored: int = 0
    written: int = 0
    syncs: int = 0
    device: int | None = None
    """Bytes written to the block device; None where there is none of its own."""
    why_not: str = ""
    kind: str = ""
    """The file system."""


def _noise(source: np.random.Generator, bytes_: int) -> SignalTable:
    payload = source.integers(0, 256, (1, bytes_), dtype=np.uint8)
    schema = TableSchema("bench", "Noise", (SignalSchema("Noise", "bytes", 8 * bytes_),))
    return SignalTable(schema, np.zeros(1, np.int64), {}, (payload,))


def fill(folder: Path, run: Run, seconds: int) -> None:
    """A spool at a steady rate, in real time."""
    fs = _Counting()
    store = SpoolStore(
        folder / "spool",
        vehicle="bench",
        uplinks=["cloud"],
        spool=Spool(free_floor_mb=0),
        batch=Batch(),
        ledger=Ledger(),
        clock=SystemClock(),
        fs=fs,
    )
    store.start([KEY])
    source = np.random.default_rng(1)
    began = time.monotonic()
    for i in range(seconds * 2):  # blocks of 500 ms
        store.add({KEY: [_noise(source, run.rate // 2)]})
        time.sleep(max(0.0, began + (i + 1) / 2 - time.monotonic()))
    store.stop()
    run.stored = sum(p.stat().st_size for p in (folder / "spool/uplinks").rglob("*.batch"))
    run.written, run.syncs = fs.written, fs.syncs
    run.kind = file_system(folder)
    store.close()


@contextlib.contextmanager
def _device(folder: Path) -> Iterator[tuple[Path, Path]]:
    """An ext4 of its own on a loop device: its statistics, and where it is mounted.

    Raises:
        OSError, subprocess.SubprocessError: that is not possible here.
    """
    image, mounted = folder / "image", folder / "mounted"
    with image.open("wb") as file:
        file.truncate(_DEVICE_MB << 20)
    mounted.mkdir()
    device = _command("losetup", "--find", "--show", str(image)).strip()
    try:
        now = "lazy_itable_init=0,lazy_journal_init=0"
        _command("mkfs.ext4", "-q", "-F", "-E", now, device)
        _command("mount", device, str(mounted))
        try:
            yield Path("/sys/block") / Path(device).name / "stat", mounted
        finally:
            if mounted.is_mount():
                _command("umount", str(mounted))
    finally:
        _command("losetup", "--detach", device)


def _command(*words: str) -> str:
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


def _bytes_written(stat: Path) -> int:
    """Documentation/block/stat.rst: the seventh figure counts sectors of 512 bytes."""
    return int(stat.read_text("ascii").split()[6]) * _SECTOR


def measure(run: Run, seconds: int) -> None:
    """One rate, on a device of its own where that is possible."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with _device(Path(folder)) as (stat, mounted):
                _command("sync", "--file-system", str(mounted))
                before = _bytes_written(stat)
                fill(mounted, run, seconds)
                _command("umount", str(mounted))
                run.device = _bytes_written(stat) - before
        except (OSError, subprocess.SubprocessError) as e:
            said = getattr(e, "stderr", "") or str(e)
            run.why_not = f"(needs root and a loop device: {str(said).strip().splitlines()[0]})"
            if not run.stored:
                fill(Path(folder), run, seconds)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--seconds", type=int, default=150, help="how long (default: 150)")
    args = options.parse_args()
    runs = [Run(rate * 1000) for rate in RATES_KB_S]
    threads = [threading.Thread(target=measure, args=(run, args.seconds)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    figures = []
    for run in runs:
        name = f"{run.rate // 1000} kB/s"
        stored = max(1, run.stored)
        figures += [
            Figure(
                f"{name}: write() for a stored byte",
                run.written / stored,
                "B",
                "at most",
                1.05,
                note=f"({run.written:,} of {run.stored:,} bytes, {run.syncs} syncs, {run.kind})",
            ),
            Figure(
                f"{name}: block device for a stored byte",
                None if run.device is None else run.device / stored,
                "B",
                note=run.why_not or f"({(run.device or 0) / args.seconds / 1000:.1f} kB/s)",
            ),
        ]
    show("Spool bytes", figures, _NOTES, as_json=args.json)


if __name__ == "__main__":
    main()
