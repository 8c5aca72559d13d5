"""The folder of updates: archives, floors, newer agents, two writers."""

import errno
import logging
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import google_crc32c
import msgspec
import pytest
from msgspec.structs import replace

from agent.clock import WallNs
from agent.errors import UpdateError
from agent.ota import record as records
from agent.ota.record import Record, Trusted, running
from agent.ota.store import Store
from tests.ota.life import archive, bundle, floors, lived, metadata, take
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


# -- the first day -----------------------------------------------------------------------------


def test_a_vehicle_on_its_first_day_has_the_factory_plan_and_no_trouble(folder: Path) -> None:
    store = Store(folder)
    assert store.load() == Record()
    assert not folder.exists()
    with store:
        assert store.begin() == Record()
        assert store.trusted() is None
        assert store.trouble == ""
    assert not (folder / "record.json").exists()


def test_what_was_saved_is_there_again(folder: Path) -> None:
    record = lived(folder)

    store = Store(folder)

    assert store.load() == record
    assert running(record) == TWO
    assert record.floors == floors(9)
    assert store.trusted() == metadata(9)
    assert store.bundle(TWO.sha256) == archive(2)
    assert store.trouble == ""


def test_what_has_not_changed_is_not_written_again(folder: Path) -> None:
    lived(folder)
    disk = Disk(folder.parent)
    with Store(folder, disk) as store:
        store.begin()
        store.save(replace(store.record, serial=0))
    changes = {what.split()[0] for what in disk.journal}
    assert changes <= {"make_folder", "lock", "read_head", "close"}


# -- archives ----------------------------------------------------------------------------------


def test_only_the_archive_that_it_should_be_is_kept(folder: Path) -> None:
    with Store(folder) as store:
        with pytest.raises(UpdateError, match="are not the archive of this name"):
            store.keep(archive(1), TWO.sha256)
        with pytest.raises(UpdateError, match="is missing"):
            store.bundle(TWO.sha256)
        for name in ("", "../../etc/passwd", ONE.sha256.upper(), ONE.sha256 + "\n"):
            with pytest.raises(UpdateError, match="is no SHA-256"):
                store.keep(archive(1), name)
            with pytest.raises(UpdateError, match="is no SHA-256"):
                store.bundle(name)


def test_what_nothing_names_goes(folder: Path) -> None:
    with Store(folder) as store:
        for number in range(1, 12):
            store.keep(archive(100 + number), bundle(100 + number).sha256)  # and never tried
            take(store, number)
            store.change(records.committed)
            assert len(list((folder / "bundles").iterdir())) <= 4
        (folder / "bundles/something.bundle.new").write_bytes(b"torn")
        store.clean()
        kept = {path.name for path in (folder / "bundles").iterdir()}
        assert kept == {f"{bundle(n).sha256}.bundle" for n in (10, 11)}


def test_no_archive_of_a_record_that_may_be_stored_is_removed(folder: Path) -> None:
    """A save that failed half way may count after the next start; its archive must be there."""
    folder.parent.mkdir()
    disk = Disk(folder.parent)
    with Store(folder, disk) as store:
        store.keep(archive(1), ONE.sha256)
        disk.before = _no_second_copy
        with pytest.raises(UpdateError, match=r"the record cannot be written \(Input/output"):
            store.change(partial(records.accepted, bundle=ONE))
        with pytest.raises(UpdateError):
            store.clean()
        disk.before = lambda _number, _what: None
    assert running(Store(folder).load()) == ONE
    assert Store(folder).bundle(ONE.sha256) == archive(1)


def _no_second_copy(_operation: int, what: str) -> None:
    if what == "create ota/record.copy.json.new":
        raise OSError(errno.EIO, "Input/output error")


# -- floors ------------------------------------------------------------------------------------


def test_saving_an_older_record_takes_no_floor_down(folder: Path) -> None:
    """Two tasks of the agent change the record; one of them read it before the other wrote."""
    with Store(folder) as store:
        store.change(partial(records.trust, floors=floors(7), wall=WallNs(7)))
        read_before = store.record
        store.change(partial(records.trust, floors=floors(3, "renewed"), wall=WallNs(8)))
        store.save(records.pinned(read_before, on=True))
        assert store.record.floors == floors(3, "renewed")
        assert store.record.time_floor == 8
        assert store.record.pinned


def test_new_keys_bring_the_floors_down_for_good(folder: Path) -> None:
    lived(folder)
    with Store(folder) as store:
        store.change(partial(records.trust, floors=floors(1, "renewed"), wall=WallNs(10)))
    assert Store(folder).load().floors == floors(1, "renewed")
    (folder / COPIES[0]).unlink()
    assert Store(folder).load().floors == floors(1, "renewed")


def test_metadata_that_could_not_be_read_again_are_not_written(folder: Path) -> None:
    with Store(folder) as store:
        store.trust(metadata(1))
        with pytest.raises(UpdateError, match="make the repository smaller"):
            store.trust(Trusted({"targets.json": bytes(33 << 20)}, ""))
        assert store.trusted() == metadata(1)


def test_a_record_that_could_not_be_read_again_is_not_written(folder: Path) -> None:
    with Store(folder) as store:
        store.save(Record(done=("r-1",)))
        with pytest.raises(UpdateError, match="the record cannot be written"):
            store.save(Record(done=("x" * (1 << 20),)))
        with pytest.raises(UpdateError, match="the record cannot be written"):
            store.save(Record(done=("\ud800",)))
        assert store.record.done == ("r-1",)


# -- newer agents ------------------------------------------------------------------------------


def _of_a_newer_agent(path: Path) -> None:
    body = b'{"format":2,"serial":999,"current":"as nobody knows yet"}'
    crc = f"{google_crc32c.value(body):08x}".encode()
    path.write_bytes(b'{"crc32c":"%s","record":%s}' % (crc, body))


def _newer_metadata(path: Path) -> None:
    body = msgspec.msgpack.encode({"format": 2, "serial": 999})
    path.write_bytes(google_crc32c.value(body).to_bytes(4, "little") + body)


@pytest.mark.parametrize(
    ("name", "write"),
    [*((name, _of_a_newer_agent) for name in COPIES), (FILES[2], _newer_metadata)],
)
def test_what_a_newer_agent_has_left_is_refused_and_kept(
    folder: Path, name: str, write: Callable[[Path], None]
) -> None:
    lived(folder)
    write(folder / name)
    content = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with Store(folder) as store:
        assert store.begin() == Record()
        assert store.trusted() is None
        assert f"{name} is of a newer agent" in store.trouble
        for write_ in (
            partial(store.change, partial(records.pinned, on=True)),
            partial(store.keep, archive(5), bundle(5).sha256),
            partial(store.trust, metadata(50)),
            store.clean,
        ):
            with pytest.raises(UpdateError, match="install the newer agent again"):
                write_()
        assert f"{name} is of a newer agent" in store.trouble
    assert content == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_newer_agent_of_the_same_format_may_have_said_more(folder: Path) -> None:
    folder.mkdir(parents=True)
    body = b'{"format":1,"serial":4,"pinned":true,"mood":"good"}'
    crc = f"{google_crc32c.value(body):08x}".encode()
    (folder / COPIES[0]).write_bytes(b'{"crc32c":"%s","record":%s}' % (crc, body))
    assert Store(folder).load() == Record(serial=4, pinned=True)


# -- two writers -------------------------------------------------------------------------------


def test_a_command_is_told_that_an_agent_is_running(folder: Path) -> None:
    record = lived(folder)
    with Store(folder) as agent:
        command = Store(folder)
        with pytest.raises(UpdateError, match="an edge-agent is running"):
            command.open()
        assert command.load() == record  # looking is allowed
        with pytest.raises(UpdateError, match="an edge-agent is running"):
            command.change(partial(records.pinned, on=True))
        assert agent.record == record


def test_a_command_rolls_back_where_no_agent_runs(folder: Path) -> None:
    lived(folder)
    with Store(folder) as command:
        command.change(partial(records.left, why=records.BY_HAND))
        command.clean()
    with Store(folder) as agent:
        assert running(agent.begin()) == ONE
        assert agent.bundle(ONE.sha256) == archive(1)


def test_who_looked_before_another_one_wrote_changes_nothing(folder: Path) -> None:
    lived(folder)
    late = Store(folder)
    late.load()
    with Store(folder) as agent:
        record = agent.change(partial(records.pinned, on=True))
    with pytest.raises(UpdateError, match="until it is started again"):
        late.change(partial(records.done, request="r-1"))
    late.close()
    assert Store(folder).load() == record


def test_threads_do_not_undo_each_others_steps(folder: Path) -> None:
    with Store(folder) as store:

        def work(first: int) -> None:
            for n in range(first, first + 20):
                store.change(partial(records.done, request=f"r-{n}"))
                store.trust(metadata(n))
                store.keep(archive(n), bundle(n).sha256)

        threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        record = store.record
    assert len(record.done) == 80
    assert Store(folder).load() == record
