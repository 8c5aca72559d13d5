"""The folder of updates where a file is damaged, or the disk does not do what it should."""

import errno
import itertools
import logging
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.clock import WallNs
from agent.errors import UpdateError
from agent.ota import record as records
from agent.ota.record import Record, running
from agent.ota.store import Store
from agent.spool.filesystem import RealFileSystem
from tests.ota.life import archive, bundle, floors, lived, metadata, plain, take
from tests.spool.conftest import fast_folder
from tests.spool.fakefs import Disk

COPIES = ("record.json", "record.copy.json")
FILES = (*COPIES, "trusted.msgpack")
ONE, TWO, THREE = bundle(1), bundle(2), bundle(3)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("edge_agent.ota")
    logger.disabled = True
    yield
    logger.disabled = False


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=fast_folder()) as name:
        yield Path(name) / "state/ota"


# -- damage ------------------------------------------------------------------------------------

Damage = Callable[[Path], None]


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[random.Random(path.name).randrange(len(data) - 1)] ^= 0x10
    path.write_bytes(data)


def _older(path: Path) -> None:
    shutil.copyfile(path.parent.parent / "older" / path.name, path)


def _gone(path: Path) -> None:
    path.unlink()


def _endless(path: Path) -> None:
    with path.open("ab") as file:
        file.truncate(40 << 20)


def _nested(path: Path) -> None:
    path.write_bytes(b'{"crc32c":' + b"[" * 100_000)


DAMAGES = (_emptied, _halved, _zeroed, _flipped, _older, _gone, _endless, _nested)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_damage_to_one_file_costs_nothing(folder: Path, name: str, damage: Damage) -> None:
    record = lived(folder)
    damage(folder / name)

    with Store(folder) as store:
        assert store.record == record
        expected = {None, metadata(2).etag, metadata(9).etag} if name in FILES[2:] else {'"9"'}
        trusted = store.trusted()
        assert (trusted and trusted.etag) in expected
        store.clean()
        assert store.trouble == ""

    if name in COPIES:
        # It was written again, so the other one may be damaged next.
        for other in COPIES:
            if other != name:
                _zeroed(folder / other)
        assert plain(Store(folder).load()) == plain(record)


@pytest.mark.parametrize(("one", "other"), [*itertools.combinations(FILES, 2)])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_two_files_costs_no_floor(
    folder: Path, one: str, other: str, damage: Damage
) -> None:
    record = lived(folder)
    for second in DAMAGES:
        where = folder.parent / "damaged"
        shutil.copytree(folder, where)
        damage(where / one)
        second(where / other)

        with Store(where) as store:
            assert store.record.floors == record.floors
            assert store.record.time_floor == record.time_floor
            if {one, other} != set(COPIES):
                assert store.record == record
            elif {damage, second} & {_older}:
                assert running(store.record) == THREE
                assert store.record.current == TWO
            else:
                assert running(store.record) is None
            # And it goes on from there, with floors that still hold.
            store.begin()
            if store.record.trial is not None:
                store.change(partial(records.rejected, why="harm"))
            store.change(partial(records.trust, floors=floors(5), wall=WallNs(5)))
            take(store, 6)
            store.change(records.committed)
            store.clean()
            after = store.record
            assert after.serial > record.serial or {one, other} == set(COPIES)
        assert Store(where).load() == after
        assert running(after) == bundle(6)
        assert after.floors == floors(9)
        shutil.rmtree(where)


def test_damage_to_both_copies_is_told(folder: Path) -> None:
    lived(folder)
    for name in COPIES:
        _flipped(folder / name)

    store = Store(folder)
    store.load()

    assert "record.json is damaged" in store.trouble
    assert "the factory plan runs" in store.trouble
    (told,) = store.record.reports
    assert (told.what, told.bundle) == ("rolled back", None)
    assert told.why == store.trouble


def test_damage_to_everything_is_a_first_day(folder: Path) -> None:
    lived(folder)
    for name in FILES:
        _halved(folder / name)
    with Store(folder) as store:
        assert replace(store.record, reports=()) == Record()
        take(store, 1)
        store.change(records.committed)
    assert running(Store(folder).load()) == ONE


@pytest.mark.parametrize("name", FILES)
def test_no_bit_of_a_file_can_flip_unnoticed(folder: Path, name: str) -> None:
    record = lived(folder)
    content = (folder / name).read_bytes()
    known = {metadata(9).etag, None}
    for at in range(len(content)):
        data = bytearray(content)
        data[at] ^= 1 << at % 8
        (folder / name).write_bytes(data)
        store = Store(folder)
        assert store.load() == record
        trusted = store.trusted()
        assert (trusted and trusted.etag) in known


@pytest.mark.parametrize("damage", [_emptied, _halved, _zeroed, _flipped, _gone])
def test_a_damaged_archive_leads_to_the_bundle_before_and_is_told(
    folder: Path, damage: Damage
) -> None:
    lived(folder)
    damage(folder / f"bundles/{TWO.sha256}.bundle")
    with Store(folder) as store:
        with pytest.raises(UpdateError, match=r"has to be fetched again") as caught:
            store.bundle(TWO.sha256)
        store.change(partial(records.without, sha256=TWO.sha256, why=str(caught.value)))
        assert running(store.record) == ONE
        assert store.bundle(ONE.sha256) == archive(1)
        assert [(told.what, told.bundle) for told in store.record.reports] == [("rolled back", TWO)]


# -- two copies --------------------------------------------------------------------------------


@pytest.mark.parametrize("first", COPIES)
def test_what_is_being_written_is_never_the_only_copy(folder: Path, first: str) -> None:
    """Not even a disk that tears what it said was durable can take both."""
    record = lived(folder)
    _zeroed(folder / first)
    disk = Disk(folder.parent)
    with Store(folder, disk) as store:
        for n, name in enumerate((first, *(each for each in COPIES if each != first))):
            before = {each: (folder / each).read_bytes() for each in COPIES}
            disk.before = _only_one_file(disk)
            with pytest.raises(UpdateError, match="Input/output error"):
                store.change(partial(records.done, request=f"r-{n}"))
            written = [each for each in COPIES if (folder / each).read_bytes() != before[each]]
            assert written == [name]

            left = folder.parent / f"left {n}"
            shutil.copytree(folder, left)
            _zeroed(left / name)
            found = Store(left).load()
            assert replace(plain(found), done=()) == plain(record)
            record = replace(Store(folder).load(), done=())


def _only_one_file(disk: Disk) -> Callable[[int, str], None]:
    """Lets one file be written, and no other one."""
    begun = len(disk.journal)

    def before(_operation: int, _what: str) -> None:
        if sum(what.startswith("create") for what in disk.journal[begun:]) > 1:
            raise OSError(errno.EIO, "Input/output error")

    return before


# -- disks that do not do what they should -----------------------------------------------------


class ReadOnly(RealFileSystem):
    """Mounted read-only, as Linux does it after an error of a file system."""

    def create(self, path: Path) -> int:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    def unlink(self, path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))


class Unreadable(RealFileSystem):
    """Gives these files only after so many tries."""

    def __init__(self, names: tuple[str, ...], tries: int) -> None:
        self.names_ = names
        self.tries = tries

    def read_head(self, path: Path, size: int) -> bytes:
        if path.name in self.names_ and self.tries:
            self.tries -= 1
            raise OSError(errno.EIO, "Input/output error", str(path))
        return super().read_head(path, size)


def test_on_a_read_only_disk_the_last_good_bundle_runs(folder: Path) -> None:
    record = lived(folder)
    with Store(folder, ReadOnly()) as store:
        assert store.begin() == record
        assert store.trouble == ""
        assert store.bundle(TWO.sha256) == archive(2)
        with pytest.raises(UpdateError, match="Read-only file system"):
            store.change(partial(records.pinned, on=True))
        assert "Read-only file system" in store.trouble
        assert store.record == record


def test_a_try_that_cannot_be_counted_is_none(folder: Path) -> None:
    """Else a plan that ends the process would do so for ever on a disk that takes nothing."""
    lived(folder)
    with Store(folder) as store:
        take(store, 4)
    with Store(folder, ReadOnly()) as store:
        assert running(store.begin()) == TWO
        assert running(store.record) == TWO
        assert "Read-only file system" in store.trouble


def test_where_a_folder_cannot_be_the_factory_plan_runs(folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_bytes(b"no folder")
    with Store(folder) as store:
        assert store.begin() == Record()
        assert store.trouble
        with pytest.raises(UpdateError):
            store.keep(archive(1), ONE.sha256)
        with pytest.raises(UpdateError, match="cannot be read"):
            store.bundle(ONE.sha256)


def test_a_disk_that_gives_no_record_at_the_start_takes_none_either(folder: Path) -> None:
    """What it does not give now it may give at the next start: nothing must be in its place."""
    record = lived(folder)
    with Store(folder, Unreadable(COPIES, 4)) as store:
        assert running(store.begin()) is None
        assert store.record.floors == record.floors
        assert "until the agent is started again" in store.trouble
        with pytest.raises(UpdateError, match="until the agent is started again"):
            store.change(partial(records.trust, floors=floors(1), wall=WallNs(1)))
        assert "until the agent is started again" in store.trouble
    assert Store(folder).load() == record


def test_a_file_that_the_disk_keeps_back_for_ever_is_replaced(folder: Path) -> None:
    record = lived(folder)
    for name in FILES:
        with Store(folder, Unreadable((name,), 1000)) as store:
            assert store.record == record
            assert "Input/output error" in store.trouble
            record = store.change(partial(records.done, request=name))
            assert store.trouble == ""
    assert Store(folder).load() == record


def test_a_passing_fault_takes_no_step_back(folder: Path) -> None:
    """The newer copy was not read at the start; it is there when something is to be written."""
    lived(folder)
    with Store(folder) as store:
        before = (folder / COPIES[1]).read_bytes()
        record = store.change(partial(records.trust, floors=floors(20), wall=WallNs(20)))
    (folder / COPIES[1]).write_bytes(before)
    with Store(folder, Unreadable(COPIES[:1], 2)) as store:
        assert store.record.floors == floors(9)
        with pytest.raises(UpdateError, match="until it is started again"):
            store.change(partial(records.pinned, on=True))
    assert Store(folder).load() == record
