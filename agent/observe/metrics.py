"""The agent's metrics: one table, from which the text for Prometheus and its description come.

`METRICS` names every metric with its type, labels and a sentence, and says where its figures stand
in what `Daemon.status` gives. docs/operations.md has the same table, which a test compares.

Names begin with `edge_agent_`, counters end in `_total`, units are base units. Counters are those
of one run and begin at 0 with the process. States are a series for each state, 1 for the one that
holds. Ages take the place of times of day, which a vehicle computer may not know.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from agent.observe.exposition import (
    Figures,
    Status,
    counter,
    each,
    gauge,
    length,
    one,
    one_of,
    one_of_each,
    rows,
    text_of,
    trouble,
)
from agent.observe.health import healthy
from agent.observe.ledgermetrics import LEDGER
from agent.observe.values import at, listed, mapped, number, sequence
from agent.settings import LANES

_BUSES: Final = ("buses",)
_UPLINKS: Final = ("uplinks",)
_QUANTITIES: Final = {"requests": "sent", "answered": "answered", "timeouts": "never answered"}


def exposition(status: Mapping[str, Any]) -> str:
    """A status as Prometheus text, format 0.0.4. Parts that the status lacks are left out."""
    return text_of(METRICS, status)


# -- figures that take more than a place -----------------------------------------------------------


def _about(status: Status) -> Figures:
    told = [status.get(key) for key in ("agent", "vehicle", "plan")]
    return [((*told, at(status, "ota", "running") or "factory"), 1)]


def _problems(status: Status) -> Figures:
    return [((), len(healthy(status)))]


def _bus_states(status: Status) -> Figures:
    """What reads frames, and what asks for diagnostics on the same bus."""
    for bus in listed(status.get("buses")):
        part = "diagnostics" if "diagnostics" in bus else "frames"
        state = str(bus.get("state")).partition(":")[0]
        for name in ("starting", "reading", "waiting", "ended"):
            yield (bus.get("name"), part, name), state == name


def _lanes(key: Literal["batches", "bytes"]) -> Any:
    """Of every lane of every uplink, also where nothing waits: a series that ends says nothing."""

    def figures(status: Status) -> Figures:
        for uplink in listed(status.get("uplinks")):
            lanes = mapped(at(status, "spool", "lanes", str(uplink.get("name"))))
            for lane in LANES:
                yield (uplink.get("name"), lane), number(at(lanes, lane, key)) or 0

    return figures


def _used(status: Status) -> Figures:
    """As the spool's quota counts: what waits for each uplink, what is kept, what is set aside."""
    spool = mapped(status.get("spool"))
    waiting = [
        lane for lanes in mapped(spool.get("lanes")).values() for lane in mapped(lanes).values()
    ]
    kept = [row for key in ("sent", "quarantine") for row in mapped(spool.get(key)).values()]
    yield (), sum(number(at(row, "bytes")) or 0 for row in [*waiting, *kept]) if spool else None


def _answers(status: Status) -> Figures:
    for uplink in listed(status.get("uplinks")):
        for answer, count in mapped(uplink.get("answers")).items():
            method, _, code = answer.rpartition(" ")
            yield (uplink.get("name"), method or "PUT", code), count


def _troubled_uplinks(status: Status) -> Figures:
    for uplink in listed(status.get("uplinks")):
        told = uplink.get("credential")
        yield (uplink.get("name"),), None if told is None else bool(told)


def _spent(status: Status) -> Figures:
    for period in ("day", "month"):
        yield (period,), at(status, "link", period, "spent_bytes")


def _wear(status: Status) -> Figures:
    for device, told in mapped(at(status, "machine", "flash")).items():
        for kind, tenths in zip("ab", sequence(at(told, "life")), strict=False):
            known = number(tenths)
            yield (device, kind), known / 10 if known else None


def _on_trial(status: Status) -> Figures:
    ota = status.get("ota")
    yield (), bool(ota["trial"]) if isinstance(ota, Mapping) and "trial" in ota else None


# -- the table -------------------------------------------------------------------------------------

_AGENT: Final = (
    gauge(
        "info",
        "version vehicle plan bundle",
        "Always 1; the labels say what runs. A bundle is `factory` for the plan of agent.toml",
        _about,
    ),
    gauge("uptime_seconds", "", "Since the process began", one("uptime_s")),
    gauge(
        "problems",
        "",
        "Things that somebody has to see to; `edge-agent status` names them",
        _problems,
    ),
    gauge(
        "clock_state",
        "state",
        "How far the wall clock can be believed",
        one_of(("unsynchronised", "ntp", "gnss"), "clock"),
    ),
    gauge(
        "ignition_state",
        "state",
        "Whether the key is on",
        one_of(("awake", "sealing", "asleep"), "ignition", "state"),
    ),
    counter("process_cpu_seconds", "", "CPU time of the process", one("process", "cpu_s")),
    gauge(
        "process_resident_memory_bytes",
        "",
        "Memory that the process has now",
        one("process", "memory_bytes"),
    ),
    counter(
        "process_written_bytes",
        "",
        "What the process gave to the disk: bytes passed to write()",
        one("limits", "written_bytes"),
    ),
    *(
        gauge(f"limit_{name}", "limit", what, rows(("limits", "limits"), "name", key))
        for name, key, what in (
            ("level", "level", "What is given up for a limit of the agent, as of `budget_level`"),
            ("used_ratio", "used_ratio", "Share of a limit that is used; 1 is the limit"),
        )
    ),
    gauge(
        "machine_temperature_celsius",
        "",
        "The hottest thermal zone",
        one("machine", "temperature_c"),
    ),
    gauge(
        "machine_disk_free_bytes",
        "",
        "Free on the file system of the state folder",
        one("machine", "disk", "free_bytes"),
    ),
    gauge(
        "machine_disk_size_bytes",
        "",
        "Size of that file system",
        one("machine", "disk", "size_bytes"),
    ),
    gauge(
        "machine_flash_life_used_ratio",
        "device type",
        "At most this share of an eMMC's life is used, in tenths; 1.1 is beyond its end",
        _wear,
    ),
    gauge(
        "machine_flash_end_of_life",
        "device",
        "Spare blocks of an eMMC: 1 normal, 2 mostly used, 3 nearly gone",
        each(("machine", "flash"), "end_of_life"),
    ),
)

_OF_BUSES: Final = (
    gauge(
        "bus_state",
        "bus part state",
        "Whether a bus is read; the part `diagnostics` asks for diagnostics on it",
        _bus_states,
    ),
    gauge(
        "bus_last_frames_age_seconds",
        "bus",
        "Since frames last came",
        rows(_BUSES, "name", "last_frames_s"),
    ),
    gauge(
        "bus_controller_state",
        "bus state",
        "The CAN controller as ISO 11898-1 has it; `off` is bus-off",
        one_of_each(
            ("active", "warning", "passive", "off", "unknown"), _BUSES, ("name",), "controller"
        ),
    ),
    gauge(
        "bus_load_ratio",
        "bus",
        "How busy the bus was in the last whole second",
        rows(_BUSES, "name", "load_percent", scale=0.01),
    ),
    counter(
        "bus_error_frames",
        "bus",
        "Error frames that the controller told",
        rows(_BUSES, "name", "error_frames"),
    ),
    gauge(
        "bus_transmit_errors",
        "bus",
        "The controller's counter of transmit errors",
        rows(_BUSES, "name", "transmit_errors"),
    ),
    gauge(
        "bus_receive_errors",
        "bus",
        "The controller's counter of receive errors",
        rows(_BUSES, "name", "receive_errors"),
    ),
    *(
        counter(
            f"diagnostics_{name}",
            "bus",
            f"Diagnostic requests that were {what}",
            rows(_BUSES, "name", "diagnostics", name),
        )
        for name, what in _QUANTITIES.items()
    ),
)

_OF_CAMPAIGNS: Final = (
    counter(
        "campaign_suppressed_events",
        "campaign",
        "Times that a trigger came true while it was not to fire; from 0 with each plan",
        rows(("campaigns",), "name", "suppressed"),
    ),
    gauge(
        "campaign_history_bytes",
        "campaign",
        "What is held for the time before a trigger",
        rows(("campaigns",), "name", "ring_bytes"),
    ),
    gauge(
        "vehicle_findings",
        "",
        "Signs that databases or plan are not for this vehicle",
        length("recognition", "findings"),
    ),
)

_OF_UPLINKS: Final = (
    gauge(
        "uplink_state",
        "uplink state",
        "What an uplink does; `held` waits for somebody to see to it",
        one_of_each(("idle", "sending", "waiting", "held"), _UPLINKS, ("name",), "state"),
    ),
    gauge(
        "uplink_last_success_age_seconds",
        "uplink",
        "Since a batch was acknowledged; absent before the first",
        rows(_UPLINKS, "name", "last_success_s_ago"),
    ),
    gauge(
        "uplink_next_try_seconds",
        "uplink",
        "Until the next try; absent where none is waited for",
        rows(_UPLINKS, "name", "until_s"),
    ),
    counter(
        "uplink_answers",
        "uplink method code",
        "Answers by status code, or by what kept one from coming",
        _answers,
    ),
    *(
        counter(f"uplink_{name}", "uplink", what, rows(_UPLINKS, "name", name))
        for name, what in (
            ("sent_batches", "Batches that were acknowledged"),
            ("sent_bytes", "Bytes of those"),
            ("quarantined_batches", "Batches that were refused for good"),
            ("resent_batches", "Batches that the receiver wanted once more"),
            ("attempts", "Batches that were offered"),
            ("retries", "Offers that were not the first of their batch"),
        )
    ),
    gauge(
        "uplink_credential_trouble",
        "uplink",
        "1 while token or certificate needs somebody to see to it",
        _troubled_uplinks,
    ),
    gauge(
        "link_metered",
        "",
        "Whether the link costs money; absent where nobody has to know",
        one("link", "metered"),
    ),
    gauge(
        "link_metered_bytes",
        "period",
        "Sent over metered links this `day` and this `month`, where that is limited or budgeted",
        _spent,
    ),
    gauge("link_trouble", "", "1 while the link cannot be told", trouble("link", "trouble")),
    gauge(
        "budget_level",
        "",
        "What is given up for the plan's budgets: 0 nothing, 5 all but events and reports",
        one("budget", "level"),
    ),
    gauge(
        "budget_used_bytes",
        "link",
        "Of a budget, used this day",
        rows(("budget", "budgets"), "link", "used_bytes"),
    ),
    gauge(
        "budget_limit_bytes",
        "link",
        "Of a budget, what a day may cost",
        rows(("budget", "budgets"), "link", "limit_bytes"),
    ),
)

_OF_SPOOL: Final = (
    gauge("spool_trouble", "", "1 while the spool cannot be written", trouble("spool", "trouble")),
    gauge(
        "spool_memory_bytes", "", "What is kept and not yet on disk", one("spool", "memory_bytes")
    ),
    gauge("spool_waiting_batches", "uplink lane", "Sealed batches that wait", _lanes("batches")),
    gauge("spool_waiting_bytes", "uplink lane", "Bytes of those", _lanes("bytes")),
    gauge(
        "spool_used_bytes",
        "",
        "What counts for the quota: waiting, sent and still kept, in quarantine",
        _used,
    ),
    gauge("spool_quota_bytes", "", "The quota", one("spool", "quota_bytes")),
    gauge(
        "spool_sent_bytes",
        "uplink",
        "Acknowledged batches that are still kept",
        each(("spool", "sent"), "bytes"),
    ),
    gauge(
        "spool_quarantine_bytes",
        "uplink",
        "Batches in quarantine",
        each(("spool", "quarantine"), "bytes"),
    ),
    gauge(
        "spool_durable_age_seconds",
        "stream",
        "Since a stream last became durable; what came later is lost at a power cut",
        each(("spool", "durable"), "age_s"),
    ),
    gauge(
        "ledger_differences",
        "",
        "Sums of the ledger that do not close; 0 unless the agent has a defect",
        length("differences"),
    ),
)

_OF_UPDATES: Final = (
    gauge("update_on_trial", "", "1 while a bundle is on trial", _on_trial),
    gauge("update_pinned", "", "1 while the vehicle stays with what runs", one("ota", "pinned")),
    gauge(
        "update_rejected_bundles",
        "",
        "Bundles that are remembered as refused or taken back",
        length("ota", "rejected"),
    ),
    gauge(
        "update_look_age_seconds",
        "",
        "Since the repository was last looked at with success; absent before",
        one("ota", "looked_s_ago"),
    ),
    gauge(
        "update_expiry_timestamp_seconds",
        "",
        "When the word of the repository expires, since 1970",
        one("ota", "expires"),
    ),
    gauge("update_trouble", "", "1 while updates are in trouble", trouble("ota", "trouble")),
    gauge(
        "update_clock_untrusted",
        "",
        "1 while the clock is behind what is known for certain",
        one("ota", "clock_untrusted"),
    ),
)

METRICS: Final = (
    *_AGENT,
    *_OF_BUSES,
    *LEDGER["bus"],
    *_OF_CAMPAIGNS,
    *LEDGER["campaign"],
    *_OF_UPLINKS,
    *LEDGER["uplink"],
    *LEDGER["report"],
    *_OF_SPOOL,
    *_OF_UPDATES,
)
"""Every metric, in the order in which they are given."""
