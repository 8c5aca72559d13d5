"""Keys: what protects them, and what happens when they are lost, stolen, or in several places."""

import base64
import datetime as dt
import json
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Timestamp

from agent.errors import UpdateError
from agent.ota.operator.keys import KeyRing, PassPhrases
from agent.ota.operator.repository import Repository
from agent.ota.trusted import Untrusted
from agent.settings.reading import KEYS_VARIABLE
from tests.ota.desk import Answer, Desk, Vehicle

PLAIN = ("--no-passphrase",)
ROLES = ("root", "targets", "snapshot", "timestamp")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def rotate(desk: Desk, *words: object) -> Answer:
    return desk.good("keys", desk.repo, *desk.signed, *PLAIN, *words)


class TestFiles:
    def test_a_key_is_its_owners_alone_and_encrypted(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(KEYS_VARIABLE, "correct horse")
        desk.init("--root-keys", 2)
        files = sorted(desk.keys.glob("*.pem"))
        assert len(files) == 5
        assert desk.keys.stat().st_mode & 0o777 == 0o700
        for file in files:
            assert file.stat().st_mode & 0o777 == 0o600
            assert b"BEGIN ENCRYPTED PRIVATE KEY" in file.read_bytes()
            key = serialization.load_pem_private_key(file.read_bytes(), b"correct horse")
            assert key.public_key() is not None
        desk.publish(1)

    @pytest.mark.parametrize(
        ("phrase", "words"),
        [("wrong", f"the pass phrase in {KEYS_VARIABLE} does not open it"), ("", "needs its pass")],
    )
    def test_without_the_pass_phrase_nothing_is_signed(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch, phrase: str, words: str
    ) -> None:
        monkeypatch.setenv(KEYS_VARIABLE, "right")
        desk.init("--root-keys", 2)
        monkeypatch.setenv(KEYS_VARIABLE, phrase)
        answer = desk.run("refresh", desk.repo, *desk.signed)
        assert answer.status == 1
        assert ".pem" in answer.err
        assert words in answer.err

    def test_keys_without_one_are_made_only_when_asked_for(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv(KEYS_VARIABLE, raising=False)
        answer = desk.run("init", desk.repo, "--keys", desk.keys)
        assert answer.status == 1
        assert "new keys need a pass phrase" in answer.err
        assert not list(desk.keys.glob("*.pem"))
        assert not (desk.repo / "metadata").exists()
        monkeypatch.setenv(KEYS_VARIABLE, "right")
        desk.init("--no-passphrase-online")
        clear = {p.name.partition("-")[0] for p in desk.keys.glob("*.pem") if _is_clear(p)}
        assert clear == {"snapshot", "timestamp"}
        monkeypatch.delenv(KEYS_VARIABLE)
        desk.good("refresh", desk.repo, *desk.signed)

    def test_at_a_terminal_it_is_asked_for(self, tmp_path: Path) -> None:
        answers = iter(["first", "first"])
        asked: list[str] = []

        def ask(words: str) -> str:
            asked.append(words)
            return next(answers)

        ring = KeyRing([tmp_path], PassPhrases({}, ask))
        made = [ring.make(role, encrypted=True) for role in ROLES]
        ring.save()
        assert len(asked) == 2
        answers = iter(["wrong", "first"])
        ring = KeyRing([tmp_path], PassPhrases({}, ask))
        assert all(ring.signer(key) is not None for key in made)
        assert len(asked) == 4
        answers = iter(["a", "b", "c", "d"])
        with pytest.raises(UpdateError, match="none of these pass phrases opens it"):
            KeyRing([tmp_path], PassPhrases({}, ask)).signer(made[0])
        answers = iter(["one", "two"])
        with pytest.raises(UpdateError, match="not the same twice"):
            KeyRing([tmp_path], PassPhrases({}, ask)).make("root", encrypted=True)

    def test_a_file_that_is_not_what_its_name_says(self, desk: Desk) -> None:
        desk.init()
        file = desk.key("timestamp")
        other = desk.key("snapshot").read_bytes()
        for bad in (other, b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
            file.write_bytes(bad)
            answer = desk.run("refresh", desk.repo, *desk.signed)
            assert (answer.status, str(file) in answer.err) == (1, True)
            assert "Traceback" not in answer.err

    def test_a_folder_that_is_not_there(self, desk: Desk) -> None:
        desk.init()
        answer = desk.run("refresh", desk.repo, "--keys", desk.folder / "usb")
        assert (answer.status, "there is no such folder of keys" in answer.err) == (1, True)

    def test_private_keys_are_in_their_files_and_nowhere_else(self, desk: Desk) -> None:
        said = desk.init("--no-passphrase", "--targets-keys", 2, "--targets-threshold", 2).out
        change = desk.folder / "change.json"
        first, second = desk.folder / "a", desk.folder / "b"
        for folder, number in ((first, 0), (second, 1)):
            folder.mkdir()
            shutil.copy(desk.key("targets", number), folder)
        for answer in (
            desk.publish(1, "--to", "all"),
            rotate(desk, "--rotate", "root", "--rotate", "timestamp"),
            desk.run("keys", desk.repo, *desk.signed, "--json"),
            desk.run(
                *("rollout", desk.repo, "ev-1", "--pause", "--keys", first, "--to-sign", change)
            ),
            desk.run("sign", change, "--keys", second),
            desk.run("status", desk.repo, "--json"),
        ):
            said += answer.out + answer.err
        haystack = said.encode() + change.read_bytes()
        for path in desk.folder.rglob("*"):
            if path.is_file() and path.suffix != ".pem":
                haystack += path.read_bytes()
        assert b"PRIVATE" not in haystack
        files = list(desk.keys.glob("*.pem"))
        assert len(files) > 8
        for file in files:
            key = serialization.load_pem_private_key(file.read_bytes(), None)
            seed = key.private_bytes(
                serialization.Encoding.Raw,
                serialization.PrivateFormat.Raw,
                serialization.NoEncryption(),
            )
            for form in (seed, seed.hex().encode(), base64.b64encode(seed)[:40]):
                assert form not in haystack
        assert not list(desk.repo.rglob("*.pem"))


def _is_clear(path: Path) -> bool:
    return b"BEGIN PRIVATE KEY" in path.read_bytes()


class TestRotation:
    @pytest.mark.parametrize("roles", [*((role,) for role in ROLES), ROLES])
    def test_vehicles_follow_whether_they_knew_the_old_keys_or_not(
        self, desk: Desk, roles: tuple[str, ...]
    ) -> None:
        desk.init()
        desk.publish(1, "--to", "all")
        with desk.server() as server:
            old = desk.vehicle(server)
            assert old.look() == "ev 1"
            before = {role: desk.key_id(role) for role in ROLES}
            rotate(desk, *(word for role in roles for word in ("--rotate", role)))
            after = {role: desk.key_id(role) for role in ROLES}
            assert {role for role in ROLES if before[role] != after[role]} == set(roles)
            assert (old.look(), desk.vehicle(server).look()) == ("ev 1", "ev 1")
            desk.publish(2, "--to", "all")
            assert (old.look(), desk.vehicle(server).look()) == ("ev 2", "ev 2")
        assert desk.run("status", desk.repo).status == 0

    def test_a_vehicle_notices_at_its_next_look(self, desk: Desk) -> None:
        """It looks for new roots only where the timestamp is new: the last root comes before it."""
        desk.init()
        with desk.server() as server:
            vehicle = desk.vehicle(server)
            for roles, version in ((("root",), 2), (("targets",), 4), (("snapshot", "root"), 6)):
                vehicle.look()
                rotate(desk, *(word for role in roles for word in ("--rotate", role)))
                vehicle.look()
                assert vehicle.floors["root"].version == version

    def test_a_lost_root_key_is_replaced_by_those_that_are_left(self, desk: Desk) -> None:
        desk.init()
        lost = desk.key("root")
        key_id = desk.key_id("root")
        lost.unlink()
        answer = rotate(desk, "--lost", key_id)
        assert "root: 2 of 3 must sign" in answer.out
        assert key_id not in answer.out
        assert "not here" not in answer.out
        with desk.server() as server:
            assert desk.vehicle(server).look() == "factory"

    @pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
    def test_a_lost_key_of_another_role_is_replaced_without_it(self, desk: Desk, role: str) -> None:
        desk.init()
        desk.publish(1, "--to", "all")
        key_id = desk.key_id(role)
        desk.key(role).unlink()
        with desk.server() as server:
            old = desk.vehicle(server)
            old.look()
            rotate(desk, "--lost", key_id[:8])
            assert (old.look(), desk.vehicle(server).look()) == ("ev 1", "ev 1")
            desk.publish(2, "--to", "all")
            assert (old.look(), desk.vehicle(server).look()) == ("ev 2", "ev 2")

    def test_with_too_few_root_keys_left_it_is_said_which_are_missing(self, desk: Desk) -> None:
        desk.init()
        files = [desk.key("root", n) for n in range(3)]
        kept = desk.folder / "safe"
        kept.mkdir()
        for file in files[:2]:
            shutil.move(file, kept)
        before = sorted(desk.keys.iterdir())
        answer = desk.run("keys", desk.repo, *desk.signed, *PLAIN, "--rotate", "timestamp")
        assert answer.status == 1
        assert "root 2 has 1 of 2 signatures" in answer.err
        for file in files[:2]:
            assert file.stem.removeprefix("root-") in answer.err
        assert "--keys" in answer.err
        assert sorted(desk.keys.iterdir()) == before
        assert desk.status()["roles"]["root"]["version"] == 1
        rotate(desk, "--keys", kept, "--rotate", "timestamp")
        assert desk.status()["roles"]["root"]["version"] == 3

    def test_a_key_that_is_not_there(self, desk: Desk) -> None:
        desk.init()
        for prefix in ("abc", "zzzzzzzz", "0000000000000000"):
            answer = desk.run("keys", desk.repo, *desk.signed, "--lost", prefix)
            assert (answer.status, "does not name one key" in answer.err) == (1, True)


class TestThieves:
    def test_what_a_stolen_key_of_targets_signs_counts_no_more(self, desk: Desk) -> None:
        """The thief has the online keys, too, and a copy of the repository from before."""
        desk.init()
        desk.publish(1, "--to", "all")
        evil = Desk(_made(desk.folder / "evil"))
        shutil.copytree(desk.repo, evil.repo)
        shutil.copytree(desk.keys, evil.keys)
        for key in evil.keys.glob("root*"):
            key.unlink()
        rotate(desk, "--rotate", "targets", "--rotate", "snapshot", "--rotate", "timestamp")
        evil.publish(9, "--to", "all")
        with desk.server() as server, evil.server() as theirs:
            vehicle = desk.vehicle(server)
            assert vehicle.look() == "ev 1"
            misled = Vehicle(
                "van-1", (), theirs.url, desk.repo / "metadata" / "1.root.json", evil.folder / "v"
            )
            misled.trusted, misled.floors = vehicle.trusted, vehicle.floors
            with pytest.raises(Untrusted):
                misled.look()

    def test_from_versions_that_a_thief_drove_up_vehicles_recover(self, desk: Desk) -> None:
        """With stolen online keys a thief can make vehicles refuse all that is to come."""
        desk.init()
        desk.publish(1, "--to", "all")
        with desk.server() as server:
            vehicle = desk.vehicle(server)
            mirror = _made(desk.folder / "evil") / "repo"
            shutil.copytree(desk.repo, mirror)
            _drive_up(desk, mirror)
            with desk.server(mirror) as theirs:
                misled = Vehicle(
                    "van-1", (), theirs.url, mirror / "metadata" / "1.root.json", mirror / "v"
                )
                assert misled.look() == "ev 1"
            vehicle.trusted, vehicle.floors = misled.trusted, misled.floors
            desk.publish(2, "--to", "all")
            with pytest.raises(Untrusted):
                vehicle.look()
            rotate(desk, "--rotate", "timestamp", "--rotate", "snapshot")
            assert vehicle.look() == "ev 2"
            assert vehicle.floors["timestamp"].version < 100


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _drive_up(desk: Desk, mirror: Path) -> None:
    """Snapshot and timestamp of version 2^31, signed with the keys on the desk."""
    ring = KeyRing([desk.keys])
    state = Repository(mirror).load()
    root: Root = state.root.signed
    snapshot = Metadata(Snapshot(2**31, expires=_tomorrow(), meta=dict(state.snapshot.signed.meta)))
    timestamp = Metadata(Timestamp(2**31, expires=_tomorrow(), snapshot_meta=MetaFile(2**31)))
    for metadata, name in (
        (snapshot, f"{2**31}.snapshot.json"),
        (timestamp, "timestamp.json"),
    ):
        signer = ring.signer(root.keys[root.roles[metadata.signed.type].keyids[0]])
        assert signer is not None
        metadata.sign(signer)
        (mirror / "metadata" / name).write_bytes(metadata.to_bytes())


def _tomorrow() -> dt.datetime:
    return dt.datetime.now(dt.UTC) + dt.timedelta(days=1)


class TestSeveralPlaces:
    """Keys that never meet: a change goes from hand to hand in a file."""

    @pytest.fixture
    def places(self, desk: Desk) -> tuple[Path, Path, Path]:
        """Two safes, each with a key of targets and of root; and the server."""
        desk.init(*PLAIN, "--root-keys", 2, "--targets-keys", 2, "--targets-threshold", 2)
        folders = [desk.folder / name for name in ("safe-1", "safe-2", "server")]
        for number, folder in enumerate(folders[:2]):
            folder.mkdir()
            for role in ("root", "targets"):
                shutil.copy(desk.key(role, number), folder)
        folders[2].mkdir()
        for role in ("snapshot", "timestamp"):
            shutil.copy(desk.key(role), folders[2])
        for folder in folders:
            shutil.copy(desk.keys / "root.json", folder)
        return folders[0], folders[1], folders[2]

    def test_folders_may_be_given_together(
        self, desk: Desk, places: tuple[Path, Path, Path]
    ) -> None:
        words = ("publish", desk.repo, desk.bundle(1), "-c", desk.device, "--to", "all")
        answer = desk.run(*words, "--keys", places[0], "--keys", places[2])
        assert answer.status == 1
        assert "targets 2 has 1 of 2 signatures; missing: " in answer.err
        assert "--to-sign FILE" in answer.err
        desk.good(*words, *(word for place in places for word in ("--keys", place)))

    def test_a_bundle_is_signed_in_two_places_and_published_in_a_third(
        self, desk: Desk, places: tuple[Path, Path, Path]
    ) -> None:
        change = desk.folder / "change.json"
        words = ("publish", desk.repo, desk.bundle(1), "-c", desk.device, "--to", "all")
        answer = desk.run(*words, "--keys", places[0], "--to-sign", change)
        assert answer.status == 1
        assert f"the change is in {change}" in answer.err
        assert desk.status()["bundles"] == []
        answer = desk.run("sign", change, desk.repo, "--keys", places[2])
        assert (answer.status, "targets 2 has 1 of 2" in answer.err) == (1, True)
        answer = desk.good("sign", change, "--keys", places[1])
        assert "ev 1: active\n    all: 100 %" in answer.out
        assert "enough have signed" in answer.out
        desk.good("sign", change, desk.repo, "--keys", places[2])
        with desk.server() as server:
            assert desk.vehicle(server).look() == "ev 1"

    def test_keys_are_replaced_in_two_places(
        self, desk: Desk, places: tuple[Path, Path, Path]
    ) -> None:
        change = desk.folder / "change.json"
        stolen = places[2] / desk.key("timestamp").name
        words = ("keys", desk.repo, "--keys", places[2], *PLAIN, "--to-sign", change)
        answer = desk.run(*words, "--lost", desk.key_id("timestamp"))
        assert answer.status == 1
        assert "root 2 has 0 of 2 signatures" in answer.err
        answer = desk.run("sign", change, "--keys", places[0])
        assert (answer.status, "root 2, good until" in answer.out) == (1, True)
        desk.good("sign", change, "--keys", places[1])
        desk.good("sign", change, desk.repo, "--keys", places[2])
        stolen.unlink()
        desk.good("refresh", desk.repo, "--keys", places[2])
        with desk.server() as server:
            assert desk.vehicle(server).look() == "factory"

    def test_what_has_changed_meanwhile_is_made_again(
        self, desk: Desk, places: tuple[Path, Path, Path]
    ) -> None:
        change = desk.folder / "change.json"
        request = ("request", desk.repo, "fire", "--all")
        desk.run(*request, "--keys", places[0], "--to-sign", change)
        desk.good(*request, *desk.signed)
        desk.good("sign", change, "--keys", places[1])
        answer = desk.run("sign", change, desk.repo, "--keys", places[2])
        assert (answer.status, "has changed since this change was made" in answer.err) == (1, True)

    def test_a_change_of_another_repository_is_not_signed(
        self, desk: Desk, places: tuple[Path, Path, Path]
    ) -> None:
        thief = Desk(_made(desk.folder / "evil"))
        thief.init(*PLAIN, "--targets-keys", 2, "--targets-threshold", 2)
        thief.key("targets").unlink()
        change = thief.folder / "change.json"
        request = ("request", thief.repo, "fire", "--all", *thief.signed, "--to-sign", change)
        assert "1 of 2" in thief.run(*request).err
        answer = desk.run("sign", change, "--keys", places[0])
        assert (answer.status, "belong to another repository" in answer.err) == (1, True)

    def test_a_file_that_was_tampered_with_is_not_taken(
        self, desk: Desk, places: tuple[Path, Path, Path]
    ) -> None:
        change = desk.folder / "change.json"
        words = ("publish", desk.repo, desk.bundle(1), "-c", desk.device, "--to-sign", change)
        desk.run(*words, "--keys", places[0])
        whole = json.loads(change.read_text())
        roots = json.dumps(whole["known"]).replace("2027", "2099").replace("2026", "2098")
        for bad in (
            "",
            "[]",
            "{}",
            json.dumps(whole | {"format": 2}),
            json.dumps(whole | {"files": {"../../etc/cron.d/x": ""}}),
            json.dumps(whole | {"files": {"bundles/x": "%%%"}}),
            json.dumps(whole | {"files": dict.fromkeys(whole["files"], "AAAA")}),
            json.dumps(whole | {"targets": whole["known"][0]}),
            json.dumps(whole | {"known": json.loads(roots)}),
        ):
            change.write_text(bad)
            answer = desk.run("sign", change, "--keys", places[1])
            assert answer.status == 1, bad
            assert str(change) in answer.err
            assert "Traceback" not in answer.err
        later = json.dumps(whole["targets"]).replace('"version": 2', '"version": 3')
        change.write_text(json.dumps(whole | {"targets": json.loads(later)}))
        answer = desk.run("sign", change, "--keys", places[1])
        assert (answer.status, "targets 3 has 1 of 2 signatures" in answer.err) == (1, True)

    def test_a_key_that_nobody_asks_for(self, desk: Desk, places: tuple[Path, Path, Path]) -> None:
        change = desk.folder / "change.json"
        desk.run("request", desk.repo, "fire", "--all", "--keys", places[0], "--to-sign", change)
        answer = desk.run("sign", change, "--keys", places[0])
        assert (answer.status, "is asked for; nothing signed" in answer.err) == (1, True)
