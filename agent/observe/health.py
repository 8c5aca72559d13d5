"""How the agent is, in two forms: what somebody has to see to, and a record for the cloud. Pure.

`healthy` gives a sentence for everything that a person has to see to. What heals by itself is none:
a link that is down, a receiver that is busy, a key that is off.

`record` is an event of kind `health` for the lane `report`: a few hundred bytes once a minute, with
what was in the status at that moment. Counters are those of the run; `uptime_s` tells one run from
the next. However many buses and uplinks there are, and whatever they are called, it stays below
`MOST_BYTES`: lists are cut, and `more` says by how much.

A batch of its own each minute would cost some 5 MB a day, with all that a batch and a request bring
along; ten minutes together cost a seventh. So a record has no `complete`, which would seal its
batch at once, unless there is something to hurry for: other trouble than before.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from agent.clock import BootNs
from agent.observe.values import at, first_word, listed, mapped, number, sequence, words
from agent.settings import LANES
from agent.uplink.policy import Fault

MOST_BYTES: Final = 8192
"""Of a record, packed as msgpack."""

_BUSES: Final = 16
_UPLINKS: Final = 8
_DEVICES: Final = 4
_SENTENCES: Final = 4
_SENTENCE: Final = 120
_WORD: Final = 64

_STARTING_S: Final = 60.0
_SILENT_S: Final = 86_400.0
"""After so long without a success, an uplink for which something waits is no passing trouble."""
_LIFE_ENDS: Final = 10
"""Tenths of its life that an eMMC has used: 90 to 100 %."""
_LASTING: Final = (Fault.CLOCK.value, Fault.TLS.value, Fault.SPOOL.value)
_QUIET: Final = ("the vehicle sleeps", "no frame was seen on the bus", "no ECU answers")
"""Why diagnostic requests pause; a vehicle that stands still does that."""


def healthy(status: Mapping[str, Any]) -> list[str]:
    """Why a running agent is not well, each reason a sentence; empty when all is well.

    `status` is what `Daemon.status` gives.
    """
    return list(dict.fromkeys(_reasons(status)))


def _reasons(status: Mapping[str, Any]) -> Iterator[str]:
    for difference in sequence(status.get("differences")):
        yield f"the ledger does not close: {difference}"
    if trouble := at(status, "spool", "trouble"):
        yield str(trouble)
    uptime_s = number(status.get("uptime_s")) or 0.0
    for bus in listed(status.get("buses")):
        yield from _bus(bus, uptime_s)
    for finding in sequence(at(status, "recognition", "findings")):
        yield f"vehicle: {finding}"
    asleep = at(status, "ignition", "state") == "asleep"
    if trouble := at(status, "ignition", "trouble"):
        yield f"ignition: {trouble}"
    if trouble := at(status, "link", "trouble"):
        yield f"link: {trouble}"
    for limit in listed(at(status, "limits", "limits")):
        if number(limit.get("level")):
            yield f"limit: {limit.get('said')}: {at(status, 'limits', 'degraded')}"
    uplinks = listed(status.get("uplinks"))
    for uplink in uplinks:
        lanes = mapped(at(status, "spool", "lanes", str(uplink.get("name")))).values()
        waits = any(number(at(lane, "batches")) for lane in lanes)
        yield from _uplink(uplink, uptime_s, waits=waits and not asleep)
    offline = bool(uplinks) and all(uplink.get("state") == "waiting" for uplink in uplinks)
    yield from _updates(mapped(status.get("ota")), offline=offline)
    for device, told in mapped(at(status, "machine", "flash")).items():
        yield from _flash(device, mapped(told))


def _bus(bus: Mapping[str, Any], uptime_s: float) -> Iterator[str]:
    name, state = f"bus {bus.get('name')}", str(bus.get("state"))
    what, _, why = state.partition(": ")
    if what == "waiting" and not ("diagnostics" in bus and why.startswith(_QUIET)):
        yield f"{name} is not there: {why}"
    elif what == "ended" and why:
        yield f"{name} has ended: {why}"
    elif what == "starting" and uptime_s >= _STARTING_S:
        yield f"{name} does not start"
    controller = bus.get("controller")
    if controller in ("off", "passive"):
        how = "bus-off" if controller == "off" else "error passive"
        yield f"{name}: the controller is {how}; the last error: {bus.get('last_error') or 'none'}"


def _uplink(uplink: Mapping[str, Any], uptime_s: float, *, waits: bool) -> Iterator[str]:
    name, why = f"uplink {uplink.get('name')}", str(uplink.get("why"))
    if uplink.get("state") == "held":
        yield f"{name} is held: {why}"
    elif uplink.get("state") == "waiting" and why.startswith(_LASTING):
        yield f"{name} waits: {why}"
    elif waits:
        age_s = number(uplink.get("last_success_s_ago"))
        age_s = uptime_s if age_s is None else age_s
        if age_s >= _SILENT_S:
            yield f"{name} has delivered nothing for {age_s / 3600:.0f} h: {why}"
    if credential := uplink.get("credential"):
        yield f"{name}: {credential}"


def _updates(ota: Mapping[str, Any], *, offline: bool) -> Iterator[str]:
    """Without a link no repository is reached either, which says nothing about updates."""
    if (trouble := ota.get("trouble")) and not offline:
        yield f"updates: {trouble}"
    if ota.get("clock_untrusted"):
        yield "updates: the clock is in the past, so nothing shows that an update is the newest"


def _flash(device: str, told: Mapping[str, Any]) -> Iterator[str]:
    life = [n for n in map(number, sequence(told.get("life"))) if n is not None]
    if max(life, default=0) > _LIFE_ENDS:
        yield f"flash {device}: its life is over: it has taken more writes than it is made for"
    elif max(life, default=0) == _LIFE_ENDS:
        yield f"flash {device}: more than 90 % of its life is used"
    if (number(told.get("end_of_life")) or 0) > 1:
        yield f"flash {device}: most of its spare blocks are used"


# -- the record ----------------------------------------------------------------------------------


def record(
    status: Mapping[str, Any], time: BootNs, before: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """An event that tells how the agent is.

    `time` is that of the status; `before` is the status of the record before: the CPU's share is
    that of the time between, and trouble is compared. Keys whose value is not known are left out.
    """
    buses, uplinks = listed(status.get("buses")), listed(status.get("uplinks"))
    sentences = healthy(status)
    changed = before is not None and _kinds(sentences) != _kinds(healthy(before))
    told = {
        "kind": "health",
        "id": f"health-{str(status.get('boot_id'))[:8]}-{time}",
        "name": "health",
        "campaign": "",
        "time": time,
        "clock": "boot",
        "agent": words(status.get("agent"), _WORD),
        "plan": words(status.get("plan"), _WORD),
        "bundle": words(at(status, "ota", "running"), 2 * _WORD),
        "uptime_s": _rounded(status.get("uptime_s")),
        "quality": words(status.get("clock"), _WORD),
        "buses": _buses(status, buses),
        "uplinks": {
            words(each.get("name"), _WORD): {
                "state": words(each.get("state"), _WORD),
                "sent_bytes": number(each.get("sent_bytes")),
            }
            for each in uplinks[:_UPLINKS]
        },
        "lanes": _lanes(status),
        "link": _link(status),
        "cpu_percent": _cpu_percent(status, before),
        "memory_bytes": number(at(status, "process", "memory_bytes")),
        "temperature_c": number(at(status, "machine", "temperature_c")),
        "disk_free_bytes": number(at(status, "machine", "disk", "free_bytes")),
        "flash": _flash_of(status),
        "differences": len(sequence(status.get("differences"))),
        "trouble": [words(sentence, _SENTENCE) for sentence in sentences[:_SENTENCES]],
        "more": _more(buses, uplinks, sentences),
        "complete": changed or None,
    }
    return {key: value for key, value in told.items() if key in _ALWAYS or value not in _NOTHING}


_ALWAYS: Final = frozenset({"campaign", "differences"})
_NOTHING: Final[Sequence[Any]] = (None, "", {}, [])


def _kinds(sentences: Sequence[str]) -> list[str]:
    """What kinds of trouble these are: figures in a sentence may change each minute."""
    return sorted(re.sub(r"\d+", "", sentence) for sentence in sentences)


def _buses(status: Mapping[str, Any], buses: list[Mapping[str, Any]]) -> dict[str, Any]:
    """How each bus is; its figures are left out where they are 0, or not known."""
    found: dict[str, dict[str, Any]] = {}
    for bus in buses:
        name = words(bus.get("name"), _WORD)
        if "diagnostics" in bus and name in found:
            found[name]["diagnostics"] = first_word(bus.get("state"))
            continue
        if len(found) == _BUSES and name not in found:
            continue
        counts = mapped(at(status, "ledger", "bus", str(bus.get("name"))))
        controller = bus.get("controller")
        load = number(bus.get("load_percent"))
        told = {
            "state": first_word(bus.get("state")),
            "controller": None if controller in ("active", "unknown") else first_word(controller),
            "load_percent": None if load is None else round(load, 1),
            "frames": number(counts.get("received")),
            "dropped": number(counts.get("dropped")),
            "error_frames": number(bus.get("error_frames")),
        }
        found[name] = {
            k: v for k, v in told.items() if v or (k == "load_percent" and v is not None)
        }
    return found


def _lanes(status: Mapping[str, Any]) -> dict[str, Any]:
    """What waits, for each uplink by lane: [batches, bytes]."""
    found = {}
    for uplink, lanes in list(mapped(at(status, "spool", "lanes")).items())[:_UPLINKS]:
        waits = {
            lane: [number(at(lanes, lane, key)) for key in ("batches", "bytes")]
            for lane in LANES
            if at(lanes, lane, "batches")
        }
        if waits:
            found[words(uplink, _WORD)] = waits
    return found


def _link(status: Mapping[str, Any]) -> dict[str, Any]:
    """Of a link that is metered or not, as far as somebody asked; and what the day has cost."""
    metered = at(status, "link", "metered")
    if not isinstance(metered, bool):
        return {}
    told: dict[str, Any] = {
        "metered": metered,
        "metered_today_bytes": number(at(status, "link", "day", "spent_bytes")),
    }
    for budget in listed(at(status, "budget", "budgets")):
        if budget.get("link") == "any" and number(budget.get("used_bytes")) is not None:
            told["today_bytes"] = number(budget.get("used_bytes"))
    return {key: value for key, value in told.items() if value is not None}


def _cpu_percent(status: Mapping[str, Any], before: Mapping[str, Any] | None) -> float | None:
    """Of one core."""
    now, then = number(at(status, "process", "cpu_s")), number(at(before, "process", "cpu_s"))
    ends, began = number(status.get("uptime_s")), number(at(before, "uptime_s"))
    if now is None or then is None or ends is None or began is None or ends <= began:
        return None
    return round(100 * max(0.0, now - then) / (ends - began), 1)


def _flash_of(status: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, told in list(mapped(at(status, "machine", "flash")).items())[:_DEVICES]:
        known = {
            "life": [number(kind) for kind in sequence(at(told, "life"))[:2]],
            "end_of_life": number(at(told, "end_of_life")),
        }
        found[words(name, _WORD)] = {k: v for k, v in known.items() if v}
    return found


def _more(*lists: Sequence[Any]) -> int | None:
    bounds = (_BUSES, _UPLINKS, _SENTENCES)
    return sum(max(0, len(each) - most) for each, most in zip(lists, bounds, strict=True)) or None


def _rounded(value: object) -> float | None:
    known = number(value)
    return None if known is None else number(round(known))
