"""What an operator publishes, and what vehicles make of it over HTTP."""

import datetime as dt
import json
import shutil
from pathlib import Path

import pytest

from agent.errors import UpdateError
from agent.ota.choice import share
from agent.ota.operator.content import roll_out
from agent.ota.operator.keys import KeyRing
from agent.ota.operator.repository import Repository
from agent.ota.operator.rotation import begin, renew
from agent.ota.operator.work import carry_out, finish
from agent.ota.trusted import Untrusted
from tests.ota.desk import PLAN, Desk

PLAIN = ("--no-passphrase",)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_from_the_first_key_to_a_withdrawn_bundle(desk: Desk) -> None:
    desk.init()
    names = [f"van-{n}" for n in range(20)]
    early = [name for name in names if share("ev", 2, name) < 30]
    assert 0 < len(early) < len(names)
    with desk.server() as server:
        canary = desk.vehicle(server, "van-c", "canary")
        fleet = {name: desk.vehicle(server, name) for name in names}

        def running() -> set[str]:
            return {vehicle.look() for vehicle in fleet.values()}

        desk.publish(1, "--to", "all")
        assert (canary.look(), running()) == ("ev 1", {"ev 1"})

        answer = desk.publish(2)
        assert answer.out == "ev 2: active, reaches no vehicle yet\n"
        assert (canary.look(), running()) == ("ev 1", {"ev 1"})

        desk.good("rollout", desk.repo, "ev-2", "--to", "canary", *desk.signed)
        assert (canary.look(), running()) == ("ev 2", {"ev 1"})

        desk.good("rollout", desk.repo, "ev-2", "--to", "all", "--percent", 30, *desk.signed)
        running()
        assert [n for n, v in fleet.items() if v.look() == "ev 2"] == early

        desk.good("rollout", desk.repo, "ev-2", "--pause", *desk.signed)
        desk.good("rollout", desk.repo, "ev-2", "--to", "all", *desk.signed)
        assert [n for n, v in fleet.items() if v.look() == "ev 2"] == early

        answer = desk.good("rollout", desk.repo, "ev-2", "--resume", *desk.signed)
        assert answer.out == "ev 2: active\n  group canary: 100 %\n  all: 100 %\n"
        assert running() == {"ev 2"}
        assert "every_ms = 2" in canary.plan

        desk.good("rollout", desk.repo, "ev-2", "--withdraw", *desk.signed)
        assert (canary.look(), running()) == ("ev 1", {"ev 1"})
        desk.good("rollout", desk.repo, "ev-1", "--withdraw", *desk.signed)
        assert (canary.look(), running()) == ("factory", {"factory"})
    assert desk.run("status", desk.repo).status == 0


def test_a_stage_for_vehicles_by_name(desk: Desk) -> None:
    desk.init()
    desk.publish(1, "--vehicles", "van-1*", "truck")
    with desk.server() as server:
        found = {n: desk.vehicle(server, n).look() for n in ("van-1", "van-17", "truck", "van-2")}
    assert found == {"van-1": "ev 1", "van-17": "ev 1", "truck": "ev 1", "van-2": "factory"}


def test_all_are_those_for_which_the_bundle_was_made(desk: Desk) -> None:
    desk.init()
    bundle = desk.bundle(1, "--groups", "ev", "--vehicles", "demo-*")
    words = ("publish", desk.repo, bundle, *desk.signed, "-c", desk.device, "--to", "all")
    assert desk.good(*words).out == "ev 1: active\n  group ev, demo-*: 100 %\n"
    with desk.server() as server:
        assert desk.vehicle(server, "van-1", "ev").look() == "ev 1"
        assert desk.vehicle(server, "demo-3").look() == "ev 1"
        assert desk.vehicle(server, "van-1", "diesel").look() == "factory"


def test_requests_reach_whom_they_name_until_they_are_taken_back(desk: Desk) -> None:
    desk.init()
    fire = desk.good("request", desk.repo, "fire", "limp", "--groups", "ev", *desk.signed)
    assert fire.out.startswith("r-")
    assert "fire limp, for group ev, until" in fire.out
    name = fire.out.partition(":")[0]
    resend = ("resend", "cloud", "a-1", "a-9", "--vehicles", "van-2", "--expires", "12h")
    second = desk.good("request", desk.repo, *resend, *desk.signed, "--json").json
    assert (second["first"], second["last"], second["uplink"]) == ("a-1", "a-9", "cloud")
    with desk.server() as server:
        one, two = desk.vehicle(server, "van-1", "ev"), desk.vehicle(server, "van-2")
        one.look()
        two.look()
        assert (one.requests, two.requests) == ([name], [second["id"]])
        two.look(later_days=0.6)
        assert two.requests == []
        desk.good("request", desk.repo, "cancel", name, *desk.signed)
        one.look()
        assert one.requests == []


def test_a_request_that_has_expired_is_dropped_with_the_next_change(desk: Desk) -> None:
    desk.init()
    desk.good("request", desk.repo, "fire", "--all", "--expires", "1h", *desk.signed)
    later = Repository(desk.repo, now=lambda: dt.datetime.now(dt.UTC) + dt.timedelta(days=2))
    desk.publish(1)
    assert len(desk.status()["requests"]) == 1
    carry_out(later, KeyRing([desk.keys]), lambda state: roll_out(later, state, "ev-1"))
    assert desk.status()["requests"] == []


class TestTime:
    """Metadata are good for a while, and signed again in time."""

    def made(self, desk: Desk, ago_days: float) -> Repository:
        """A repository that was made some days ago."""
        desk.keys.mkdir()
        then = dt.datetime.now(dt.UTC) - dt.timedelta(days=ago_days)
        repository = Repository(desk.repo, now=lambda: then)
        ring = KeyRing([desk.keys])
        roles = ("root", "targets", "snapshot", "timestamp")
        with repository.changing(make=True):
            change = begin(repository, ring, counts={}, thresholds={}, days={}, plain=roles)
            finish(repository, ring, change)
        return Repository(desk.repo)

    def test_what_has_expired_is_refused_until_it_is_signed_again(self, desk: Desk) -> None:
        self.made(desk, ago_days=15)
        with desk.server() as server:
            vehicle = desk.vehicle(server)
            with pytest.raises(Untrusted):
                vehicle.look()
            answer = desk.run("status", desk.repo)
            assert answer.status == 1
            assert "WRONG: timestamp has expired on" in answer.out
            assert "WRONG: snapshot has expired on" in answer.out
            assert "a vehicle takes all" not in answer.out
            answer = desk.good("refresh", desk.repo, *desk.signed)
            assert "timestamp 2 is good until" in answer.out
            assert desk.run("status", desk.repo).status == 0
            assert vehicle.look() == "factory"

    def test_a_refresh_needs_the_online_keys_alone(self, desk: Desk, tmp_path: Path) -> None:
        self.made(desk, ago_days=8)
        online = tmp_path / "online"
        online.mkdir()
        for role in ("snapshot", "timestamp"):
            shutil.copy(desk.key(role), online)
        desk.good("refresh", desk.repo, "--keys", online)
        roles = desk.status()["roles"]
        assert {role: roles[role]["version"] for role in roles} == {
            "root": 1,
            "targets": 1,
            "snapshot": 2,
            "timestamp": 2,
        }
        desk.good("refresh", desk.repo, "--keys", online)
        roles = desk.status()["roles"]
        assert (roles["snapshot"]["version"], roles["timestamp"]["version"]) == (2, 3)

    def test_root_and_targets_are_signed_again_where_their_keys_are(self, desk: Desk) -> None:
        repository = self.made(desk, ago_days=200)
        ring = KeyRing([desk.keys])
        carry_out(repository, ring, lambda state: renew(repository, state, ring), refresh=True)
        roles = desk.status()["roles"]
        assert all(role["version"] == 2 for role in roles.values())
        assert all(role["days_left"] > 13 for role in roles.values())
        with desk.server() as server:
            assert desk.vehicle(server).look() == "factory"

    def test_what_expires_soon_is_told(self, desk: Desk) -> None:
        self.made(desk, ago_days=12)
        answer = desk.run("status", desk.repo)
        assert answer.status == 0
        assert "soon: timestamp expires on" in answer.out
        assert "soon: root" not in answer.out
        assert "a vehicle takes all of this" in answer.out

    def test_lives_can_be_chosen(self, desk: Desk) -> None:
        desk.init("--no-passphrase", "--days", "timestamp=3", "--days", "root=1000")
        desk.publish(1)
        roles = desk.status()["roles"]
        assert [roles[r]["days_left"] for r in ("timestamp", "root")] == [3.0, 1000.0]
        answer = desk.run("init", desk.folder / "x", "--keys", desk.keys, "--days", "moon=3")
        assert (answer.status, answer.out) == (2, "")
        assert "moon=3" in answer.err


class TestPublishing:
    """What would be refused on a vehicle is refused here."""

    def test_a_version_is_published_once_and_only_upwards(self, desk: Desk) -> None:
        desk.init()
        desk.publish(3)
        words = (*desk.signed, "-c", desk.device)
        answer = desk.run("publish", desk.repo, desk.bundle(3), *words)
        assert (answer.status, "ev 3 is published already" in answer.err) == (1, True)
        other = desk.bundle(3, plan=PLAN.format(every_ms=77))
        answer = desk.run("publish", desk.repo, other, *words)
        assert (answer.status, "--version 4 or higher" in answer.err) == (1, True)
        answer = desk.run("publish", desk.repo, desk.bundle(2), *words)
        assert (answer.status, "the repository has ev 3" in answer.err) == (1, True)
        assert [b["version"] for b in desk.status()["bundles"]] == [3]
        desk.publish(4)

    @pytest.mark.parametrize(
        ("plan", "words"),
        [
            (PLAN.replace('"Motion.*"', '"Motion.Sped"'), "Motion.Sped"),
            (PLAN.replace('bus = "*"', 'bus = "chassis"'), '"chassis" is no bus of agent.toml'),
            (PLAN + 'uplinks = ["moon"]\n', "moon"),
            (PLAN + 'condition = "Motion.Speed >"\n', "condition"),
        ],
    )
    def test_a_plan_is_built_for_every_device_file(self, desk: Desk, plan: str, words: str) -> None:
        desk.init()
        bundle = desk.bundle(1, plan=plan.format(every_ms=10))
        answer = desk.run("publish", desk.repo, bundle, *desk.signed, "-c", desk.device)
        assert answer.status == 1
        assert "bundle ev 1 would be refused where" in answer.err
        assert str(desk.device) in answer.err
        assert words in answer.err
        assert "Traceback" not in answer.err
        assert desk.status()["bundles"] == []
        assert not (desk.repo / "targets").exists()

    def test_one_device_file_of_several_that_refuses_is_named(self, desk: Desk) -> None:
        desk.init()
        other = desk.folder / "truck.toml"
        other.write_text(desk.device.read_text().replace("powertrain", "j1939"))
        bundle = desk.bundle(1, plan=PLAN.replace('"*"', '"powertrain"', 1).format(every_ms=10))
        words = ("publish", desk.repo, bundle, *desk.signed)
        answer = desk.run(*words, "-c", desk.device, "-c", other)
        assert (answer.status, f"where {other} is" in answer.err) == (1, True)
        desk.good(*words, "-c", desk.device)

    def test_variables_of_the_operator_do_not_reach_device_files(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EDGE_AGENT_OTA_PASSPHRASE", "words")
        monkeypatch.setenv("EDGE_AGENT_UPLINK__CLOUD__URL", "nonsense")
        desk.init("--no-passphrase")
        desk.publish(1)

    @pytest.mark.parametrize("data", [b"", b"nonsense", b"\x28\xb5\x2f\xfd" + bytes(100)])
    def test_a_file_that_is_no_bundle(self, desk: Desk, data: bytes) -> None:
        desk.init()
        path = desk.folder / "x.bundle"
        path.write_bytes(data)
        answer = desk.run("publish", desk.repo, path, *desk.signed, "-c", desk.device)
        assert (answer.status, "bundle" in answer.err) == (1, True)


class TestStatus:
    """What is wrong is found before a vehicle finds it."""

    def test_a_bundle_that_is_gone_or_damaged(self, desk: Desk) -> None:
        desk.init()
        desk.publish(1)
        (file,) = (desk.repo / "targets" / "bundles").iterdir()
        whole = file.read_bytes()
        for bad in (b"", whole[:-1], whole + b"x", None):
            if bad is None:
                file.unlink()
            else:
                file.write_bytes(bad)
            answer = desk.run("status", desk.repo)
            assert (answer.status, "targets/bundles/ev-1.bundle" in answer.out) == (1, True)
        file.write_bytes(whole)
        assert desk.run("status", desk.repo).status == 0

    @pytest.mark.parametrize(
        "name", ["1.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json"]
    )
    def test_metadata_that_are_gone_or_damaged_stop_every_command(
        self, desk: Desk, name: str
    ) -> None:
        desk.init()
        desk.publish(1)
        file = desk.repo / "metadata" / name
        whole = file.read_bytes()
        for bad in (
            b"",
            b"[]",
            b"{" * 9,
            whole[:-5],
            whole.replace(b'"sig":"', b'"sig":"00'),
            None,
        ):
            if bad is None:
                file.unlink()
            else:
                file.write_bytes(bad)
            for words in (("status", desk.repo), ("refresh", desk.repo, *desk.signed)):
                answer = desk.run(*words)
                assert answer.status == 1
                assert name in answer.err
                assert "Traceback" not in answer.err
        file.write_bytes(whole)
        desk.good("refresh", desk.repo, *desk.signed)

    def test_who_would_take_what(self, desk: Desk, tmp_path: Path) -> None:
        desk.init()
        desk.publish(1, "--to", "all")
        desk.publish(2, "--to", "canary")
        fleet = tmp_path / "fleet.txt"
        fleet.write_text("# our vans\nvan-1 canary ev\nvan-2 ev\n\nvan-3\n")
        answer = desk.run("status", desk.repo, "--vehicles", fleet, "--json")
        assert answer.json["vehicles"] == {
            "totals": {"ev 2": 1, "ev 1": 2},
            "each": {"van-1": "ev 2", "van-2": "ev 1", "van-3": "ev 1"},
        }
        answer = desk.run("status", desk.repo, "--vehicles", "van-1", "van-2")
        assert "2 vehicles would take ev 1" in answer.out


class TestFolders:
    """One operator at a time, in a repository that is theirs."""

    def test_two_operators_at_once(self, desk: Desk) -> None:
        desk.init()
        with Repository(desk.repo).changing():
            answer = desk.run("refresh", desk.repo, *desk.signed)
            assert answer.status == 1
            assert "another command is changing this repository" in answer.err
            assert desk.run("status", desk.repo).status == 0
        desk.good("refresh", desk.repo, *desk.signed)

    def test_a_repository_is_not_made_over_another(self, desk: Desk) -> None:
        desk.init()
        before = {path: path.read_bytes() for path in desk.repo.rglob("*") if path.is_file()}
        answer = desk.run("init", desk.repo, "--keys", desk.folder / "k2", "--no-passphrase")
        assert (answer.status, "is a repository already" in answer.err) == (1, True)
        after = {path: path.read_bytes() for path in desk.repo.rglob("*") if path.is_file()}
        assert after == before
        assert list((desk.folder / "k2").iterdir()) == []

    def test_a_folder_that_is_no_repository(self, desk: Desk) -> None:
        desk.keys.mkdir()
        for words in (("refresh", desk.repo, *desk.signed), ("status", desk.repo)):
            answer = desk.run(*words)
            assert (answer.status, str(desk.repo) in answer.err) == (1, True)
        assert not desk.repo.exists()

    def test_a_repository_that_someone_put_in_its_place_is_never_signed(
        self, desk: Desk, tmp_path: Path
    ) -> None:
        """Whoever holds the web server could have the operator's key sign what they listed."""
        desk.init()
        (tmp_path / "theirs").mkdir()
        thief = Desk(tmp_path / "theirs")
        thief.init()
        thief.publish(1, "--to", "all")
        shutil.rmtree(desk.repo)
        shutil.copytree(thief.repo, desk.repo)
        answer = desk.run("refresh", desk.repo, *desk.signed)
        assert answer.status == 1
        assert "belong to another repository" in answer.err
        words = ("rollout", desk.repo, "ev-1", "--to", "all", *desk.signed, *thief.signed)
        assert desk.run(*words).status == 1

    def test_an_older_copy_of_the_roots_is_not_signed(self, desk: Desk, tmp_path: Path) -> None:
        desk.init()
        shutil.copytree(desk.repo, tmp_path / "old")
        desk.good("keys", desk.repo, *desk.signed, "--rotate", "targets", "--no-passphrase")
        answer = desk.run("refresh", tmp_path / "old", *desk.signed)
        assert (answer.status, "newer state of this one" in answer.err) == (1, True)

    def test_what_a_web_server_needs_to_read_it_can(self, desk: Desk) -> None:
        desk.init()
        desk.publish(1)
        for path in desk.repo.rglob("*"):
            wanted = 0o555 if path.is_dir() else 0o444
            assert path.stat().st_mode & wanted == wanted, path

    def test_what_cannot_be_written_is_told_in_a_sentence(self, desk: Desk) -> None:
        desk.init()
        blocked = desk.repo / "metadata" / "timestamp.json.new"
        blocked.mkdir()
        answer = desk.run("refresh", desk.repo, *desk.signed)
        assert answer.status == 1
        assert str(blocked) in answer.err
        assert "Traceback" not in answer.err
        blocked.rmdir()
        desk.good("refresh", desk.repo, *desk.signed)


def test_numbers_of_metadata_only_rise(desk: Desk) -> None:
    """What a mirror or a cache has seen under a name never becomes something else."""
    desk.init()
    seen: dict[Path, bytes] = {}
    highest = 0
    desk.publish(1, "--to", "all")
    commands: list[tuple[object, ...]] = [
        ("rollout", desk.repo, "ev-1", "--withdraw"),
        ("keys", desk.repo, "--rotate", "snapshot", *PLAIN),
        ("keys", desk.repo, "--rotate", "root", *PLAIN),
        ("refresh", desk.repo),
        ("publish", desk.repo, desk.bundle(2), "-c", desk.device),
    ]
    for command in commands:
        desk.good(*command, *desk.signed)
        for path in (desk.repo / "metadata").iterdir():
            data = path.read_bytes()
            if path.name != "timestamp.json":
                assert seen.setdefault(path, data) == data
            else:
                version = json.loads(data)["signed"]["version"]
                assert version > highest
                highest = version
    assert desk.run("status", desk.repo).status == 0


def test_begin_refuses_thresholds_that_cannot_be(desk: Desk) -> None:
    desk.keys.mkdir()
    repository = Repository(desk.repo)
    ring = KeyRing([desk.keys])
    for counts, thresholds in (({"root": 1}, {"root": 2}), ({"root": 0}, {}), ({"root": 99}, {})):
        with pytest.raises(UpdateError, match="keys cannot be"):
            begin(repository, ring, counts=counts, thresholds=thresholds, days={}, plain=["root"])
