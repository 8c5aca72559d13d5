"""`edge-agent ota`, the operator's part: what it says, and what it takes for misuse."""

import subprocess
import sys
from pathlib import Path

import pytest

from agent.ota.bundle import read
from tests.ota.desk import Desk

TOO_MANY = [f"{n:0100}" for n in range(50_000)]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_help_does_not_import_what_is_slow() -> None:
    code = (
        "import sys; from agent.cli import parser; parser();"
        "print([m for m in sys.modules if m.split('.')[0] in ('tuf', 'cryptography', 'msgspec')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert found.stdout == b"[]\n"


def test_init_says_which_keys_go_offline_and_what_a_vehicle_needs(desk: Desk) -> None:
    out = desk.init().out
    offline, _, online = out.partition("These sign every day")
    assert (offline.count("/root-"), offline.count("/targets-")) == (3, 1)
    assert (online.count("/snapshot-"), online.count("/timestamp-")) == (1, 1)
    assert online.count("/root-") == 0
    assert f"{desk.repo}/metadata/1.root.json" in out
    assert "[ota]" in out


def test_keys_are_listed_with_what_is_here(desk: Desk) -> None:
    desk.init()
    answer = desk.good("keys", desk.repo)
    assert answer.out.count("not here") == 6
    assert "root: 2 of 3 must sign" in answer.out
    answer = desk.good("keys", desk.repo, *desk.signed)
    assert "not here" not in answer.out
    old = desk.key("timestamp")
    words = ("--rotate", "timestamp", "--no-passphrase")
    answer = desk.good("keys", desk.repo, *desk.signed, *words)
    assert f"no key of this repository, unless a change waits to be signed: {old}" in answer.out
    found = desk.good("keys", desk.repo, *desk.signed, "--json").json
    assert found["other_files"] == [str(old)]
    assert [role["role"] for role in found["roles"]] == ["root", "targets", "snapshot", "timestamp"]


def test_a_bundle_has_what_was_asked_for(desk: Desk) -> None:
    words = ("--groups", "ev", "bus", "--vehicles", "van-*", "--minimum-agent", "0.1.0")
    path = desk.bundle(7, *words, "--name", "winter")
    manifest = read(path.read_bytes()).manifest
    assert (manifest.name, manifest.version, manifest.minimum_agent) == ("winter", 7, "0.1.0")
    assert (manifest.audience.groups, manifest.audience.vehicles) == (("ev", "bus"), ("van-*",))
    assert desk.bundle(7, *words, "--name", "winter").read_bytes() == path.read_bytes()


def test_a_bundle_is_called_by_name_and_version_where_nothing_else_is_said(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.bundle(1)
    monkeypatch.chdir(desk.folder)
    answer = desk.good("bundle", "plan.toml", "--version", 12)
    assert answer.out.startswith("ev-12.bundle: ev 12, 2 files, ")
    assert read((desk.folder / "ev-12.bundle").read_bytes()).title == "ev 12"


def test_the_stages_of_a_roll_out(desk: Desk) -> None:
    desk.init()
    desk.publish(1, "--to", "canary", "--to", "depot-2")
    words = ("rollout", desk.repo, "ev-1")
    desk.good(*words, "--to", "all", "--percent", 10, *desk.signed)
    desk.good(*words, "--vehicles", "van-1", "van-2", *desk.signed)
    answer = desk.good(*words, "--to", "all", "--percent", 60, *desk.signed)
    shown = (
        "ev 1: active\n  group canary: 100 %\n  group depot-2: 100 %\n  all: 60 %\n"
        "  van-1, van-2: 100 %\n"
    )
    assert answer.out == shown
    assert desk.good(*words).out == shown
    answer = desk.good(*words, "--withdraw", *desk.signed, "--json")
    assert (answer.json["state"], len(answer.json["stages"])) == ("withdrawn", 4)


def test_status_tells_all_of_it(desk: Desk) -> None:
    desk.init()
    out = desk.good("status", desk.repo).out
    assert "there are no bundles" in out
    desk.publish(1, "--to", "all", "--percent", "25")
    desk.good("request", desk.repo, "fire", "--vehicles", "van-7", *desk.signed)
    out = desk.good("status", desk.repo).out
    assert "targets 3: good until " in out
    assert "ev 1: active\n  all: 25 %\n" in out
    assert ": fire every trigger, for van-7, until " in out
    assert out.endswith("a vehicle takes all of this\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rollout", "{repo}", "ev-1", "--percent", "5", "--keys", "{keys}"), "of whom?"),
        (("rollout", "{repo}", "ev-1", "--to", "all", "--percent", "101", "--keys", "{keys}"), "0"),
        (("rollout", "{repo}", "ev-1", "--to", "all"), "--keys"),
        (("keys", "{repo}", "--rotate", "root"), "--keys"),
        (("request", "{repo}", "fire", "--keys", "{keys}"), "whom?"),
        (("request", "{repo}", "fire", "--all", "--groups", "a", "--keys", "{keys}"), "whom?"),
        (("request", "{repo}", "resend", "cloud", "--all", "--keys", "{keys}"), "UPLINK FIRST"),
        (("request", "{repo}", "cancel", "--keys", "{keys}"), "one ID"),
        (("request", "{repo}", "fire", "--all", "--expires", "x", "--keys", "{keys}"), "12h"),
        (("publish", "{repo}", "{repo}/no", "-c", "{device}", "--keys", "{keys}"), "cannot be"),
    ],
)
def test_misuse_is_told_and_changes_nothing(desk: Desk, words: tuple[str, ...], said: str) -> None:
    desk.init()
    desk.publish(1)
    before = desk.status()
    places = {"repo": desk.repo, "keys": desk.keys, "device": desk.device}
    answer = desk.run(*(word.format(**places) for word in words))
    assert (answer.status, answer.out) == (2, "")
    assert said in answer.err
    assert desk.status() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rollout", "{repo}", "ev-2", "--to", "all"), "ev-2: is no bundle of this repository"),
        (("rollout", "{repo}", "ev", "--pause"), "it has: ev-1"),
        (("request", "{repo}", "cancel", "r-1"), "is no request"),
        (("request", "{repo}", "fire", "--all", "--expires", "2020-01-01"), "expired already"),
        (("request", "{repo}", "fire", "x" * 200, "--all"), "campaign"),
        (("request", "{repo}", "resend", "not an uplink", "a", "--all"), "uplink"),
        (("rollout", "{repo}", "ev-1", "--to", "g" * 200), "is no name that a group"),
        (("rollout", "{repo}", "ev-1", "--to", "can ary"), "is no name that a group"),
        (("rollout", "{repo}", "ev-1", "--vehicles", "v" * 200), "vehicles"),
        (("rollout", "{repo}", "ev-1", "--vehicles", *TOO_MANY), "more than vehicles take"),
    ],
)
def test_what_vehicles_would_not_understand_is_not_published(
    desk: Desk, words: tuple[str, ...], said: str
) -> None:
    desk.init()
    desk.publish(1)
    before = desk.status()
    answer = desk.run(*(word.format(repo=desk.repo) for word in words), *desk.signed)
    assert (answer.status, answer.out) == (1, "")
    assert said in answer.err
    assert "Traceback" not in answer.err
    assert desk.status() == before
