"""What a plan would cost, and find, on a recording.

Not a model: the pipeline and the spool of the agent themselves, on a clock that follows the
recording, with a receiver that takes every batch at once. So what is counted is what a run uploads.

Bytes are those of sealed batches. What of them a campaign or a signal costs cannot be told exactly,
because one compressor sees all of them together: they are shared out by what each signal's columns
take on their own. Reports to a platform go as frames of their own, and are counted as such.
"""

import dataclasses
import tempfile
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.batch.format import zstd
from agent.blocks import Event, FrameBlock, Kept, KeptFrames, Reports, SignalTable
from agent.bus import read_log
from agent.clock import MILLISECOND, SECOND, BootNs, Quality, WallNs
from agent.collect import Plan
from agent.collect.collector import Destination
from agent.ledger import Ledger
from agent.pipeline import Pipeline, headers, prepare
from agent.settings import Batch, Spool
from agent.signals.database import ANY_BUS, SignalPath
from agent.spool.positions import Positions
from agent.spool.store import SpoolStore, StreamKey

_BLOCK_NS = 500 * MILLISECOND
_LEAST_S = 1.0
_FRAME_BYTES = 31
"""Of a GB/T 32960 frame beside the body of the report: head 24, time 6, check 1."""


class _LogClock:
    """Shows the time of the recording."""

    boot_id = str(uuid.UUID(int=0))

    def __init__(self) -> None:
        self.now = BootNs(0)

    def boot(self) -> BootNs:
        return self.now

    def wall(self) -> WallNs:
        return WallNs(self.now)

    def quality(self) -> Quality:
        return Quality.NTP


@dataclasses.dataclass
class Estimate:
    """What was found; bytes and counts of the whole recording."""

    seconds: float = 0.0
    frames: int = 0
    samples: int = 0
    batches: int = 0
    bytes: int = 0
    uplinks: dict[str, int] = dataclasses.field(default_factory=dict)
    """Bytes by uplink."""
    campaigns: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    signals: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    never: list[str] = dataclasses.field(default_factory=list)
    """Signals that some campaign names and that did not occur."""
    events: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    cpu_s: float = 0.0
    """Of decoding, collecting and storing; reading the recording is not in it."""
    platforms: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    """By platform: `reports` and their `bytes`, in frames; none of it is in the counts above."""
    ring_bytes: int = 0
    """The most that waited for triggers."""
    ledger: dict[str, dict[str, dict[str, int]]] = dataclasses.field(default_factory=dict)

    def an_hour(self, amount: float) -> float:
        return amount * 3600 / max(self.seconds, _LEAST_S)


class Estimator:
    """One recording through one plan."""

    def __init__(
        self, plan: Plan, log: str, *, uplinks: Sequence[str], batch: Batch | None = None
    ) -> None:
        self._plan = plan
        self._log = str(Path(log).absolute())
        self._uplinks = list(uplinks)
        self._platforms = frozenset(plan.reports.platforms if plan.reports else ())
        self._batch = batch or Batch()
        self._spool = Spool(quota_mb=1 << 20, free_floor_mb=0)
        self._clock = _LogClock()
        self._ledger = Ledger()
        self._found = Estimate()
        self._weights: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._samples: Counter[tuple[str, str]] = Counter()
        self._compressor = zstd.ZstdCompressor(level=3)

    def run(self, blocks: Iterable[FrameBlock]) -> Estimate:
        """Through the whole recording."""
        with tempfile.TemporaryDirectory(prefix="edge-agent-estimate-") as folder:
            store = SpoolStore(
                Path(folder),
                vehicle="estimate",
                uplinks=self._uplinks,
                spool=self._spool,
                batch=self._batch,
                ledger=self._ledger,
                clock=self._clock,
            )
            try:
                self._through(blocks, store)
            finally:
                store.close()
        return self._found

    def _through(self, blocks: Iterable[FrameBlock], store: SpoolStore) -> None:
        prepared = prepare(self._plan, self._ledger, vehicle="estimate", secret=bytes(32))

        def keep(kept: Mapping[Destination, Sequence[Kept]], positions: Positions | None) -> None:
            rows = {where: rows for where, rows in kept.items() if not self._reports_to(where)}
            store.add({StreamKey(*where): each for where, each in rows.items()}, positions)
            self._note(rows)
            self._note_reports(kept)

        pipeline = Pipeline(prepared, self._ledger, self._clock, keep)
        interval = round(self._spool.commit_interval_s * SECOND)
        due: int | None = None
        first = last = None
        for block in _pieces(blocks):
            n = len(block)
            last = int(block.time[-1])
            if first is None:
                first = int(block.time[0])
                self._clock.now = BootNs(first)
                store.start(
                    [
                        StreamKey(*where)
                        for where in prepared.destinations
                        if not self._reports_to(where)
                    ],
                    headers(prepared, self._here(block)),
                    thread=False,
                )
                due = first + interval
            self._ledger.add("bus", block.bus, received=n, read=n, queued=n)
            began = time.process_time()
            pipeline.take(block)
            self._clock.now = BootNs(max(last, self._clock.now))
            if due is not None and self._clock.now >= due:
                due += (self._clock.now - due) // interval * interval + interval
                store.commit()
                self._take_away(store)
            self._found.cpu_s += time.process_time() - began
            self._found.frames += n
            rings = sum(c.ring.nbytes for c in prepared.collector.campaigns)
            self._found.ring_bytes = max(self._found.ring_bytes, rings)
        if first is not None and last is not None:
            began = time.process_time()
            pipeline.finish()
            store.seal_now()
            store.commit()
            store.stop()  # which sends a last ledger, as a run does
            self._take_away(store)
            self._found.cpu_s += time.process_time() - began
            self._found.seconds = (last - first) / SECOND
        self._conclude()

    def _here(self, block: FrameBlock) -> dict[str, Any]:
        """What a run says of the recording in each header."""
        place = {"path": self._log, "size": 1 << 24, "frames": 1 << 16}
        return {"positions": {block.bus: place}}

    def _take_away(self, store: SpoolStore) -> None:
        """The receiver has every batch at once."""
        for uplink, outbox in store.outboxes.items():
            while (parcel := outbox.next()) is not None:
                self._found.batches += 1
                self._found.bytes += parcel.size
                self._found.uplinks[uplink] = self._found.uplinks.get(uplink, 0) + parcel.size
                if outbox.acknowledge(parcel):
                    self._ledger.add(
                        "uplink", uplink, acknowledged=parcel.samples, waiting=-parcel.samples
                    )

    # -- who costs what ----------------------------------------------------------------------

    def _note(self, kept: Mapping[Destination, Sequence[Kept]]) -> None:
        for rows in kept.values():
            for each in rows:
                if isinstance(each, SignalTable):
                    self._note_table(each)
                elif isinstance(each, KeptFrames):
                    key = (each.campaign, f"raw frames of {each.block.bus}")
                    self._samples[key] += len(each)
                    self._weights[key] += self._size(each.block.data)
                elif isinstance(each, Event) and not each.value.get("complete", True):
                    self._found.events.append(each.value)

    def _reports_to(self, where: Destination) -> bool:
        """Whether what goes there are reports to a platform."""
        return not self._platforms.isdisjoint(where.uplinks)

    def _note_reports(self, kept: Mapping[Destination, Sequence[Kept]]) -> None:
        for where, rows in kept.items():
            bodies = [body for each in rows if isinstance(each, Reports) for body in each.bodies]
            for name in where.uplinks if bodies else ():
                told = self._found.platforms.setdefault(name, {"reports": 0, "bytes": 0})
                told["reports"] += len(bodies)
                told["bytes"] += sum(_FRAME_BYTES + len(body) for body in bodies)

    def _note_table(self, table: SignalTable) -> None:
        share = self._size(np.diff(table.time)) / max(1, len(table.names))
        for name, column in table.raw.items():
            key = (table.campaign, f"{table.message}.{name}")
            self._samples[key] += len(table)
            changes = column if column.dtype.kind == "S" else np.diff(column)
            self._weights[key] += 1 + share + self._size(changes)

    def _size(self, column: Any) -> float:
        """What a column takes on its own; a constant one next to nothing."""
        if not len(column) or not np.any(column):
            return 0.0
        data = np.ascontiguousarray(column).tobytes()
        return float(len(self._compressor.compress(data, zstd.ZstdCompressor.FLUSH_FRAME)) - 9)

    def _conclude(self) -> None:
        found = self._found
        found.ledger = self._ledger.snapshot()
        found.samples = sum(self._samples.values())
        whole = sum(self._weights.values()) or 1.0
        by_campaign: defaultdict[str, float] = defaultdict(float)
        for (who, name), weight in self._weights.items():
            share = found.bytes * weight / whole
            by_campaign[who] += share
            entry = found.signals.setdefault(name, {"samples": 0, "bytes": 0.0, "campaigns": []})
            entry["samples"] += self._samples[who, name]
            entry["bytes"] += share
            entry["campaigns"].append(who)
        for campaign in self._plan.campaigns:
            counts = found.ledger["campaign"].get(campaign.name, {})
            found.campaigns[campaign.name] = {
                "lane": campaign.lane,
                "signals": len(campaign.signals),
                "offered": counts.get("offered", 0),
                "kept": counts.get("kept", 0),
                "events": counts.get("events", 0),
                "bytes": by_campaign[campaign.name],
                "trigger": campaign.trigger.text if campaign.trigger else "",
            }
        seen = {name for _, name in self._samples}
        found.never = sorted(
            {str(path) for c in self._plan.campaigns for path in c.signals if not _seen(path, seen)}
        )


def _seen(path: SignalPath, seen: set[str]) -> bool:
    name = str(path)
    return name in seen or any(
        f"{name}.{suffix}" in seen for suffix in ("min", "max", "mean", "last", "count")
    )


def _pieces(blocks: Iterable[FrameBlock]) -> Iterator[FrameBlock]:
    """Blocks as a bus gives them: half a second each, at the most."""
    for block in blocks:
        cells = block.time // _BLOCK_NS
        edges = (np.flatnonzero(cells[1:] != cells[:-1]) + 1).tolist()
        for a, b in zip([0, *edges], [*edges, len(block)], strict=True):
            yield block[a:b]


def estimate(
    log: str,
    plan: Plan,
    *,
    bus: str = ANY_BUS,
    channel: str | None = None,
    uplinks: Sequence[str],
    batch: Batch | None = None,
) -> Estimate:
    """A recording as the bus `bus` through a plan.

    Raises:
        BusError: the recording cannot be read.
    """
    with read_log(log, channel=channel, bus=bus) as blocks:
        return Estimator(plan, log, uplinks=uplinks, batch=batch).run(blocks)
