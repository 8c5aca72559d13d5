"""Plans rehearsed with ten seconds of the virtual car: good ones, and harmful ones."""

import dataclasses
import itertools
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from agent.bench.encode import Encoder
from agent.bench.vehicle import VirtualVehicle
from agent.blocks import FrameBlock, Kept, SignalTable
from agent.clock import MILLISECOND, SECOND, BootNs, SystemClock
from agent.collect import Plan
from agent.collect.collector import Destination
from agent.ledger import Ledger, differences
from agent.ota import build_plan
from agent.pipeline import Pipeline, Prepared, prepare
from agent.rehearsal import expectations, rehearse
from agent.settings import packaged
from agent.signals import Database
from agent.signals.model import Message
from agent.spool.positions import Positions
from tests.signals.dbctext import Msg, Sig, text

START = BootNs(1000 * SECOND)
EV = packaged("dbc/ev.dbc")
EVERYTHING = '[[campaign]]\nname = "all"\nsignals = ["*"]\n'


def trigger(name: str, when: str) -> str:
    return (
        f'[[campaign]]\nname = "{name}"\nsignals = ["VehicleMotion.*"]\n'
        f"[campaign.trigger]\nwhen = '{when}'\npre_s = 0.1\n"
    )


STORM = "".join(trigger(f"storm-{n}", f"VehicleMotion.Counter == {n}") for n in range(3))


@pytest.fixture(scope="module")
def blocks() -> list[FrameBlock]:
    frames = VirtualVehicle(1, START).frames(10)
    return [frames[at : at + 500] for at in range(0, len(frames), 500)]


def plan_of(folder: Path, campaigns: str, *, dbc: Path | str = EV, bus: str = "*") -> Prepared:
    path = folder / "plan.toml"
    head = f'version = 1\nname = "tried"\n[[database]]\nbus = "{bus}"\nfiles = ["{dbc}"]\n'
    path.write_text(head + campaigns)
    plan = build_plan(path, buses=["powertrain", "body"], uplinks=["cloud"])
    return prepare(plan, Ledger(), boot_id="this")


@pytest.fixture
def before(tmp_path: Path) -> Prepared:
    folder = tmp_path / "before"
    folder.mkdir()
    return plan_of(folder, EVERYTHING)


@pytest.fixture
def other_dbc(tmp_path: Path) -> Path:
    """The database of another vehicle."""
    path = tmp_path / "other.dbc"
    path.write_text(text([Msg("Elsewhere", 0x7A0, 8, [Sig("Speed", 0, 16)])]))
    return path


class Broken(Database):
    """A database in which the decoder comes upon a defect of this program."""

    def messages(self, bus: str) -> tuple[Message, ...]:
        raise ZeroDivisionError(f"of bus {bus}")


def test_the_plan_of_the_demo_is_no_harm(before: Prepared, blocks: list[FrameBlock]) -> None:
    plan = build_plan(packaged("config/plan-ev.toml"), buses=["powertrain"], uplinks=["cloud"])
    following = prepare(plan, Ledger(), secret=bytes(32))

    found = rehearse(following, before, blocks)

    assert found.harm == ""
    assert found.frames == found.decoded == found.decoded_before == sum(map(len, blocks))
    assert found.expected == {"powertrain": 1.0}
    assert found.seconds == pytest.approx(10, abs=0.1)
    assert found.kept > 10_000
    assert 0.05 < found.bytes / found.kept < 2
    assert re.fullmatch(
        r"rehearsed with 10,\d{3} frames of 10\.0 s: 10,\d{3} decoded \(10,\d{3} by the plan "
        r"before\), [\d,]+ samples kept, \d+ events, [\d,]+ bytes a second, \d\.\d\d s of CPU",
        found.summary,
    )


def test_frames_made_for_a_database_are_kept_to_the_last_sample(
    tmp_path: Path, before: Prepared
) -> None:
    message = next(m for m in Database.load([EV]).messages("body") if m.name == "PackPower")
    data = Encoder(message).encode({"PackVoltage": np.arange(1000) % 500})
    block = FrameBlock.from_arrays(
        bus="body",
        time=START + np.arange(1000) * 10 * MILLISECOND,
        id=np.full(1000, message.id),
        length=np.full(1000, message.length),
        data=data,
    )
    wants = '[[campaign]]\nname = "volts"\nsignals = ["PackPower.PackVoltage"]\n'

    found = rehearse(plan_of(tmp_path, wants), before, [block])

    assert (found.harm, found.frames, found.decoded, found.kept) == ("", 1000, 1000, 1000)


class TestHarm:
    def test_a_database_that_decodes_nothing(
        self, tmp_path: Path, before: Prepared, blocks: list[FrameBlock], other_dbc: Path
    ) -> None:
        found = rehearse(plan_of(tmp_path, EVERYTHING, dbc=other_dbc), before, blocks)

        n = sum(map(len, blocks))
        assert found.harm == (
            f"bus powertrain: none of {n:,} frames is in the database; by that of the plan before "
            f"{n:,} are decoded"
        )

    def test_one_bus_of_two_that_decodes_nothing(
        self, tmp_path: Path, before: Prepared, blocks: list[FrameBlock], other_dbc: Path
    ) -> None:
        campaigns = f'[[database]]\nbus = "body"\nfiles = ["{other_dbc}"]\n{EVERYTHING}'
        two = [dataclasses.replace(b, bus=bus) for b in blocks for bus in ("body", "powertrain")]

        found = rehearse(plan_of(tmp_path, campaigns), before, two)

        assert found.harm.startswith("bus body: none of")
        assert found.expected == {"body": 0.0, "powertrain": 1.0}

    def test_a_trigger_storm(
        self, tmp_path: Path, before: Prepared, blocks: list[FrameBlock]
    ) -> None:
        found = rehearse(plan_of(tmp_path, STORM), before, blocks, max_events_per_minute=100)

        assert re.fullmatch(
            r"1\d\d events in 10\.0 s, where 100 in a minute are allowed; most are of campaign "
            r"storm-\d",
            found.harm,
        )

    def test_a_plan_that_comes_upon_a_defect(
        self, tmp_path: Path, before: Prepared, blocks: list[FrameBlock]
    ) -> None:
        good = plan_of(tmp_path, EVERYTHING)
        broken = Broken(**{f.name: getattr(good.plan.database, f.name)
                           for f in dataclasses.fields(Database)})  # fmt: skip
        plan: Plan = dataclasses.replace(good.plan, database=broken)

        found = rehearse(prepare(plan, Ledger()), before, blocks)

        assert found.harm == "it fails with these frames: ZeroDivisionError: of bus powertrain"

    def test_more_cpu_than_there_is_time(
        self, tmp_path: Path, before: Prepared, blocks: list[FrameBlock]
    ) -> None:
        seconds = itertools.count(0, 3)  # three for each look at the clock

        found = rehearse(
            plan_of(tmp_path, EVERYTHING), before, blocks, cpu=lambda: float(next(seconds))
        )

        assert found.harm == "it takes 21.0 s of CPU for 3,500 of the frames of 10.0 s"


class TestOnPurpose:
    """What a plan may well do."""

    def test_fewer_messages(
        self, tmp_path: Path, before: Prepared, blocks: list[FrameBlock]
    ) -> None:
        wants = '[[campaign]]\nname = "few"\nsignals = ["VehicleMotion.VehicleSpeed"]\n'

        found = rehearse(plan_of(tmp_path, wants), before, blocks)

        assert found.harm == ""
        motion = sum(int((block.id == 160).sum()) for block in blocks)
        assert found.kept == motion
        assert found.decoded == sum(map(len, blocks))
        assert found.expected == {"powertrain": motion / found.frames}

    def test_messages_that_did_not_come(
        self, tmp_path: Path, before: Prepared, blocks: list[FrameBlock], other_dbc: Path
    ) -> None:
        files = f'{EV}", "{other_dbc}'
        wants = '[[campaign]]\nname = "rare"\nsignals = ["Elsewhere.*"]\n'

        found = rehearse(plan_of(tmp_path, wants, dbc=files), before, blocks)

        assert (found.harm, found.kept) == ("", 0)
        assert found.expected == {"powertrain": 0.0}

    def test_nothing_but_raw_frames(
        self, tmp_path: Path, before: Prepared, blocks: list[FrameBlock]
    ) -> None:
        wants = '[[campaign]]\nname = "raw"\nframes = [{ bus = "*" }]\n'
        found = rehearse(plan_of(tmp_path, wants), before, blocks)
        assert (found.harm, found.kept) == ("", found.frames)

    def test_nothing_of_a_bus_any_more(
        self, tmp_path: Path, before: Prepared, blocks: list[FrameBlock], other_dbc: Path
    ) -> None:
        following = plan_of(tmp_path, EVERYTHING, dbc=other_dbc, bus="body")

        found = rehearse(following, before, blocks)

        assert found.harm == ""
        assert found.findings == ["bus powertrain: the plan wants nothing of it"]

    def test_what_filters_have_hidden_until_now(
        self, tmp_path: Path, before: Prepared, blocks: list[FrameBlock], other_dbc: Path
    ) -> None:
        following = plan_of(tmp_path, EVERYTHING, dbc=other_dbc)

        found = rehearse(following, before, blocks, filtered=["powertrain"])

        assert found.harm == ""
        assert found.findings == [
            "bus powertrain: what the plan wants was hidden by filters until now"
        ]

    def test_triggers_that_the_plan_before_has_as_well(
        self, tmp_path: Path, blocks: list[FrameBlock]
    ) -> None:
        storm = plan_of(tmp_path, STORM)
        found = rehearse(plan_of(tmp_path, STORM), storm, blocks)
        assert (found.harm, found.events > 100) == ("", True)


class Store:
    def __init__(self) -> None:
        self.samples: list[tuple[str, str, list[int]]] = []

    def keep(self, kept: Mapping[Destination, Sequence[Kept]], at: Positions | None) -> None:
        del at
        for each in itertools.chain.from_iterable(kept.values()):
            if isinstance(each, SignalTable):
                self.samples.append((each.campaign, each.message, each.time.tolist()))


class AtStart(SystemClock):
    def boot(self) -> BootNs:
        return START


def test_the_run_beside_it_does_not_notice(tmp_path: Path, blocks: list[FrameBlock]) -> None:
    campaigns = EVERYTHING + STORM + '[[campaign]]\nname="s"\nsignals=["*"]\nwindow_ms=700\n'

    def run(*, disturbed: bool) -> tuple[Store, Ledger]:
        store, ledger = Store(), Ledger()
        plan = plan_of(tmp_path, campaigns).plan
        prepared = prepare(plan, ledger, boot_id="this")
        pipeline = Pipeline(prepared, ledger, AtStart(), store.keep)
        for number, block in enumerate(blocks):
            ledger.add("bus", block.bus, received=len(block), read=len(block), queued=len(block))
            pipeline.take(block)
            if disturbed and number == len(blocks) // 2:
                found = rehearse(prepared, prepared, blocks)  # as what runs, and what follows
                assert found.frames == sum(map(len, blocks))
        pipeline.finish()
        return store, ledger

    undisturbed, counts = run(disturbed=False)
    store, ledger = run(disturbed=True)

    assert store.samples == undisturbed.samples
    assert ledger.snapshot() == counts.snapshot()
    assert differences(ledger.snapshot()) == []


def test_nothing_is_logged_and_warnings_are_findings(
    tmp_path: Path,
    before: Prepared,
    blocks: list[FrameBlock],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    long = [dataclasses.replace(b, time=b.time + n * 10 * SECOND) for n in range(8) for b in blocks]
    wants = EVERYTHING + "[recognise]\nids = [0x7F1]\n"

    found = rehearse(plan_of(tmp_path, wants), before, long)
    logging.getLogger("edge_agent").info("the run goes on")

    assert [record.getMessage() for record in caplog.records] == ["the run goes on"]
    assert any("ids 0x7f1 are not seen" in finding for finding in found.findings)


@pytest.mark.parametrize("frames", [[], [VirtualVehicle(1, START).frames(0)]])
def test_without_frames_nothing_is_known(before: Prepared, frames: list[FrameBlock]) -> None:
    found = rehearse(before, before, frames)

    assert (found.harm, found.expected) == ("", None)
    assert found.summary == "no frames to rehearse with"


def test_it_ends_when_its_time_is_over(before: Prepared, blocks: list[FrameBlock]) -> None:
    seconds = itertools.count(0, 1)

    found = rehearse(before, before, blocks, most_wall_s=3, wall=lambda: float(next(seconds)))

    assert (found.harm, found.frames, found.decoded_before) == ("", 1500, 1500)
    assert found.findings == ["ended early, after 1,500 frames"]


def test_what_a_trial_may_ask_for_without_a_rehearsal(tmp_path: Path, other_dbc: Path) -> None:
    prepared = plan_of(tmp_path, EVERYTHING, dbc=other_dbc, bus="body")
    assert expectations(prepared, ["body", "powertrain"]) == {"body": 1.0, "powertrain": 0.0}
