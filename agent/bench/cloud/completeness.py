"""Is everything here? Pure: summaries and anchors in, JSON-able answers out.

Three independent facts are held against each other:

- The chain. Each batch names the sequence before it in its own stream, so a sequence that is named
  and not here is missing. What lies between belongs to this stream or to others of the lane.
- The stream's own count. The ledger at the opening and the seal of a batch counts the samples of
  the stream so far, so the samples in a gap are known exactly, even when many batches are missing.
- The run's ledger. At a clean end (`final`), the samples kept for this uplink must be here, or
  evicted by name, or counted as lost on board. This alone finds a missing end.

A tombstone explains a gap: the vehicle threw the batch away and says why. It does not make the data
complete.

A run ends `clean` (a final ledger is here), is `running` (the newest run of its installation, and
no final ledger yet), or was `cut`: a later run began and no final ledger came. What was not yet
durable at a cut is lost, and batches may still wait on board, until the ledger of a later run says
that it `found` nothing from earlier ones. A run without samples sends nothing, so a number that is
absent is a gap only until then.

`complete` means that no sample is known to be missing; the verdict says the rest. A batch that is
not here and had no samples is named as `empty` and takes nothing from that.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from agent.bench.cloud.gaps import (
    End,
    Gap,
    Ranges,
    evicted_gap,
    sentence,
    span,
    verdict_of_run,
    verdict_of_vehicle,
)
from agent.bench.cloud.summary import LedgerEntry, Moment, Summary, Tombstone
from agent.clock import Anchor

Date = Callable[[Moment | None], Moment | None]


def completeness(
    vehicle: str, summaries: Sequence[Summary], anchors: Iterable[Anchor]
) -> dict[str, Any]:
    """What is here of a vehicle, what is not, and one sentence about it."""
    known = tuple(anchors)
    here = {s.stored.batch_id for s in summaries}
    gone = [t for s in summaries for t in s.tombstones if t.batch_id not in here]

    def date(moment: Moment | None) -> Moment | None:
        return moment.dated(known) if moment else None

    runs: list[dict[str, Any]] = []
    installs = dict.fromkeys(s.name.install for s in summaries)
    for install in installs:
        mine = [s for s in summaries if s.name.install == install]
        ours = _uplinks(mine)
        evicted = {
            t.batch_id: t
            for t in gone
            if t.name.install == install and (not t.uplink or not ours or t.uplink in ours)
        }
        lost = list(evicted.values())
        numbers = {s.name.run for s in mine} | {t.name.run for t in lost}
        newest = max(s.name.run for s in mine)
        cleared = _cleared(mine, ours)
        for number in sorted(numbers):
            batches = [s for s in mine if s.name.run == number]
            stones = [t for t in lost if t.name.run == number]
            open_end: End = "running" if number == newest else "cut"
            aboard = number >= cleared
            run = _run(install, number, batches, stones, open_end, aboard=aboard, date=date)
            runs.append(run)
        runs += [
            _absent_run(install, a + 1, b - 1)
            for a, b in pairwise(sorted(numbers))
            if b > a + 1 and b > cleared
        ]
    runs.sort(key=lambda r: (list(installs).index(r["install"]), r["run"]))
    return {
        "vehicle": vehicle,
        "complete": all(r["complete"] for r in runs),
        "verdict": verdict_of_vehicle(vehicle, runs),
        "batches": len(summaries),
        "bytes": sum(s.stored.size for s in summaries),
        "samples": sum(r["samples"] for r in runs),
        "frames": sum(s.frames for s in summaries),
        "events": sum(s.events for s in summaries),
        "missing_samples": sum(r["missing_samples"] for r in runs),
        "evicted_samples": sum(r["evicted_samples"] for r in runs),
        "runs": runs,
    }


def _cleared(batches: Sequence[Summary], ours: set[str]) -> int:
    """The newest run that found nothing of earlier runs on board: all they had left was taken."""
    return max(
        (
            s.name.run
            for s in batches
            for e in s.ledger
            if ours and all(e.uplinks.get(u, {}).get("found") == 0 for u in ours)
        ),
        default=0,
    )


def _uplinks(batches: Sequence[Summary]) -> set[str]:
    """By which uplinks these batches reached us: those that every one of them was meant for."""
    sets = [set(s.uplinks) for s in batches if s.uplinks]
    if not sets:
        return set()
    return set.intersection(*sets) or set.union(*sets)


def _run(
    install: str,
    number: int,
    batches: list[Summary],
    tombstones: list[Tombstone],
    open_end: End,
    *,
    aboard: bool,
    date: Date,
) -> dict[str, Any]:
    ledger = max((e for s in batches for e in s.ledger), key=lambda e: e.boot, default=None)
    final = max(
        (e for s in batches for e in s.ledger if e.final), key=lambda e: e.boot, default=None
    )
    end: End = "clean" if final else open_end
    gaps: list[Gap] = []
    streams = []
    told: set[str] = set()
    for lane, stream in dict.fromkeys((s.name.lane, s.stream) for s in batches):
        chain = [s for s in batches if (s.name.lane, s.stream) == (lane, stream)]
        # A sequence is of the stream whose next batch names it; of one that nobody names, only
        # the lane is known.
        others = {
            n
            for s in batches
            if s.name.lane == lane and s.stream != stream
            for n in (s.name.sequence, s.previous)
            if n is not None
        }
        stones = [
            t
            for t in tombstones
            if t.name.lane == lane and t.name.sequence not in others and t.batch_id not in told
        ]
        found, row, explained = _stream(chain, others, stones, date)
        gaps += found
        told |= explained
        streams.append({"lane": lane, "stream": stream, **row})
    gaps += [evicted_gap(t) for t in tombstones if t.batch_id not in told]
    evicted = sum(t.samples for t in tombstones)
    accounts = _accounts(batches, ledger, final, evicted)
    missing = sum(g.samples or 0 for g in gaps if g.kind in ("missing", "damaged"))
    for account in accounts:
        gaps += _of_account(account, missing)
    missing = max([missing, *(a["missing"] or 0 for a in accounts)])
    times = [m for s in batches for m in (s.first, s.last) if m]
    times = [m for m in times if m.clock == "boot"] or times
    first, last = (f(times, key=lambda m: m.ns) if times else None for f in (min, max))
    samples = sum(s.samples for s in batches)
    return {
        "install": install,
        "run": number,
        "end": end,
        "complete": all(g.kind == "empty" for g in gaps),
        "verdict": verdict_of_run(
            (number, end), (len(batches), samples), gaps, date(last), aboard=aboard
        ),
        "batches": len(batches),
        "samples": samples,
        "missing_samples": missing,
        "evicted_samples": evicted,
        "first": _json(date(first)),
        "last": _json(date(last)),
        "uplinks": accounts,
        "streams": streams,
        "gaps": [g.json() for g in gaps],
    }


def _json(moment: Moment | None) -> dict[str, Any] | None:
    return moment.json() if moment else None


def _stream(
    chain: list[Summary], others: set[int], tombstones: list[Tombstone], date: Date
) -> tuple[list[Gap], dict[str, Any], set[str]]:
    """Walk one chain from sequence to sequence, comparing what each batch says of the one before.

    Gives the gaps, the stream's row of the answer, and the batch ids of the tombstones that
    explained something.
    """
    chain.sort(key=lambda s: s.name.sequence)
    evicted = sorted(tombstones, key=lambda t: t.name.sequence)
    explained: dict[str, Tombstone] = {}
    gaps: list[Gap] = []
    before: Summary | None = None
    count: int | None = 0
    events: int | None = 0
    for batch in chain:
        opening, told = _opening(batch)
        between = None if opening is None or count is None else opening - count
        untold = 0 if told is None or events is None else max(0, told - events)
        last = before.name.sequence if before else 0
        previous = last if batch.previous is None else min(batch.previous, batch.name.sequence - 1)
        lane, stream = batch.name.lane, batch.stream
        after, until = date(before.last if before else None), date(batch.first)
        if previous > last:
            stones = [t for t in evicted if last < t.name.sequence <= previous]
            explained |= {t.batch_id: t for t in stones}
            gone = {n for t in stones for n in range(t.name.sequence, t.end + 1)}
            rest = None if between is None else between - sum(t.samples for t in stones)
            # What was evicted may have told events, too.
            rest_events = 0 if stones else untold
            if rest is None or rest > 0 or previous not in gone:
                nothing = rest == 0 and not rest_events
                kind: Literal["missing", "empty"] = "empty" if nothing else "missing"
                absent = _absent(last + 1, previous, gone | others)
                text = sentence(absent, lane, rest, after, until, events=rest_events)
                gaps.append(Gap(kind, text, lane, stream, absent, rest, after, until))
            gaps += [
                dataclasses.replace(evicted_gap(t), stream=stream, after=after, before=until)
                for t in stones
            ]
        elif between is not None and between > 0:
            text = (
                f"{between:,} samples are missing before batch {batch.name.sequence} of lane "
                f"{lane}{span(after, until)}"
            )
            gaps.append(Gap("missing", text, lane, stream, [], between, after, until))
        if batch.lost_chunks or batch.lost_samples:
            text = (
                f"batch {batch.name.sequence} of lane {lane} has been damaged here: "
                f"{batch.lost_samples:,} samples cannot be read"
            )
            where = [[batch.name.sequence, batch.name.sequence]]
            gaps.append(Gap("damaged", text, lane, stream, where, batch.lost_samples))
        count = None if opening is None else opening + batch.samples + batch.lost_samples
        events = None if told is None else told + batch.events
        before = batch
    row = {
        "batches": len(chain),
        "samples": sum(s.samples for s in chain),
        "present": _ranges(s.name.sequence for s in chain),
        "missing": [r for g in gaps if g.kind == "missing" for r in g.sequences],
        "evicted": _ranges(
            n for t in explained.values() for n in range(t.name.sequence, t.end + 1)
        ),
        "recovered": _ranges(s.name.sequence for s in chain if s.recovered),
        "first": _json(date(chain[0].first)),
        "last": _json(date(chain[-1].last)),
    }
    return gaps, row, set(explained)


def _opening(batch: Summary) -> tuple[int | None, int | None]:
    """How many samples and events the stream had before this batch."""
    for entry in batch.ledger:
        if entry.stream_samples is not None:
            events = entry.stream_events
            if entry.at == "open":
                return entry.stream_samples, events
            samples = entry.stream_samples - batch.samples - batch.lost_samples
            return samples, None if events is None else events - batch.events
    return None, None


def _accounts(
    batches: list[Summary], ledger: LedgerEntry | None, final: LedgerEntry | None, evicted: int
) -> list[dict[str, Any]]:
    """Received against kept, for each uplink by which these batches came."""
    if ledger is None:
        return []
    accounts = []
    newest = final or ledger
    for uplink in sorted(_uplinks(batches)):
        row: Mapping[str, int] = newest.uplinks.get(uplink, {})
        if not row:
            continue
        received = sum(s.samples + s.lost_samples for s in batches if uplink in s.uplinks)
        lost = row.get("lost_disk", 0) + row.get("lost_end", 0)
        kept = row.get("kept", 0)
        accounts.append(
            {
                "uplink": uplink,
                "kept": kept,
                "received": received,
                "lost_on_board": lost,
                "evicted": evicted,
                # Before the end, what is still on its way cannot be told from what is missing.
                "missing": max(0, kept - lost - evicted - received) if final else None,
            }
        )
    return accounts


def _of_account(account: Mapping[str, Any], already: int) -> list[Gap]:
    gaps = []
    if account["lost_on_board"]:
        text = (
            f"{account['lost_on_board']:,} samples for uplink {account['uplink']} were lost on "
            "board before they were durable, and counted"
        )
        gaps.append(Gap("lost", text, samples=account["lost_on_board"]))
    if (rest := (account["missing"] or 0) - already) > 0:
        text = (
            f"{rest:,} of the {account['kept']:,} samples that were kept for uplink "
            f"{account['uplink']} are not here, and no batch that is here comes after them"
        )
        gaps.append(Gap("end", text, samples=rest))
    return gaps


def _absent_run(install: str, first: int, last: int) -> dict[str, Any]:
    what = f"run {first}" if first == last else f"runs {first} to {last}"
    text = f"nothing has arrived from {what}: it may have had no data, or still waits on board"
    return {
        "install": install,
        "run": first,
        "end": "cut",
        "complete": False,
        "verdict": text,
        "batches": 0,
        "samples": 0,
        "missing_samples": 0,
        "evicted_samples": 0,
        "first": None,
        "last": None,
        "uplinks": [],
        "streams": [],
        "gaps": [Gap("run", text).json()],
    }


def _ranges(numbers: Iterable[int]) -> Ranges:
    """Sorted numbers as [first, last] stretches."""
    ranges: Ranges = []
    for n in sorted(set(numbers)):
        if ranges and n == ranges[-1][1] + 1:
            ranges[-1][1] = n
        else:
            ranges.append([n, n])
    return ranges


def _absent(first: int, last: int, known: set[int]) -> Ranges:
    """The stretches of first..last that are not known; the span itself is never walked."""
    ranges: Ranges = []
    for n in [*sorted(k for k in known if first <= k <= last), last + 1]:
        if n > first:
            ranges.append([first, n - 1])
        first = n + 1
    return ranges
