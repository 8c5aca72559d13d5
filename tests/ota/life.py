"""The life of a vehicle's record, step by step as the agent takes them, and what is promised."""

import hashlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from agent.clock import WallNs
from agent.errors import UpdateError
from agent.ota import record as records
from agent.ota.record import Floor, Record, Report, Trusted, What, running
from agent.ota.store import Store
from agent.ota.types import BundleId
from tests.spool.fakefs import Disk

ROLES = ("root", "timestamp", "snapshot", "targets")
_TRIES = 40


def archive(number: int) -> bytes:
    """Stands for the archive of a bundle: the store looks at its digest alone."""
    return hashlib.shake_128(b"bundle %d" % number).digest(300 + number)


def bundle(number: int) -> BundleId:
    return BundleId("ev", number, hashlib.sha256(archive(number)).hexdigest())


def floors(version: int, keys: str = "first") -> dict[str, Floor]:
    return {role: Floor(version, keys) for role in ROLES}


def metadata(version: int) -> Trusted:
    return Trusted({"timestamp.json": b"timestamp %d" % version}, f'"{version}"')


def plain(record: Record) -> Record:
    """Without what the store sets itself."""
    return replace(record, serial=0)


def take(store: Store, number: int) -> None:
    """Keep a bundle and put it on trial."""
    store.keep(archive(number), bundle(number).sha256)
    store.change(partial(records.accepted, bundle=bundle(number)))


def lived(folder: Path) -> Record:
    """Two bundles, one that was taken back, three looks.

    Beside the folder lies `older`, as it was in the trial of the third bundle.
    """
    with Store(folder) as store:
        for number in (1, 2):
            store.change(partial(records.trust, floors=floors(number), wall=WallNs(number)))
            store.trust(metadata(number))
            take(store, number)
            store.change(records.committed)
        take(store, 3)
        older = folder.parent / "older"
        shutil.copytree(folder, older)
        store.change(partial(records.rejected, why="it evicts"))
        store.change(partial(records.trust, floors=floors(9), wall=WallNs(9)))
        store.trust(metadata(9))
        return store.record


class Life:
    """One vehicle; `records` and `metadata` are what a power cut now may leave."""

    def __init__(self, disk: Disk, *, patient: bool = False) -> None:
        """`patient`: try again what fails, and begin again where the store asks for it."""
        self.disk = disk
        self.promises = 0
        self.records = [Record()]
        self.metadata: list[Trusted | None] = [None]
        self.errors: list[str] = []
        self._patient = patient
        self._reports = 0
        self.store = Store(disk.root / "ota", disk)
        self._open()

    # -- the process -------------------------------------------------------------------------

    def _open(self) -> None:
        self.store = Store(self.disk.root / "ota", self.disk)
        self.store.open()

    def kill(self) -> None:
        """The process is gone without a word; what it wrote is in the page cache."""
        self.store.close()
        self._open()
        self.start()

    def start(self) -> None:
        """The first step of each process."""
        for _ in range(_TRIES):
            before = self.store.record
            self._promise([*self.records, plain(records.started(before))])
            self.store.begin()
            if not self.store.trouble:
                self._promise([plain(self.store.record)])
                return
            assert self._patient
            assert self.store.record.trial is None  # a try that is not counted is none
            self.errors.append(self.store.trouble)
            self.store.close()
            self._open()
        raise AssertionError(self.errors)

    # -- steps -------------------------------------------------------------------------------

    def step(self, change: Callable[[Record], Record]) -> None:
        """One change of the record."""

        def save() -> None:
            new = change(self.store.record)
            self._promise([*self.records, plain(new)])
            self.store.save(new)
            self._promise([plain(new)])

        self._insist(save)

    def tell(self, what: What, of: BundleId | None, change: Callable[[Record], Record]) -> None:
        """A change with the report of it."""
        self._reports += 1
        report = Report(f"r-{self._reports}", what, of, "as measured", WallNs(self._reports))
        self.step(lambda record: records.reported(change(record), report))

    def look(self, version: int, keys: str = "first") -> None:
        """The repository says something new."""
        wall = WallNs(1000 * version)
        self.step(lambda record: records.trust(record, floors(version, keys), wall))
        new = metadata(version)
        self.metadata.append(new)
        self.promises += 1
        self._insist(lambda: self.store.trust(new))
        self.metadata = [new]
        self.promises += 1

    def keep(self, number: int) -> None:
        self._insist(lambda: self.store.keep(archive(number), bundle(number).sha256))

    def accept(self, number: int) -> None:
        """Fetch, keep, and begin the trial."""
        self.keep(number)
        which = bundle(number)
        self.tell("accepted", which, lambda record: records.accepted(record, which))
        self.tell("applied", which, lambda record: record)

    def commit(self) -> None:
        self.tell("committed", running(self.store.record), records.committed)
        self.clean()

    def clean(self) -> None:
        self._insist(self.store.clean)

    def told(self) -> None:
        ids = [report.id for report in self.store.record.reports]
        self.step(lambda record: records.told(record, ids))

    def _insist(self, what: Callable[[], None]) -> None:
        for _ in range(_TRIES):
            before = self.store.record
            try:
                what()
            except UpdateError as e:
                if not self._patient:
                    raise
                self.errors.append(str(e))
                assert self.store.record == before
                if "started again" in str(e):
                    self.store.close()
                    self._open()
                    self.start()
            else:
                return
        raise AssertionError(self.errors)

    def _promise(self, possible: list[Record]) -> None:
        self.records = possible
        self.promises += 1

    # -- all of it ---------------------------------------------------------------------------

    def whole(self) -> None:
        """Everything that a record goes through."""
        self.start()
        self.look(1)
        self.step(lambda record: records.done(record, "r-1"))
        self.tell("request", None, lambda record: record)
        self.accept(1)
        self.commit()
        self.told()

        self.look(2)
        self.accept(2)  # and it ends the process, again and again
        while self.store.record.trial is not None:
            self.kill()
        self.clean()

        self.accept(3)  # and it does harm
        self.tell("rolled back", bundle(3), lambda record: records.rejected(record, "it evicts"))
        self.clean()

        self.look(3)
        self.look(2, "renewed")  # a fast-forward attack is healed: new keys, lower versions
        self.accept(4)
        self.step(records.stopped)  # the ignition is switched off, in the middle of the trial
        self.kill()
        self.commit()
        self.accept(5)
        self.commit()

        self.tell("rolled back", bundle(5), lambda record: records.left(record, records.BY_HAND))
        self.clean()
        self.step(lambda record: records.pinned(record, on=True))
        self.kill()
        self.step(lambda record: records.pinned(record, on=False))
        self.step(lambda record: records.done(record, "r-2"))
        self.told()

        self.keep(6)
        self.step(lambda record: records.refused(record, bundle(6), "harmful in the rehearsal"))
        self.clean()
        self.accept(7)
        self.commit()
        self.step(lambda record: records.without(record, bundle(7).sha256, "damaged"))
        self.clean()
        self.step(records.withdrawn)
        self.clean()

    def go_on(self) -> None:
        """What a vehicle does after a cut, wherever that was: start, and take another bundle."""
        self.start()
        self.clean()
        if self.store.record.trial is not None:
            self.commit()
        self.look(10, "newest")
        number = 9 if running(self.store.record) != bundle(9) else 10
        self.accept(number)
        self.commit()
        assert running(self.store.record) == bundle(number)

    # -- after a cut -------------------------------------------------------------------------

    def examine(self, root: Path, disk: Disk | None = None) -> None:
        """What a start finds in a folder that was left by a cut now."""
        life = Life(disk or Disk(root))
        life.check(self)
        life.go_on()
        life.store.close()
        life.check_archives(stray=0)

    def check(self, before: "Life") -> None:
        """The stored record is one of those that may be, and all that it names is whole."""
        store = self.store
        assert store.trouble == ""
        assert plain(store.record) in before.records
        assert store.trusted() in before.metadata
        self.records, self.metadata = [plain(store.record)], [store.trusted()]
        self.check_archives(stray=2)

    def check_archives(self, *, stray: int) -> None:
        """What the record names is whole; beside that lies no more than this."""
        record = self.store.record
        named = {b for b in (running(record), record.current, record.previous) if b is not None}
        for each in named:
            assert self.store.bundle(each.sha256) == archive(each.version)
        folder = self.disk.root / "ota/bundles"
        assert len(list(folder.glob("*"))) <= len(named) + stray
