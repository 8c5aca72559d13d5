"""An expectation and what was seen in, a finding out. Pure.

A finding is `open` as long as both ends are possible. What has a time to be reached is decided when
it is reached, or at that time; what may never happen is decided when it happens; all else at the
end.
"""

import dataclasses
import fnmatch
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, assert_never

from agent.bench.scenario.arrived import Samples
from agent.bench.scenario.figures import Figure
from agent.bench.scenario.model import (
    Complete,
    CountIs,
    EventArrives,
    Expect,
    Frames,
    LedgerCloses,
    PlatformHas,
    Recovered,
    SameAsDecoded,
    SamplesAre,
    UpdateEnds,
)
from agent.bench.scenario.seen import Seen, StepSeen

State = Literal["ok", "wrong", "open"]

_NAMED = 3
_CHARACTERS = 70
"""Of a reason; all of it is among what arrived."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """How an expectation stands: both texts are for people."""

    state: State
    expected: str
    seen: str


def judge(expect: Expect, seen: Seen) -> Finding:
    """How an expectation stands at this moment; never `open` when all is over."""
    state, said = _judged(expect, seen)
    if state == "open" and seen.over:
        state = "wrong"
    return Finding(state, words(expect), said)


def words(expect: Expect) -> str:
    """What is expected, for people."""
    match expect:
        case LedgerCloses():
            return "the ledger closes"
        case Complete(allow=allow):
            but = f", but for what was {' or '.join(allow)}, and counted" if allow else ""
            return f"the cloud has every sample{but}"
        case Frames(lost_at_most=n):
            return f"the agent read all frames but {n:,}" if n else "the agent read every frame"
        case EventArrives():
            return f"event {expect.name}: {_span(expect.at_least, expect.at_most)}{_by(expect.by)}"
        case CountIs():
            return f"{expect.of}: {_bounds(expect)}{_by(expect.by)}"
        case UpdateEnds():
            which = f" of {expect.bundle}" if expect.bundle else ""
            why = f' because "{expect.why}"' if expect.why else ""
            many = _span(expect.at_least, expect.at_most) + _by(expect.by)
            return f"updates{which} that are {expect.what}{why}: {many}"
        case SamplesAre():
            limits = (("below", expect.min), ("above", expect.max))
            none = " or ".join(f"{side} {x:g}" for side, x in limits if x is not None)
            parts = [_bounds(expect) + _by(expect.by), none and f"none is {none}"]
            return f"samples of {expect.signal}: {', '.join(part for part in parts if part)}"
        case SameAsDecoded():
            return "each signal is as in the recording, decoded directly"
        case Recovered():
            return f"after {expect.after} all works again within {expect.within:g} s"
        case PlatformHas():
            least = [
                f"{n:,} {what}"
                for n, what in (
                    (expect.live, "live"),
                    (expect.reissued, "reissued"),
                    (expect.alarms, "alarms"),
                )
                if n
            ]
            return "the platform has every report" + (
                f", at least {', '.join(least)}" if least else ""
            )
    assert_never(expect)


def _judged(expect: Expect, seen: Seen) -> tuple[State, str]:
    match expect:
        case LedgerCloses():
            return _ledger(seen)
        case Complete():
            return _complete(expect, seen)
        case Frames():
            return _frames(expect, seen)
        case EventArrives():
            return _event(expect, seen)
        case CountIs():
            value = Figure.read(expect.of).of(seen.figures)
            said = "there is no such figure" if value is None else f"{value:,.10g}"
            return _bounded(value, expect, seen), said
        case UpdateEnds():
            return _update(expect, seen)
        case SamplesAre():
            return _samples(expect, seen)
        case SameAsDecoded():
            return _same(seen)
        case Recovered():
            return _recovered(expect, seen)
        case PlatformHas():
            return _platform(expect, seen)
    assert_never(expect)


def _platform(expect: PlatformHas, seen: Seen) -> tuple[State, str]:
    told = seen.platform
    if told is None:
        return "open", "not known before the end, or there is no platform"
    alarms = len(told["alarms"])
    said = (
        f"{told['reports']:,} of {told['made']:,}: {told['live']:,} live, "
        f"{told['reissued']:,} reissued, {told['copies']:,} copies, {len(told['gaps'])} gaps, "
        f"{alarms} alarms"
    )
    if told["wrong"]:
        return "wrong", textwrap.shorten("; ".join(told["wrong"]), 4 * _CHARACTERS)
    least = (expect.live, expect.reissued, expect.alarms)
    enough = all(
        a >= b for a, b in zip((told["live"], told["reissued"], alarms), least, strict=True)
    )
    return ("ok" if enough else "wrong"), said


def _ledger(seen: Seen) -> tuple[State, str]:
    if seen.open_ledgers:
        return "wrong", _first(seen.open_ledgers)
    if not seen.over:
        return "open", ""
    if not seen.figures.ledgers:
        return "wrong", "the agent never told its ledger"
    return "ok", f"it closed in each of {seen.looks:,} looks"


def _complete(expect: Complete, seen: Seen) -> tuple[State, str]:
    if not seen.over:
        return "open", ""
    answer = seen.completeness
    if answer is None:
        return "wrong", "nothing has arrived at the cloud"
    gaps = [
        f"run {run['run']}: {gap['text']}"
        for run in answer["runs"]
        for gap in run["gaps"]
        if gap["kind"] not in ("empty", *expect.allow)
    ]
    gaps += [f"{batch}: {why}" for batch, why in answer.get("unreadable", {}).items()]
    allowed = any(gap["kind"] in expect.allow for run in answer["runs"] for gap in run["gaps"])
    if not allowed:
        gaps += seen.differences
    if gaps:
        return "wrong", _first(gaps)
    runs = answer["runs"]
    samples, batches = (sum(run[key] for run in runs) for key in ("samples", "batches"))
    if not samples:
        return "wrong", "no sample has arrived at the cloud"
    if runs[-1]["end"] != "clean":
        return "wrong", "the last ledger of the agent is not there, so nobody can tell"
    evicted = sum(run["evicted_samples"] for run in runs)
    lost = sum(account["lost_on_board"] for run in runs for account in run["uplinks"])
    but = f"; evicted and counted: {evicted:,}, lost and counted: {lost:,}" if allowed else ""
    return "ok", f"{samples:,} samples in {batches:,} batches, none is missing{but}"


def _frames(expect: Frames, seen: Seen) -> tuple[State, str]:
    if not seen.over:
        return "open", ""
    sent = int(seen.figures.bench.get("frames", 0))
    read = int(Figure.read("bus.*.read").of(seen.figures) or 0)
    said = f"the vehicle sent {sent:,} frames, the agent read {read:,}"
    return ("ok" if sent and 0 <= sent - read <= expect.lost_at_most else "wrong"), said


def _event(expect: EventArrives, seen: Seen) -> tuple[State, str]:
    mine = [e for e in seen.events if expect.name in (e.get("name"), e.get("kind"))]
    whole = [e for e in mine if e.get("complete", True)]
    n = len(whole)
    if not mine:
        others = ", ".join(sorted({str(e["name"]) for e in seen.events})) or "none"
        said = f"it did not arrive; those that did: {others}"
    elif len(whole) < len(mine):
        said = f"{n} whole, {len(mine) - n} without its end"
    else:
        said = f"{n} arrived"
    return _number(n, expect, seen), said


def _update(expect: UpdateEnds, seen: Seen) -> tuple[State, str]:
    told = [_report(each) for each in seen.updates]
    mine = [
        text
        for text, u in zip(told, seen.updates, strict=True)
        if u.get("what") == expect.what
        and fnmatch.fnmatchcase(str(u.get("bundle") or ""), expect.bundle or "*")
        and expect.why in str(u.get("why") or "")
    ]
    said = "; ".join(mine) or f"the vehicle told: {'; '.join(told) or 'nothing'}"
    return _number(len(mine), expect, seen), said


def _report(update: Mapping[str, Any]) -> str:
    text = f"{update.get('bundle') or 'an update'} {update.get('what')}"
    why = str(update.get("why") or "")
    why = textwrap.shorten(why, _CHARACTERS, placeholder=" ...")
    return f"{text} ({why})" if why else text


def _samples(expect: SamplesAre, seen: Seen) -> tuple[State, str]:
    total, fit = Samples(), 0
    for name, samples in seen.signals.items():
        if fnmatch.fnmatchcase(name.partition("@")[0], expect.signal):
            total.take(samples)
            fit += 1
    if not total.count:
        # Bounds of values ask for a value.
        counted = any(x is not None for x in (expect.at_least, expect.at_most, expect.equals))
        said = "no sample" if fit else "no signal of this name"
        found: State = _bounded(0, expect, seen) if counted else _reached(False, None, seen)
        return found, f"{said} is at the cloud"
    low, high = total.minimum, total.maximum
    said = f"{total.count:,} samples" + (f" of {fit} signals" if fit > 1 else "")
    if low is not None and high is not None:
        said += f" from {low:.6g} to {high:.6g}"
    below = expect.min is not None and low is not None and low < expect.min
    above = expect.max is not None and high is not None and high > expect.max
    return ("wrong" if below or above else _bounded(total.count, expect, seen)), said


def _same(seen: Seen) -> tuple[State, str]:
    if not seen.over or seen.compared is None:
        return "open", "" if not seen.over else "it was not compared"
    if seen.compared:
        return "wrong", _first(seen.compared)
    return "ok", f"{len(seen.signals):,} signals were compared"


def _recovered(expect: Recovered, seen: Seen) -> tuple[State, str]:
    mine = [step for step in seen.steps if step.do == expect.after]
    late = [step for step in mine if not _in_time(step, expect, seen)]
    if late:
        return "wrong", f"{_recovery(late[0])} (line {late[0].line})"
    if not seen.over:
        return "open", ""
    return "ok", "; ".join(_recovery(step) for step in mine)


def _in_time(step: StepSeen, expect: Recovered, seen: Seen) -> bool:
    """Whether it can still be, or was, in time."""
    if step.back_s is None:
        return not seen.over
    if step.recovered_s is None:
        return not seen.over and seen.at_s - step.back_s <= expect.within
    return step.recovered_s <= expect.within


def _recovery(step: StepSeen) -> str:
    if step.back_s is None:
        return "it was never taken back"
    if step.recovered_s is None:
        return f"over at {step.back_s:.1f} s, and nothing worked again since"
    return f"over at {step.back_s:.1f} s, all worked again {step.recovered_s:.1f} s later"


def _bounded(value: float | None, expect: CountIs | SamplesAre, seen: Seen) -> State:
    if value is None:
        return _reached(False, expect.by, seen)
    if expect.by is not None and expect.at_least is not None:
        reached = _reached(value >= expect.at_least, expect.by, seen)
        if reached != "ok" or (expect.at_most is None and expect.equals is None):
            return reached
    if not seen.over:
        return "open"
    low = expect.at_least is None or value >= expect.at_least
    high = expect.at_most is None or value <= expect.at_most
    same = expect.equals is None or value == expect.equals
    return "ok" if low and high and same else "wrong"


def _number(n: int, expect: EventArrives | UpdateEnds, seen: Seen) -> State:
    """Of what comes and never goes."""
    if expect.at_most is not None and n > expect.at_most:
        return "wrong"
    reached = _reached(n >= expect.at_least, expect.by, seen)
    if reached == "ok" and expect.at_most is not None and not seen.over:
        return "open"
    return reached


def _reached(so: bool, by: float | None, seen: Seen) -> State:
    if by is None:
        return ("ok" if so else "wrong") if seen.over else "open"
    if so:
        return "ok"
    return "wrong" if seen.over or seen.at_s >= by else "open"


def _span(low: int, high: int | None) -> str:
    if high is None:
        return f"at least {low}"
    return f"{low}" if low == high else f"{low} to {high}"


def _bounds(expect: CountIs | SamplesAre) -> str:
    parts: Iterable[tuple[str, Any]] = (
        ("exactly", expect.equals),
        ("at least", expect.at_least),
        ("at most", expect.at_most),
    )
    return " and ".join(f"{what} {bound:,.10g}" for what, bound in parts if bound is not None)


def _by(by: float | None) -> str:
    return f" by {by:g} s" if by is not None else ""


def _first(sentences: Sequence[str]) -> str:
    more = f"; and {len(sentences) - _NAMED} more" if len(sentences) > _NAMED else ""
    return "; ".join(sentences[:_NAMED]) + more
