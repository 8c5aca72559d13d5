"""A recording that stands in for a bus: after a cut at any operation, every sample exactly once."""

import itertools
import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.spool.folder import Positions, same_recording
from agent.spool.store import StreamKey
from tests.spool.car import CLOUD, EVENT, Car, StillClock, content, serials
from tests.spool.cuts import Cutter
from tests.spool.fakefs import Disk

KEYS = (CLOUD, EVENT)
BLOCK = 10
FRAMES = 120
RECORDING = {"path": "drive.log", "size": 4711}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("edge_agent.spool")
    logger.disabled = True
    yield
    logger.disabled = False


def _samples(key: StreamKey, begin: int, end: int) -> range:
    """Of each frame one sample for the first stream, of some blocks some for the other one."""
    if key == CLOUD:
        return range(begin, end)
    return range(1000 + begin, 1000 + end, 3) if begin // BLOCK % 3 else range(0)


ALL = Counter(
    n for key in KEYS for b in range(0, FRAMES, BLOCK) for n in _samples(key, b, b + BLOCK)
)


def _at(frames: int) -> Positions:
    return {"powertrain": {**RECORDING, "frames": frames}}


def _begin(car: Car) -> dict[StreamKey, int]:
    """Where each stream goes on, as the daemon does it."""
    begin = {}
    for key in KEYS:
        known = car.store.resume.get(key.name, {}).get("powertrain", {})
        begin[key] = known["frames"] if known and same_recording(known, _at(0)["powertrain"]) else 0
    return begin


def _play(car: Car, end: int = FRAMES) -> Iterator[int]:
    """Give the store the recording from where it goes on, a block at a time."""
    reached = _begin(car)
    for frame in range(min(reached.values()), end, BLOCK):
        after = frame + BLOCK
        given = {key: _samples(key, frame, after) for key in KEYS if reached[key] < after}
        car.store.add({key: [serials(n)] for key, n in given.items() if n}, _at(after))
        yield after


class Receiver:
    """What has arrived, by batch: one that is sent twice counts once."""

    def __init__(self, known: "Receiver | None" = None) -> None:
        self.batches: dict[str, Counter[int]] = dict(known.batches) if known else {}

    def take_all(self, car: Car) -> None:
        for parcel in car.parcels():
            self.batches[parcel.batch_id] = content(parcel.path)
            car.acknowledge()

    @property
    def samples(self) -> Counter[int]:
        return sum(self.batches.values(), Counter[int]())


def _run_to_the_end(root: Path, receiver: Receiver) -> None:
    """What a start makes of a folder, with the rest of the recording."""
    disk = Disk(root)
    car = Car(root / "spool", KEYS, fs=disk)
    for _ in _play(car):
        pass
    car.end()
    late = Receiver(receiver)
    late.batches |= {p.batch_id: content(p.path) for p in car.parcels()}
    assert late.samples == ALL


def test_the_recording_goes_on_exactly_after_a_cut_at_any_operation(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    disk = Disk(tmp_path / "disk")
    receiver = Receiver()
    cutter = Cutter(disk, tmp_path / "left", lambda left: _run_to_the_end(left, receiver))

    car = Car(disk.root / "spool", KEYS, fs=disk)
    for after in _play(car, 50):
        if after % 20 == 0:
            car.later(40)
        if after == 30:
            receiver.take_all(car)
    receiver.take_all(car)
    car.store.close()
    car = Car(disk.root / "spool", KEYS, fs=disk)
    for _ in _play(car, 90):
        car.later(40)
    receiver.take_all(car)
    car.end()
    cutter.cut_now("at the end")

    assert cutter.cases > 150
    print(f"{cutter.cases} cuts")


def test_after_an_error_at_any_operation_and_a_kill_the_recording_goes_on_exactly(
    tmp_path: Path,
) -> None:
    """A file that was given up is not published before another one keeps its positions."""
    for first in itertools.count(1):
        (tmp_path / "disk").mkdir()
        disk = Disk(tmp_path / "disk")
        car = Car(disk.root / "spool", KEYS, fs=disk)
        disk.operations = 0

        def fail(number: int, what: str, first: int = first) -> None:
            if number == first or number == first + 3:
                raise OSError(5, "Input/output error", what)

        disk.before = fail
        for after in _play(car, 60):
            if after % 20 == 0:
                car.later(40)
        car.store.close()
        disk.before = lambda _number, _what: None
        try:
            _run_to_the_end(disk.root, Receiver())
        except AssertionError as e:
            e.add_note(f"EIO at operations {first} and {first + 3}")
            raise
        shutil.rmtree(disk.root)
        if disk.operations < first:
            break


def test_no_file_leaves_open_before_another_one_keeps_its_position(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", KEYS, fs=disk)

    def no_new_file(_number: int, what: str) -> None:
        if what.startswith("create"):
            raise OSError(28, "No space left on device")

    car.store.add({CLOUD: []}, _at(10))
    car.add(CLOUD, range(10), _at(10))
    car.commit()
    disk.before = no_new_file
    for _ in range(3):
        car.later(61)
    assert car.parcels() == []
    car.store.close()

    again = Car(tmp_path / "spool", KEYS)
    assert _begin(again)[CLOUD] == 10
    assert [content(p.path) for p in again.parcels()] == [Counter(range(10))]


def test_a_position_in_the_same_recording_never_goes_back(tmp_path: Path) -> None:
    """One stream is further than another: reading from the earlier one changes nothing for it."""
    car = Car(tmp_path / "spool", KEYS)
    car.add(CLOUD, range(50), _at(50))
    car.commit()
    car.store.close()

    again = Car(tmp_path / "spool", KEYS)
    assert _begin(again) == {CLOUD: 50, EVENT: 0}
    again.add(EVENT, range(10), _at(10))
    again.add(CLOUD, range(50, 60), _at(20))
    again.end()
    assert _begin(Car(tmp_path / "spool", KEYS)) == {CLOUD: 50, EVENT: 20 - 10}


def test_another_recording_begins_at_its_beginning(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD])
    car.add(CLOUD, range(5), _at(100))
    car.commit()
    other: Positions = {"powertrain": {"path": "other.log", "size": 1, "frames": 7}}
    car.add(CLOUD, range(5, 10), other)
    car.end()
    again = Car(tmp_path / "spool", [CLOUD], clock=StillClock())
    assert again.store.resume[CLOUD.name] == other
