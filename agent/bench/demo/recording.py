"""A recording of one's own: decoded directly, and compared with what the cloud has."""

import collections
import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from agent.batch import BatchReader
from agent.bench.demo.processes import DemoError
from agent.bench.demo.telling import note, say
from agent.blocks import SignalTable
from agent.bus import read_log
from agent.clock import SECOND
from agent.errors import BusError
from agent.signals import Database, Decoder

Totals = dict[str, tuple[int, float]]
"""Signal -> count of samples, sum of physical values."""


@dataclasses.dataclass(frozen=True)
class Recording:
    """A recording and the database files that describe it."""

    path: Path
    dbc: Sequence[Path]
    channel: str = ""
    j1939: bool = False


@dataclasses.dataclass(frozen=True)
class Expected:
    """What the cloud must have in the end, and how long the recording is."""

    totals: Totals
    seconds: float


def _add(totals: Totals, table: SignalTable) -> None:
    for s in table.schema.signals:
        name = f"{table.message}.{s.name}" + ("" if table.source is None else f"@{table.source}")
        count, total = totals.get(name, (0, 0.0))
        value = 0.0 if s.kind == "bytes" else float(table.physical(s.name).sum())
        totals[name] = (count + len(table), total + value)


def decode_directly(recording: Recording) -> Expected:
    """Decode a recording as the agent does, without the agent.

    Raises:
        BusError: it cannot be read, or has no frame.
        DatabaseError: a database file cannot be read.
        DemoError: no frame is described by the database files.
    """
    say(f"Reading {recording.path} ...")
    decoder = Decoder(Database.load(recording.dbc, j1939=recording.j1939))
    totals: Totals = {}
    ids: collections.Counter[int] = collections.Counter()
    first = last = None
    frames = 0
    with read_log(recording.path, channel=recording.channel or None, bus="bus") as reader:
        for block in reader:
            frames += len(block)
            low, high = int(block.time.min()), int(block.time.max())
            first = low if first is None else min(first, low)
            last = high if last is None else max(last, high)
            ids.update(block.id.tolist() if frames < 100_000 else ())
            for table in decoder.decode(block):
                _add(totals, table)
    if first is None or last is None:
        raise BusError(f"{recording.path}: there are no frames")
    if not totals:
        common = ", ".join(f"{i & 0x1FFF_FFFF:X}" for i, _ in ids.most_common(8))
        raise DemoError(
            f"0 % decoded: no frame of {recording.path} is described by "
            f"{', '.join(map(str, recording.dbc))}. Ids that occur most: {common}"
        )
    seconds = (last - first) / SECOND
    samples = sum(count for count, _ in totals.values())
    note(
        f"{frames:,} frames in {seconds:.1f} s, {decoder.counts.decoded / frames:.1%} decoded, "
        f"{len(totals):,} signals, {samples:,} samples"
    )
    return Expected(totals, seconds)


def write_config(recording: Recording, folder: Path, speed: float) -> Path:
    """A device file and a plan that keep everything of the recording; the device file's path."""
    files = json.dumps([str(path.absolute()) for path in recording.dbc])
    (folder / "plan.toml").write_text(
        f'version = 1\nname = "demo"\n\n[[database]]\nbus = "*"\nfiles = {files}\n'
        f"j1939 = {str(recording.j1939).lower()}\n\n"
        '[[campaign]]\nname = "everything"\nsignals = ["*"]\n'
    )
    return device_file(
        folder, "demo", "plan.toml", recording.path, speed, channel=recording.channel
    )


def device_file(
    folder: Path, vehicle: str, plan: str, log: Path, speed: float, *, channel: str = ""
) -> Path:
    """Write a device file with a recording for a bus."""
    config = folder / "agent.toml"
    config.write_text(
        f'vehicle = "{vehicle}"\nplan = {json.dumps(plan)}\nstate_dir = "state"\n\n[[bus]]\n'
        f'name = "bus"\nkind = "recording"\npath = {json.dumps(str(log.absolute()))}\n'
        f"channel = {json.dumps(channel)}\nspeed = {speed:g}\n\n"
        '[[uplink]]\nname = "cloud"\nurl = "http://127.0.0.1:8080"\n'
    )
    return config


def compare(files: Iterable[Path], expected: Expected) -> list[str]:
    """Each signal of the cloud's batches against the recording; what differs, as sentences."""
    totals: Totals = {}
    for path in files:
        for kind, value in BatchReader(path).records():
            if kind == "samples":
                _add(totals, value)
    wrong = []
    for name, (count, total) in expected.totals.items():
        here = totals.get(name, (0, 0.0))
        tolerance = 1e-9 * max(1.0, abs(total))
        if here[0] != count or not (abs(here[1] - total) <= tolerance or total != total):  # noqa: PLR0124 - NaN
            wrong.append(f"{name}: {count:,} samples that sum to {total:g}, in the cloud {here}")
    return wrong
