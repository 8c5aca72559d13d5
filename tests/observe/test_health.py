"""What makes an agent unwell, and the record that tells the cloud how it is."""

from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.blocks import Event
from agent.clock import SECOND, BootNs
from agent.observe.health import MOST_BYTES, healthy, record
from agent.settings import LANES
from agent.spool.memory import StreamKey
from agent.uplink.policy import Fault
from tests.observe.statuses import well
from tests.spool.car import Car

NOW = BootNs(7200 * SECOND)
REPORTS = StreamKey("report", ("cloud",))


# -- what a person has to see to -------------------------------------------------------------------


def test_an_agent_that_is_well_has_nothing_to_say() -> None:
    assert healthy(well()) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            [("differences", ["bus can0: received = 3, but read + dropped = 2"])],
            "the ledger does not close: bus can0: received = 3, but read + dropped = 2",
        ),
        (
            [("spool", "trouble", "the spool cannot be written: No space left on device")],
            "the spool cannot be written: No space left on device",
        ),
        (
            [("buses", 0, "state", "waiting: no interface can0")],
            "bus powertrain is not there: no interface can0",
        ),
        (
            [("buses", 1, "state", "ended: line 7 is no frame")],
            "bus body has ended: line 7 is no frame",
        ),
        (
            [
                ("limits", "limits", 0, "level", 1),
                ("limits", "limits", 0, "said", "memory 480 MB of 512 MB"),
                ("limits", "degraded", "one sample in 2 is kept"),
            ],
            "limit: memory 480 MB of 512 MB: one sample in 2 is kept",
        ),
        ([("buses", 2, "state", "starting")], "bus chassis does not start"),
        (
            [("buses", 0, "controller", "off")],
            "bus powertrain: the controller is bus-off; the last error: bit stuffing",
        ),
        (
            [("buses", 0, "controller", "passive"), ("buses", 0, "last_error", "")],
            "bus powertrain: the controller is error passive; the last error: none",
        ),
        (
            [("recognition", "findings", ["bus body: the database fits nothing"])],
            "vehicle: bus body: the database fits nothing",
        ),
        ([("ignition", "trouble", "no line 3")], "ignition: no line 3"),
        ([("link", "trouble", "/run/link: does not say")], "link: /run/link: does not say"),
        (
            [
                ("uplinks", 0, "state", "held"),
                ("uplinks", 0, "why", "answered 401 Unauthorized; a new credential is needed"),
            ],
            "uplink cloud is held: answered 401 Unauthorized; a new credential is needed",
        ),
        (
            [
                ("uplinks", 0, "state", "waiting"),
                ("uplinks", 0, "why", f"{Fault.CLOCK.value}: not yet valid"),
            ],
            "uplink cloud waits: the clock of this computer is probably wrong: not yet valid",
        ),
        (
            [
                ("uplinks", 0, "state", "waiting"),
                ("uplinks", 0, "why", Fault.NETWORK.value),
                ("uplinks", 0, "last_success_s_ago", 90_000.0),
            ],
            "uplink cloud has delivered nothing for 25 h: the receiver cannot be reached",
        ),
        (
            [
                ("uptime_s", 180_000.0),
                ("uplinks", 0, "state", "waiting"),
                ("uplinks", 0, "why", "answered 503"),
                ("uplinks", 0, "last_success_s_ago", None),
            ],
            "uplink cloud has delivered nothing for 50 h: answered 503",
        ),
        (
            [("uplinks", 0, "credential", "the client certificate expires soon: renew it")],
            "uplink cloud: the client certificate expires soon: renew it",
        ),
        (
            [("ota", "trouble", "repository: a rollback")],
            "updates: repository: a rollback",
        ),
        (
            [("ota", "clock_untrusted", True)],
            "updates: the clock is in the past, so nothing shows that an update is the newest",
        ),
        (
            [("machine", "flash", "mmcblk0", "life", [10, 3])],
            "flash mmcblk0: more than 90 % of its life is used",
        ),
        (
            [("machine", "flash", "mmcblk0", "life", [1, 11])],
            "flash mmcblk0: its life is over: it has taken more writes than it is made for",
        ),
        (
            [("machine", "flash", "mmcblk0", "end_of_life", 2)],
            "flash mmcblk0: most of its spare blocks are used",
        ),
    ],
)
def test_what_somebody_has_to_see_to(changes: list[tuple[Any, ...]], sentence: str) -> None:
    assert healthy(well(*changes)) == [sentence]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param([("buses", 0, "state", "ended")], id="a recording was read to its end"),
        pytest.param([("uptime_s", 2.0), ("buses", 0, "state", "starting")], id="just started"),
        pytest.param([("buses", 0, "controller", "warning")], id="some errors on the bus"),
        pytest.param(
            [
                ("buses", 3, "diagnostics", {"requests": 3}),
                ("buses", 3, "state", "waiting: no frame was seen on the bus for 2 s"),
            ],
            id="no questions to a vehicle that sleeps",
        ),
        pytest.param(
            [("uplinks", 0, "state", "waiting"), ("uplinks", 0, "why", Fault.NETWORK.value)],
            id="no link just now",
        ),
        pytest.param(
            [
                ("uplinks", 0, "state", "waiting"),
                ("uplinks", 0, "why", Fault.NETWORK.value),
                ("ota", "trouble", "the server cannot be reached: no route to host"),
            ],
            id="without a link there is no repository either",
        ),
        pytest.param(
            [("ignition", "state", "asleep"), ("uplinks", 0, "last_success_s_ago", 900_000.0)],
            id="parked for a week",
        ),
        pytest.param(
            [("spool", "lanes", {}), ("uplinks", 0, "last_success_s_ago", 900_000.0)],
            id="nothing to send for a week",
        ),
        pytest.param([("ota", None)], id="no updates over the air"),
        pytest.param([("clock", "unsynchronised")], id="a clock that nobody has set yet"),
    ],
)
def test_what_heals_by_itself_is_no_trouble(changes: list[tuple[Any, ...]]) -> None:
    assert healthy(well(*changes)) == []


# -- the record ------------------------------------------------------------------------------------


def test_a_record_tells_what_the_cloud_wants_to_know() -> None:
    before = well(("uptime_s", 3540.5), ("process", "cpu_s", 129.5))
    told = record(well(), NOW, before)
    powertrain = {
        "state": "reading",
        "load_percent": 33.3,
        "frames": 1_234_567,
        "dropped": 7,
        "error_frames": 7,
    }
    assert told == {
        "kind": "health",
        "id": f"health-0fa1b2c3-{NOW}",
        "name": "health",
        "campaign": "",
        "time": NOW,
        "clock": "boot",
        "agent": "0.1.0",
        "plan": "ev",
        "bundle": "ev 3",
        "uptime_s": 3600,
        "quality": "ntp",
        "buses": dict.fromkeys(("powertrain", "body", "chassis", "charging"), powertrain),
        "uplinks": {"cloud": {"state": "idle", "sent_bytes": 2_400_000}},
        "lanes": {"cloud": {"telemetry": [2, 80_000]}},
        "link": {"metered": True, "metered_today_bytes": 1_500_000, "today_bytes": 7_100_000},
        "cpu_percent": 5.0,
        "memory_bytes": 91_000_000,
        "temperature_c": 51.5,
        "disk_free_bytes": 7_000_000_000,
        "flash": {"mmcblk0": {"life": [1, 2], "end_of_life": 1}},
        "differences": 0,
    }
    assert len(msgpack.packb(told)) < 1000


def test_trouble_is_told_at_once_and_said_as_long_as_it_lasts() -> None:
    def full(hours: int) -> dict[str, Any]:
        return well(
            ("uplinks", 0, "state", "waiting"),
            ("uplinks", 0, "why", "answered 503"),
            ("uplinks", 0, "last_success_s_ago", 3600.0 * hours),
        )

    first = record(full(24), NOW, well())
    assert first["trouble"] == ["uplink cloud has delivered nothing for 24 h: answered 503"]
    assert Event(first).complete
    later = record(full(25), NOW, full(24))
    assert later["trouble"] == ["uplink cloud has delivered nothing for 25 h: answered 503"]
    assert not Event(later).complete
    assert Event(record(well(), NOW, full(25))).complete  # the good word hurries too


def test_records_wait_for_each_other_unless_there_is_trouble(tmp_path: Path) -> None:
    """A batch for each would cost seven times as much as one for ten."""
    car = Car(tmp_path / "spool", [REPORTS], uplinks=("cloud",))
    try:
        for _ in range(3):
            car.store.add({REPORTS: [Event(record(well(), NOW, well()))]})
            car.store.commit()
        assert car.store.outboxes["cloud"].waiting()[0] == 0
        full = well(("spool", "trouble", "the spool cannot be written"))
        car.store.add({REPORTS: [Event(record(full, NOW, well()))]})
        car.store.commit()
        assert car.store.outboxes["cloud"].waiting()[0] == 1
    finally:
        car.store.stop()
        car.store.close()


def test_diagnostics_are_a_part_of_their_bus() -> None:
    asks = {
        "name": "body",
        "kind": "socketcan",
        "state": "waiting: the vehicle sleeps",
        "diagnostics": {"requests": 3},
    }
    status = well()
    status["buses"].append(asks)
    told = record(status, NOW)["buses"]
    assert told["body"]["state"] == "reading"
    assert told["body"]["diagnostics"] == "waiting"
    assert len(told) == 4


def test_what_is_not_known_is_left_out() -> None:
    status = well(
        ("ota", None),
        ("machine", {}),
        ("link", "metered", None),
        ("buses", []),
        ("process", {}),
        ("spool", "lanes", {}),
    )
    told = record(status, NOW)
    assert not told.keys() & {
        *("bundle", "temperature_c", "flash", "link", "buses", "lanes", "trouble", "more"),
        *("cpu_percent", "memory_bytes", "disk_free_bytes", "complete"),
    }
    assert (told["campaign"], told["differences"]) == ("", 0)


def test_a_record_of_a_huge_vehicle_is_cut_and_says_so() -> None:
    status = well()
    bus, uplink = status["buses"][0], status["uplinks"][0]
    long = "ü" * 5000
    status["plan"] = status["agent"] = status["boot_id"] = status["ota"]["running"] = long
    status["buses"] = [
        {**bus, "name": f"{n}{long}", "state": f"waiting: {long}", "controller": long}
        for n in range(100)
    ]
    status["uplinks"] = [
        {**uplink, "name": f"{n}{long}", "state": "held", "why": long, "credential": long}
        for n in range(50)
    ]
    lanes = {name: {"batches": 1 << 60, "bytes": 1 << 60} for name in (*LANES, long)}
    status["spool"]["lanes"] = {f"{n}{long}": lanes for n in range(50)}
    status["machine"]["flash"] = {
        f"{n}{long}": {"life": [1, 2], "end_of_life": 3} for n in range(50)
    }
    told = record(status, NOW)
    assert 5000 < len(msgpack.packb(told)) <= MOST_BYTES
    assert told["more"] == (100 - 16) + (50 - 8) + (len(healthy(status)) - 4)


scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text()
anything = st.recursive(
    scalars, lambda parts: st.lists(parts) | st.dictionaries(st.text(), parts), max_leaves=10
)


@given(key=st.sampled_from(sorted(well())), value=anything)
def test_whatever_a_status_holds_there_is_a_record_of_it(key: str, value: object) -> None:
    status = well((key, value))
    healthy(status)
    assert len(msgpack.packb(record(status, NOW, well()))) <= MOST_BYTES
