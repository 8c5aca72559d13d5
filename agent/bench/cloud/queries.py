"""What is known of each vehicle: built from batches as they arrive, rebuilt when first asked for.

The files are the truth. A vehicle's state takes in every stored batch once, in the order of
receipt; a query takes in what is new before it answers, so it never lags behind an acknowledgement.
Where that would take longer than `patience_s` it answers with what there is so far, and `behind`
says how many batches that leaves out. All of it reads files and decodes, so a server calls it from
threads.
"""

import fnmatch
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from agent.batch import BatchReader
from agent.batch.dated import dated
from agent.bench.cloud.columns import MOST_SAMPLES, ROOM_BYTES, Columns
from agent.bench.cloud.completeness import completeness
from agent.bench.cloud.events import MOST, plain
from agent.bench.cloud.latest import Latest
from agent.bench.cloud.series import Question, series
from agent.bench.cloud.shelf import Shelf, Shelves, pack, unpack, unpack_schemas
from agent.bench.cloud.state import Told, VehicleState
from agent.bench.cloud.store import Store, Stored
from agent.bench.cloud.summary import (
    Content,
    Moment,
    Summary,
    content,
    exact,
    iso,
    label,
    physical,
    read,
)
from agent.bench.cloud.updates import update
from agent.blocks import SignalTable
from agent.clock import Anchor, best_anchor
from agent.errors import BatchError
from agent.ledger import differences

_log = logging.getLogger(__name__)

MAX_SAMPLES: Final = 100_000
_BACKLOG: Final = 20
"""Batches. Where more are not read yet, waiting does not help a question much."""
_BACKLOG_PATIENCE_S: Final = 0.1


class _Vehicle(VehicleState):
    """The state of a vehicle, and answers that are good until the next batch."""

    def __init__(self) -> None:
        super().__init__()
        self.latest = Latest()
        self.verdict: tuple[int, dict[str, Any]] | None = None
        """The revision, and what was said about completeness then."""
        self.no_wait_until = 0.0
        """A question has waited in vain: until then others do not."""


class Catalogue:
    """Answers about the batches of a store, as JSON-able values."""

    def __init__(
        self,
        store: Store,
        *,
        patience_s: float | None = None,
        room_bytes: int = ROOM_BYTES,
        most_samples: int = MOST_SAMPLES,
    ) -> None:
        """`patience_s` bounds how long a question waits for batches that are not read yet.

        `room_bytes` is what decoded columns may take, `most_samples` what is read at once.
        """
        self._store = store
        self._patience_s = patience_s
        self._shelves = Shelves(store.root / "shelves")
        self._columns = Columns(self._shelves, room_bytes, most_samples)
        self._lock = threading.Lock()
        self._vehicles: dict[str, _Vehicle] = {}
        self._unwritten = False

    @property
    def decoded_bytes(self) -> int:
        """What decoded columns take in memory."""
        return self._columns.nbytes

    def refresh(self, vehicle: str, patience_s: float | None = None) -> int:
        """Take in batches of a vehicle that arrived since; how many are left after `patience_s`."""
        state = self._known(vehicle)
        self._take_in(vehicle, state, patience_s)
        return self._behind(vehicle, state)

    def has(self, vehicle: str) -> bool:
        return self._store.count(vehicle) > 0

    def behind(self, vehicle: str) -> int:
        """How many batches have arrived and are not in answers yet."""
        return self._behind(vehicle, self._known(vehicle))

    def revision(self, vehicle: str) -> str:
        """What changes when an answer about this vehicle may; takes in what is new."""
        state = self._state(vehicle)
        return f"{state.revision}.{self._behind(vehicle, state)}"

    def revisions(self) -> str:
        """As `revision`, of the fleet; takes in nothing."""
        names = self._store.vehicles()
        here = sum(map(self._store.count, names))
        return f"{len(names)}.{here}.{sum(self._known(name).revision for name in names)}"

    def vehicles(self) -> list[dict[str, Any]]:
        """Every vehicle in a line: how much, since when, and whether it is complete."""
        return [self._line(name, self._state(name)) for name in self._store.vehicles()]

    def vehicle(self, name: str) -> dict[str, Any]:
        """The line, how the vehicle is, and its ledger, as far as batches tell."""
        state = self._state(name)
        line = self._line(name, state)
        with state.lock:
            anchors = tuple(state.anchors)
            health, database, ledger = state.health, state.database, state.ledger
        told = health.value if health else {}
        return {
            **line,
            "health": _told_json(health, anchors, "record"),
            "buses": plain(told.get("buses") or {}),
            "findings": _told_json(database, anchors, "report"),
            "ledger": _ledger_json(ledger, anchors),
        }

    def _line(self, name: str, state: _Vehicle) -> dict[str, Any]:
        whole = self._verdict(name, state)
        with state.lock:
            newest = state.newest[1] if state.newest else None
            count, size, received = len(state.seen), state.bytes, state.received
        return {
            "vehicle": name,
            "revision": count,
            "behind": whole["behind"],
            "batches": count,
            "bytes": size,
            "samples": whole["samples"],
            "frames": whole["frames"],
            "events": whole["events"],
            "last_received": iso(received) if count else None,
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
        return self._verdict(vehicle, self._state(vehicle))

    def _verdict(self, vehicle: str, state: _Vehicle) -> dict[str, Any]:
        behind = self._behind(vehicle, state)
        with state.lock:
            known = state.verdict
            if known is None or known[0] != state.revision:
                answer = completeness(vehicle, state.summaries, state.anchors)
                answer["unreadable"] = dict(state.unreadable)
                if state.unreadable:
                    answer["complete"] = False
                    answer["verdict"] += (
                        f"; {len(state.unreadable)} batches can no longer be read here"
                    )
                known = state.verdict = state.revision, answer
        answer = {**known[1], "behind": behind}
        if behind:
            answer["complete"] = False
            answer["verdict"] += f"; {behind} batches have arrived and are not read yet"
        return answer

    def latest(self, vehicle: str) -> list[dict[str, Any]]:
        """The newest value of each signal, by the order on board, not the order of arrival."""
        state = self._state(vehicle)
        return state.latest.answer(state, self._columns)

    def series(self, vehicle: str, question: Question) -> dict[str, Any]:
        """Points of signals for a chart; see `agent.bench.cloud.series`.

        Raises:
            QueryError: the question cannot be answered.
        """
        question.checked()
        state = self._state(vehicle)
        answer = series(vehicle, state, self._columns, question)
        return {**answer, "behind": self._behind(vehicle, state)}

    def events(self, vehicle: str, limit: int = MOST) -> list[dict[str, Any]]:
        """What happened, the newest first: each event once, as it was told last."""
        state = self._state(vehicle)
        with state.lock:
            return state.events.answer(tuple(state.anchors), limit)

    def updates(self, vehicle: str, limit: int = MOST) -> list[dict[str, Any]]:
        """What the vehicle made of configuration over the air, the newest first."""
        state = self._state(vehicle)
        with state.lock:
            told = state.updates.answer(tuple(state.anchors), limit)
        return [update(each) for each in told]

    def batches(self, vehicle: str) -> list[dict[str, Any]]:
        """Every batch of a vehicle in the order of receipt."""
        state = self._state(vehicle)
        with state.lock:
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

    def _known(self, vehicle: str) -> _Vehicle:
        with self._lock:
            return self._vehicles.setdefault(vehicle, _Vehicle())

    def _state(self, vehicle: str) -> _Vehicle:
        """The state of a vehicle with what is new, as far as patience goes."""
        state = self._known(vehicle)
        patience_s = self._patience_s
        if patience_s is None:
            self._take_in(vehicle, state, None)
        elif time.monotonic() >= state.no_wait_until:
            self._take_in(vehicle, state, patience_s)
            if self._behind(vehicle, state):
                state.no_wait_until = time.monotonic() + patience_s
        return state

    def _behind(self, vehicle: str, state: _Vehicle) -> int:
        return max(0, self._store.count(vehicle) - state.revision)

    def _take_in(self, vehicle: str, state: _Vehicle, patience_s: float | None) -> None:
        behind = self._behind(vehicle, state)
        if not behind:
            return
        if patience_s is not None and behind > _BACKLOG:
            patience_s = min(patience_s, _BACKLOG_PATIENCE_S)
        until = None if patience_s is None else time.monotonic() + patience_s
        if not state.taking.acquire(timeout=-1 if patience_s is None else patience_s):
            return
        try:
            for stored in self._store.batches(vehicle):
                if stored.batch_id in state.seen:
                    continue
                self._take(state, stored)
                if until is not None and time.monotonic() > until:
                    return
        finally:
            state.taking.release()

    def _take(self, state: _Vehicle, stored: Stored) -> None:
        taken: tuple[Content, Shelf] | None = None
        reason = ""
        try:
            taken = self._read(state, stored)
        except Exception as e:  # noqa: BLE001 - one batch must not make the others unanswerable
            reason = str(e) if isinstance(e, BatchError) else f"{type(e).__name__}: {e}"
            _log.warning("batch %s cannot be read: %s", stored.batch_id, reason)
        with state.lock:
            state.seen.add(stored.batch_id)
            state.bytes += stored.size
            state.received = max(state.received, stored.received)
            if taken is None:
                state.unreadable[stored.batch_id] = reason
            else:
                state.add(*taken)

    def _read(self, state: _Vehicle, stored: Stored) -> tuple[Content, Shelf]:
        """A batch by its shelf, which is made where there is none; its schemas are learnt."""
        shelf = self._shelves.head(stored)
        if shelf is None or not self._learn(state, stored, shelf):
            data = pack(stored, *read(stored))
            shelf = unpack(data, stored, whole=True)
            written = self._shelves.keep(stored, data)
            if written == self._unwritten:  # said when it begins, and when it is over
                self._unwritten = not written
                _log.warning("shelves can %sbe written", "" if written else "not ")
            if not self._learn(state, stored, shelf):
                raise BatchError(f"{stored.batch_id}: its schemas cannot be read")
        return content(stored, shelf.extract), shelf

    def _learn(self, state: _Vehicle, stored: Stored, shelf: Shelf) -> bool:
        """Whether all schemas of a shelf are known now."""
        if all(digest in state.ids for digest in shelf.digests):
            return True
        offset, size = shelf.schemas
        try:
            if shelf.data is not None:
                packed = shelf.data[offset : offset + size]
            else:
                (packed,) = self._shelves.read(stored, [shelf.schemas])
            schemas = unpack_schemas(packed)
        except (OSError, BatchError):
            return False
        with state.lock:
            state.learn(schemas)
        return all(digest in state.ids for digest in shelf.digests)


def _told_json(told: Told | None, anchors: tuple[Anchor, ...], name: str) -> dict[str, Any] | None:
    if told is None:
        return None
    when = told.moment.dated(anchors).json()
    return {"batch_id": told.batch_id, **when, name: plain(told.value)}


def _ledger_json(told: Told | None, anchors: tuple[Anchor, ...]) -> dict[str, Any] | None:
    """The totals of a run by account, name and counter, and the sums that do not close."""
    if told is None:
        return None
    install, run, _ = told.batch_id.split("-", 2)
    totals = _totals(told.value.get("run"))
    return {
        "batch_id": told.batch_id,
        "install": install,
        "run": int(run),
        "at": plain(told.value.get("at")),
        "final": told.value.get("final") is True,
        **told.moment.dated(anchors).json(),
        "totals": totals,
        "differences": differences(totals),
    }


def _totals(value: object) -> dict[str, dict[str, dict[str, int]]]:
    """Counters from outside; what has another form is left out."""
    if not isinstance(value, Mapping):
        return {}
    return {
        str(account): {
            str(name): {str(counter): count for counter, count in row.items() if type(count) is int}
            for name, row in rows.items()
            if isinstance(row, Mapping)
        }
        for account, rows in value.items()
        if isinstance(rows, Mapping)
    }


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
