"""A crash or a power cut at every step of a change.

What is left is a repository that a new vehicle and one that knew it before both accept: the state
before the change, or the one after it. The next command finishes or forgets the change.
"""

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.errors import UpdateError
from agent.ota.operator.change import Change
from agent.ota.operator.content import Stage, check_bundle, publish, roll_out
from agent.ota.operator.keys import KeyRing
from agent.ota.operator.repository import Repository, State
from agent.ota.operator.rotation import begin, renew, rotate
from agent.ota.operator.survey import faults
from agent.ota.operator.work import carry_out, finish
from agent.ota.types import BundleId
from tests.ota.desk import Desk, Vehicle
from tests.spool.fakefs import CUTS, Disk

PLAIN = ("root", "targets", "snapshot", "timestamp")
Make = Callable[[Repository, State, KeyRing], Change]


class Scene:
    """A desk with a bundle that runs everywhere, and a change of it."""

    def __init__(self, desk: Desk, make: Make) -> None:
        self.desk = desk
        self.make = make
        self.work = desk.folder / "work"
        self.view = desk.folder / "view"
        self.keys = desk.folder / "keys-now"
        self.left = desk.folder / "left"

    def begin(self) -> Disk:
        """Everything as it was before the change."""
        for ours, theirs in ((self.work, self.desk.repo), (self.keys, self.desk.keys)):
            shutil.rmtree(ours, ignore_errors=True)
            shutil.copytree(theirs, ours)
        return Disk(self.work)

    def carry_out(self, root: Path, disk: Disk | None = None) -> None:
        repository, ring = Repository(root, disk), KeyRing([self.keys])
        carry_out(repository, ring, lambda state: self.make(repository, state, ring))

    def cuts(self) -> Iterator[str]:
        """Each state that a power cut can leave, as `view` and `keys`; says which."""
        disk = self.begin()
        found: dict[frozenset[tuple[str, bytes]], str] = {}

        def look(step: int, what: str) -> None:
            for cut in (Disk.cut(data, names) for data, names in CUTS):
                image = disk.image(cut)
                if image not in found:
                    number = len(found)
                    found[image] = f"{step}, before {what}: {cut.what}"
                    disk.lay_out(self._laid_out(number), cut)
                    shutil.copytree(self.keys, self.left / f"keys-{number}")

        self.left.mkdir()
        disk.before = look
        self.carry_out(self.work, disk)
        disk.before = lambda *_: None
        look(disk.operations, "the end")
        for number, what in enumerate(found.values()):
            for ours, theirs in (
                (self.view, self._laid_out(number)),
                (self.keys, self.left / f"keys-{number}"),
            ):
                shutil.rmtree(ours, ignore_errors=True)
                theirs.rename(ours)
            yield what

    def _laid_out(self, number: int) -> Path:
        return self.left / f"repo-{number}"


def _from(number: int) -> Callable[[int, str], None]:
    def before(step: int, _: str) -> None:
        if step >= number:
            raise OSError(5, "the disk is gone")

    return before


def _publish(desk: Desk) -> Make:
    data = desk.bundle(2).read_bytes()
    bundle = check_bundle(data, [desk.device])
    return lambda repository, state, _: publish(repository, state, bundle, data, [Stage()])


def _withdraw(_: Desk) -> Make:
    return lambda repository, state, _: roll_out(repository, state, "ev-1", (), "withdrawn")


def _rotate(*roles: str) -> Callable[[Desk], Make]:
    def make(repository: Repository, state: State, ring: KeyRing) -> Change:
        return rotate(repository, state, ring, roles=roles, plain=PLAIN)

    return lambda _: make


@pytest.mark.parametrize(
    ("change", "after"),
    [
        (_publish, "ev 2"),
        (_withdraw, "factory"),
        (_rotate("targets"), "ev 1"),
        (_rotate("root"), "ev 1"),
        (_rotate(*PLAIN), "ev 1"),
    ],
    ids=["publish", "withdraw", "rotate targets", "rotate root", "rotate all"],
)
def test_whatever_a_cut_leaves_vehicles_accept_and_the_next_command_repairs(
    tmp_path: Path, change: Callable[[Desk], Make], after: str
) -> None:
    desk = Desk(tmp_path)
    desk.init()
    desk.publish(1, "--to", "all")
    scene = Scene(desk, change(desk))
    with desk.server(scene.view) as server:
        old = desk.vehicle(server, "van-1")
        new = desk.vehicle(server, "van-2")
        shutil.copytree(desk.repo, scene.view)
        assert old.look() == "ev 1"
        known, floors, current = old.trusted, old.floors, old.current
        found = set()
        for what in scene.cuts():
            old.trusted, old.floors, old.current = known, floors, current
            _forget(new)
            looks = {old.look(), new.look()}
            assert looks <= {"ev 1", after}, what
            repository = Repository(scene.view)
            _refresh(repository, scene.keys)
            assert faults(repository, repository.load()) == [], what
            assert not repository.folder.interrupted
            repaired = {old.look(), new.look()}
            assert len(repaired) == 1, what
            assert after not in looks or repaired == {after}, what
            found |= repaired
    assert found == {"ev 1", after}


def _refresh(repository: Repository, keys: Path) -> None:
    ring = KeyRing([keys])
    carry_out(repository, ring, lambda state: renew(repository, state, ring), refresh=True)


def _forget(vehicle: Vehicle) -> None:
    vehicle.trusted, vehicle.floors, vehicle.current = None, {}, None


def test_a_change_that_a_failing_disk_cut_short_can_be_made_again(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.init()
    scene = Scene(desk, _publish(desk))
    outcomes = set()
    number, ended = 0, False
    while not ended:
        number += 1
        disk = scene.begin()
        disk.before = _from(number)
        refusal = _refusal(functools.partial(scene.carry_out, scene.work, disk))
        ended = "the disk is gone" not in refusal
        outcomes.add(_refusal(functools.partial(scene.carry_out, scene.work)).partition(":")[0])
        state = Repository(scene.work).load()
        assert list(state.targets.signed.targets) == ["bundles/ev-2.bundle"]
    assert outcomes == {"", "ev 2 is published already"}


def test_a_repository_whose_making_was_cut_short_is_made_again_or_is_there(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.keys.mkdir()
    work = tmp_path / "work"
    work.mkdir()
    disk = Disk(work)
    seen = set()
    refusals = set()

    def look(_step: int, _what: str) -> None:
        for cut in (Disk.cut(data, names) for data, names in CUTS):
            image = disk.image(cut)
            if image in seen:
                continue
            seen.add(image)
            shutil.rmtree(desk.repo, ignore_errors=True)
            disk.lay_out(desk.repo, cut)
            repository = Repository(desk.repo)
            refusal = _refusal(functools.partial(_begin, repository, desk.folder / "again"))
            refusals.add(refusal.partition(";")[0])
            assert faults(repository, repository.load()) == []

    disk.before = look
    _begin(Repository(work, disk), desk.keys)
    assert refusals == {"", f"{desk.repo}: is a repository already"}


def _refusal(do: Callable[[], None]) -> str:
    """What was wrong; empty where nothing was."""
    try:
        do()
    except UpdateError as e:
        return str(e)
    return ""


def _begin(repository: Repository, keys: Path) -> None:
    keys.mkdir(exist_ok=True)
    ring = KeyRing([keys])
    with repository.changing(make=True):
        change = begin(repository, ring, counts={"root": 1}, thresholds={}, days={}, plain=PLAIN)
        finish(repository, ring, change)


def test_an_old_journal_never_lowers_a_version(tmp_path: Path) -> None:
    """As when a folder was put together of an old copy and a new one."""
    desk = Desk(tmp_path)
    desk.init()
    desk.publish(1, "--to", "all")
    scene = Scene(desk, _withdraw(desk))
    journals = set()
    for _ in scene.cuts():
        journal = scene.view / ".journal.json"
        if journal.exists():
            journals.add(journal.read_bytes())
    for _ in range(3):
        desk.good("refresh", desk.repo, *desk.signed)
    before = Repository(desk.repo).load().timestamp.signed.version
    assert journals
    for data in journals:
        (desk.repo / ".journal.json").write_bytes(data)
        desk.good("refresh", desk.repo, *desk.signed)
        now = Repository(desk.repo).load().timestamp.signed.version
        assert now == before + 1
        before = now
    assert desk.status()["bundles"][0]["state"] == "active"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 2, "write": []}', '{"format": 1, "write": [["../x.json", ""]]}'],
)
def test_a_journal_that_is_none_is_not_followed(tmp_path: Path, text: str) -> None:
    desk = Desk(tmp_path)
    desk.init()
    (desk.repo / ".journal.json").write_text(text)
    answer = desk.run("refresh", desk.repo, *desk.signed)
    assert answer.status == 1
    assert ".journal.json" in answer.err
    assert "soon: a change was cut short" in desk.run("status", desk.repo).out
    assert not (desk.repo / "x.json").exists()


def test_what_runs_is_named_by_its_bytes(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.init()
    desk.publish(1, "--to", "all")
    with desk.server() as server:
        vehicle = desk.vehicle(server)
        vehicle.look()
    (bundle,) = desk.status()["bundles"]
    assert vehicle.current == BundleId("ev", 1, bundle["sha256"])
