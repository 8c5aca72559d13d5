"""Which plan a process begins with: from any state that a life, a cut or a sick disk may leave."""

import errno
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.collect import Plan
from agent.errors import ConfigError, UpdateError
from agent.ota import record as records
from agent.ota.bundle import pack
from agent.ota.record import UNKNOWN, Record
from agent.ota.start import forget_plans, load_bundle, load_running_plan
from agent.ota.store import Store
from agent.ota.types import BundleId
from agent.settings import Device, load_device
from tests.spool.fakefs import Disk, fail_at
from tests.updating import DBC, DEVICE, FACTORY, PLAN


class Vehicle:
    """A state folder with bundles in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "state").mkdir()
        (folder / "car.dbc").write_text(DBC)
        self.write(FACTORY)
        (folder / "agent.toml").write_text(DEVICE.format(url="https://nowhere", root_file="r.json"))
        self.device: Device = load_device(folder / "agent.toml")
        self.disk = Disk(folder / "state")
        self.store = Store(folder / "state/ota", self.disk)
        self.store.open()

    def write(self, name: str) -> Path:
        path = self.folder / "plan.toml"
        path.write_text(PLAN.format(name=name))
        return path

    def keep(self, version: int, plan: str = "") -> BundleId:
        """A bundle whose archive is there, and which nothing names yet."""
        path = self.write(f"ev-{version}")
        if plan:
            path.write_text(plan)
        data = pack(path, version=version, name="ev")
        self.write(FACTORY)
        bundle = _id_of(data, version)
        self.store.keep(data, bundle.sha256)
        return bundle

    def commit(self, version: int) -> BundleId:
        bundle = self.keep(version)
        self.store.change(lambda r: records.committed(records.accepted(r, bundle)))
        return bundle

    def try_(self, version: int) -> BundleId:
        bundle = self.keep(version)
        self.store.change(lambda r: records.accepted(r, bundle))
        return bundle

    def archive(self, bundle: BundleId) -> Path:
        return self.folder / f"state/ota/bundles/{bundle.sha256}.bundle"

    def start(self) -> tuple[str, BundleId | None]:
        """Another process: the name of its plan, and the bundle."""
        self.store.close()
        self.store = Store(self.store.folder, self.disk)
        self.store.open()
        plan, bundle = load_running_plan(self.device, self.store, UNKNOWN)
        return plan.name, bundle

    @property
    def told(self) -> list[str]:
        return [f"{r.what}: {r.why}" for r in self.store.record.reports]


def _id_of(data: bytes, version: int) -> BundleId:
    return BundleId("ev", version, hashlib.sha256(data).hexdigest())


@pytest.fixture
def vehicle(tmp_path: Path) -> Iterator[Vehicle]:
    made = Vehicle(tmp_path)
    yield made
    made.store.close()


def test_on_the_first_day_the_factory_plan(vehicle: Vehicle) -> None:
    assert vehicle.start() == (FACTORY, None)
    assert vehicle.store.record == Record()


def test_what_did_well(vehicle: Vehicle) -> None:
    bundle = vehicle.commit(1)
    assert vehicle.start() == ("ev-1", bundle)
    assert vehicle.start() == ("ev-1", bundle)
    assert vehicle.told == []


def test_what_is_on_trial_three_times(vehicle: Vehicle) -> None:
    one, two = vehicle.commit(1), vehicle.try_(2)
    assert vehicle.start() == ("ev-2", two)
    assert vehicle.start() == ("ev-2", two)
    assert vehicle.start() == ("ev-1", one)
    assert "started 3 times" in vehicle.told[0]
    assert vehicle.start() == ("ev-1", one)


@pytest.mark.parametrize("harm", ["torn", "missing", "nonsense"])
def test_an_archive_that_is_no_more_gives_way_to_the_one_before(
    vehicle: Vehicle, harm: str
) -> None:
    one, two = vehicle.commit(1), vehicle.commit(2)
    path = vehicle.archive(two)
    match harm:
        case "torn":
            path.write_bytes(path.read_bytes()[:100])
        case "missing":
            path.unlink()
        case "nonsense":
            path.write_bytes(b"nonsense")
    assert vehicle.start() == ("ev-1", one)
    assert vehicle.told[0].startswith("rolled back: it cannot be used: ")
    vehicle.archive(one).unlink()
    assert vehicle.start() == (FACTORY, None)
    assert vehicle.store.record.rejected == ()  # it may come again


def test_a_bundle_that_does_not_fit_to_the_device_any_more(vehicle: Vehicle) -> None:
    """Somebody changed agent.toml: a bus is called otherwise now, which the plan names."""
    vehicle.commit(1)
    plan = PLAN.format(name="ev-2").replace('bus = "*"', 'bus = "powertrain"')
    two = vehicle.keep(2, plan)
    vehicle.store.change(lambda r: records.committed(records.accepted(r, two)))
    assert vehicle.start() == ("ev-2", two)
    path = vehicle.folder / "agent.toml"
    path.write_text(path.read_text().replace("powertrain", "drive"))
    vehicle.device = load_device(path)
    assert vehicle.start()[0] == "ev-1"
    assert '"powertrain" is no bus of agent.toml' in vehicle.told[0]


def test_a_bundle_that_the_rest_of_the_device_cannot_run(vehicle: Vehicle) -> None:
    """Such as without the signal of the key, which agent.toml names now."""
    one, two = vehicle.commit(1), vehicle.commit(2)

    def check(plan: Plan) -> None:
        if plan.name == "ev-2":
            raise ConfigError("[ignition] signal: no signal is called Key.On")

    plan, bundle = load_running_plan(vehicle.device, vehicle.store, UNKNOWN, check)

    assert (plan.name, bundle) == ("ev-1", one)
    assert "no signal is called Key.On" in vehicle.told[0]
    assert two != one


def test_where_nothing_can_be_read_of_the_disk_the_factory_plan(vehicle: Vehicle) -> None:
    vehicle.commit(1)
    vehicle.disk.before = fail_at(0, errno.EIO, count=1 << 30)
    assert vehicle.start() == (FACTORY, None)
    assert "is changed until the agent is started again" in vehicle.store.trouble
    vehicle.disk.before = fail_at(0, errno.EIO, count=0)
    assert vehicle.start()[0] == "ev-1"


def test_a_try_that_cannot_be_counted_is_none(vehicle: Vehicle) -> None:
    """Else a plan that ends the process could do so for ever."""
    vehicle.try_(1)

    def full(_: int, what: str) -> None:
        if what.startswith("create"):
            raise OSError(errno.ENOSPC, "No space left on device")

    vehicle.disk.before = full
    assert vehicle.start() == (FACTORY, None)


def test_a_factory_plan_that_cannot_be_used_is_an_error_only_where_it_is_needed(
    vehicle: Vehicle,
) -> None:
    bundle = vehicle.commit(1)
    (vehicle.folder / "plan.toml").write_text("nonsense")
    assert vehicle.start() == ("ev-1", bundle)
    vehicle.archive(bundle).unlink()
    with pytest.raises(ConfigError, match=r"plan\.toml"):
        vehicle.start()


def test_a_working_copy_that_was_changed_is_made_anew(vehicle: Vehicle) -> None:
    bundle = vehicle.commit(1)
    vehicle.start()
    (plan,) = (vehicle.folder / "state/ota/plans").rglob("plan.toml")
    plan.write_text(PLAN.format(name="forged"))
    assert vehicle.start() == ("ev-1", bundle)


def test_a_working_copy_that_finds_no_room_is_made_elsewhere(vehicle: Vehicle) -> None:
    bundle = vehicle.commit(1)
    (vehicle.folder / "state/ota/plans").write_text("in the way")
    assert vehicle.start() == ("ev-1", bundle)
    assert vehicle.told == []


def test_where_no_disk_takes_the_working_copy_it_is_no_word_against_the_bundle(
    vehicle: Vehicle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = vehicle.commit(1)
    (vehicle.folder / "state/ota/plans").write_text("in the way")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(OSError, match="nowhere"):
        load_bundle(vehicle.device, vehicle.store, bundle)
    assert vehicle.start() == (FACTORY, None)
    assert vehicle.store.record.rejected == ()


def test_a_bundle_that_is_not_there_is_said(vehicle: Vehicle) -> None:
    with pytest.raises(UpdateError, match="has to be fetched again"):
        load_bundle(vehicle.device, vehicle.store, BundleId("ev", 1, "0" * 64))


def test_working_copies_that_nothing_names_go(vehicle: Vehicle) -> None:
    for version in (1, 2, 3):
        vehicle.commit(version)
        vehicle.start()
    folder = vehicle.folder / "state/ota/plans"
    assert len(list(folder.iterdir())) == 3
    forget_plans(vehicle.device, vehicle.store)
    record = vehicle.store.record
    assert record.current is not None
    assert record.previous is not None
    assert {p.name for p in folder.iterdir()} == {
        record.current.sha256[:16],
        record.previous.sha256[:16],
    }
