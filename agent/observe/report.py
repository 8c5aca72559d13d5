"""A status as text for a person."""

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any

from agent.ledger import differences


def size(n: float) -> str:
    """Bytes for people: `812 B`, `3.4 kB`, `96 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000 or unit == "GB":
            return f"{n:.0f} {unit}" if unit == "B" or n >= 10 else f"{n:.1f} {unit}"
        n /= 1000
    raise AssertionError


def batches_of(n: int) -> str:
    """`1 batch`, `412 batches`."""
    return f"{n:,} batch{'es' * (n != 1)}"


def duration(seconds: float) -> str:
    """`12 s`, `5 min`, `3 h 20 min`, `2 d 4 h`."""
    s = int(seconds)
    if s < 120:
        return f"{s} s"
    if s < 7200:
        return f"{s // 60} min"
    if s < 172_800:
        return f"{s // 3600} h {s % 3600 // 60} min"
    return f"{s // 86_400} d {s % 86_400 // 3600} h"


def table(rows: list[tuple[str, ...]], indent: str = "  ") -> Iterator[str]:
    """Columns aligned: the first to the left, all others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield indent + "  ".join(cells).rstrip()


_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "bus": (
        "received",
        "dropped",
        "filtered",
        "queued",
        "decoded",
        "remote",
        "error",
        "unknown",
        "undecodable",
    ),
    "campaign": (
        *("offered", "made", "kept", "thinned", "folded", "outside", "masked", "held", "events"),
    ),
    "uplink": (
        "kept",
        "memory",
        "lost_disk",
        "found",
        "spooled",
        "acknowledged",
        "waiting",
        "evicted",
        "quarantined",
    ),
    "report": ("sampled", "reported", "thinned", "held", "skipped", "invalid", "abnormal"),
}
_WHERE_USED = frozenset({"filtered", "made", "folded", "outside", "masked", "held", "events"})
"""Columns that are left out where they are zero throughout."""
_UNITS = {"bus": "frames", "campaign": "samples", "uplink": "samples", "report": "moments"}


def ledger_lines(counts: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Iterator[str]:
    """The ledger as tables, and whether it closes."""
    for account, every in _COLUMNS.items():
        rows = counts.get(account)
        if rows:
            shown = {c for row in rows.values() for c in every if row.get(c)}
            columns = [c for c in every if c in shown or c not in _WHERE_USED]
            yield f"{account} ({_UNITS[account]})"
            head = ("", *(c.replace("_", " ") for c in columns))
            yield from table(
                [head]
                + [(name, *(f"{row.get(c, 0):,}" for c in columns)) for name, row in rows.items()]
            )
    wrong = differences({a: {n: dict(r) for n, r in rows.items()} for a, rows in counts.items()})
    yield "The ledger closes." if not wrong else "The ledger does not close:"
    for sentence in wrong:
        yield f"  {sentence}"


def status_lines(
    status: Mapping[str, Any], before: Mapping[str, Any] | None = None
) -> Iterator[str]:
    """A running agent, for a terminal; with rates since an earlier status of the same run."""
    ota = status.get("ota")
    bundle = f" of bundle {ota['running']}" if ota and ota["running"] != "factory" else ""
    yield (
        f"vehicle {status['vehicle']}, plan {status['plan']}{bundle}, agent {status['agent']}, up "
        f"{duration(status['uptime_s'])}, clock {status['clock']}"
    )
    for bus in status["buses"]:
        rate = _frames_a_second(bus["name"], status, before)
        yield f"bus {bus['name']} ({bus['kind']}): {bus['state']}{rate}{_controller(bus)}"
    if status["ignition"]["state"] != "awake" or status["ignition"]["trouble"]:
        yield f"ignition: {status['ignition']['trouble'] or status['ignition']['state']}"
    for uplink in status["uplinks"]:
        yield f"uplink {uplink['name']}: {uplink_sentence(uplink, status['spool'])}"
        if platform := uplink.get("platform"):
            yield f"  platform: {platform_sentence(platform)}"
    if status["spool"]["trouble"]:
        yield f"spool: {status['spool']['trouble']}"
    if status["budget"]["degraded"]:
        yield f"budget: {status['budget']['degraded']}"
    if limits := status.get("limits"):
        told = ", ".join(row["said"] for row in limits["limits"])
        less = f": {limits['degraded']}" if limits["degraded"] else ""
        yield f"limits: {told or 'none'}{less}"
    if ota and (ota["trial"] or ota["trouble"] or ota["pinned"]):
        trial = ota["trial"] and f"{ota['trial']['bundle']} is on trial"
        yield f"updates: {ota['trouble'] or trial or 'pinned'}"
    for sentence in status["recognition"]["findings"]:
        yield f"vehicle: {sentence}"
    yield ""
    yield from ledger_lines(status["ledger"])


def _frames_a_second(bus: str, status: Mapping[str, Any], before: Mapping[str, Any] | None) -> str:
    if before is None or status["uptime_s"] <= before["uptime_s"]:
        return ""
    now, then = (each["ledger"]["bus"].get(bus, {}).get("received", 0) for each in (status, before))
    return f"; {(now - then) / (status['uptime_s'] - before['uptime_s']):,.0f} frames/s"


def _controller(bus: Mapping[str, Any]) -> str:
    """The load, and what a controller says where that is no good news."""
    state, errors = bus.get("controller", "unknown"), bus.get("error_frames", 0)
    load = bus.get("load_percent")
    words = [] if load is None else [f"load {load:.0f} %"]
    words += [] if state in ("unknown", "active") else [f"controller {state}"]
    if errors:
        words.append(f"{errors:,} error frames, the last: {bus['last_error']}")
    return "".join(f"; {word}" for word in words)


def uplink_sentence(
    uplink: Mapping[str, Any], spool: Mapping[str, Any], now: dt.datetime | None = None
) -> str:
    """Why something waits, or that nothing does. `now` is the time of the status, local."""
    lanes = spool["lanes"].get(uplink["name"], {}).values()
    batches, waiting = sum(v["batches"] for v in lanes), sum(v["bytes"] for v in lanes)
    backlog = f"{batches_of(batches)}, {size(waiting)} wait" if batches else "nothing waits"
    sent = f"{batches_of(uplink['sent_batches'])}, {size(uplink['sent_bytes'])} sent"
    why = f": {_why(uplink, now or dt.datetime.now().astimezone())}" if batches else ""
    until = uplink["until_s"]
    again = f" (next try in {duration(until)})" if until else ""
    credential = f"; {uplink['credential']}" if uplink.get("credential") else ""
    return f"{uplink['state']}; {backlog}{why if uplink['why'] else ''}{again}; {sent}{credential}"


_TROUBLES = {
    "refused": "refused",
    "expired": "too old",
    "undated": "without a time",
    "unsigned": "not signed",
    "commands_refused": "commands refused",
    "bad_frames": "bad frames",
}


def platform_sentence(platform: Mapping[str, Any]) -> str:
    """How the session with a platform stands, and what became of the reports of this run."""
    login = f", login {platform['serial']} of the day" if platform["serial"] else ""
    sent = (
        f"{platform['live']:,} reports live, {platform['reissued']:,} reissued, "
        f"{platform['confirmed']:,} confirmed"
    )
    more = [f"{platform[key]:,} {words}" for key, words in _TROUBLES.items() if platform[key]]
    more += [platform["trouble"]] if platform["trouble"] else []
    return "; ".join([f"{platform['session']}{login}", sent, *more])


def _why(uplink: Mapping[str, Any], now: dt.datetime) -> str:
    """The reason, with who said it and when where it is what somebody answered."""
    why, ago = str(uplink["why"]), uplink.get("answered_s_ago")
    if not why.startswith("answered ") or ago is None:
        return why
    then = now - dt.timedelta(seconds=ago)
    when = f"{then:%H:%M}" if then.date() == now.date() else f"{then:%Y-%m-%d %H:%M}"
    said, mark, rest = why.partition("; ")
    return f"{uplink['url']} {said} at {when}{mark}{rest}"
