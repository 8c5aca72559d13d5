"""Facts to causes: what a person is told first, for each thing that goes wrong in vehicles."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.bus.linkmessage import CanCounters
from agent.observe.causes import diagnose
from agent.observe.facts import Cause, Facts, Flash, Process, Space
from agent.settings import Device, SlcanBus, SocketCanBus
from tests.observe.patients import bus, interface, uplink, well

GB = 10**9
DEVICE = Device(
    vehicle="van-7", plan="plan.toml", bus=[SocketCanBus(name="powertrain", interface="can0")]
)


def facts(**keys: Any) -> Facts:
    """Of a vehicle that is well, but for what is said."""
    usual: dict[str, Any] = {
        "status": well(),
        "live": True,
        "device": DEVICE,
        "unit": {"ActiveState": "active", "Result": "success", "NRestarts": "0"},
        "links": {"can0": interface()},
        "rmem_max": 8 << 20,
        "space": Space("/var/lib", 10 * GB, 5 * GB, 10**6, ("rw", "relatime")),
        "memory_bytes": 2 * GB,
        "memory_available_bytes": GB,
        "process": Process(77, 10**8, 3.0),
        "load": 0.4,
        "cpus": 4,
        "degrees": {"cpu": 51.0},
        "synchronised": True,
        "year": 2031,
    }
    return Facts(**{**usual, **keys})


def status(**keys: Any) -> dict[str, Any]:
    return {"status": well(**keys)}


def ledger(account: str, name: str, **counts: int) -> dict[str, Any]:
    return status(ledger={account: {name: counts}})


def dead(**unit: str) -> dict[str, Any]:
    return {"live": False, "status": {}, "unit": unit}


def test_of_a_vehicle_that_is_well_nothing_is_said() -> None:
    assert diagnose(facts()) == []


TABLE: Mapping[str, tuple[dict[str, Any], str, str, str]] = {
    # what is so: the facts, then the key, words of the sentence and words of the advice
    "config": (
        {"config_error": 'agent.toml:3: unknown key "vehicel"', **dead(ActiveState="activating")},
        "config",
        "agent.toml:3: unknown key",
        "edge-agent check",
    ),
    "config changed under a running agent": (
        {"config_error": "agent.toml:3: no"},
        "config",
        "has an earlier one",
        "mend that",
    ),
    "stopped": (
        dead(LoadState="loaded", ActiveState="inactive", Result="success"),
        "stopped",
        "was stopped, or never started",
        "systemctl enable --now",
    ),
    "no service": (
        dead(LoadState="not-found", ActiveState="inactive"),
        "stopped",
        "no agent runs",
        "install the package",
    ),
    "no systemd": (
        {**dead(), "log": ("edge-agent: agent.toml: cannot be read",)},
        "stopped",
        "the last complaint in its log: edge-agent: agent.toml: cannot be read",
        "edge-agent run",
    ),
    "crash": (
        {
            **dead(
                ActiveState="activating",
                Result="exit-code",
                ExecMainCode="1",
                ExecMainStatus="1",
            ),
            "log": (
                "2031 edge-agent[7]: edge-agent: the spool is held by another process",
                "2031 systemd[1]: edge-agent.service: Main process exited, status=1/FAILURE",
                "2031 systemd[1]: edge-agent.service: Failed with result 'exit-code'.",
            ),
        },
        "stopped",
        "exit status 1, and is tried again and again: 2031 edge-agent[7]: edge-agent: the spool",
        "journalctl",
    ),
    "signal": (
        dead(ActiveState="failed", Result="signal", ExecMainCode="2", ExecMainStatus="11"),
        "stopped",
        "the agent ends with signal 11",
        "journalctl",
    ),
    "credential of the unit": (
        dead(ActiveState="failed", Result="exit-code", ExecMainCode="1", ExecMainStatus="243"),
        "stopped",
        "a credential that the unit names cannot be loaded",
        "LoadCredential=",
    ),
    "condition": (
        dead(ActiveState="inactive", ConditionResult="no", Result="success"),
        "stopped",
        "a condition of its unit does not hold",
        "ConditionPathExists=",
    ),
    "watchdog": (
        dead(ActiveState="activating", Result="watchdog"),
        "stopped",
        "watchdog has ended it",
        "report it",
    ),
    "deaf": (
        dead(ActiveState="active", Result="success", ExecMainStatus="0"),
        "stopped",
        "does not answer",
        "socket",
    ),
    "oom": (
        dead(ActiveState="failed", Result="oom-kill"),
        "memory",
        "took too much memory",
        "memory_mb",
    ),
    "oom, in the words of a unit that goes on after it": (
        {
            **dead(ActiveState="activating", Result="signal", ExecMainStatus="9"),
            "log": (
                (
                    "systemd[1]: edge-agent.service: A process of this unit has been killed by the "
                    "OOM killer."
                ),
                "systemd[1]: edge-agent.service: Main process exited, code=killed, status=9/KILL",
                "systemd[1]: edge-agent.service: Failed with result 'signal'.",
            ),
        },
        "memory",
        "took too much memory",
        "memory_mb",
    ),
    "oom, while the next try begins": (
        {
            **dead(ActiveState="activating", Result="success"),
            "log": (
                (
                    "systemd[1]: edge-agent.service: A process of this unit has been killed by the "
                    "OOM killer."
                ),
                "systemd[1]: edge-agent.service: Main process exited, code=killed, status=9/KILL",
                "systemd[1]: edge-agent.service: Failed with result 'oom-kill'.",
                "systemd[1]: edge-agent.service: Scheduled restart job, restart counter is at 2.",
            ),
        },
        "memory",
        "took too much memory",
        "memory_mb",
    ),
    "not allowed": (
        {**dead(ActiveState="active"), "denied": True},
        "permission",
        "may not ask",
        "as root",
    ),
    "restarts": (
        {"unit": {"ActiveState": "active", "NRestarts": "41"}},
        "restarts",
        "41 times",
        "journalctl",
    ),
    "no interface": ({"links": {}}, "bus", "there is no interface can0", "plugged in"),
    "down": ({"links": {"can0": interface(up=False)}}, "bus", "can0 is down", "can-bus@can0"),
    "bus-off": ({"links": {"can0": interface(state="off")}}, "bus", "bus-off", "termination"),
    "bit rate, by the counters of the kernel": (
        {
            "links": {"can0": interface(packets=0, counters=CanCounters(500, 1, 1, 0, 0, 0))},
            **status(buses=[], ledger={}),
        },
        "bus",
        "the bit rate is wrong",
        "500,000 bit/s",
    ),
    "bit rate, by error frames": (
        status(
            buses=[bus(error_frames=5000)],
            ledger={"bus": {"powertrain": {"read": 5000, "error": 5000}}},
        ),
        "bus",
        "the bit rate is wrong",
        "set that of the bus",
    ),
    "passive": (
        {"links": {"can0": interface(state="passive", rx_errors=130)}},
        "bus",
        "sees many errors (passive)",
        "termination",
    ),
    "adapter unplugged": (
        {
            **status(buses=[bus(kind="slcan", state="waiting: /dev/ttyACM0 is not there")]),
            "device": Device(
                vehicle="v", plan="p", bus=[SlcanBus(name="powertrain", device="/dev/ttyACM0")]
            ),
        },
        "bus",
        "/dev/ttyACM0 is not there",
        "bring the device back",
    ),
    "no frames ever": (
        status(buses=[bus(last_frames_s=None)]),
        "bus",
        "no frames since the start, 2 h 2 min ago",
        "awake",
    ),
    "silent": (status(buses=[bus(last_frames_s=300.0)]), "bus", "no frames for 5 min", "awake"),
    "drops with a small buffer": (
        {**ledger("bus", "powertrain", received=100_000, dropped=500), "rmem_max": 212_992},
        "drops",
        "500 frames were dropped before the agent (0.5 %); the kernel may hold only 213 kB",
        "rmem_max=8388608",
    ),
    "drops of a busy computer": (
        ledger("bus", "powertrain", received=1000, dropped=5),
        "drops",
        "dropped",
        "too busy",
    ),
    "database, judged": (
        status(
            recognition={
                "buses": {"powertrain": {"verdict": "does not fit", "why": "2 of 90 ids"}},
            }
        ),
        "database",
        'the database of bus "powertrain" does not fit: 2 of 90 ids',
        "DBC files",
    ),
    "another vehicle": (
        status(recognition={"recognised": False, "findings": ["this does not look like: 0x130"]}),
        "database",
        "this does not look like: 0x130",
        "meant for this vehicle",
    ),
    "database, by the share": (
        ledger("bus", "powertrain", decoded=10, unknown=5000),
        "database",
        "100 % of its frames are not in the database",
        "DBC files",
    ),
    "database, too long messages": (
        ledger("bus", "powertrain", decoded=5000, undecodable=900),
        "database",
        "900 frames are shorter",
        "DBC files",
    ),
    "401": (
        status(uplinks=[uplink(state="held", why="answered 401 Unauthorized; a new credential")]),
        "credential",
        "answered 401",
        "token_file",
    ),
    "404": (
        status(uplinks=[uplink(state="held", why="answered 404 Not Found; the address is wrong")]),
        "address",
        "answered 404",
        "`url`",
    ),
    "clock, told by TLS": (
        {
            **status(uplinks=[uplink(state="waiting", why="the receiver's TLS is not trusted: x")]),
            "synchronised": False,
            "year": 1970,
        },
        "clock",
        "is not trusted: x; the clock of this computer is not set",
        "timedatectl",
    ),
    "TLS with a good clock": (
        status(uplinks=[uplink(state="waiting", why="the receiver's TLS is not trusted: x")]),
        "tls",
        "TLS is not trusted",
        "ca_file",
    ),
    "credential files": (
        status(uplinks=[uplink(state="held", why="the credential cannot be used: no key")]),
        "credential",
        "cannot be used",
        "files",
    ),
    "certificate ended": (
        status(uplinks=[uplink(credential="the client certificate has expired on 2031-01-01")]),
        "credential",
        "has expired",
        "enrol --renew",
    ),
    "captive portal": (
        status(
            uplinks=[
                uplink(
                    state="waiting",
                    why="answered 302; an answer that a receiver of batches does not give",
                )
            ]
        ),
        "address",
        "answered 302",
        "captive portal",
    ),
    "receiver down": (
        status(uplinks=[uplink(state="waiting", why="answered 503 Service Unavailable")]),
        "receiver",
        "answered 503",
        "the receiver is at fault",
    ),
    "no link": (
        status(uplinks=[uplink(state="waiting", why="the receiver cannot be reached: no route")]),
        "link",
        "no route",
        "ip route",
    ),
    "metered": (
        status(uplinks=[uplink(state="waiting", why="the metered link has carried 50 MB today")]),
        "budget",
        "50 MB",
        "metered_mb_day",
    ),
    "clock in the past": (
        {"synchronised": False, "year": 1970},
        "clock",
        "the year 1970",
        "set-ntp",
    ),
    "disk full": (
        {"space": Space("/var/lib", 10 * GB, 60_000_000, 10**6, ("rw",))},
        "disk",
        "the disk of /var/lib is full: 60 MB are free of 10 GB",
        "quota_mb",
    ),
    "read-only": (
        {"space": Space("/var/lib", 10 * GB, 5 * GB, 10**6, ("ro", "relatime"))},
        "disk",
        "mounted read-only",
        "journalctl -k",
    ),
    "no inodes": (
        {"space": Space("/var/lib", 10 * GB, 5 * GB, 0, ("rw",))},
        "disk",
        "no more files",
        "inodes",
    ),
    "disk failing, the agent says": (
        status(spool={"trouble": "the spool cannot be written: Input/output error"}),
        "disk",
        "Input/output error",
        "memory_mb",
    ),
    "disk failing, the kernel says": (
        {"kernel_log": ("[9.1] mmc0: error -110 whilst initialising", "[9.2] all else")},
        "disk",
        "mmc0: error -110",
        "replace the flash",
    ),
    "flash worn": (
        {"flash": (Flash("mmcblk0", (2, 11), 1),)},
        "flash",
        "all of its life is used",
        "replace",
    ),
    "flash without reserve": (
        {"flash": (Flash("mmcblk0", (2, 3), 3),)},
        "flash",
        "most of its reserve is used",
        "replace",
    ),
    "evicted": (
        ledger("uplink", "cloud", evicted=7000),
        "lost",
        "7,000 samples were given up",
        "quota_mb",
    ),
    "lost to the disk": (
        ledger("uplink", "cloud", lost_disk=7000, evicted=1),
        "lost",
        "the disk failed",
        "memory_mb",
    ),
    "quarantine": (
        status(spool={"trouble": "", "quarantine": {"cloud": {"batches": 2, "bytes": 9}}}),
        "quarantine",
        "2 batches were refused",
        "spool list",
    ),
    "update taken back": (
        status(
            ota={
                "running": "ev 2",
                "trouble": "",
                "rejected": [{"bundle": "ev 3", "why": "the trial took too much CPU"}],
            }
        ),
        "update",
        "bundle ev 3 was taken back: the trial took too much CPU",
        "new version",
    ),
    "repository": (
        status(ota={"running": "factory", "trouble": "repository: a rollback", "rejected": []}),
        "repository",
        "a rollback",
        "ota status",
    ),
    "little memory": (
        {"memory_available_bytes": 40_000_000},
        "memory",
        "only 40 MB",
        "memory_mb",
    ),
    "memory of the agent": (
        {
            "unit": {"ActiveState": "active", "MemoryHigh": "671088640"},
            "process": Process(7, 665_000_000, 5.0),
        },
        "memory",
        "665 MB",
        "MemoryHigh",
    ),
    "another one killed": (
        {"kernel_log": ("[1] Out of memory: Killed process 9 (chromium)",)},
        "memory",
        "has ended a process",
        "journalctl -k",
    ),
    "CPU": ({"process": Process(7, 10**8, 97.0)}, "cpu", "97 % of a processor", "estimate"),
    "load": ({"load": 11.5}, "cpu", "11.5 processes", "top"),
    "heat": ({"degrees": {"cpu": 101.0}}, "heat", "101 °C", "cooling"),
    "ledger": (
        status(differences=["bus powertrain: received = 10, but read + dropped = 9"]),
        "ledger",
        "received = 10",
        "report it",
    ),
    "ignition": (
        status(ignition={"state": "awake", "trouble": "/dev/gpiochip0: cannot be opened"}),
        "ignition",
        "gpiochip0",
        "[ignition]",
    ),
    "limit": (
        status(
            limits={
                "degraded": "rates are halved",
                "limits": [
                    {"name": "cpu", "level": 2, "said": "cpu 30 % of 25 %"},
                    {"name": "memory", "level": 0, "said": "memory 90 MB of 512 MB"},
                ],
            }
        ),
        "limit",
        "cpu 30 % of 25 %: rates are halved",
        "[limits]",
    ),
    "budget": (
        status(budget={"degraded": "rates are halved"}),
        "budget",
        "rates are halved",
        "budget of the plan",
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_what_is_wrong_is_the_one_cause_and_says_what_to_do(case: str) -> None:
    so, key, what, do = TABLE[case]
    cause, *rest = diagnose(facts(**so))
    assert [each.key for each in rest] == (["stopped"] if case == "config" else [])
    assert cause.key == key
    assert what in cause.what
    assert do in cause.do
    assert 1 <= cause.weight <= 100


@pytest.mark.parametrize(
    "so",
    [
        status(buses=[bus(last_frames_s=29.0)]),
        status(buses=[bus(last_frames_s=None)], uptime_s=12.0),
        status(buses=[bus(last_frames_s=9000.0)], ignition={"state": "asleep", "trouble": ""}),
        status(uplinks=[uplink(state="waiting", why="back after an absence, and maybe not alone")]),
        status(
            uplinks=[
                uplink(state="waiting", why="the receiver cannot be reached", last_success_s_ago=5)
            ]
        ),
        status(uplinks=[uplink(state="sending", why="")]),
        status(ota={"running": "ev 3", "rejected": [{"bundle": "ev 3", "why": "once"}]}),
        ledger("bus", "powertrain", decoded=10, unknown=500),
        ledger("bus", "powertrain", decoded=5000, unknown=5000),
        {"synchronised": False, "year": 2031},
        {"links": {"can0": interface(kind="vcan", state=None, bitrate=None, rx_errors=None)}},
        {"flash": (Flash("mmcblk0", (1, 1), 1),)},
        {"kernel_log": ("[1] mmc0: new HS200 MMC card at address 0001",)},
        {"links": None, "space": None, "process": None, "unit": {}, "rmem_max": None},
    ],
)
def test_what_is_everyday_life_is_no_cause(so: dict[str, Any]) -> None:
    assert diagnose(facts(**so)) == []


def keys_of(found: list[Cause]) -> list[str]:
    return [cause.key for cause in found]


def test_what_stops_the_agent_comes_before_that_it_is_stopped() -> None:
    so = {**dead(ActiveState="failed", ExecMainStatus="2"), "config_error": "agent.toml:1: no"}
    assert keys_of(diagnose(facts(**so))) == ["config", "stopped"]
    full = {"space": Space("/var/lib", 10 * GB, 0, 10**6, ("rw",))}
    assert keys_of(diagnose(facts(**dead(ActiveState="failed"), **full))) == ["disk", "stopped"]


def test_one_bus_is_told_once_by_what_says_most() -> None:
    state = bus(state="waiting: can0 is down", last_frames_s=500.0)
    (cause,) = diagnose(facts(links={"can0": interface(up=False)}, **status(buses=[state])))
    assert "systemctl restart can-bus@can0" in cause.do


def test_two_buses_are_two_causes() -> None:
    states = [bus(last_frames_s=500.0), bus(name="body", last_frames_s=700.0)]
    found = diagnose(facts(**status(buses=states)))
    assert [cause.subject for cause in found] == ["powertrain", "body"]


def test_the_status_of_the_last_stop_counts_half() -> None:
    held = [uplink(state="held", why="answered 401 Unauthorized")]
    now = diagnose(facts(**status(uplinks=held)))
    then = diagnose(facts(**{**dead(ActiveState="inactive"), **status(uplinks=held)}))
    assert keys_of(now) == ["credential"]
    assert keys_of(then) == ["stopped", "credential"]
    assert then[1].weight == now[0].weight // 2


def test_the_worst_comes_first() -> None:
    so = status(
        buses=[bus(last_frames_s=500.0)],
        uplinks=[uplink(state="held", why="answered 404 Not Found")],
        differences=["a", "b"],
    )
    assert keys_of(diagnose(facts(**so))) == ["address", "ledger", "bus"]


anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                (
                    *("buses", "uplinks", "ledger", "bus", "uplink", "spool", "ota", "rejected"),
                    *("recognition", "differences", "ignition", "link", "budget", "limits"),
                    *("state", "why", "said", "level", "degraded"),
                    *("name", "trouble", "quarantine", "decoded", "unknown", "dropped", "verdict"),
                    *("last_frames_s", "uptime_s", "credential", "last_success_s_ago", "findings"),
                )
            ),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=40,
)


@given(st.dictionaries(st.text(max_size=8), anything, max_size=4), anything, st.booleans())
def test_a_status_of_any_shape_harms_nobody(status: dict[str, Any], more: Any, live: bool) -> None:
    whole = {**status, **(more if isinstance(more, dict) else {})}
    for cause in diagnose(facts(status=whole, live=live)):
        assert cause.what
        assert cause.do
