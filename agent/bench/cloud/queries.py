"""What is known of each vehicle: built from batches as they arrive, rebuilt when first asked for.

The files are the truth. A vehicle's state takes in every stored batch once, in the order of
receipt; a query takes in what is new before it answers, so it never lags behind an acknowledgement.
All of it reads files and decodes, so a server calls it from threads.
"""

import fnmatch
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from agent.batch import BatchReader
from agent.batch.dated import dated
from agent.bench.cloud.completeness import completeness
from agent.bench.cloud.events import MOST, Events
from agent.bench.cloud.store import Store
from agent.bench.cloud.summary import (
    Moment,
    Summary,
    Value,
    exact,
    iso,
    label,
    physical,
    summarise,
)
from agent.bench.cloud.updates import is_update, update
from agent.blocks import SignalTable
from agent.clock import Anchor, best_anchor
from agent.errors import BatchError

_log = logging.getLogger(__name__)

MAX_SAMPLES: Final = 100_000


class _Vehicle:
    """State of one vehicle; `lock` is held by whoever reads or changes it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.seen: set[str] = set()
        self.summaries: list[Summary] = []
        self.unreadable: dict[str, str] = {}
        self.anchors: dict[Anchor, None] = {}
        self.installs: dict[str, int] = {}
        self.latest: dict[Any, tuple[tuple[int, int, int], Value]] = {}
        self.events = Events()
        self.updates = Events()
        """Of the events those that tell of updates: many others do not push them out."""
        self.newest: tuple[tuple[int, int, int], Summary] | None = None
        """The batch that was begun last on board, with its installation, run and time."""


class Catalogue:
    """Answers about the batches of a store, as JSON-able values."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._vehicles: dict[str, _Vehicle] = {}
        self._verdicts: dict[str, tuple[int, dict[str, Any]]] = {}

    def refresh(self, vehicle: str) -> None:
        """Take in the batches of a vehicle that arrived since."""
        state = self._state(vehicle)
        with state.lock:
            self._take_in(vehicle, state)

    def vehicles(self) -> list[dict[str, Any]]:
        """Every vehicle in a line: how much, since when, and whether it is complete."""
        return [self.vehicle(name) for name in self._store.vehicles()]

    def vehicle(self, name: str) -> dict[str, Any]:
        batches = self._store.batches(name)
        whole = self.completeness(name)
        newest = self._newest(name)
        return {
            "vehicle": name,
            "batches": len(batches),
            "bytes": sum(s.size for s in batches),
            "samples": whole["samples"],
            "frames": whole["frames"],
            "events": whole["events"],
            "last_received": iso(batches[-1].received) if batches else None,
            "plan": newest.plan if newest else "",
            "bundle": (newest.bundle or None) if newest else None,
            "complete": whole["complete"],
            "verdict": whole["verdict"],
            "missing_samples": whole["missing_samples"],
            "evicted_samples": whole["evicted_samples"],
            "runs": len(whole["runs"]),
            "unreadable": whole["unreadable"],
        }

    def completeness(self, vehicle: str) -> dict[str, Any]:
        """See `agent.bench.cloud.completeness`; computed again only when something arrived."""
        state = self._state(vehicle)
        with state.lock:
            self._take_in(vehicle, state)
            known = self._verdicts.get(vehicle)
            if known is None or known[0] != len(state.seen):
                answer = completeness(vehicle, state.summaries, state.anchors)
                answer["unreadable"] = dict(state.unreadable)
                if state.unreadable:
                    answer["complete"] = False
                    answer["verdict"] += (
                        f"; {len(state.unreadable)} batches can no longer be read here"
                    )
                known = self._verdicts[vehicle] = len(state.seen), answer
            return known[1]

    def latest(self, vehicle: str) -> list[dict[str, Any]]:
        """The newest value of each signal, by the order on board, not the order of arrival."""
        state = self._state(vehicle)
        with state.lock:
            self._take_in(vehicle, state)
            anchors = tuple(state.anchors)
            values = [value for _, value in state.latest.values()]
        values.sort(
            key=lambda v: (v.bus, v.message, -1 if v.source is None else v.source, v.signal)
        )
        return [_value_json(v, anchors) for v in values]

    def events(self, vehicle: str, limit: int = MOST) -> list[dict[str, Any]]:
        """What happened, the newest first: each event once, as it was told last."""
        state = self._state(vehicle)
        with state.lock:
            self._take_in(vehicle, state)
            return state.events.answer(tuple(state.anchors), limit)

    def newest_events(self, limit: int) -> list[dict[str, Any]]:
        """Of all vehicles, those that can be dated; without what tells of updates."""
        found = [
            {"vehicle": name, **event}
            for name in self._store.vehicles()
            for event in self.events(name, limit)
            if event["clock"] == "wall" and not is_update(event["event"])
        ]
        return sorted(found, key=lambda event: event["time_ns"], reverse=True)[:limit]

    def updates(self, vehicle: str, limit: int = MOST) -> list[dict[str, Any]]:
        """What the vehicle made of configuration over the air, the newest first."""
        state = self._state(vehicle)
        with state.lock:
            self._take_in(vehicle, state)
            told = state.updates.answer(tuple(state.anchors), limit)
        return [update(each) for each in told]

    def newest_updates(self, limit: int) -> list[dict[str, Any]]:
        """Of all vehicles; those that cannot be dated come last."""
        found = [
            {"vehicle": name, **each}
            for name in self._store.vehicles()
            for each in self.updates(name, limit)
        ]
        found.sort(key=lambda each: (each["clock"] == "wall", each["time_ns"]), reverse=True)
        return found[:limit]

    def _newest(self, vehicle: str) -> Summary | None:
        state = self._state(vehicle)
        with state.lock:
            return state.newest[1] if state.newest else None

    def batches(self, vehicle: str) -> list[dict[str, Any]]:
        """Every batch of a vehicle in the order of receipt."""
        state = self._state(vehicle)
        with state.lock:
            self._take_in(vehicle, state)
            anchors = tuple(state.anchors)
            summaries = list(state.summaries)
        return [_summary_json(s, anchors) for s in summaries]

    def samples(
        self,
        vehicle: str,
        patterns: Sequence[str],
        *,
        first_ns: int | None = None,
        last_ns: int | None = None,
        limit: int = MAX_SAMPLES,
    ) -> dict[str, Any]:
        """Samples of the signals that a pattern fits, in columns, `limit` of them at the most.

        Times are compared in the clock of each table: wall time where the batch can be dated.
        """
        state = self._state(vehicle)
        with state.lock:
            self._take_in(vehicle, state)
            anchors = tuple(state.anchors)
            summaries = sorted(state.summaries, key=lambda s: (s.name.run, s.name.sequence))
        columns: dict[Any, dict[str, Any]] = {}
        count = 0
        for table in _tables(summaries, anchors, first_ns, last_ns):
            for signal in table.schema.signals:
                if not fits(table, signal.name, patterns):
                    continue
                rows = table.take(slice(0, max(0, limit - count)))
                count += len(table)
                key = (table.bus, table.message, table.source, signal.name, table.clock)
                column = columns.setdefault(
                    key,
                    {
                        **dict(
                            zip(("bus", "message", "source", "signal", "clock"), key, strict=True)
                        ),
                        "unit": signal.unit,
                        **{name: [] for name in ("time_ns", "raw", "value", "label")},
                    },
                )
                raw = rows.raw[signal.name]
                column["time_ns"] += rows.time.tolist()
                column["raw"] += exact(raw)
                column["value"] += physical(signal, raw)
                column["label"] += label(signal, raw)
            if count > limit:
                break
        return {
            "vehicle": vehicle,
            "samples": min(count, limit),
            "truncated": count > limit,
            "signals": list(columns.values()),
        }

    def _state(self, vehicle: str) -> _Vehicle:
        with self._lock:
            return self._vehicles.setdefault(vehicle, _Vehicle())

    def _take_in(self, vehicle: str, state: _Vehicle) -> None:
        for stored in self._store.batches(vehicle):
            if stored.batch_id in state.seen:
                continue
            state.seen.add(stored.batch_id)
            try:
                content = summarise(stored)
            except Exception as e:  # noqa: BLE001 - one batch must not make the others unanswerable
                reason = str(e) if isinstance(e, BatchError) else f"{type(e).__name__}: {e}"
                state.unreadable[stored.batch_id] = reason
                _log.warning("batch %s cannot be read: %s", stored.batch_id, reason)
                continue
            summary = content.summary
            state.summaries.append(summary)
            state.anchors.update(dict.fromkeys(content.anchors))
            rank = state.installs.setdefault(summary.name.install, len(state.installs))
            state.events.add(rank, summary.name.run, stored.batch_id, content.events)
            updates = [told for told in content.events if is_update(told.value)]
            state.updates.add(rank, summary.name.run, stored.batch_id, updates)
            begun = rank, summary.name.run, summary.begun
            if state.newest is None or state.newest[0] <= begun:
                state.newest = begun, summary
            for value in content.values:
                order = rank, summary.name.run, value.time.ns
                known = state.latest.get(value.key)
                if known is None or known[0] <= order:
                    state.latest[value.key] = order, value


def fits(table: SignalTable, signal: str, patterns: Sequence[str]) -> bool:
    """Whether `Signal`, `Message.Signal` or `bus.Message.Signal` fits a pattern with * and ?."""
    name = f"{table.message}.{signal}"
    names = (signal, name, f"{table.bus}.{name}")
    return any(fnmatch.fnmatchcase(n, p) for p in patterns for n in names)


def _tables(
    summaries: Sequence[Summary],
    anchors: tuple[Anchor, ...],
    first_ns: int | None,
    last_ns: int | None,
) -> Iterator[SignalTable]:
    low = np.iinfo(np.int64).min if first_ns is None else first_ns
    high = np.iinfo(np.int64).max if last_ns is None else last_ns
    for summary in summaries:
        try:
            reader = BatchReader(summary.stored.path)
        except BatchError as e:
            _log.warning("%s", e)
            continue
        anchor = best_anchor(anchors, str(reader.header.get("boot_id", "")))
        for kind, value in reader.records():
            if kind != "samples":
                continue
            table = dated(value, anchor)
            inside = (table.time >= low) & (table.time <= high)
            if inside.all():
                yield table
            elif inside.any():
                yield table.take(inside)


def _value_json(value: Value, anchors: tuple[Anchor, ...]) -> dict[str, Any]:
    return {
        "bus": value.bus,
        "message": value.message,
        "source": value.source,
        "signal": value.signal,
        "value": value.physical,
        "unit": value.unit,
        "label": value.label,
        "raw": value.raw,
        **value.time.dated(anchors).json(),
    }


def _summary_json(summary: Summary, anchors: tuple[Anchor, ...]) -> dict[str, Any]:
    def when(moment: Moment | None) -> dict[str, Any] | None:
        return moment.dated(anchors).json() if moment else None

    name = summary.name
    return {
        "batch_id": summary.stored.batch_id,
        "bytes": summary.stored.size,
        "received": iso(summary.stored.received),
        "install": name.install,
        "run": name.run,
        "lane": name.lane,
        "sequence": name.sequence,
        "stream": summary.stream,
        "previous": summary.previous,
        "uplinks": summary.uplinks,
        "plan": summary.plan,
        "bundle": summary.bundle or None,
        "chunks": summary.chunks,
        "samples": summary.samples,
        "frames": summary.frames,
        "events": summary.events,
        "lost_chunks": summary.lost_chunks,
        "lost_samples": summary.lost_samples,
        "sealed": summary.sealed,
        "recovered": summary.recovered,
        "first": when(summary.first),
        "last": when(summary.last),
    }
