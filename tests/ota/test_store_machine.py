"""Whatever order things happen in, and wherever the power goes: the store against plain lists.

The model is what a person would write down on paper. A cut comes at rest or in the middle of a
step; then either what was written down before the step counts, or what was to be written after it.
"""

import copy
import itertools
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agent.clock import WallNs
from agent.errors import UpdateError
from agent.ota import record as records
from agent.ota.record import MOST_REJECTED, Floor, Record, Report
from agent.ota.store import Store
from tests.ota.life import archive, bundle, metadata
from tests.spool.conftest import fast_folder
from tests.spool.fakefs import CUTS, Cut, Disk


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("edge_agent.ota")
    logger.disabled = True
    yield
    logger.disabled = False


@dataclass
class Paper:
    """Bundles are numbers here; 0 is the factory plan."""

    good: int = 0
    before: int = 0
    trial: int = 0
    tries: int = 0
    back: list[int] = field(default_factory=list)
    pinned: bool = False
    floor: tuple[int, str] = (0, "")
    time: int = 0
    answered: list[str] = field(default_factory=list)
    waiting: int = 0

    def runs(self) -> int:
        return self.trial or self.good

    def take_back(self, number: int) -> None:
        if number in self.back:
            self.back.remove(number)
        self.back.append(number)
        del self.back[:-MOST_REJECTED]

    def fall(self) -> None:
        """From what was good to the one before it."""
        self.good = 0 if self.before in self.back else self.before
        self.before = 0


def _paper(record: Record) -> Paper:
    """What the record says, on paper."""

    def number(each: records.BundleId | None) -> int:
        return 0 if each is None else each.version

    floor = record.floors.get("root")
    return Paper(
        number(record.current),
        number(record.previous),
        number(record.trial.bundle) if record.trial else 0,
        record.trial.starts if record.trial else 0,
        [each.bundle.version for each in record.rejected],
        record.pinned,
        (floor.version, floor.keys) if floor else (0, ""),
        record.time_floor,
        list(record.done),
        len(record.reports),
    )


class PowerCut(Exception):  # noqa: N818  (it is no error of the program)
    pass


_NUMBERS = st.integers(1, 9)
_CUTS = st.sampled_from(CUTS)


class Machine(RuleBasedStateMachine):
    """One vehicle."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(tempfile.mkdtemp(dir=fast_folder()))
        self._lives = 0
        self._reports = itertools.count()
        self._looks = itertools.count(1)
        self._armed: tuple[int, Callable[[Disk], Cut]] | None = None
        self.paper = Paper()
        self.looked: list[int] = [0]
        """Which metadata may be there."""
        (self._folder / "disk").mkdir()
        self.disk = Disk(self._folder / "disk")
        self.store = Store(self.disk.root / "ota", self.disk)
        self.store.open()

    def teardown(self) -> None:
        self.disk.before = lambda _number, _what: None
        self.store.close()
        shutil.rmtree(self._folder)

    # -- steps -------------------------------------------------------------------------------

    def _step(self, change: Callable[[Record], Record], write: Callable[[Paper], None]) -> None:
        """The same on the disk and on paper."""
        after = copy.deepcopy(self.paper)
        try:
            change(self.store.record)
        except UpdateError:
            with pytest.raises(UpdateError):
                self.store.change(change)
            return
        write(after)
        self._do(lambda: self.store.change(change), after)

    def _do(self, what: Callable[[], object], after: Paper) -> None:
        possible = [self.paper, after]
        try:
            self._arm()
            what()
        except PowerCut:
            assert self._cut_with is not None
            self._lose_power(self._cut_with, possible)
        else:
            self.paper = after
        finally:
            self.disk.before = lambda _number, _what: None

    _cut_with: Cut | None = None

    def _arm(self) -> None:
        if self._armed is None:
            return
        (after, way), self._armed = self._armed, None
        at = self.disk.operations + after

        def before(operation: int, _what: str) -> None:
            if operation == at:
                self._cut_with = way(self.disk)
                raise PowerCut

        self.disk.before = before

    def _lose_power(self, cut: Cut, possible: list[Paper]) -> None:
        self.disk.before = lambda _number, _what: None
        self._lives += 1
        where = self._folder / f"disk {self._lives}"
        self.disk.lay_out(where, cut)
        self.store.close()
        shutil.rmtree(self.disk.root)
        self.disk = Disk(where)
        self._begin(possible)

    def _begin(self, possible: list[Paper]) -> None:
        """A new process: what it finds, and what it makes of it."""
        self.store = Store(self.disk.root / "ota", self.disk)
        self.store.open()
        assert self.store.trouble == ""
        self.paper = _paper(self.store.record)
        assert self.paper in possible
        self.store.begin()
        if self.paper.trial and self.paper.tries < 3:
            self.paper.tries += 1
        elif self.paper.trial:
            self.paper.take_back(self.paper.trial)
            self.paper.trial = self.paper.tries = 0
            self.paper.waiting += 1

    # -- rules -------------------------------------------------------------------------------

    @rule(number=_NUMBERS)
    def offer(self, number: int) -> None:
        """Keep an archive and try it."""
        which = bundle(number)
        self._do(lambda: self.store.keep(archive(number), which.sha256), self.paper)
        if self.store.record.trial is None and self.paper.runs() != number:
            # After a cut it may not be there: it is fetched once more then.
            self.store.keep(archive(number), which.sha256)

        def write(paper: Paper) -> None:
            paper.trial, paper.tries = number, 1

        self._step(partial(records.accepted, bundle=which), write)

    @precondition(lambda self: self.paper.trial)
    @rule()
    def commit(self) -> None:
        def write(paper: Paper) -> None:
            paper.good, paper.before = paper.trial, paper.good
            paper.trial = paper.tries = 0

        self._step(records.committed, write)

    @precondition(lambda self: self.paper.trial)
    @rule()
    def reject(self) -> None:
        def write(paper: Paper) -> None:
            paper.take_back(paper.trial)
            paper.trial = paper.tries = 0

        self._step(partial(records.rejected, why="harm"), write)

    @rule(for_good=st.booleans())
    def leave(self, *, for_good: bool) -> None:
        def write(paper: Paper) -> None:
            ran = paper.runs()
            if paper.trial:
                paper.trial = paper.tries = 0
            else:
                paper.fall()
            if for_good:
                paper.take_back(ran)

        step = partial(records.left, why="by hand") if for_good else records.withdrawn
        self._step(step, write)

    @rule(number=_NUMBERS)
    def lose_archive(self, number: int) -> None:
        def write(paper: Paper) -> None:
            ran = paper.runs()
            if paper.trial == number:
                paper.trial = paper.tries = 0
            if paper.before == number:
                paper.before = 0
            if paper.good == number:
                paper.fall()
            if ran == number != paper.runs():
                paper.waiting += 1

        self._step(partial(records.without, sha256=bundle(number).sha256, why="damaged"), write)

    @rule(number=st.integers(10, 60))
    def refuse(self, number: int) -> None:
        step = partial(records.refused, bundle=bundle(number), why="too large")
        self._step(step, lambda paper: paper.take_back(number))

    @rule(version=st.integers(1, 9), rotate=st.booleans(), time=st.integers(0, 100))
    def look(self, version: int, time: int, *, rotate: bool) -> None:
        n = next(self._looks)
        keys = f"{n}" if rotate else self.paper.floor[1]

        def write(paper: Paper) -> None:
            if rotate or version > paper.floor[0]:
                paper.floor = version, keys
            paper.time = max(paper.time, time)

        floors = {"root": Floor(version, keys)}
        self._step(partial(records.trust, floors=floors, wall=WallNs(time)), write)
        self.looked.append(n)
        lives = self._lives
        self._do(lambda: self.store.trust(metadata(n)), self.paper)
        if lives == self._lives:
            self.looked = [n]

    @rule(on=st.booleans())
    def pin(self, *, on: bool) -> None:
        def write(paper: Paper) -> None:
            paper.pinned = on

        self._step(partial(records.pinned, on=on), write)

    @rule(number=_NUMBERS)
    def answer(self, number: int) -> None:
        name = f"r-{number}"

        def write(paper: Paper) -> None:
            paper.answered = [each for each in paper.answered if each != name] + [name]

        self._step(partial(records.done, request=name), write)

    @precondition(lambda self: self.paper.waiting < 60)
    @rule()
    def report(self) -> None:
        def write(paper: Paper) -> None:
            paper.waiting += 1

        report = Report(f"{next(self._reports)}", "request", None, "done", WallNs(0))
        self._step(partial(records.reported, report=report), write)

    @rule()
    def tell(self) -> None:
        def write(paper: Paper) -> None:
            paper.waiting = 0

        ids = [report.id for report in self.store.record.reports]
        self._step(partial(records.told, ids=ids), write)

    @rule()
    def clean(self) -> None:
        self._do(self.store.clean, self.paper)

    # -- ends --------------------------------------------------------------------------------

    @rule(in_order=st.booleans())
    def end(self, *, in_order: bool) -> None:
        """The process ends; the computer goes on."""

        def write(paper: Paper) -> None:
            paper.tries -= bool(paper.trial)

        if in_order:
            self._step(records.stopped, write)
        self.store.close()
        self._begin([self.paper])

    @rule(way=_CUTS)
    def cut(self, way: tuple[str, str]) -> None:
        """The power goes between two steps."""
        self._lose_power(Disk.cut(*way), [self.paper])  # type: ignore[arg-type]

    @precondition(lambda self: self._armed is None)
    @rule(after=st.integers(1, 24), way=_CUTS, mixed=st.booleans())
    def arm(self, after: int, way: tuple[str, str], *, mixed: bool) -> None:
        """The power will go in the middle of a step, if that has so many operations."""

        def choose(disk: Disk) -> Cut:
            if mixed:
                return next(iter(disk.mixed_cuts(1, f"{after}")))
            return Disk.cut(*way)  # type: ignore[arg-type]

        self._armed = after, choose

    @rule(name=st.sampled_from(["record.json", "record.copy.json"]), at=st.floats(0, 0.99))
    def damage(self, name: str, at: float) -> None:
        """A bit flips while nobody looks."""
        self._do(self.store.clean, self.paper)  # so that both copies are there
        path = self.disk.root / "ota" / name
        if not path.exists():
            return
        data = bytearray(path.read_bytes())
        data[int(at * (len(data) - 1))] ^= 0x20
        path.write_bytes(data)
        self.store.close()
        self.disk = Disk(self.disk.root)
        self.store = Store(self.disk.root / "ota", self.disk)
        self.store.open()
        assert _paper(self.store.record) == self.paper
        self._do(self.store.clean, self.paper)

    # -- always ------------------------------------------------------------------------------

    @invariant()
    def it_says_what_is_on_paper(self) -> None:
        assert _paper(self.store.record) == self.paper
        assert _paper(Store(self.disk.root / "ota").load()) == self.paper

    @invariant()
    def what_it_names_is_whole(self) -> None:
        record = self.store.record
        for each in (records.running(record), record.current, record.previous):
            if each is not None:
                assert self.store.bundle(each.sha256) == archive(each.version)
        assert len(list((self.disk.root / "ota").glob("bundles/*"))) <= 6

    @invariant()
    def metadata_are_whole(self) -> None:
        trusted = self.store.trusted()
        found = 0 if trusted is None else int(trusted.etag.strip('"'))
        assert found in self.looked


@pytest.mark.parametrize(
    ("examples", "steps"), [(60, 30), pytest.param(3000, 60, marks=[pytest.mark.slow])]
)
@pytest.mark.timeout(3600)
def test_whatever_happens_the_store_says_what_is_on_paper(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
