"""Who holds the network, the mirror or stolen keys, and what they get of it.

The attacks of the TUF specification (section 1.5.2), each with a real repository and real keys. The
vehicle has looked before unless a test says otherwise; nothing that it knew is lost by an attack.
"""

import copy
import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from tuf.api.metadata import MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from agent.ota.client import LookError, Trusted, Unreachable, Untrusted
from tests.ota import server as serving
from tests.ota.repo import NOW, Keys, Repository, new_keys, signed
from tests.ota.server import Server
from tests.ota.vehicle import Vehicle, World
from tests.uplink.certificates import DAY

C = TypeVar("C", Root, Timestamp, Snapshot, Targets)
FAR = 2**31 - 1
EVIL = b"evil" * 100


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        world.vehicle.look()
        yield world


def refused(vehicle: Vehicle, word: str) -> None:
    """A look ends with a sentence, and the vehicle knows what it has known."""
    before = vehicle.trusted, vehicle.floors
    with pytest.raises(Untrusted, match=word) as failure:
        vehicle.look()
    assert str(failure.value).endswith(".")
    assert (vehicle.trusted, vehicle.floors) == before


def later(content: C, now: dt.datetime = NOW) -> C:
    """The next version of it, as a thief would make one that lives long."""
    content = copy.deepcopy(content)
    content.version += 1
    content.expires = now + dt.timedelta(days=3650)
    return content


# Arbitrary software.


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (World.BUNDLE[:-1] + b"X", "SHA-256"),
        (World.BUNDLE[:-1], "bytes and not the"),
        (World.BUNDLE + b"X", "endless data"),
        (b"", "bytes and not the"),
    ],
)
def test_another_bundle_than_the_signed_one(world: World, content: bytes, word: str) -> None:
    target = world.vehicle.look().targets["bundles/ev-1.bundle"]
    world.server.misbehave("targets/*", serving.content(content))
    with pytest.raises(Untrusted, match=word):
        world.vehicle.client.download(target)


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
@pytest.mark.parametrize("keys", [[], new_keys(2)], ids=["no signature", "unknown keys"])
def test_metadata_that_nobody_trusted_has_signed(world: World, role: str, keys: Keys) -> None:
    repo = world.repo
    repo.add("evil", EVIL)
    repo.publish()
    forged = later(repo.root) if role == "root" else getattr(repo, role)
    repo.write(forged, keys)
    refused(world.vehicle, "not signed by the keys")


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_metadata_that_were_altered_after_they_were_signed(world: World, role: str) -> None:
    world.repo.publish()
    path = {
        "timestamp": "timestamp.json",
        "snapshot": "2.snapshot.json",
        "targets": "2.targets.json",
    }[role]
    altered = world.repo.metadata(path).read_bytes().replace(b"2041", b"2051")
    world.repo.metadata(path).write_bytes(altered)
    refused(world.vehicle, "not signed by the keys")


# Rollback.


@pytest.fixture
def old(world: World, tmp_path: Path) -> Path:
    """The repository as it was, before the vehicle has seen two newer versions."""
    saved = world.repo.save(tmp_path / "old")
    for version in (2, 3):
        world.repo.add_bundle("ev", version, b"newer")
        world.repo.publish()
        world.vehicle.look()
    return saved


def test_the_whole_repository_of_an_earlier_day(world: World, old: Path) -> None:
    world.repo.back_to(old)
    refused(world.vehicle, r"timestamp\.json is older than .* a rollback")


def test_the_same_where_the_vehicle_has_lost_all_but_the_floors(world: World, old: Path) -> None:
    world.repo.back_to(old)
    world.vehicle.trusted = None
    with pytest.raises(Untrusted, match=r"timestamp\.json in version 1, .* version 3: a rollback"):
        world.vehicle.look()


def test_a_new_timestamp_for_an_old_snapshot(world: World, old: Path) -> None:
    """By a stolen timestamp key."""
    repo = world.repo
    repo.snapshot.version = 1
    repo.back_to(old, names=["1.snapshot.json"])
    repo.publish("timestamp")
    refused(world.vehicle, "rollback")
    world.vehicle.trusted = None
    refused(world.vehicle, r"snapshot\.json in version 1")


def test_new_timestamp_and_snapshot_for_old_targets(world: World, old: Path) -> None:
    """By stolen timestamp and snapshot keys."""
    repo = world.repo
    repo.targets.version = 1
    repo.back_to(old, names=["1.targets.json"])
    repo.publish("snapshot", "timestamp")
    refused(world.vehicle, "rollback")
    world.vehicle.trusted = None
    refused(world.vehicle, r"targets\.json in version 1")


def test_an_older_root_where_the_vehicle_has_lost_the_newer_one(
    world: World, tmp_path: Path
) -> None:
    """With it the old keys would be good again, and those were given up for a reason."""
    saved = world.repo.save(tmp_path / "old")
    thief = world.repo.keys["timestamp"]
    world.repo.rotate("timestamp")
    world.repo.publish("timestamp")
    world.vehicle.look()
    stolen = later(world.repo.timestamp)
    world.repo.back_to(saved)
    world.repo.write(stolen, thief)
    world.vehicle.trusted = None
    refused(world.vehicle, r"root\.json in version 1, .* version 2: a rollback")


# Freeze.


def test_not_modified_for_ever_holds_until_the_timestamp_expires(world: World) -> None:
    world.server.misbehave("*timestamp.json", lambda x: x.send(serving.head(304, {})))
    world.repo.add_bundle("ev", 2, b"newer")
    world.repo.publish()
    world.vehicle.now = NOW + world.repo.lives["timestamp"] - dt.timedelta(seconds=1)
    assert not world.vehicle.look().changed
    world.vehicle.now += dt.timedelta(seconds=1)
    # Now it asks without an ETag, and 304 is no answer to that.
    with pytest.raises(Unreachable, match="304"):
        world.vehicle.look()


def test_an_old_timestamp_that_is_validly_signed(world: World, tmp_path: Path) -> None:
    saved = world.repo.save(tmp_path / "old")
    with Server(saved) as mirror:
        frozen = Vehicle(mirror.url, tmp_path / "frozen", world.repo.root_file)
        assert frozen.look().changed
        frozen.now = NOW + 8 * DAY
        refused(frozen, r"timestamp\.json is expired.* freeze")
        # One that has never looked is not fooled either.
        fresh = Vehicle(mirror.url, tmp_path / "fresh", world.repo.root_file, now=frozen.now)
        refused(fresh, "freeze")


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_each_role_expires(world: World, role: str) -> None:
    world.repo.lives = dict.fromkeys(world.repo.lives, 100 * DAY) | {role: DAY}
    world.repo.rotate("root")
    world.repo.publish()
    world.vehicle.look()
    world.vehicle.now = NOW + 2 * DAY
    refused(world.vehicle, f"{role}.* expired.* freeze")


# Mix and match.


def test_the_snapshot_of_one_time_with_the_timestamp_of_another(world: World) -> None:
    for _ in range(2):
        world.repo.publish()
    names = ("2.snapshot.json", "3.snapshot.json")
    world.repo.metadata(names[1]).write_bytes(world.repo.metadata(names[0]).read_bytes())
    refused(world.vehicle, "mix and match")


def test_the_targets_of_one_time_with_the_snapshot_of_another(world: World) -> None:
    for _ in range(2):
        world.repo.publish()
    names = ("2.targets.json", "3.targets.json")
    world.repo.metadata(names[1]).write_bytes(world.repo.metadata(names[0]).read_bytes())
    refused(world.vehicle, "mix and match")


def test_a_file_of_the_right_version_and_another_hash(world: World) -> None:
    repo = world.repo
    repo.publish("targets", "snapshot")
    digest = {"sha256": "0" * 64}
    timestamp = later(repo.timestamp)
    timestamp.snapshot_meta = MetaFile(version=2, hashes=digest)
    repo.write(timestamp, repo.keys["timestamp"])
    refused(world.vehicle, r"2\.snapshot\.json is not the file that the metadata above it name")


def test_one_role_in_the_place_of_another(world: World) -> None:
    """Signed by the right keys, of other roles."""
    for name in ("timestamp.json", "2.root.json"):
        world.server.recover()
        world.server.misbehave(
            f"*/{name}", serving.content(world.repo.metadata("1.targets.json").read_bytes())
        )
        world.vehicle.trusted = None
        refused(world.vehicle, "does not fit")


# Endless data that a stolen key has allowed.


def test_a_timestamp_that_allows_a_snapshot_of_any_length(world: World) -> None:
    timestamp = later(world.repo.timestamp)
    timestamp.snapshot_meta = MetaFile(version=2, length=10**15)
    world.repo.write(timestamp, world.repo.keys["timestamp"])
    world.server.misbehave("*2.snapshot.json", serving.endless)
    refused(world.vehicle, "endless data")


def test_a_target_that_was_signed_with_any_length(world: World) -> None:
    world.repo.add("evil", EVIL).length = 10**15
    world.repo.publish()
    target = world.vehicle.look().targets["evil"]
    with pytest.raises(Untrusted, match="at most"):
        world.vehicle.client.download(target)


# Stolen keys, each kind alone: what can be done with them, and what not.


def test_who_has_the_timestamp_key_can_only_hold_the_vehicle_where_it_is(world: World) -> None:
    thief = world.repo.keys["timestamp"]
    world.repo.write(later(world.repo.timestamp), thief)
    world.vehicle.now = NOW + 20 * DAY
    assert world.vehicle.look().changed
    # No longer than the snapshot lives, which somebody else signs.
    world.vehicle.now = NOW + 31 * DAY
    refused(world.vehicle, r"snapshot\.json is expired")


def test_who_has_the_timestamp_key_cannot_sign_a_snapshot(world: World) -> None:
    thief = world.repo.keys["timestamp"]
    timestamp = later(world.repo.timestamp)
    timestamp.snapshot_meta = MetaFile(version=2)
    world.repo.write(later(world.repo.snapshot), thief)
    world.repo.write(timestamp, thief)
    refused(world.vehicle, r"2\.snapshot\.json is not signed by the keys")


def test_who_has_the_snapshot_key_can_do_nothing(world: World) -> None:
    thief = world.repo.keys["snapshot"]
    snapshot = later(world.repo.snapshot)
    world.repo.write(snapshot, thief)
    assert not world.vehicle.look().changed
    timestamp = later(world.repo.timestamp)
    timestamp.snapshot_meta = MetaFile(version=2)
    world.repo.write(timestamp, thief)
    refused(world.vehicle, r"timestamp\.json is not signed by the keys")


def test_who_has_timestamp_and_snapshot_keys_cannot_add_a_target(world: World) -> None:
    repo = world.repo
    repo.targets.targets["evil"] = TargetFile.from_data("evil", EVIL, ["sha256"])
    repo.targets.version += 1
    repo.write(repo.targets, repo.keys["timestamp"] + repo.keys["snapshot"])
    repo.publish("snapshot", "timestamp")
    refused(world.vehicle, r"2\.targets\.json is not signed by the keys")


def test_who_has_one_of_two_targets_keys_cannot_add_a_target(world: World) -> None:
    """Not even with those of timestamp and snapshot, which lie on a server."""
    repo = world.repo
    one = repo.keys["targets"][:1]
    repo.targets.targets["evil"] = TargetFile.from_data("evil", EVIL, ["sha256"])
    repo.publish()
    repo.write(repo.targets, one)
    refused(world.vehicle, "1/2 keys")
    # A signature that stands there twice is one signature.
    single = json.loads(signed(repo.targets, one))
    single["signatures"] *= 2
    repo.metadata("2.targets.json").write_text(json.dumps(single))
    refused(world.vehicle, "no TUF metadata")


def test_who_has_all_targets_keys_cannot_bring_it_to_a_vehicle(world: World) -> None:
    """The timestamp and snapshot keys are needed too; with all four, and only then, it is done."""
    repo = world.repo
    repo.add("evil", EVIL)
    repo.publish("targets")
    assert set(world.vehicle.look().targets) == {"bundles/ev-1.bundle"}
    repo.publish("snapshot", "timestamp")
    assert "evil" in world.vehicle.look().targets


def test_who_has_one_of_two_root_keys_cannot_make_a_root(world: World) -> None:
    repo = world.repo
    one = repo.keys["root"][:1]
    root = later(repo.root)
    thief = new_keys(2)
    for role in ("root", "timestamp", "snapshot", "targets"):
        for keyid in list(root.roles[role].keyids):
            root.revoke_key(keyid, role)
        for key in thief:
            root.add_key(key.public_key, role)
        root.roles[role].threshold = 1
    repo.write(root, one + thief)
    repo.write(later(repo.timestamp), thief)
    refused(world.vehicle, r"2\.root\.json is not signed by the keys .*1/2 keys")


def test_a_root_that_the_old_keys_did_not_sign(world: World) -> None:
    world.repo.rotate("root")
    world.repo.write(world.repo.root, world.repo.keys["root"])
    world.repo.publish("timestamp")
    refused(world.vehicle, r"2\.root\.json is not signed by the keys")


def test_a_root_under_the_name_of_another_version(world: World) -> None:
    for _ in range(2):
        world.repo.rotate("timestamp")
    world.repo.publish("timestamp")
    third = world.repo.metadata("3.root.json").read_bytes()
    world.repo.metadata("2.root.json").write_bytes(third)
    refused(world.vehicle, "another version of the root")


def test_a_stolen_timestamp_key_is_worth_nothing_once_it_is_revoked(world: World) -> None:
    thief = world.repo.keys["timestamp"]
    world.repo.rotate("timestamp")
    world.repo.publish("timestamp")
    world.vehicle.look()
    world.repo.write(later(world.repo.timestamp), thief)
    refused(world.vehicle, r"timestamp\.json is not signed by the keys")


# Fast forward: versions so high that nothing newer can come.


def forwarded(repo: Repository, roles: tuple[str, ...]) -> None:
    """What a thief with the keys of these roles publishes; the others are signed as ever."""
    for role in roles:
        getattr(repo, role).version = FAR
    for role in ("targets", "snapshot", "timestamp"):
        if role not in roles:
            getattr(repo, role).version += 1
        repo.sign(role)


@pytest.mark.parametrize(
    ("stolen", "renewed"),
    [
        (("timestamp",), ("timestamp",)),
        (("timestamp", "snapshot"), ("timestamp", "snapshot")),
        (("snapshot",), ("snapshot",)),
        (("targets",), ("targets",)),
        (("snapshot", "targets"), ("snapshot", "targets")),
        (("timestamp", "snapshot", "targets"), ("timestamp", "snapshot", "targets")),
        (("timestamp", "snapshot"), ("timestamp", "snapshot", "root", "targets")),
    ],
)
@pytest.mark.parametrize("how", ["stored", "lost", "looked before"])
def test_new_keys_are_the_cure_for_a_fast_forward(
    world: World, stolen: tuple[str, ...], renewed: tuple[str, ...], how: str
) -> None:
    before = {role: getattr(world.repo, role).version for role in stolen}
    forwarded(world.repo, stolen)
    world.vehicle.look()
    assert {world.vehicle.versions()[role] for role in stolen} == {FAR}
    for role in stolen:
        getattr(world.repo, role).version = before[role]
    world.repo.add_bundle("ev", 2, b"the cure")
    world.repo.publish()
    refused(world.vehicle, "rollback")

    world.repo.rotate(*renewed)
    world.repo.publish()
    if how == "looked before":
        # The root was learned in a look that failed after it, and nothing else was.
        world.server.misbehave("*timestamp.json", serving.behave, times=1)
        world.server.misbehave("*timestamp.json", serving.status(503))
        world.server.misbehave("*timestamp.json", serving.behave, times=1)
        with pytest.raises(LookError):
            world.vehicle.look()
        world.server.recover()
    elif how == "lost":
        world.vehicle.trusted = None
    assert "bundles/ev-2.bundle" in world.vehicle.look().targets
    versions = world.vehicle.versions()
    assert all(versions[role] < 10 for role in stolen)
    assert not world.vehicle.look().changed


def test_new_keys_of_one_role_open_no_way_back_for_another(world: World, tmp_path: Path) -> None:
    """The floors of the roles that keep their keys stand, though stored files were left out."""
    world.repo.save(tmp_path / "old")
    for version in (2, 3):
        world.repo.add_bundle("ev", version, b"newer")
        world.repo.publish()
    world.vehicle.look()
    world.repo.rotate("snapshot")
    world.repo.targets.version = 1
    world.repo.back_to(tmp_path / "old", names=["1.targets.json"])
    world.repo.publish("snapshot", "timestamp")
    with pytest.raises(Untrusted, match=r"targets\.json in version 1, .* version 3: a rollback"):
        world.vehicle.look()


@pytest.mark.parametrize("version", [2**53 + 1, 2**64, 10**100])
def test_a_version_that_no_floor_could_hold(world: World, version: int) -> None:
    world.repo.timestamp.version = version
    world.repo.sign("timestamp")
    refused(world.vehicle, "keys of timestamp are in wrong hands")


# What is signed by the right keys, and is nonsense.


def test_metadata_of_another_kind_and_targets_that_are_missing(world: World) -> None:
    repo = world.repo
    snapshot = later(repo.snapshot)
    snapshot.meta = {"other.json": MetaFile(version=1)}
    repo.write(snapshot, repo.keys["snapshot"])
    repo.snapshot.version += 1
    repo.publish("timestamp")
    refused(world.vehicle, "does not fit")
    world.vehicle.trusted = Trusted({}, "")
    refused(world.vehicle, "does not fit")
