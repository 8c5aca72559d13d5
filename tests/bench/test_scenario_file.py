"""The file of a scenario: what is taken, and with which words the rest is refused."""

import re
from pathlib import Path

import pytest

from agent.bench.scenario import Scenario, find_scenario, load_scenario
from agent.bench.scenario.loading import scenario_names
from agent.bench.scenario.model import CountIs, EventArrives
from agent.errors import ConfigError
from agent.settings import packaged

TEXT = """\
version = 1
name = "mine"
plan = "plan-ev.toml"

[vehicle]
kind = "ev"
seconds = 12

[[step]]
at = 2
do = "link-slow"
kbit_s = 64
for = 3

[[step]]
when = "uplink.cloud.waiting > 1_000"
do = "power-cut"
off_s = 2

[[expect]]
that = "ledger-closes"

[[expect]]
that = "count"
of = "uplink.*.evicted"
equals = 0
"""


def load(folder: Path, text: str = TEXT) -> Scenario:
    path = folder / "mine.toml"
    path.write_text(text, "utf-8")
    return load_scenario(path)


def refusal(folder: Path, text: str) -> str:
    """The words of a refusal, with the name of the file and not of its folder."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    return str(caught.value).replace(f"{folder}/", "")


def test_a_scenario_is_read_with_the_line_of_each_entry(tmp_path: Path) -> None:
    scenario = load(tmp_path)

    slow, cut = scenario.steps
    assert (slow.line, slow.step.at, slow.step.lasts, slow.parameters) == (9, 2, 3, {"kbit_s": 64})
    assert (cut.line, cut.step.when) == (15, "uplink.cloud.waiting > 1_000")
    assert [placed.line for placed in scenario.expects] == [20, 23]
    assert isinstance(scenario.expects[1].expect, CountIs)
    assert scenario.where(23) == f"{tmp_path}/mine.toml:23"


def test_a_plan_is_beside_the_file_or_comes_with_the_program(tmp_path: Path) -> None:
    packaged = load(tmp_path).head.plan
    (tmp_path / "plan-ev.toml").write_text("", "utf-8")

    assert packaged.endswith("config/plan-ev.toml")
    assert load(tmp_path).head.plan == str(tmp_path / "plan-ev.toml")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("version = 1", "version = 2", 'mine.toml:1: "version": invalid enum value 2'),
        ("version = 1", "version = 1\nplam = 1", 'mine.toml:2: unknown key "plam"; did you mean'),
        ('name = "mine"\n', "", 'mine.toml:1: the key "name" is missing'),
        ("plan-ev.toml", "none.toml", 'mine.toml:3: "plan": there is no file none.toml'),
        ('kind = "ev"', 'kind = "boat"', 'mine.toml:6: "kind" in [vehicle]: invalid enum value'),
        ("seconds = 12", "second = 12", 'mine.toml:7: unknown key "second" in [vehicle]; did you '),
        ("seconds = 12", "seconds = 0", 'mine.toml:7: "seconds" in [vehicle]: expected float > 0'),
        ("seconds = 12", 'log = "a"', 'mine.toml:7: "log" in [vehicle] is for kind = "log"'),
        ("at = 2", "at = -2", 'mine.toml:10: "at" in [step #1]: expected float >= 0'),
        ("link-slow", "link-slwo", 'mine.toml:11: there is no fault or action "link-slwo"; did '),
        ("kbit_s = 64", "kbits = 64", 'mine.toml:12: unknown key "kbits" in [step #1], which does'),
        ("kbit_s = 64", 'kbit_s = "x"', 'mine.toml:12: "kbit_s" in [step #1]: fault link-slow'),
        ("for = 3", "for = 3\nuntil = 9", 'mine.toml:14: "for" and "until" in [step #1]: one of'),
        ("for = 3", "until = 1", 'mine.toml:13: "until" in [step #1]: is not after "at"'),
        ("off_s = 2", "for = 2", 'mine.toml:18: "for" in [step #2]: "power-cut" is over by itself'),
        ('do = "power-cut"\n', "", 'mine.toml:15: the key "do" is missing in [step #2]'),
        ("> 1_000", "much", 'mine.toml:16: "when" in [step #2]: write a figure, one of >= '),
        ("cloud.waiting >", "cloud.waitng >", 'mine.toml:16: "when" in [step #2]: the account upl'),
        ("ledger-closes", "ledger", 'mine.toml:21: there is no expectation "ledger"; did you mean'),
        ('that = "count"\n', "", 'mine.toml:23: the key "that" is missing in [expect #2]'),
        ("*.evicted", "*.evict", 'mine.toml:25: "of" in [expect #2]: the account uplink has no "e'),
        ("uplink.*.evicted", "fuel", 'mine.toml:25: "of" in [expect #2]: "fuel" is no figure; fig'),
        ("equals = 0", "equal = 0", 'mine.toml:26: unknown key "equal" in [expect #2]; did you me'),
        ("equals = 0", "", 'mine.toml:23: [expect #2]: needs "at_least", "at_most" or "equals"'),
        ("equals = 0", "equals = 0\nby = 3", 'mine.toml:27: "by" in [expect #2]: is for "at_least'),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_file_line_and_key(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    assert TEXT.count(old) == 1

    assert refusal(tmp_path, TEXT.replace(old, new)).startswith(says)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ('that = "recovered"\nafter = "bus-off"\nwithin = 3', 'mine.toml:30: "after" in [expect'),
        ('that = "same-as-decoded"', 'mine.toml:28: [expect #3]: is for kind = "log"'),
        ('that = "event"', 'mine.toml:28: the key "name" is missing in [expect #3]'),
    ],
)
def test_what_an_entry_alone_cannot_say_is_refused_too(
    tmp_path: Path, more: str, says: str
) -> None:
    assert refusal(tmp_path, f"{TEXT}\n[[expect]]\n{more}\n").startswith(says)


def test_a_scenario_that_expects_nothing_is_none(tmp_path: Path) -> None:
    text = TEXT[: TEXT.index("[[expect]]")]

    assert "there is no [[expect]]" in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version = ", "is not valid TOML"),
        (b"version = 1\n# \xff", ":2: is not UTF-8 text"),
        (b"[step]\nat = 1\nversion = 1", "mine.toml:1: "),
    ],
)
def test_a_file_that_is_no_scenario_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=re.escape(says)):
        load_scenario(path)


def test_every_scenario_that_comes_with_the_program_is_good(tmp_path: Path) -> None:
    log = tmp_path / "drive.log"
    log.touch()
    mine = {"vehicle": {"log": str(log), "dbc": [str(packaged("dbc/ev.dbc"))]}}
    names = scenario_names()

    assert len(names) >= 5
    for name in names:
        scenario = load_scenario(find_scenario(name), mine if name == "recording" else {})
        assert scenario.name == name
        assert scenario.head.about


def test_a_scenario_that_is_not_there_is_said_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"no-such: there is no such scenario.*demo"):
        find_scenario("no-such")


def test_an_event_is_expected_once_unless_said_otherwise(tmp_path: Path) -> None:
    scenario = load(tmp_path, f'{TEXT}\n[[expect]]\nthat = "event"\nname = "hot"\n')

    expect = scenario.expects[2].expect
    assert isinstance(expect, EventArrives)
    assert (expect.at_least, expect.at_most) == (1, None)


def test_options_count_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(TEXT, "utf-8")

    given: dict[str, dict[str, object]] = {
        "vehicle": {"kind": "truck", "seconds": 3},
        "agent": {"bus": "memory"},
        "": {},
    }
    head = load_scenario(tmp_path / "mine.toml", given).head

    assert (head.vehicle.kind, head.vehicle.seconds, head.agent.bus) == ("truck", 3, "memory")
    assert head.plan == ""  # that of the file is for a car


@pytest.mark.parametrize("name", ["recording", "demo"])
def test_a_recording_needs_what_describes_it(name: str, tmp_path: Path) -> None:
    log = tmp_path / "drive.log"
    log.touch()

    with pytest.raises(ConfigError, match=r"needs \"dbc\" \(or --dbc FILE\)"):
        load_scenario(find_scenario(name), {"vehicle": {"kind": "log", "log": str(log)}})


def test_what_is_done_to_a_bus_cannot_be_done_to_a_recording(tmp_path: Path) -> None:
    text = TEXT.replace("seconds = 12", "seconds = 12\nspeed = 4").replace("link-slow", "bus-off")

    assert 'mine.toml:12: "do" in [step #1]: "bus-off" needs a live bus' in refusal(
        tmp_path, text.replace("kbit_s = 64\n", "")
    )


def test_how_fast_a_recording_is_played_is_said_once(tmp_path: Path) -> None:
    text = TEXT.replace("seconds = 12", "speed = 4\ntakes_s = 4")

    assert '"speed" and "takes_s" in [vehicle]: one of them' in refusal(tmp_path, text)
