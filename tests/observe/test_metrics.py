"""Metrics, as a Prometheus understands them."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from agent.ledger import Ledger
from agent.observe.metrics import METRICS, exposition
from agent.observe.vitals import Vitals
from tests.observe.statuses import well
from tests.test_daemon import Bench, until

Series = frozenset[tuple[str, str]]

HOSTILE = ['a"b', "a\\", 'x"} 1\n# TYPE x', "\n", "\r\n", "é\u2028", "{}=,", "", " ", "\ud800", "#"]


def parsed(text: str) -> dict[str, dict[Series, float]]:
    """Metric -> labels -> figure, as a Prometheus would have them."""
    found: dict[str, dict[Series, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series = frozenset(sample.labels.items())
            assert series not in found.setdefault(sample.name, {}), "a series comes twice"
            found[sample.name][series] = sample.value
    return found


def figure(status: Mapping[str, Any], name: str, **labels: str) -> float | None:
    """One figure; None where there is no such series."""
    series = parsed(exposition(status)).get(f"edge_agent_{name}", {})
    return series.get(frozenset(labels.items()))


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("info", {"version": "0.1.0", "vehicle": "van-7", "plan": "ev", "bundle": "ev 3"}, 1),
        ("uptime_seconds", {}, 3600.5),
        ("problems", {}, 0),
        ("clock_state", {"state": "ntp"}, 1),
        ("clock_state", {"state": "gnss"}, 0),
        ("ignition_state", {"state": "awake"}, 1),
        ("process_cpu_seconds_total", {}, 132.5),
        ("process_resident_memory_bytes", {}, 91_000_000),
        ("process_written_bytes_total", {}, 1_234_567),
        ("limit_level", {"limit": "memory"}, 0),
        ("limit_used_ratio", {"limit": "memory"}, 0.25),
        ("machine_temperature_celsius", {}, 51.5),
        ("machine_disk_free_bytes", {}, 7e9),
        ("machine_flash_life_used_ratio", {"device": "mmcblk0", "type": "b"}, 0.2),
        ("machine_flash_end_of_life", {"device": "mmcblk0"}, 1),
        ("bus_state", {"bus": "body", "part": "frames", "state": "reading"}, 1),
        ("bus_state", {"bus": "body", "part": "frames", "state": "waiting"}, 0),
        ("bus_controller_state", {"bus": "body", "state": "active"}, 1),
        ("bus_load_ratio", {"bus": "body"}, 0.333),
        ("bus_error_frames_total", {"bus": "body"}, 7),
        ("bus_receive_errors", {"bus": "body"}, 3),
        ("bus_received_frames_total", {"bus": "body"}, 1_234_567),
        ("bus_queued_frames", {"bus": "body"}, 0),
        ("campaign_kept_samples_total", {"campaign": "drive"}, 60),
        ("campaign_suppressed_events_total", {"campaign": "drive"}, 2),
        ("uplink_waiting_samples", {"uplink": "cloud"}, 10),
        ("uplink_acknowledged_samples_total", {"uplink": "cloud"}, 50),
        ("uplink_state", {"uplink": "cloud", "state": "idle"}, 1),
        ("uplink_last_success_age_seconds", {"uplink": "cloud"}, 3),
        ("uplink_answers_total", {"uplink": "cloud", "method": "PUT", "code": "201"}, 60),
        ("uplink_answers_total", {"uplink": "cloud", "method": "HEAD", "code": "404"}, 1),
        ("uplink_answers_total", {"uplink": "cloud", "method": "PUT", "code": "network"}, 1),
        ("uplink_sent_bytes_total", {"uplink": "cloud"}, 2_400_000),
        ("uplink_credential_trouble", {"uplink": "cloud"}, 0),
        ("link_metered", {}, 1),
        ("link_metered_bytes", {"period": "day"}, 1_500_000),
        ("budget_level", {}, 1),
        ("budget_limit_bytes", {"link": "any"}, 10_000_000),
        ("spool_trouble", {}, 0),
        ("spool_waiting_batches", {"uplink": "cloud", "lane": "telemetry"}, 2),
        ("spool_waiting_bytes", {"uplink": "cloud", "lane": "event"}, 0),
        ("spool_used_bytes", {}, 120_000),
        ("spool_quota_bytes", {}, 512 << 20),
        ("spool_durable_age_seconds", {"stream": "telemetry/cloud"}, 0.4),
        ("ledger_differences", {}, 0),
        ("update_on_trial", {}, 0),
        ("update_rejected_bundles", {}, 1),
        ("update_expiry_timestamp_seconds", {}, 1_936_000_000),
        ("update_trouble", {}, 0),
    ],
)
def test_a_figure_of_the_status_is_a_figure_of_the_metrics(
    name: str, labels: dict[str, str], value: float
) -> None:
    assert figure(well(), name, **labels) == value


def test_trouble_is_a_figure_that_an_alarm_can_watch() -> None:
    status = well(
        ("spool", "trouble", "the spool cannot be written"),
        ("uplinks", 0, "state", "held"),
        ("differences", ["bus body: read = 1, but decoded = 2"]),
        ("ota", "trial", {"bundle": "ev 4", "starts": 1}),
    )
    assert figure(status, "problems") == 3
    assert figure(status, "spool_trouble") == 1
    assert figure(status, "uplink_state", uplink="cloud", state="held") == 1
    assert figure(status, "ledger_differences") == 1
    assert figure(status, "update_on_trial") == 1


def test_every_counter_of_the_ledger_is_a_metric() -> None:
    ledger = Ledger()
    for account in ("bus", "campaign", "uplink"):
        ledger.open(account, "one")
    counts = ledger.snapshot()
    numbers = iter(range(1000, 2000))
    for rows in counts.values():
        rows["one"] = {counter: next(numbers) for counter in rows["one"]}
    told = parsed(exposition({"ledger": counts}))
    figures = sorted(value for series in told.values() for value in series.values())
    expected = sorted(n for rows in counts.values() for n in rows["one"].values())
    assert [value for value in figures if value >= 1000] == expected


def test_a_bus_that_is_asked_for_diagnostics_is_one_bus_of_two_parts() -> None:
    status = well()
    asks = {"requests": 9, "answered": 7, "negative": 1, "timeouts": 2}
    status["buses"].append(
        {"name": "body", "kind": "socketcan", "state": "waiting: no ECU", "diagnostics": asks}
    )
    assert figure(status, "bus_state", bus="body", part="frames", state="reading") == 1
    assert figure(status, "bus_state", bus="body", part="diagnostics", state="waiting") == 1
    assert figure(status, "diagnostics_requests_total", bus="body") == 9
    assert figure(status, "diagnostics_timeouts_total", bus="body") == 2


def test_what_is_not_known_is_absent_and_not_zero() -> None:
    status = well(
        ("ota", None),
        ("machine", {}),
        ("link", "metered", None),
        ("buses", 0, "load_percent", None),
        ("uplinks", 0, "last_success_s_ago", None),
    )
    told = parsed(exposition(status))
    assert not told.keys() & {
        "edge_agent_machine_temperature_celsius",
        "edge_agent_link_metered",
        "edge_agent_update_trouble",
        "edge_agent_update_on_trial",
        "edge_agent_uplink_last_success_age_seconds",
    }
    assert len(told["edge_agent_bus_load_ratio"]) == 3
    assert figure(status, "info", version="0.1.0", vehicle="van-7", plan="ev", bundle="factory")


def test_names_and_types_are_as_prometheus_wants_them() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for family in text_string_to_metric_families(exposition(well())):
        counter = family.type == "counter"
        assert counter == all(sample.name.endswith("_total") for sample in family.samples)
        assert family.type in ("counter", "gauge")
        assert family.documentation


def test_a_text_has_each_metric_together_with_its_help_and_ends_with_a_line_feed() -> None:
    lines = exposition(well()).split("\n")
    assert lines.pop() == ""
    heads = [line.split(" ")[2] for line in lines if line.startswith("# TYPE ")]
    assert heads == [line.split(" ")[2] for line in lines if line.startswith("# HELP ")]
    assert len(set(heads)) == len(heads)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_cannot_break_out_of_its_label(name: str) -> None:
    status = well(("vehicle", name), ("buses", 0, "name", name), ("uplinks", 0, "name", name))
    status["ledger"]["campaign"][name] = {"kept": 5}
    status["uplinks"][0]["answers"] = {name: 4}
    status["spool"]["durable"] = {name: {"age_s": 1}}
    seen = name.encode("utf-8", "replace").decode()
    told = parsed(exposition(status))
    assert told.keys() == parsed(exposition(well())).keys()
    assert figure(status, "campaign_kept_samples_total", campaign=seen) == 5
    assert figure(status, "bus_load_ratio", bus=seen) == 0.333
    assert figure(status, "spool_durable_age_seconds", stream=seen) == 1


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
anything = st.recursive(
    scalars,
    lambda parts: st.lists(parts) | st.dictionaries(st.text() | st.just("name"), parts),
    max_leaves=20,
)


@given(key=st.sampled_from(sorted(well())), value=anything)
def test_whatever_a_status_holds_a_prometheus_can_read_it(key: str, value: object) -> None:
    parsed(exposition(well((key, value))))


@given(names=st.lists(st.text(), max_size=5), counts=st.integers(0, 2**70))
def test_whatever_names_there_are_no_series_comes_twice(names: list[str], counts: int) -> None:
    status = well()
    status["buses"] = [{"name": name, "state": "reading", "load_percent": 1} for name in names]
    status["ledger"]["bus"] = {name: {"received": counts} for name in names}
    status["uplinks"] = [{"name": name, "state": name, "answers": {name: counts}} for name in names]
    told = parsed(exposition(status))
    assert len(told.get("edge_agent_bus_load_ratio", {})) == len({_seen(name) for name in names})


def _seen(name: str) -> str:
    return name.encode("utf-8", "replace").decode()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with contextlib.ExitStack() as processes:
        yield Bench(tmp_path, processes)


def test_a_real_agent_tells_what_a_prometheus_reads(bench: Bench) -> None:
    bench.record(3000)
    bench.cloud()
    bench.configure(speed=20)
    bench.agent()
    status = until(
        lambda: (s := bench.status()) and s["ledger"]["uplink"]["cloud"]["spooled"] > 100 and s
    )
    vitals = Vitals(bench.folder)
    status |= {"process": vitals.process(), "machine": vitals.look()}
    told = parsed(exposition(json.loads(json.dumps(status))))
    counts = status["ledger"]
    for account, rows in counts.items():
        shown = [n for n in told if n.startswith(f"edge_agent_{account}_")]
        assert shown
        assert rows.keys() == {dict(series)[account] for n in shown for series in told[n]}
    kept = told["edge_agent_campaign_kept_samples_total"][frozenset({("campaign", "all")})]
    assert kept == counts["campaign"]["all"]["kept"]
    assert told["edge_agent_ledger_differences"] == {frozenset(): 0}
    assert told["edge_agent_process_cpu_seconds_total"][frozenset()] > 0
    lanes = {dict(series)["lane"] for series in told["edge_agent_spool_waiting_batches"]}
    assert lanes == {"event", "report", "telemetry", "raw"}
