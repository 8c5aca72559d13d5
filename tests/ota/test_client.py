"""A real repository on a real server, and a vehicle that looks at it."""

import datetime as dt
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from tuf.api.metadata import TargetFile

from agent.ota.client import Target, Trusted, Unreachable, Untrusted
from tests.ota import server as serving
from tests.ota.repo import NOW
from tests.ota.server import Server
from tests.ota.vehicle import Vehicle, World, wall
from tests.uplink.certificates import DAY, YEAR

HOUR = dt.timedelta(hours=1)
STORED = ("timestamp.json", "snapshot.json", "targets.json", "root_history/2.root.json")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


def test_the_first_look_tells_what_there_is(world: World) -> None:
    looked = world.vehicle.look()
    target = looked.targets["bundles/ev-1.bundle"]
    assert target.length == len(World.BUNDLE)
    assert target.custom["edge-agent"]["rollout"]["state"] == "active"
    assert looked.changed
    assert looked.expires == wall(NOW + world.repo.lives["timestamp"])
    assert world.vehicle.versions() == {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1}
    assert world.vehicle.client.download(target) == World.BUNDLE


def test_a_look_at_what_has_not_changed_is_one_small_request(world: World) -> None:
    before = world.vehicle.look()
    world.server.recover()
    after = world.vehicle.look()
    assert world.server.asked == ["metadata/timestamp.json"]
    assert world.server.requests[0].headers["if-none-match"] == before.trusted.etag != ""
    assert not after.changed
    assert (after.trusted, after.floors, after.targets) == (
        before.trusted,
        before.floors,
        before.targets,
    )


@pytest.mark.parametrize("etag", [None, "", "\x7f\xff", "x" * 5000])
def test_a_server_without_a_good_etag_costs_no_more_requests(
    world: World, etag: str | None
) -> None:
    def without(x: serving.Exchange) -> None:
        x.reply(200, x.content() or b"", {} if etag is None else {"ETag": etag})

    world.server.misbehave("*timestamp.json", without)
    assert world.vehicle.look().trusted.etag == ""
    world.server.requests.clear()
    assert not world.vehicle.look().changed
    assert world.server.asked == ["metadata/timestamp.json"]


def test_a_new_publication_is_seen(world: World) -> None:
    world.vehicle.look()
    world.repo.add_bundle("ev", 2, b"two")
    world.repo.publish()
    looked = world.vehicle.look()
    assert looked.changed
    assert set(looked.targets) == {"bundles/ev-1.bundle", "bundles/ev-2.bundle"}
    assert world.vehicle.client.download(looked.targets["bundles/ev-2.bundle"]) == b"two"


def test_a_timestamp_that_was_only_signed_anew_fetches_nothing_else(world: World) -> None:
    world.vehicle.look()
    world.server.recover()
    world.repo.now += DAY
    world.repo.publish("timestamp")
    looked = world.vehicle.look()
    # Once to see that it has changed, and once in the order of the specification.
    assert world.server.asked == [
        "metadata/timestamp.json",
        "metadata/2.root.json",
        "metadata/timestamp.json",
    ]
    assert looked.changed
    assert looked.expires == wall(world.repo.now + world.repo.lives["timestamp"])


def test_metadata_may_be_stored_and_given_to_another_process(world: World) -> None:
    first = world.vehicle.look()
    second = world.another("later")
    second.trusted, second.floors = first.trusted, first.floors
    world.server.recover()
    assert second.look().targets == first.targets
    assert world.server.asked == ["metadata/timestamp.json"]


def test_a_repository_without_digests_in_its_names(tmp_path: Path) -> None:
    with World(tmp_path, consistent=False) as world:
        looked = world.vehicle.look()
        content = world.vehicle.client.download(looked.targets["bundles/ev-1.bundle"])
        assert content == World.BUNDLE
        assert "targets/bundles/ev-1.bundle" in world.server.asked


def test_a_path_prefix_and_characters_that_a_url_quotes(world: World, tmp_path: Path) -> None:
    world.repo.add("requests/r+1.json", b"{}")
    world.repo.publish()
    (tmp_path / "www" / "a b").mkdir(parents=True)
    (tmp_path / "www" / "a b" / "repo").symlink_to(world.repo.folder)
    with Server(tmp_path / "www") as server:
        vehicle = Vehicle(f"{server.url}/a%20b/repo/", tmp_path / "v", world.repo.root_file)
        target = vehicle.look().targets["requests/r+1.json"]
        assert vehicle.client.download(target) == b"{}"


@pytest.mark.parametrize(
    "path",
    ["../up", "/etc/passwd", "a//b", "a/../b", ".hidden", "a?b", "a#b", "a b", "a\nb", "ä", ""],
)
def test_a_target_that_this_vehicle_would_not_fetch_is_left_out(world: World, path: str) -> None:
    target = TargetFile.from_data("good", b"x", ["sha256"])
    world.repo.targets.targets[path] = target
    world.repo.publish()
    assert set(world.vehicle.look().targets) == {"bundles/ev-1.bundle"}


def test_a_target_without_a_sha256_or_with_odd_notes(world: World) -> None:
    world.repo.targets.targets["weak"] = TargetFile.from_data("weak", b"x", ["md5"])
    world.repo.add("odd", b"x")
    world.repo.targets.targets["odd"].unrecognized_fields["custom"] = ["no", "mapping"]
    world.repo.publish()
    targets = world.vehicle.look().targets
    assert set(targets) == {"bundles/ev-1.bundle", "odd"}
    assert targets["odd"].custom == {}


# Keys that change.


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_new_keys_of_a_role_are_taken_from_the_root(world: World, role: str) -> None:
    world.vehicle.look()
    world.repo.rotate(role)
    world.repo.add_bundle("ev", 2, b"two")
    world.repo.publish()
    assert "bundles/ev-2.bundle" in world.vehicle.look().targets
    assert world.vehicle.versions()["root"] == 2
    world.server.recover()
    assert not world.vehicle.look().changed
    assert world.server.asked == ["metadata/timestamp.json"]


def test_the_root_changed_twice_while_the_vehicle_was_away(world: World) -> None:
    world.vehicle.look()
    world.repo.rotate("root", "timestamp")
    world.repo.rotate("root", "targets", count=3, threshold=2)
    world.repo.publish()
    assert world.vehicle.look().floors["root"].version == 3
    # It goes on from there, and not from the file that it was given.
    world.repo.rotate("root")
    world.repo.publish()
    world.server.recover()
    assert world.vehicle.look().floors["root"].version == 4
    assert "metadata/2.root.json" not in world.server.asked


def test_a_vehicle_from_the_factory_finds_its_way_to_the_newest_root(world: World) -> None:
    for _ in range(3):
        world.repo.rotate("root", "timestamp")
        world.repo.publish()
    assert world.vehicle.look().floors["root"].version == 4


def test_an_expired_root_in_between_is_no_hindrance(world: World) -> None:
    world.repo.now = NOW + 2 * YEAR
    world.repo.rotate("root")
    world.repo.publish()
    world.vehicle.now = world.repo.now
    assert world.vehicle.look().floors["root"].version == 2


def test_a_new_root_is_noticed_with_the_next_timestamp(world: World) -> None:
    world.vehicle.look()
    world.repo.rotate("timestamp")
    assert world.vehicle.look().floors["root"].version == 1
    world.repo.publish("timestamp")
    assert world.vehicle.look().floors["root"].version == 2


def test_a_root_that_was_learned_is_kept_when_the_look_fails_after_it(world: World) -> None:
    world.vehicle.look()
    world.repo.rotate("timestamp")
    world.repo.publish("timestamp")
    world.server.misbehave("*timestamp.json", serving.behave, times=1)
    world.server.misbehave("*timestamp.json", serving.status(503))
    world.server.misbehave("*timestamp.json", serving.behave, times=1)
    with pytest.raises(Unreachable) as failure:
        world.vehicle.look()
    assert failure.value.learned is not None
    assert world.vehicle.versions()["root"] == 2
    # From now on the old key is worth nothing, even where the new root is not to be had.
    world.server.recover()
    world.server.misbehave("*2.root.json", serving.status(404))
    assert world.vehicle.look().floors["root"].version == 2


def test_the_device_file_names_another_repository(world: World, tmp_path: Path) -> None:
    """The old one had roots and versions up to 4; those of the new one begin with 1."""
    for _ in range(3):
        world.repo.rotate("root")
        world.repo.publish()
    world.vehicle.look()
    with World(tmp_path / "other") as other:
        vehicle = other.vehicle
        vehicle.trusted, vehicle.floors = world.vehicle.trusted, world.vehicle.floors
        vehicle.look()
        assert vehicle.versions() == {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1}


def test_the_device_file_names_a_newer_root_of_the_same_repository(world: World) -> None:
    world.repo.rotate("timestamp")
    world.repo.publish()
    world.vehicle.look()
    world.repo.rotate("snapshot")
    world.repo.publish()
    world.vehicle.root_file.write_bytes(world.repo.metadata("3.root.json").read_bytes())
    world.server.recover()
    assert world.vehicle.look().floors["root"].version == 3


# The file of the operator.


def test_no_root_file(world: World) -> None:
    world.vehicle.root_file.unlink()
    with pytest.raises(Untrusted, match="root_file"):
        world.vehicle.look()


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"signed": 5}', b"[" * 100_000])
def test_a_root_file_that_is_none(world: World, content: bytes) -> None:
    world.vehicle.root_file.write_bytes(content)
    with pytest.raises(Untrusted, match="root_file"):
        world.vehicle.look()


def test_a_root_file_that_does_not_sign_itself(world: World) -> None:
    root = world.vehicle.root_file.read_bytes()
    world.vehicle.root_file.write_bytes(root.replace(b'"version":1', b'"version":2'))
    with pytest.raises(Untrusted, match="signed by itself"):
        world.vehicle.look()


# Stored files that a power cut has damaged.


def damages(now: Trusted, before: Trusted, name: str) -> Iterator[dict[str, bytes]]:
    """What may have become of one stored file."""
    content = now.files[name]
    whole = dict(now.files)
    yield whole | {name: b""}
    yield whole | {name: content[: len(content) // 2]}
    yield whole | {name: bytes(len(content))}
    yield {other: data for other, data in whole.items() if other != name}
    if name in before.files:
        yield whole | {name: before.files[name]}


@pytest.fixture
def aged(world: World, tmp_path: Path) -> tuple[Path, Trusted]:
    """The vehicle has seen two states; gives the older one, as a mirror and as it was stored."""
    old = world.vehicle.look().trusted
    saved = world.repo.save(tmp_path / "old")
    world.repo.rotate("root")
    world.repo.add_bundle("ev", 2, b"two")
    world.repo.publish()
    world.vehicle.look()
    return saved, old


@pytest.mark.parametrize(
    "names", [*itertools.combinations(STORED, 1), *itertools.combinations(STORED, 2)]
)
def test_damaged_files_never_make_an_older_repository_acceptable(
    world: World, aged: tuple[Path, Trusted], names: tuple[str, ...]
) -> None:
    saved, old = aged
    whole, floors = world.vehicle.trusted, world.vehicle.floors
    assert whole is not None
    damaged = [whole]
    for name in names:
        damaged = [
            Trusted(files, whole.etag)
            for one in damaged
            if name in one.files
            for files in damages(one, old, name)
        ]
    with Server(saved) as mirror:
        late = Vehicle(mirror.url, world.folder / "late", world.repo.root_file)
        for trusted in damaged:
            late.trusted, late.floors = trusted, floors
            with pytest.raises(Untrusted):
                late.look()
            assert late.floors == floors


@pytest.mark.parametrize("name", STORED)
def test_damaged_files_are_fetched_again(
    world: World, aged: tuple[Path, Trusted], name: str
) -> None:
    whole = world.vehicle.trusted
    assert whole is not None
    for files in damages(whole, aged[1], name):
        world.vehicle.trusted = Trusted(files, whole.etag)
        assert world.vehicle.look().trusted == whole


def test_stored_files_with_names_that_lead_elsewhere_are_left_out(
    world: World, tmp_path: Path
) -> None:
    world.vehicle.look()
    assert world.vehicle.trusted is not None
    evil = {"../../evil": b"x", "/evil": b"x", "root.json": b"x", "root_history/../../evil": b"x"}
    world.vehicle.trusted = Trusted(world.vehicle.trusted.files | evil, "")
    world.vehicle.look()
    assert not list(tmp_path.rglob("evil"))


def test_what_was_left_in_the_work_folder_counts_for_nothing(world: World) -> None:
    folder = world.vehicle.work / "look"
    (folder / "root_history").mkdir(parents=True)
    for name in (*STORED, "root.json"):
        (folder / name).write_bytes(b"left over")
    assert world.vehicle.look().changed


def test_a_work_folder_that_cannot_be_used(world: World) -> None:
    world.vehicle.work.write_bytes(b"a file")
    with pytest.raises(Unreachable, match="work folder"):
        world.vehicle.look()


# Time.


def test_expiry_goes_by_the_time_that_is_given_and_not_by_this_computers(world: World) -> None:
    """The repository lives in 2041. This computer would take it for years after its expiry."""
    world.vehicle.now = NOW + world.repo.lives["timestamp"] - HOUR
    world.vehicle.look()
    world.vehicle.now += HOUR
    with pytest.raises(Untrusted, match=r"timestamp\.json is expired"):
        world.vehicle.look()


def test_a_clock_before_1970_or_at_the_end_of_time(world: World) -> None:
    world.vehicle.client.look(None, {}, wall(dt.datetime(1901, 1, 1, tzinfo=dt.UTC)))
    with pytest.raises(Untrusted, match="expired"):
        world.vehicle.client.look(None, {}, wall(dt.datetime(2262, 1, 1, tzinfo=dt.UTC)))


def test_metadata_that_hold_until_the_end_of_time(world: World) -> None:
    world.repo.lives["timestamp"] = dt.datetime(9999, 12, 31, tzinfo=dt.UTC) - NOW
    world.repo.publish("timestamp")
    assert world.vehicle.look().expires == 2**63 - 1


# A target.


def test_a_target_that_is_beyond_our_bounds_is_not_fetched(world: World) -> None:
    world.vehicle.look()
    world.server.recover()
    with pytest.raises(Untrusted, match="at most"):
        world.vehicle.client.download(Target("big", 2**40, "0" * 64))
    assert world.server.asked == []


def test_a_target_that_is_not_there_yet(world: World) -> None:
    target = world.vehicle.look().targets["bundles/ev-1.bundle"]
    world.repo.target_file(target.path).unlink()
    with pytest.raises(Unreachable, match="404"):
        world.vehicle.client.download(target)
