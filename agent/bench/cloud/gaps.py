"""A gap in the data, and the sentences that say of a gap, a run and a vehicle how it stands."""

import dataclasses
from typing import Any, Literal

from agent.bench.cloud.summary import Moment, Tombstone

Ranges = list[list[int]]
End = Literal["clean", "running", "cut"]

_MAX_NAMED = 20


@dataclasses.dataclass(frozen=True, slots=True)
class Gap:
    """Samples that are not here. `samples` is None where nothing tells how many."""

    kind: Literal["missing", "empty", "evicted", "lost", "end", "damaged", "run"]
    text: str
    lane: str = ""
    stream: str = ""
    sequences: Ranges = dataclasses.field(default_factory=list)
    samples: int | None = None
    after: Moment | None = None
    before: Moment | None = None

    def json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "text": self.text,
            "lane": self.lane,
            "stream": self.stream,
            "sequences": self.sequences,
            "samples": self.samples,
            "after": self.after.json() if self.after else None,
            "before": self.before.json() if self.before else None,
        }


def evicted_gap(tombstone: Tombstone) -> Gap:
    name = tombstone.name
    what = f"batch {name.sequence}"
    if tombstone.end > name.sequence:
        what = f"batches between {name.sequence} and {tombstone.end}"
    return Gap(
        "evicted",
        f"the vehicle evicted {what} of lane {name.lane} with "
        f"{tombstone.samples:,} samples ({tombstone.reason or 'no reason given'})",
        name.lane,
        "",
        [[name.sequence, tombstone.end]],
        tombstone.samples,
    )


def verdict_of_run(
    name: tuple[int, End],
    here: tuple[int, int],
    gaps: list[Gap],
    last: Moment | None,
    *,
    aboard: bool,
) -> str:
    number, end = name
    what = "{:,} batches with {:,} samples are here".format(*here)
    ends = {
        "clean": "the run ended cleanly",
        "running": f"the run goes on, last heard of up to {last or 'its start'}",
        "cut": f"the run ended without a word after {last or 'its start'}: what was not yet "
        "durable then is lost, and "
        + ("batches may still wait on board" if aboard else "nothing of it waits on board"),
    }
    gaps = [g for g in gaps if g.kind != "empty"]
    if not gaps:
        whole = {"clean": "complete", "running": "complete so far", "cut": "no gap"}
        return f"run {number}: {whole[end]}: {what}, and {ends[end]}"
    named = "; ".join(g.text for g in gaps[:3])
    more = f"; and {len(gaps) - 3} more gaps" if len(gaps) > 3 else ""
    return f"run {number}: incomplete: {named}{more}; {what}, and {ends[end]}"


def verdict_of_vehicle(vehicle: str, runs: list[dict[str, Any]]) -> str:
    bad = [r for r in runs if not r["complete"]]
    cut = [r for r in runs if r["end"] == "cut" and r["complete"]]
    aside = ""
    if cut:
        names = ", ".join(str(r["run"]) for r in cut[:_MAX_NAMED])
        aside = f"; {'run' if len(cut) == 1 else 'runs'} {names} ended without a word"
    if bad:
        part = f"{len(bad)} of {_runs(len(runs))}"
        return f"{vehicle}: incomplete: {part}; {bad[-1]['verdict']}{aside}"
    running = " so far" if any(r["end"] == "running" for r in runs) else ""
    return f"{vehicle}: complete{running}: {_runs(len(runs))} without a gap{aside}"


def _runs(n: int) -> str:
    return f"{n} run{'s'[: n != 1]}"


def sentence(
    absent: Ranges,
    lane: str,
    samples: int | None,
    after: Moment | None,
    until: Moment | None,
    *,
    events: int = 0,
) -> str:
    names = [str(a) if a == b else f"{a} to {b}" for a, b in absent[:_MAX_NAMED]]
    what = ("batch " if len(names) == 1 and absent[0][0] == absent[0][1] else "batches ") + (
        ", ".join(names) or "of unknown number"
    )
    count = "" if samples is None else f" with {max(samples, 0):,} samples"
    if events:
        count += f"{' and' if count else ' with'} {events:,} event record{'s'[: events > 1]}"
    return f"{what} of lane {lane}{count} missing{span(after, until)}"


def span(after: Moment | None, until: Moment | None) -> str:
    if after and until:
        return f", between {after} and {until}"
    return f", before {until}" if until else ""
