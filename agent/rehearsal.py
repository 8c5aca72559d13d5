"""A new plan decodes and collects the last seconds of real frames, before it is switched to.

What runs is what the decode thread would run: the pipeline, and the encoder of batches behind it.
It is compiled once more for this, with a ledger and a clock of its own, and nothing is written to
disk; so nothing of the run that goes on beside it changes, and none of its log lines is taken for
one of that run. What it warns of is among the findings.

It is harmful when

- it raises: that would end the decode thread;
- a bus of which it wants something is in its database no more: nothing of its frames is decoded,
  where the plan before decodes some. What is in the database counts, not what is wanted; and where
  the kernel hid what only the new plan wants, nothing can be said;
- a trigger storm is sure: in these seconds there were more events than a whole minute may have, of
  campaigns that are not the same in the plan before;
- it takes more CPU than real time allows.

Whatever is only a matter of how much is left to the trial (`agent.ota.judge`).
"""

import contextlib
import dataclasses
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from agent.batch.encoder import BatchEncoder
from agent.blocks import FrameBlock, Kept
from agent.clock import SECOND, BootNs, Quality, WallNs
from agent.collect.collector import Destination
from agent.errors import AgentError
from agent.ledger import Ledger, differences
from agent.pipeline import Pipeline, Prepared, prepare
from agent.signals import Decoder
from agent.signals.database import ANY_BUS
from agent.signals.filters import kernel_filters
from agent.spool.positions import Positions

log = logging.getLogger("edge_agent")

NO_FRAMES: Final = "no frames to rehearse with"
MOST_WALL_S: Final = 60.0
"""A rehearsal that has not ended by then, beside a busy run, is judged by what it has seen."""
COMPILE_S: Final = 10.0
"""CPU for compiling messages when they are first met: large databases on a slow board."""
LEAST_BEFORE: Final = 10
"""The plan before must decode so many of a bus; a few may be messages of one moment."""
EVENTS_A_MINUTE: Final = 60
_CHUNK_NS: Final = SECOND
_MOST_FINDINGS: Final = 20

_Filters = list[tuple[int, int]] | None


@dataclasses.dataclass
class Rehearsal:
    """What came of it; counts are of the frames that it got to."""

    frames: int = 0
    seconds: float = 0.0
    """From the first frame to the last."""
    decoded: int = 0
    """Frames, by the new plan's database."""
    decoded_before: int = 0
    """By that of the plan before."""
    kept: int = 0
    """Samples and raw frames."""
    events: int = 0
    bytes: int = 0
    """Of batches with what was kept."""
    cpu_s: float = 0.0
    """Of decoding, collecting and packing, with what is compiled on the way."""
    expected: dict[str, float] | None = None
    """Bus -> share of its frames that carry something which the new plan wants and its database
    describes; what a trial may ask for. None without frames."""
    findings: list[str] = dataclasses.field(default_factory=list)
    """Sentences: what could not be judged, and what the new plan warns of."""
    harm: str = ""
    """Why the plan must not be switched to, a sentence; empty when nothing speaks against it."""

    @property
    def bytes_a_second(self) -> float:
        return self.bytes / self.seconds if self.seconds > 0 else 0.0

    @property
    def summary(self) -> str:
        """One sentence with figures."""
        if not self.frames:
            return NO_FRAMES
        return (
            f"rehearsed with {self.frames:,} frames of {self.seconds:.1f} s: {self.decoded:,} "
            f"decoded ({self.decoded_before:,} by the plan before), {self.kept:,} samples kept, "
            f"{self.events:,} events, {self.bytes_a_second:,.0f} bytes a second, "
            f"{self.cpu_s:.2f} s of CPU"
        )


@dataclasses.dataclass(slots=True)
class _Bus:
    """The frames of one bus; `total` leaves out remote and error frames and parts of transport."""

    total: int = 0
    decoded: int = 0
    decoded_before: int = 0
    passing: int = 0
    """What the filters of the new plan let pass."""


class _FrameClock:
    """Shows the time of the frames."""

    boot_id = "rehearsal"

    def __init__(self) -> None:
        self.now = BootNs(0)

    def boot(self) -> BootNs:
        return self.now

    def wall(self) -> WallNs:
        return WallNs(self.now)

    def quality(self) -> Quality:
        return Quality.UNSYNCHRONISED


def rehearse(
    following: Prepared,
    before: Prepared,
    blocks: Sequence[FrameBlock],
    *,
    filtered: Collection[str] = (),
    max_events_per_minute: int = EVENTS_A_MINUTE,
    most_wall_s: float = MOST_WALL_S,
    cpu: Callable[[], float] = time.thread_time,
    wall: Callable[[], float] = time.monotonic,
) -> Rehearsal:
    """Try a plan with the frames that came last, in the order in which they came.

    Of both plans only what never changes is used, and compiled anew: they may be at work meanwhile.
    `filtered` are the buses whose frames went through the kernel's filters of the plan before.
    `cpu` gives the CPU seconds of this thread, `wall` those that pass; both are seams for tests.
    Raises nothing: what a plan raises is harm.
    """
    found = Rehearsal(frames=0, seconds=_span_s(blocks))
    if not any(len(block) for block in blocks):
        found.findings.append(NO_FRAMES)
        return found
    with _quiet(found.findings):
        try:
            run = _Run(following, found, cpu, wall() + most_wall_s, wall)
            buses = run.through(blocks)
        except AgentError as e:
            found.harm = str(e)
        except Exception as e:  # noqa: BLE001 - whatever it is would end the decode thread
            found.harm = f"it fails with these frames: {type(e).__name__}: {e}"
        else:
            _compare(before, blocks, buses, found)
            found.expected = {bus: _expected(following, bus, b) for bus, b in buses.items()}
            found.harm = (
                run.too_slow
                or run.storm(before, max_events_per_minute)
                or _lost(following, before, buses, filtered, found.findings)
            )
    return found


class _Run:
    """The new plan, compiled for this run alone, and the frames on their way through it."""

    def __init__(
        self,
        following: Prepared,
        found: Rehearsal,
        cpu: Callable[[], float],
        until: float,
        wall: Callable[[], float],
    ) -> None:
        self._found = found
        self._cpu = cpu
        self._until = until
        self._wall = wall
        self._ledger = Ledger()
        self._clock = _FrameClock()
        # Pseudonyms are of no meaning here, and no secret has to be known.
        self._prepared = prepare(
            following.plan,
            self._ledger,
            vehicle="rehearsal",
            secret=bytes(32),
            boot_id=self._clock.boot_id,
            also=following.wanted,
        )
        self._encoders: dict[Destination, BatchEncoder] = {}
        self._pending: dict[Destination, list[Kept]] = {}
        self.too_slow = ""

    def through(self, blocks: Sequence[FrameBlock]) -> dict[str, _Bus]:
        """All blocks, as far as there is time; what became of the frames of each bus."""
        found = self._found
        pipeline = Pipeline(self._prepared, self._ledger, self._clock, self._keep)
        passing: Counter[str] = Counter()
        filters: dict[str, _Filters] = {}
        packed_at = 0
        allowed = COMPILE_S + found.seconds
        for block in filter(len, blocks):
            n = len(block)
            began = self._cpu()
            self._ledger.add("bus", block.bus, received=n, read=n, queued=n)
            self._clock.now = BootNs(max(self._clock.now, int(block.time[-1])))
            pipeline.take(block)
            if self._clock.now - packed_at >= _CHUNK_NS:
                packed_at = self._clock.now
                self._pack()
            found.cpu_s += self._cpu() - began
            found.frames += n
            if block.bus not in filters:
                filters[block.bus] = _filters(self._prepared, block.bus)
            passing[block.bus] += _passing(filters[block.bus], block)
            if found.cpu_s > allowed:
                self.too_slow = (
                    f"it takes {found.cpu_s:.1f} s of CPU for {found.frames:,} of the frames of "
                    f"{found.seconds:.1f} s"
                )
                break
            if self._wall() >= self._until:
                found.findings.append(f"ended early, after {found.frames:,} frames")
                break
        pipeline.suspend()
        self._pack()
        found.bytes += sum(len(encoder.finish()) for encoder in self._encoders.values())
        return self._conclude(passing)

    def _keep(self, kept: Mapping[Destination, Sequence[Kept]], at: Positions | None) -> None:
        del at
        for where, rows in kept.items():
            self._pending.setdefault(where, []).extend(rows)

    def _pack(self) -> None:
        for where, rows in self._pending.items():
            encoder = self._encoders.get(where)
            if encoder is None:
                encoder = self._encoders[where] = BatchEncoder({"batch_id": "rehearsal"})
                self._found.bytes += len(encoder.begin())
            self._found.bytes += len(encoder.chunk(rows))
        self._pending.clear()

    def _conclude(self, passing: Mapping[str, int]) -> dict[str, _Bus]:
        found, counts = self._found, self._ledger.snapshot()
        buses = {
            bus: _Bus(
                total=row["decoded"] + row["unknown"] + row["undecodable"],
                decoded=row["decoded"],
                passing=passing[bus],
            )
            for bus, row in counts["bus"].items()
        }
        found.decoded = sum(bus.decoded for bus in buses.values())
        found.kept = sum(row["kept"] for row in counts["campaign"].values())
        found.events = sum(row["events"] for row in counts["campaign"].values())
        found.findings += [f"the ledger does not close: {each}" for each in differences(counts)]
        return buses

    def storm(self, before: Prepared, most: int) -> str:
        """Whether campaigns that are new, or changed, begin far too many events."""
        known = set(before.plan.campaigns)
        counts = self._ledger.snapshot()["campaign"]
        events = {
            campaign.name: counts[campaign.name]["events"]
            for campaign in self._prepared.plan.campaigns
            if campaign not in known
        }
        if sum(events.values()) <= most:
            return ""
        worst = max(events, key=lambda name: events[name])
        return (
            f"{sum(events.values()):,} events in {self._found.seconds:.1f} s, where {most:,} in a "
            f"minute are allowed; most are of campaign {worst}"
        )


def _compare(
    before: Prepared, blocks: Iterable[FrameBlock], buses: Mapping[str, _Bus], found: Rehearsal
) -> None:
    """What the plan before makes of the same frames, with a decoder of its own."""
    decoder = Decoder.of_paths(before.plan.database, before.wanted)
    left = found.frames
    try:
        for block in filter(len, blocks):
            if left <= 0:
                return
            left -= len(block)
            _, counts = decoder.decode_counted(block)
            buses[block.bus].decoded_before += counts.decoded
            found.decoded_before += counts.decoded
    except Exception as e:  # noqa: BLE001 - that is no fault of the new plan
        found.findings.append(f"the plan before fails with these frames: {type(e).__name__}: {e}")


def _lost(
    following: Prepared,
    before: Prepared,
    buses: Mapping[str, _Bus],
    filtered: Collection[str],
    findings: list[str],
) -> str:
    """Buses that the new plan wants something of and whose frames are none of its database."""
    lost = []
    for name, bus in sorted(buses.items()):
        if bus.decoded or bus.decoded_before < LEAST_BEFORE:
            continue
        if not _wants(following, name):
            findings.append(f"bus {name}: the plan wants nothing of it")
        elif name in filtered and not _covered(following, before, name):
            findings.append(f"bus {name}: what the plan wants was hidden by filters until now")
        else:
            lost.append(
                f"bus {name}: none of {bus.total:,} frames is in the database; by that of the "
                f"plan before {bus.decoded_before:,} are decoded"
            )
    return "; ".join(lost)


def _expected(following: Prepared, name: str, bus: _Bus) -> float:
    if not bus.total or not _wants(following, name):
        return 0.0
    return min(bus.decoded, bus.passing, bus.total) / bus.total


def expectations(prepared: Prepared, buses: Iterable[str]) -> dict[str, float]:
    """What a trial may ask for that was not rehearsed in this process: bus -> 0 or 1.

    That something is decoded of the buses of which the plan wants something.
    """
    return {bus: float(_wants(prepared, bus)) for bus in buses}


def _wants(prepared: Prepared, bus: str) -> bool:
    """Whether a plan wants signals of the frames of a bus."""
    names = {path.message for path in prepared.wanted if path.bus in (bus, ANY_BUS)}
    database = prepared.plan.database
    described = {message.name for message in database.messages(bus)}
    return not names.isdisjoint(described | {each.name for each in database.lists(bus)})


def _covered(following: Prepared, before: Prepared, bus: str) -> bool:
    """Whether all that the new plan wants of a bus passed the filters of the plan before."""
    was = before.filters(bus)
    wanted = _filters(following, bus)
    return was is None or (wanted is not None and set(wanted) <= set(was))


def _filters(prepared: Prepared, bus: str) -> _Filters:
    """What carries the signals that a plan wants of a bus; raw frames are another matter."""
    return kernel_filters(prepared.plan.database, bus, prepared.wanted)


def _passing(filters: _Filters, block: FrameBlock) -> int:
    """How many frames carry something that is wanted, by their ids."""
    if filters is None:
        return len(block)
    ids, counts = np.unique(block.id, return_counts=True)
    passes = np.zeros(len(ids), bool)
    for identifier, mask in filters:
        passes |= (ids & np.uint32(mask)) == np.uint32(identifier & mask)
    return int(counts[passes].sum())


def _span_s(blocks: Iterable[FrameBlock]) -> float:
    """From the first frame to the last; of several kinds of time the longest span."""
    ends: dict[str, tuple[int, int]] = {}
    for block in filter(len, blocks):
        first, last = int(block.time.min()), int(block.time.max())
        known = ends.get(block.clock, (first, last))
        ends[block.clock] = min(known[0], first), max(known[1], last)
    return max((last - first for first, last in ends.values()), default=0) / SECOND


@contextlib.contextmanager
def _quiet(findings: list[str]) -> Iterator[None]:
    """No line of this thread is logged: it would be taken for one of the run. Warnings are kept."""
    me = threading.get_ident()

    def others(record: logging.LogRecord) -> bool:
        if record.thread != me:
            return True
        if record.levelno >= logging.WARNING and len(findings) < _MOST_FINDINGS:
            findings.append(record.getMessage())
        return False

    log.addFilter(others)
    try:
        yield
    finally:
        log.removeFilter(others)
