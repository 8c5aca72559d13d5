"""What a vehicle remembers of its configuration, and how that changes. Pure.

A `Record` says what runs, what is on trial, what was taken back, and below what the repository's
word is not taken. Every step of an update is one change of it:

    examining     a bundle is about to be read and rehearsed
    accepted      a bundle whose archive is kept goes on trial; this is its first try
    started       the process begins: one more try, or after three the bundle is taken back
    stopped       the process ends in order: that was no try
    committed     the trial did well: the bundle stays, and the one that ran is the one before it
    rejected      it did harm: what ran before runs again
    refused       a bundle is not even tried
    left          what runs is given up by hand, for the one before it, else the factory plan
    withdrawn     the same because the repository says so; it may come again
    without       an archive cannot be used: as if no bundle of it had ever been
    pinned, trust, done, reported, told

A trial runs from the moment that the record says so until it says otherwise, whatever happens to
the process in between. `running` is therefore all that a start needs to know.

Three tries are three processes that ended, or lost their power, before a verdict: the one in which
the trial began, and two more.

What a vehicle knows of the repository never sinks. A floor rises; only where the role has other
keys than it had, the new floor stands for itself (agent.ota.trusted). The floor of time rises. What
was taken back stays so, up to the newest 32.

Three changes write a report themselves, `started`, `without` and `lost`: they are made where nobody
else is there yet who could tell. The others leave it to the caller (`reported`).
"""

import hashlib
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from agent.clock import WallNs
from agent.errors import UpdateError
from agent.ota.trusted import Floor, Trusted
from agent.ota.types import BundleId

__all__ = [
    "BY_HAND",
    "FORMAT",
    "MOST_STARTS",
    "UNKNOWN",
    "BundleId",
    "Floor",
    "Record",
    "Rejected",
    "Report",
    "Trial",
    "Trusted",
    "What",
    "accepted",
    "committed",
    "done",
    "examining",
    "left",
    "lost",
    "pinned",
    "raised",
    "refused",
    "rejected",
    "reported",
    "running",
    "started",
    "stopped",
    "summary",
    "told",
    "trust",
    "unexamined",
    "withdrawn",
    "without",
]

FORMAT: Final = 1
MOST_STARTS: Final = 3
"""Tries of a bundle that come to no verdict, before it is taken back."""
MOST_REJECTED: Final = 32
MOST_DONE: Final = 256
MOST_REPORTS: Final = 64
MOST_WORDS: Final = 1000
"""Characters of a reason."""
BY_HAND: Final = "by hand"
UNKNOWN: Final = WallNs(0)
"""A time of which nobody knows whether it is right."""

What = Literal["accepted", "refused", "applied", "committed", "rolled back", "request"]


class Trial(Struct, frozen=True):
    """A bundle that runs, and may be taken back.

    Attributes:
        bundle: which.
        starts: its tries: 1 when it is accepted, one more at each start of the process.
    """

    bundle: BundleId
    starts: int


class Rejected(Struct, frozen=True):
    """A bundle that is not taken again, and why."""

    bundle: BundleId
    why: str


class Report(Struct, frozen=True):
    """What happened, until the spool has it.

    Attributes:
        id: of this report; one that comes twice says the same.
        what: the step.
        bundle: with which bundle; None where it is about none.
        why: a sentence, or what was measured.
        wall: when, or `UNKNOWN`.
    """

    id: str
    what: What
    bundle: BundleId | None
    why: str
    wall: WallNs


class Record(Struct, frozen=True):
    """All that is remembered. The defaults are a vehicle on its first day.

    Attributes:
        format: of the stored form; a higher one is of a newer agent.
        serial: counts what was stored. The store sets it.
        current: the bundle that did well last; None is the factory plan.
        previous: the one before it.
        trial: what runs instead of `current`.
        rejected: the oldest first; the newest 32.
        examined: what is being looked at, before any trial, and how often that was begun.
        pinned: nothing is taken or left until a person says so.
        floors: by role of the repository.
        time_floor: what is known to have passed.
        done: requests that were answered, the oldest first; the newest 256.
        reports: not yet in the spool, the oldest first; the newest 64.
    """

    format: int = FORMAT
    serial: int = 0
    current: BundleId | None = None
    previous: BundleId | None = None
    trial: Trial | None = None
    rejected: tuple[Rejected, ...] = ()
    examined: Trial | None = None
    pinned: bool = False
    floors: dict[str, Floor] = msgspec.field(default_factory=dict)
    time_floor: WallNs = UNKNOWN
    done: tuple[str, ...] = ()
    reports: tuple[Report, ...] = ()


def running(record: Record) -> BundleId | None:
    """Which bundle runs; None is the factory plan."""
    return record.current if record.trial is None else record.trial.bundle


# -- before a trial ---------------------------------------------------------------------------


def examining(record: Record, bundle: BundleId) -> Record:
    """A bundle is about to be read and rehearsed: that alone may end the process.

    Raises:
        UpdateError: it has, so often that the bundle is to be refused.
    """
    before = record.examined
    starts = before.starts if before is not None and before.bundle == bundle else 0
    if starts >= MOST_STARTS:
        raise UpdateError(f"the agent ended each of the {starts} times that it looked at it")
    return replace(record, examined=Trial(bundle, starts + 1))


def unexamined(record: Record) -> Record:
    """That was no fault of the bundle, and is done another time."""
    return replace(record, examined=None)


# -- a trial -----------------------------------------------------------------------------------


def accepted(record: Record, bundle: BundleId) -> Record:
    """A bundle goes on trial; its archive is kept already.

    Raises:
        UpdateError: it runs already, was taken back before, or another one is on trial.
    """
    if record.trial is not None:
        raise UpdateError(
            f"bundle {bundle.title} cannot be tried: {record.trial.bundle.title} is on trial; wait "
            "for the verdict, or take that back"
        )
    if record.current is not None and record.current.sha256 == bundle.sha256:
        raise UpdateError(f"bundle {bundle.title} runs already: there is nothing to try")
    for each in record.rejected:
        if each.bundle.sha256 == bundle.sha256:
            raise UpdateError(
                f"bundle {bundle.title} was taken back here before ({each.why}): publish a new "
                "version"
            )
    return replace(record, trial=Trial(bundle, 1), examined=None)


def started(record: Record, wall: WallNs = UNKNOWN) -> Record:
    """The process begins: one more try of what is on trial, or the end of it."""
    if record.trial is None:
        return record
    if record.trial.starts < MOST_STARTS:
        return replace(record, trial=replace(record.trial, starts=record.trial.starts + 1))
    bundle = record.trial.bundle
    why = f"it was started {record.trial.starts} times, and the agent ended each time in its trial"
    return _telling(rejected(record, why), "rolled back", bundle, why, wall)


def stopped(record: Record) -> Record:
    """The process ends in order, as when the ignition is switched off: no fault of a bundle."""
    record = unexamined(record)
    if record.trial is None:
        return record
    return replace(record, trial=replace(record.trial, starts=max(0, record.trial.starts - 1)))


def committed(record: Record) -> Record:
    """The trial did well.

    Raises:
        UpdateError: nothing is on trial.
    """
    bundle = _tried(record).bundle
    return replace(record, current=bundle, previous=record.current, trial=None)


def rejected(record: Record, why: str) -> Record:
    """What is on trial did harm, and is taken back.

    Raises:
        UpdateError: nothing is on trial.
    """
    return replace(refused(record, _tried(record).bundle, why), trial=None)


def refused(record: Record, bundle: BundleId, why: str) -> Record:
    """A bundle is not to be tried (again)."""
    others = (each for each in record.rejected if each.bundle.sha256 != bundle.sha256)
    entry = Rejected(bundle, _words(why))
    return replace(record, rejected=(*others, entry)[-MOST_REJECTED:], examined=None)


def _tried(record: Record) -> Trial:
    if record.trial is None:
        raise UpdateError("no bundle is on trial: it was taken back, or stays, already")
    return record.trial


# -- going back --------------------------------------------------------------------------------


def left(record: Record, why: str) -> Record:
    """Give up what runs, so that it is not taken again: by hand.

    From a trial the way is back to what ran before it; else to the bundle before, where there is
    one that was not taken back itself; else to the factory plan.

    Raises:
        UpdateError: the factory plan runs.
    """
    return refused(withdrawn(record), _ran(record), why)


def withdrawn(record: Record) -> Record:
    """Give up what runs, as `left` does, but so that it may be taken again.

    Raises:
        UpdateError: the factory plan runs.
    """
    _ran(record)
    if record.trial is not None:
        return replace(record, trial=None)
    return replace(record, current=_before(record), previous=None)


def without(record: Record, sha256: str, why: str, wall: WallNs = UNKNOWN) -> Record:
    """An archive cannot be used: go on with what ran before, else with the factory plan.

    It may come again: a damaged disk is no fault of the bundle. Where what runs changes by that, a
    report says so. The bundle is named by nothing any more, so whoever asks again and again comes
    to the factory plan.
    """
    gone = [
        bundle
        for bundle in (running(record), record.current, record.previous)
        if bundle is not None and bundle.sha256 == sha256
    ]
    if not gone:
        return record
    ran = running(record)
    if record.trial is not None and record.trial.bundle.sha256 == sha256:
        record = replace(record, trial=None)
    if record.previous is not None and record.previous.sha256 == sha256:
        record = replace(record, previous=None)
    if record.current is not None and record.current.sha256 == sha256:
        record = replace(record, current=_before(record), previous=None)
    if running(record) == ran:
        return record
    return _telling(record, "rolled back", gone[0], f"it cannot be used: {why}", wall)


def lost(record: Record, why: str) -> Record:
    """What was stored cannot be read any more; `record` is what is left of it."""
    return _telling(record, "rolled back", None, why, UNKNOWN)


def _ran(record: Record) -> BundleId:
    bundle = running(record)
    if bundle is None:
        raise UpdateError("the factory plan runs: there is nothing to go back to")
    return bundle


def _before(record: Record) -> BundleId | None:
    """The bundle before, if it was not taken back."""
    taken_back = {each.bundle.sha256 for each in record.rejected}
    previous = record.previous
    return None if previous is None or previous.sha256 in taken_back else previous


# -- the rest ----------------------------------------------------------------------------------


def pinned(record: Record, *, on: bool) -> Record:
    """Whether what runs is to stay whatever the repository offers."""
    return replace(record, pinned=on)


def trust(record: Record, floors: Mapping[str, Floor], wall: WallNs) -> Record:
    """A look at the repository was good; `wall` has passed for certain."""
    time_floor = max(record.time_floor, wall)
    return replace(record, floors=raised(record.floors, floors), time_floor=time_floor)


def raised(old: Mapping[str, Floor], new: Mapping[str, Floor]) -> dict[str, Floor]:
    """Floors after they were first `old` and then `new`; none sinks under the same keys."""
    floors = dict(old)
    for role, floor in new.items():
        known = floors.get(role)
        if known is None or known.keys != floor.keys or known.version < floor.version:
            floors[role] = floor
    return floors


def done(record: Record, request: str) -> Record:
    """A request was answered, or is about to be: it is not answered again."""
    others = (each for each in record.done if each != request)
    return replace(record, done=(*others, request)[-MOST_DONE:])


def reported(record: Record, report: Report) -> Record:
    """There is something to tell."""
    others = (each for each in record.reports if each.id != report.id)
    report = replace(report, why=_words(report.why))
    return replace(record, reports=(*others, report)[-MOST_REPORTS:])


def told(record: Record, ids: Collection[str]) -> Record:
    """The spool has the reports with these ids."""
    waiting = tuple(report for report in record.reports if report.id not in ids)
    return replace(record, reports=waiting)


def summary(record: Record) -> dict[str, Any]:
    """For a person or a program; fit for JSON."""

    def title(bundle: BundleId | None) -> str:
        return "factory" if bundle is None else bundle.title

    trial = record.trial
    return {
        "running": title(running(record)),
        "last_good": title(record.current),
        "previous": title(record.previous),
        "trial": trial and {"bundle": trial.bundle.title, "starts": trial.starts},
        "pinned": record.pinned,
        "rejected": [{"bundle": e.bundle.title, "why": e.why} for e in record.rejected],
    }


def _telling(record: Record, what: What, bundle: BundleId | None, why: str, wall: WallNs) -> Record:
    """With a report whose id follows from what is known here."""
    named = bundle.sha256 if bundle else ""
    text = f"{record.serial}|{what}|{named}|{why}|{wall}|{record.time_floor}"
    name = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]
    return reported(record, Report(name, what, bundle, why, wall))


def _words(text: str) -> str:
    """One line that can be shown and stored, whatever came."""
    line = " ".join(text.split())
    line = "".join(c if c.isprintable() else "?" for c in line)
    return line if len(line) <= MOST_WORDS else f"{line[: MOST_WORDS - 3]}..."
