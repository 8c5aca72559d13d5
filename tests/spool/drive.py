"""Two runs on one disk that do everything a spool does, and notes of what is promised meanwhile."""

import contextlib
import copy
from collections import Counter, defaultdict
from pathlib import Path

from agent.errors import SpoolError
from tests.spool.car import BOTH, EVENT, RAW, Car, Limits, StillClock, content
from tests.spool.fakefs import Disk

KEYS = (BOTH, EVENT, RAW)
UPLINKS = ("cloud", "depot")
LIMITS = Limits(max_age_days=1, keep_sent_hours=1)
_EACH = 3
_DAY_S = 86_400


class Drive:
    """The runs, step by step; each keeps its notes."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.clock = StillClock()
        self.added: set[int] = set()
        self.durable: set[int] = set()
        self.arrived: dict[str, dict[str, set[int]]] = defaultdict(dict)
        """By uplink and batch."""
        self.given_up: dict[str, set[int]] = defaultdict(set)
        self.runs: set[tuple[str, int]] = set()
        self.promises = 0
        self._serial = 0
        self._pending: set[int] = set()

    def open(self) -> Car:
        car = Car(self.disk.root / "spool", KEYS, fs=self.disk, limits=LIMITS, clock=self.clock)
        self.runs.add((car.store.folder.install, car.store.folder.run))
        self.promises += 1
        return car

    def add(self, car: Car) -> None:
        for key in KEYS:
            numbers = range(self._serial, self._serial + _EACH)
            self._serial += _EACH
            self.added |= set(numbers)
            self._pending |= set(numbers)
            car.add(key, numbers)

    def settle(self, car: Car) -> None:
        """Everything added is durable, once the disk works."""
        if not car.store.trouble:
            self.durable |= self._pending
            self._pending.clear()
            self.promises += 1

    def kill(self, car: Car) -> None:
        """The process is gone with its memory; the page cache lives on."""
        self._pending.clear()
        car.store.close()

    def round(self, car: Car, seconds: float = 61) -> None:
        self.add(car)
        car.later(seconds)
        self.settle(car)

    def acknowledge(self, car: Car, uplink: str) -> str:
        """The receiver has the most urgent one; which that was."""
        parcel = car.store.outboxes[uplink].next()
        if parcel is None:
            return ""
        self.arrived[uplink][parcel.batch_id] = set(content(parcel.path))
        self.promises += 1
        while True:
            with contextlib.suppress(OSError):
                car.acknowledge(uplink)
                return parcel.batch_id

    def resend(self, car: Car, uplink: str, batch_id: str) -> None:
        """The receiver asks for one again."""
        with contextlib.suppress(SpoolError):
            car.store.resend(uplink, batch_id)
        car.check()

    def quarantine(self, car: Car, uplink: str) -> None:
        outbox = car.store.outboxes[uplink]
        parcel = outbox.next()
        if parcel is None:
            return
        self.given_up[uplink] |= set(content(parcel.path))
        self.promises += 1
        while True:
            with contextlib.suppress(OSError):
                if outbox.quarantine(parcel, "a test"):
                    n = parcel.samples
                    car.ledger.add("uplink", uplink, waiting=-n, quarantined=n)
                return

    def evict(self, car: Car) -> None:
        """The disk has little room, until a batch that waited has gone."""
        before = _evicted(car)
        for _ in range(8):
            for uplink in UPLINKS:
                victim = car.store.outboxes[uplink]._least()
                if victim is not None:
                    self.given_up[uplink] |= set(content(victim.path))
            self.promises += 1
            self.disk.free = (64 << 20) - 1
            car.commit()
            self.disk.free = 1 << 40
            if _evicted(car) > before:
                return

    def grow_old(self, car: Car) -> None:
        """Two days pass: what waits is too old, what was sent was kept long enough."""
        for uplink in UPLINKS:
            self.given_up[uplink] |= of(self.added, uplink)
        self.promises += 1
        car.later(2 * _DAY_S)

    def first_run(self, car: Car) -> None:
        self.round(car)
        self.round(car)
        sent = self.acknowledge(car, "cloud")
        self.acknowledge(car, "cloud")
        self.resend(car, "cloud", sent)
        self.round(car)
        car.store.seal_now()
        self.round(car, 1)
        self.quarantine(car, "depot")
        self.evict(car)
        self.round(car)
        self.grow_old(car)
        self.round(car)
        self.kill(car)

    def second_run(self, car: Car) -> None:
        self.settle(car)
        sent = self.acknowledge(car, "depot")
        self.round(car)
        self.resend(car, "depot", sent)
        self.add(car)
        car.store.stop()
        self.settle(car)
        car.store.close()

    def whole(self) -> None:
        """Both runs, on a disk that works."""
        self.first_run(self.open())
        self.second_run(self.open())

    def examine(self, root: Path, disk: Disk | None = None) -> None:
        """What a start finds in a folder that was left by a cut now."""
        clock = copy.copy(self.clock)
        car = Car(root / "spool", KEYS, fs=disk or Disk(root), limits=LIMITS, clock=clock)
        try:
            car.check()
            assert car.store.trouble == ""
            run = car.store.folder.install, car.store.folder.run
            assert run not in self.runs
            assert all(run > known for known in self.runs if known[0] == run[0])
            for uplink in UPLINKS:
                batches = {p.batch_id: content(p.path) for p in car.parcels(uplink)}
                waiting = sum(batches.values(), Counter[int]())
                assert not waiting or max(waiting.values()) == 1
                assert car.counts(uplink)["waiting"] == waiting.total()
                known = self.arrived[uplink]
                for batch_id in known.keys() & batches.keys():  # what is sent again is the same
                    assert known[batch_id] == set(batches[batch_id])
                have = set(waiting).union(*known.values())
                assert have <= of(self.added, uplink)
                assert of(self.durable, uplink) - self.given_up[uplink] <= have
            assert list((root / "spool/quarantine").glob("cloud/*")) == []
        finally:
            car.store.close()


def _evicted(car: Car) -> int:
    return sum(car.counts(uplink)["evicted"] for uplink in UPLINKS)


def of(numbers: set[int], uplink: str) -> set[int]:
    """Of each round, two streams are for the cloud alone."""
    return {n for n in numbers if uplink == "cloud" or n // _EACH % len(KEYS) == 0}
