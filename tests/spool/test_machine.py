"""Whatever order things happen in: the spool against a list.

The model is a list of what was added, with what has become of each number. A bit that flips costs
the numbers of its file at most, and never gives a wrong one.
"""

import contextlib
import errno
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agent.batch import BatchReader
from agent.errors import BatchError, SpoolError
from agent.spool.memory import StreamKey
from tests.spool.car import BOTH, EVENT, RAW, Car, Limits, StillClock, content, numbers_of
from tests.spool.conftest import fast_folder
from tests.spool.fakefs import CUTS, Disk

KEYS = (BOTH, EVENT, RAW)
UPLINKS = ("cloud", "depot")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("edge_agent.spool")
    logger.disabled = True
    yield
    logger.disabled = False


class Machine(RuleBasedStateMachine):
    """One spool through crashes and full disks."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(tempfile.mkdtemp(dir=fast_folder()))
        self._lives = 0
        self._clock = StillClock()
        self._next = 0
        self._full = False
        # The model: numbers by uplink.
        self.pending: list[tuple[StreamKey, int]] = []
        self.durable: dict[str, set[int]] = {u: set() for u in UPLINKS}
        self.arrived: dict[str, dict[str, set[int]]] = {u: {} for u in UPLINKS}
        self.doubtful: dict[str, set[int]] = {u: set() for u in UPLINKS}
        """Given up, or in a file that was damaged: may be there or not."""
        self.added: dict[str, set[int]] = {u: set() for u in UPLINKS}
        self.flipped: set[str] = set()
        """Names of files with a bit that is not what it was."""

    @initialize()
    def begin(self) -> None:
        root = self._folder / "0"
        root.mkdir()
        self._open(Disk(root))

    def _open(self, disk: Disk) -> None:
        self.disk = disk
        limits = Limits(keep_sent_hours=1, memory_mb=1)
        self.car = Car(disk.root / "spool", KEYS, fs=disk, limits=limits, clock=self._clock)
        self._full = False

    # -- rules -----------------------------------------------------------------------------------

    @rule(key=st.sampled_from(KEYS), n=st.integers(1, 20))
    def append(self, key: StreamKey, n: int) -> None:
        numbers = range(self._next, self._next + n)
        self._next += n
        self.car.add(key, numbers)
        self.pending += [(key, number) for number in numbers]
        for uplink in key.uplinks:
            self.added[uplink] |= set(numbers)

    @rule(seconds=st.sampled_from([0.5, 5, 61, 1000]))
    def flush(self, seconds: float) -> None:
        self._doubt_kept_within(full=self._full)
        self.car.later(seconds)
        self._settle()

    @rule()
    def seal(self) -> None:
        self._doubt_kept_within(full=self._full)
        self.car.store.seal_now()
        self.car.commit()
        self._settle()

    @rule(uplink=st.sampled_from(UPLINKS))
    def read(self, uplink: str) -> None:
        for parcel in self.car.parcels(uplink):
            assert set(self._content(parcel.path)) <= self.added[uplink]

    @rule(uplink=st.sampled_from(UPLINKS))
    def acknowledge(self, uplink: str) -> None:
        parcel = self.car.store.outboxes[uplink].next()
        if parcel is None:
            return
        self.arrived[uplink][parcel.batch_id] = set(self._content(parcel.path))
        self.car.acknowledge(uplink)

    @rule(uplink=st.sampled_from(UPLINKS), which=st.integers(0, 100))
    def resend(self, uplink: str, which: int) -> None:
        names = sorted(self.arrived[uplink])
        if names:
            with contextlib.suppress(SpoolError):  # a full disk
                self.car.store.resend(uplink, names[which % len(names)])

    @rule(uplink=st.sampled_from(UPLINKS))
    def quarantine(self, uplink: str) -> None:
        outbox = self.car.store.outboxes[uplink]
        parcel = outbox.next()
        if parcel is not None:
            self._doubt(parcel.path, uplink)
            with contextlib.suppress(OSError):  # a full disk: it waits on
                if outbox.quarantine(parcel, "a test"):
                    n = parcel.samples
                    self.car.ledger.add("uplink", uplink, waiting=-n, quarantined=n)

    @rule()
    def fill(self) -> None:
        """The disk has no room any more."""
        self._full = True

        def full(_number: int, what: str) -> None:
            if what.startswith(("create", "write_at", "link", "make_folder")):
                raise OSError(errno.ENOSPC, "No space left on device")

        self.disk.before = full

    @precondition(lambda self: self._full)
    @rule()
    def make_room(self) -> None:
        self._full = False
        self.disk.before = lambda _number, _what: None

    @rule(which=st.integers(0, len(CUTS) - 1), mixed=st.integers(0, 3))
    def crash(self, which: int, mixed: int) -> None:
        """The power is cut, and the disk is what is left of it."""
        cut = Disk.cut(*CUTS[which])
        if mixed:
            cut = list(self.disk.mixed_cuts(3, str(which)))[-1]
        self._lives += 1
        left = self._folder / str(self._lives)
        self.disk.lay_out(left, cut)
        self._end()
        self._open(Disk(left))

    @rule()
    def reopen(self) -> None:
        """The process is killed, or stops; the page cache lives on."""
        self._end()
        self._open(Disk(self.disk.root))

    @rule(which=st.integers(0, 1000), bit=st.integers(0, 1 << 20))
    def flip_a_bit(self, which: int, bit: int) -> None:
        """Somewhere in a file of a batch, while no agent runs."""
        self._end()
        files = sorted((self.disk.root / "spool").rglob("*.batch"))
        if files:
            path = files[which % len(files)]
            self.flipped.add(path.name)
            for uplink in UPLINKS:
                self._doubt(path, uplink)
            data = bytearray(path.read_bytes())
            if data:
                data[bit // 8 % len(data)] ^= 1 << bit % 8
                path.write_bytes(bytes(data))
        self._open(Disk(self.disk.root))

    # -- what is always so -----------------------------------------------------------------------

    @invariant()
    def nothing_is_lost_and_nothing_wrong_waits(self) -> None:
        if not hasattr(self, "car"):
            return
        self.car.check()
        for uplink in UPLINKS:
            waiting: Counter[int] = Counter()
            for parcel in self.car.parcels(uplink):
                found = self._content(parcel.path)
                waiting += found
                known = self.arrived[uplink].get(parcel.batch_id)
                if known is not None and parcel.path.name not in self.flipped:
                    assert set(found) == known  # what is sent again is the same
            assert set(waiting) <= self.added[uplink]
            assert all(n == 1 for n in waiting.values())
            have = set(waiting).union(*self.arrived[uplink].values(), self._unsealed())
            assert self.durable[uplink] - self.doubtful[uplink] <= have

    def teardown(self) -> None:
        if hasattr(self, "car"):
            self._end()
        shutil.rmtree(self._folder)

    def _content(self, path: Path) -> Counter[int]:
        """Of a whole file everything, of a damaged one what its checksums let through."""
        return _readable(path) if path.name in self.flipped else content(path)

    def _unsealed(self) -> set[int]:
        """In files that are being written, or wait to be published."""
        files = (self.disk.root / "spool/open").glob("*.batch")
        return {number for path in files for number in _readable(path)}

    def _settle(self) -> None:
        if self.car.store.trouble == "":
            for key, number in self.pending:
                for uplink in key.uplinks:
                    self.durable[uplink].add(number)
            self.pending.clear()

    def _end(self) -> None:
        self.pending.clear()
        self.disk.before = lambda _number, _what: None
        self.car.store.close()

    def _doubt(self, path: Path, uplink: str) -> None:
        self.doubtful[uplink] |= set(_readable(path))

    def _doubt_kept_within(self, *, full: bool) -> None:
        """A full disk is relieved: the oldest may go."""
        if full:
            for uplink in UPLINKS:
                victim = self.car.store.outboxes[uplink]._least()
                if victim is not None:
                    self._doubt(victim.path, uplink)


def _readable(path: Path) -> Counter[int]:
    found: Counter[int] = Counter()
    with contextlib.suppress(BatchError):
        for kind, value in BatchReader(path).records():
            if kind == "samples":
                found.update(value.raw["Serial"].tolist())
            elif kind == "frames":
                found.update(numbers_of(value))
    return found


@pytest.mark.parametrize(
    ("examples", "steps"),
    [(80, 30), pytest.param(1500, 60, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
)
def test_a_spool_keeps_what_a_list_would_keep(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
