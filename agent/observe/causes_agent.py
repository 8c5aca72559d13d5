"""Causes that the agent's status shows: buses, databases, uplinks, the spool, updates."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from agent.observe.causes_machine import wrong_rate
from agent.observe.facts import Cause, Facts, count, number, rows, sentences, table, text
from agent.observe.report import batches_of, duration, size
from agent.settings import SocketCanBus

_SILENT_S: Final = 30.0
_ENOUGH: Final = 1_000
"""Frames before a share of them says anything."""
_UNKNOWN_SHARE: Final = 0.95
_UNDECODABLE_SHARE: Final = 0.05
_RMEM: Final = 8_388_608
_ANSWERED: Final = re.compile(r"\banswered (\d{3})\b")


def buses(facts: Facts) -> Iterator[Cause]:
    asleep = text(facts.status, "ignition", "state") not in ("", "awake")
    for bus in rows(facts.status, "buses"):
        name, state = text(bus, "name"), text(bus, "state")
        who = f'bus "{name}"'
        row = table(facts.status, "ledger", "bus", name)
        kinds = ("decoded", "transport", "remote", "unknown", "undecodable")
        good = sum(count(row, kind) for kind in kinds)
        errors = count(bus, "error_frames") or count(row, "error")
        if state.startswith(("waiting: ", "ended: ")):
            yield Cause(
                *(74, "bus", f"{who}: {state.partition(': ')[2]}"),
                "bring the device back: the agent goes on by itself within a second or two",
                name,
            )
        elif text(bus, "controller") == "off":
            yield Cause(
                *(79, "bus", f"{who}: the controller is bus-off (last: {text(bus, 'last_error')})"),
                "compare the bit rate with that of the bus, look at wiring and termination; then "
                "take the interface down and up again, or set restart-ms",
                name,
            )
        elif errors and not good:
            yield wrong_rate(name, "Compare the bit rate that is set with the bus")
        elif (quiet := _quiet_s(facts, bus)) is not None and not asleep:
            yield Cause(
                *(40, "bus", f"{who}: no frames {quiet}"),
                "is the vehicle awake, and the adapter at the right pins? `candump` shows what "
                "the kernel gets; a gateway may pass nothing to a diagnostic socket",
                name,
            )
        elif text(bus, "controller") in ("warning", "passive"):
            yield Cause(
                *(46, "bus"),
                f"{who}: many errors, the controller is {text(bus, 'controller')} (last: "
                f"{text(bus, 'last_error')})",
                "look at wiring, termination and sample point",
                name,
            )


def _quiet_s(facts: Facts, bus: Mapping[str, Any]) -> str | None:
    """Since when a bus that can be read gives nothing; None while it gives, or just began."""
    if text(bus, "state") != "reading":
        return None
    if (heard := number(bus, "last_frames_s")) is not None:
        return f"for {duration(heard)}" if heard >= _SILENT_S else None
    up = number(facts.status, "uptime_s") or 0.0
    return f"since the start, {duration(up)} ago" if up >= _SILENT_S else None


def drops(facts: Facts) -> Iterator[Cause]:
    device = facts.device
    wanted = {
        bus.name: bus.receive_buffer_kib << 10
        for bus in (device.bus if device is not None else ())
        if isinstance(bus, SocketCanBus)
    }
    for name, row in table(facts.status, "ledger", "bus").items():
        dropped = count(row, "dropped")
        if not dropped:
            continue
        share = 100 * dropped / max(1, count(row, "received"))
        what = f'bus "{name}": {dropped:,} frames were dropped before the agent ({share:.2g} %)'
        least = min(wanted.get(name, _RMEM), _RMEM)
        if facts.rmem_max is not None and name in wanted and facts.rmem_max < least:
            yield Cause(
                *(60, "drops", f"{what}; the kernel may hold only {size(facts.rmem_max)} of it"),
                f"sysctl -w net.core.rmem_max={least}, and the same in /etc/sysctl.d; then "
                "systemctl restart edge-agent",
                name,
            )
        else:
            yield Cause(
                *(42, "drops", what),
                "the computer or the controller was too busy: look at the load (top), at "
                "net.core.netdev_max_backlog and the driver's own queue",
                name,
            )


def database(facts: Facts) -> Iterator[Cause]:
    do = "compare the DBC files of the plan with this vehicle: model, year, and which bus is which"
    known = table(facts.status, "recognition")
    for bus, told in table(known, "buses").items():
        if text(told, "verdict") == "does not fit":
            why = text(told, "why")
            yield Cause(
                *(66, "database", f'the database of bus "{bus}" does not fit: {why}'), do, bus
            )
    if known.get("recognised") is False:
        said = sentences(known, "findings")
        what = said[-1] if said else "this does not look like the vehicle that the plan is for"
        yield Cause(65, "database", what, "is this plan meant for this vehicle?", "vehicle")
    for bus, row in table(facts.status, "ledger", "bus").items():
        decoded, unknown = count(row, "decoded"), count(row, "unknown")
        bad = count(row, "undecodable")
        if decoded + unknown >= _ENOUGH and unknown >= _UNKNOWN_SHARE * (decoded + unknown):
            share = 100 * unknown / (decoded + unknown)
            what = f'bus "{bus}": {share:.0f} % of its frames are not in the database'
            yield Cause(57, "database", what, do, bus)
        elif decoded + bad >= _ENOUGH and bad >= _UNDECODABLE_SHARE * (decoded + bad):
            what = f'bus "{bus}": {bad:,} frames are shorter than the database says'
            yield Cause(51, "database", what, do, bus)


def uplinks(facts: Facts) -> Iterator[Cause]:
    for uplink in rows(facts.status, "uplinks"):
        name, state, why = (text(uplink, key) for key in ("name", "state", "why"))
        who = f'uplink "{name}"'
        cause = _uplink_cause(facts, uplink) if state in ("held", "waiting") and why else None
        if cause is not None:
            yield cause
        if credential := text(uplink, "credential"):
            ended = "has expired" in credential or "is not used" in credential
            wrong_clock = "clock of this computer is probably wrong" in credential
            yield Cause(
                73 if ended else 68 if wrong_clock else 34,
                "clock" if wrong_clock else "credential",
                f"{who}: {credential}",
                _SET_CLOCK if wrong_clock else "edge-agent enrol --renew, or put new files there",
                "" if wrong_clock else name,
            )


_SET_CLOCK: Final = (
    "let NTP or a GNSS receiver set the clock (timedatectl); sending goes on by itself then"
)


def _uplink_cause(facts: Facts, uplink: Mapping[str, Any]) -> Cause | None:
    name, why = text(uplink, "name"), text(uplink, "why")
    what = f'uplink "{name}": {why}'
    answered = _ANSWERED.search(why)
    status = int(answered[1]) if answered else 0
    unset = facts.synchronised is False or text(facts.status, "clock") == "unsynchronised"
    if "clock of this computer" in why or ("TLS" in why and unset):
        return Cause(76, "clock", f"{what}; the clock of this computer is not set", _SET_CLOCK)
    if status in (401, 403):
        do = "put the right token into the file that token_file names (it is read again), or enrol"
        return Cause(75, "credential", what, do, name)
    if status in (404, 410):
        do = "compare `url` in agent.toml with the receiver, and make the vehicle known there"
        return Cause(74, "address", what, do, name)
    if why.startswith("the credential cannot be used"):
        do = "put whole files there that the agent may read; LoadCredential= hands over root's"
        return Cause(75, "credential", what, do, name)
    if "TLS" in why:
        do = "name the receiver's authority as ca_file; is there a proxy that breaks TLS open?"
        return Cause(72, "tls", what, do, name)
    if "batch after batch" in why:
        do = "look at the receiver: it refuses what it should take"
        return Cause(70, "refused", what, do, name)
    if "without repeating the digest" in why or "a receiver of batches does not give" in why:
        do = "is `url` the receiver itself, and `kind` right? A captive portal answers like this"
        return Cause(69, "address", what, do, name)
    if "metered link has carried" in why:
        return Cause(32, "budget", what, "raise metered_mb_day or _month of [link], or wait", name)
    if why.startswith("back after an absence") or not _waits_long(uplink):
        return None
    if status:
        return Cause(50, "receiver", what, "the receiver is at fault: look there, or wait", name)
    do = "is there a link (ip route, ping), a name server, a proxy, a firewall? Nothing is lost yet"
    return Cause(44, "link", what, do, name)


def _waits_long(uplink: Mapping[str, Any]) -> bool:
    """No success for a minute: a single failure is everyday life on a mobile link."""
    success = number(uplink, "last_success_s_ago")
    return success is None or success >= 60


def spool(facts: Facts) -> Iterator[Cause]:
    if trouble := text(facts.status, "spool", "trouble"):
        yield Cause(
            *(87, "disk", trouble),
            "make room, or look at `journalctl -k -b` for errors of the disk; the newest data "
            "stays in memory up to memory_mb",
            "spool",
        )
    platforms = {text(row, "name") for row in rows(facts.status, "uplinks") if "platform" in row}
    for uplink, row in table(facts.status, "ledger", "uplink").items():
        lost, evicted = count(row, "lost_disk"), count(row, "evicted")
        if lost:
            yield Cause(
                *(55, "lost", f'uplink "{uplink}": {lost:,} samples were lost: the disk failed'),
                "look at the disk; a larger memory_mb bridges more",
                uplink,
            )
        elif evicted:
            what = f'uplink "{uplink}": {evicted:,} samples were given up: the spool was full'
            if uplink in platforms:
                what = f'uplink "{uplink}": {evicted:,} reports were given up: too old, or no room'
            do = "a larger quota_mb keeps more; look why it was not sent in time"
            yield Cause(43, "lost", what, do, uplink)
    for name, held in table(facts.status, "spool", "quarantine").items():
        if n := count(held, "batches"):
            yield Cause(
                *(38, "quarantine", f'uplink "{name}": {batches_of(n)} were refused for good'),
                "`edge-agent spool list` says why; the receiver's log says more",
                name,
            )


def updates(facts: Facts) -> Iterator[Cause]:
    ota = table(facts.status, "ota")
    if trouble := text(ota, "trouble"):
        yield Cause(
            *(47, "repository", f"updates: {trouble}"),
            "look at the repository with `edge-agent ota status`; the vehicle goes on meanwhile",
        )
    rejected = list(rows(ota, "rejected"))
    if rejected and text(ota, "running") != text(rejected[-1], "bundle"):
        last = rejected[-1]
        yield Cause(
            *(49, "update", f"bundle {text(last, 'bundle')} was taken back: {text(last, 'why')}"),
            "mend the plan and publish it with a new version; the same one is not taken again",
        )


def ledger(facts: Facts) -> Iterator[Cause]:
    if wrong := sentences(facts.status, "differences"):
        yield Cause(
            *(53, "ledger", f"the ledger does not close: {wrong[0]}"),
            "that is a defect of this program: report it with this file",
        )


def others(facts: Facts) -> Iterator[Cause]:
    for part in ("ignition", "link"):
        if trouble := text(facts.status, part, "trouble"):
            yield Cause(*(41, part, f"{part}: {trouble}"), f"look at [{part}] in agent.toml", part)
    if degraded := text(facts.status, "budget", "degraded"):
        do = "raise the budget of the plan, or let it collect less"
        yield Cause(33, "budget", f"budget: {degraded}", do, "plan")
    for limit in rows(facts.status, "limits", "limits"):
        if count(limit, "level"):
            what = f"limit: {text(limit, 'said')}: {text(facts.status, 'limits', 'degraded')}"
            do = "raise it in [limits] of agent.toml, or let the plan collect less"
            yield Cause(36, "limit", what, do, text(limit, "name"))


RULES: Final[tuple[Callable[[Facts], Iterator[Cause]], ...]] = (
    buses,
    drops,
    database,
    uplinks,
    spool,
    updates,
    ledger,
    others,
)
