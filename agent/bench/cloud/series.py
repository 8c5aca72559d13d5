"""One or more signals over a stretch of time, as points for a chart.

What is asked for is named `Message.Signal` or `bus.Message.Signal`, with `@source` behind it where
one sender (of J1939) is meant; a name that fits several signals gives a series of each, as `latest`
has a row of each.

An answer is of one clock: `wall` where a part of what was asked for can be dated, else `recorded`,
else `boot`, which then is the boot that came last. `clocks` says what else there is.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from agent.batch.columns import ReadSchema
from agent.bench.cloud.columns import TIME, Columns, Table
from agent.bench.cloud.state import Key, VehicleState
from agent.bench.cloud.summary import Summary
from agent.bench.cloud.thinning import bucket_ends, gap_of, in_order, thin, width_for
from agent.blocks import Float64, Int64, SignalSchema
from agent.clock import MILLISECOND, Anchor, best_anchor
from agent.errors import AgentError

MOST_SIGNALS: Final = 32
LEAST_POINTS: Final = 10
MOST_POINTS: Final = 4000
USUAL_POINTS: Final = 1000

SignalKind = Literal["number", "state", "text"]
Clock = tuple[str, str]
"""`wall`, `recorded` or `boot`, and of the last the boot id."""

_FARTHEST: Final = 1 << 62
_TEXT_CHARACTERS: Final = 200


class QueryError(AgentError):
    """A question that is not answered; its text says why, to whoever asked."""


def kind_of(signal: SignalSchema) -> SignalKind:
    """How a signal is to be shown: as a line, as steps between named states, or as text."""
    if signal.kind == "bytes":
        return "text"
    named = [raw for raw, _ in signal.choices if not _is_code(signal, raw)]
    if signal.bits == 1 or (len(named) >= 2 and not signal.unit):
        return "state"
    return "number"


def choices_of(signal: SignalSchema) -> dict[str, str]:
    """The texts of a value table by physical value, written as JavaScript writes numbers."""
    if signal.kind == "bytes":
        return {}
    found = {}
    for raw, text in signal.choices:
        try:
            value = raw * signal.scale + signal.offset
            found[str(int(value)) if value == int(value) else repr(value)] = text
        except (OverflowError, ValueError):
            continue
    return found


def _is_code(signal: SignalSchema, raw: int) -> bool:
    return any(first <= raw <= last for first, last, _ in signal.codes)


def id_of(key: Key, signal: str) -> str:
    """The name that fits this signal alone."""
    bus, message, source = key
    return f"{bus}.{message}.{signal}{'' if source is None else f'@{source}'}"


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """What is asked; times in ns of the clock of the answer."""

    signals: Sequence[str]
    first_ns: int | None = None
    last_ns: int | None = None
    points: int = USUAL_POINTS
    clock: str = ""
    """Empty: as the module says."""
    boot_id: str = ""

    def checked(self) -> "Question":
        """Itself.

        Raises:
            QueryError: it cannot be answered, whatever there is.
        """
        if not self.signals:
            raise QueryError("name signals: ?signal=Message.Signal, once for each")
        if len(self.signals) > MOST_SIGNALS:
            raise QueryError(f"{len(self.signals)} signals; ask for {MOST_SIGNALS} at the most")
        if not LEAST_POINTS <= self.points <= MOST_POINTS:
            raise QueryError(f"points is a number from {LEAST_POINTS} to {MOST_POINTS}")
        if self.clock not in ("", "wall", "recorded", "boot"):
            raise QueryError("clock is wall, recorded or boot")
        if self.first_ns is not None and self.last_ns is not None and self.first_ns > self.last_ns:
            raise QueryError("from is later than to")
        return self


@dataclasses.dataclass(frozen=True, slots=True)
class _Found:
    """A signal that was asked for, and the places of the tables that have it."""

    asked: str
    key: Key
    name: str
    signal: SignalSchema
    """As it was described last."""
    schemas: tuple[int, ...]


class _View:
    """What a state knows of the signals of one question, copied, so that ingest goes on."""

    def __init__(self, state: VehicleState, question: Question) -> None:
        self.revision = state.revision
        self.found: list[_Found] = []
        self.unknown: list[str] = []
        self.schemas: dict[int, ReadSchema] = {}
        self.places: dict[int, Int64] = {}
        for asked in dict.fromkeys(question.signals):
            found = list(_named(state, asked))
            self.found += found
            if not found:
                self.unknown.append(asked)
            if len(self.found) > MOST_SIGNALS:
                raise QueryError(
                    f"the names fit more than {MOST_SIGNALS} signals; name the bus and the source "
                    "too: bus.Message.Signal@source"
                )
        for number in {n for each in self.found for n in each.schemas}:
            self.schemas[number] = state.schemas[number]
            self.places[number] = state.places_of(number)
        self.batches: list[Summary] = state.summaries[:]
        self.ranks = [state.rank(summary) for summary in self.batches]
        by_name = sorted(
            range(len(self.batches)),
            key=lambda i: (self.ranks[i], *_sequence(self.batches[i])),
        )
        self.rank_of = np.empty(len(by_name), np.intp)
        """Of each batch its place in the order on board: of equal times the later one is last."""
        self.rank_of[by_name] = np.arange(len(by_name))
        anchors = tuple(state.anchors)
        names = [summary.boot_id for summary in self.batches]
        boots = {boot: number for number, boot in enumerate(dict.fromkeys(names))}
        offsets = [_offset(anchors, boot) for boot in boots]
        self._boot = np.array([boots[name] for name in names], np.intp)
        self._offset = np.array([offset or 0 for offset in offsets], np.int64)
        self._clocks: list[Clock] = [
            ("boot", boot) if offset is None else ("wall", "")
            for boot, offset in zip(boots, offsets, strict=True)
        ]

    def by_clock(self, schema: int) -> Iterator[tuple[Clock, Int64, Int64]]:
        """The places of a schema, by the clock of the answer, and what dates each of them."""
        places = self.places[schema]
        clock = self.schemas[schema].table.clock
        if clock != "boot":
            yield (clock, ""), places, np.zeros(len(places), np.int64)
            return
        boot = self._boot[places[:, 0]]
        by_clock: dict[Clock, list[int]] = {}
        for number in np.unique(boot).tolist():
            by_clock.setdefault(self._clocks[number], []).append(number)
        for found, numbers in by_clock.items():
            mine = np.isin(boot, numbers)
            yield found, places[mine], self._offset[boot[mine]]


def _sequence(batch: Summary) -> tuple[int, str, int]:
    return batch.name.run, batch.name.lane, batch.name.sequence


def _offset(anchors: tuple[Anchor, ...], boot_id: str) -> int | None:
    anchor = best_anchor(anchors, boot_id)
    return anchor.offset if anchor and abs(anchor.offset) < _FARTHEST else None


def _named(state: VehicleState, asked: str) -> Iterator[_Found]:
    """The signals that a name fits. DBC names have no dots, but names of buses may."""
    for key, numbers in state.keys.items():
        bus, message, source = key
        tail = "" if source is None else f"@{source}"
        for prefix in (f"{message}.", f"{bus}.{message}."):
            name = asked.removeprefix(prefix)
            if name == asked:
                continue
            name = name.removesuffix(tail)
            having = tuple(n for n in numbers if name in state.schemas[n].table.place)
            if having:
                newest = max(having, key=lambda n: state.last[n].order if n in state.last else ())
                signal = state.schemas[newest].table.by_name[name]
                text = signal.kind == "bytes"
                same = tuple(
                    n
                    for n in having
                    if (state.schemas[n].table.by_name[name].kind == "bytes") == text
                )
                yield _Found(asked, key, name, signal, same)
                break


@dataclasses.dataclass(frozen=True, slots=True)
class _Window:
    """What of which clock is asked for, in ns, as far as there is something."""

    clock: Clock
    low: int
    high: int


def series(
    vehicle: str, state: VehicleState, columns: Columns, question: Question
) -> dict[str, Any]:
    """The answer, as JSON can say it; `state` is locked only while its index is copied.

    Raises:
        QueryError: what is asked is too much.
        BatchError, OSError: a batch is gone.
    """
    with state.lock:
        view = _View(state, question)
    spans = _spans(view)
    clock = _clock(question, spans)
    first, last = spans.get(clock, (0, -1))
    low = first if question.first_ns is None else max(first, question.first_ns)
    high = last if question.last_ns is None else min(last, question.last_ns)
    width = width_for(low, high, question.points) if low <= high else 1
    groups: dict[Key, list[_Found]] = {}
    for each in view.found:
        groups.setdefault(each.key, []).append(each)
    answers = {
        (found.key, found.name): _answer(found.signal, time, value, question.points, width)
        for group in groups.values()
        for found, time, value in _samples(view, columns, group, _Window(clock, low, high))
    }
    there = [
        {
            "clock": name,
            "boot_id": boot_id or None,
            "from": begin / MILLISECOND,
            "to": end / MILLISECOND,
        }
        for (name, boot_id), (begin, end) in spans.items()
    ]
    return {
        "vehicle": vehicle,
        "revision": view.revision,
        "clock": clock[0],
        "boot_id": clock[1] or None,
        "from": first / MILLISECOND if clock in spans else None,
        "to": last / MILLISECOND if clock in spans else None,
        "clocks": there,
        "unknown": view.unknown,
        "signals": [
            {
                "signal": each.asked,
                "id": id_of(each.key, each.name),
                "bus": each.key[0],
                "message": each.key[1],
                "source": each.key[2],
                "unit": each.signal.unit,
                "choices": choices_of(each.signal),
                **answers[each.key, each.name],
            }
            for each in view.found
        ],
    }


def _spans(view: _View) -> dict[Clock, tuple[int, int]]:
    """From when to when there is something of these signals, by clock; the newest boot last."""
    spans: dict[Clock, tuple[int, int]] = {}
    newest: dict[Clock, tuple[int, int]] = {}
    for schema in view.places:
        for clock, places, shift in view.by_clock(schema):
            if not len(places):
                continue
            first = int((places[:, 1] + shift).min())
            last = int((places[:, 2] + shift).max())
            low, high = spans.get(clock, (first, last))
            spans[clock] = min(low, first), max(high, last)
            runs = {
                (view.ranks[ordinal], view.batches[ordinal].name.run)
                for ordinal in places[:, 0].tolist()
            }
            newest[clock] = max({*runs, newest.get(clock, (0, 0))})
    return {clock: spans[clock] for clock in sorted(spans, key=lambda c: newest[c])}


def _clock(question: Question, spans: Mapping[Clock, Any]) -> Clock:
    for name in [question.clock] if question.clock else ["wall", "recorded", "boot"]:
        fit = [c for c in spans if c[0] == name and c[1].startswith(question.boot_id)]
        if fit:
            return fit[-1]
    return question.clock or "wall", question.boot_id


def _samples(
    view: _View, columns: Columns, group: Sequence[_Found], window: _Window
) -> Iterator[tuple[_Found, Int64, NDArray[Any]]]:
    """Of each signal of a message what lies in the window, by time."""
    schemas = dict.fromkeys(n for each in group for n in each.schemas)
    places = np.concatenate([_inside(view, n, window) for n in schemas])
    rows = int(places[:, _ROWS].sum())
    if rows * len(group) > columns.most_samples:
        raise QueryError(
            f"{rows:,} rows of {group[0].key[1]} lie in this stretch; ask for a shorter one, or "
            "for fewer signals"
        )
    ordinals = places[:, _ORDINAL]
    order = np.lexsort((places[:, _OFFSET], view.rank_of[ordinals], places[:, _FIRST]))
    places = places[order]
    of_batch, of_schema = places[:, _ORDINAL].tolist(), places[:, _SCHEMA].tolist()
    tables = [
        Table(view.batches[ordinal].stored, offset, size, view.schemas[schema])
        for ordinal, schema, offset, size in zip(
            of_batch,
            of_schema,
            places[:, _OFFSET].tolist(),
            places[:, _SIZE].tolist(),
            strict=True,
        )
    ]
    read = columns.get(tables, [each.name for each in group])
    shifts = places[:, _SHIFT].tolist()
    for each in group:
        mine = [i for i, schema in enumerate(of_schema) if schema in each.schemas]
        if not mine:
            yield each, np.zeros(0, np.int64), np.zeros(0)
            continue
        times = np.concatenate([read[i][TIME] + shifts[i] for i in mine])
        time, values = in_order(times, _joined([read[i][each.name] for i in mine]))
        begin = np.searchsorted(time, window.low)
        end = np.searchsorted(time, window.high, side="right")
        yield each, time[begin:end], values[begin:end]


_ORDINAL, _FIRST, _ROWS, _OFFSET, _SIZE, _SHIFT, _SCHEMA = range(7)
"""What `_inside` gives of a table."""


def _inside(view: _View, schema: int, window: _Window) -> Int64:
    """The tables of a schema that overlap the window, int64[n, 7], as the numbers above say.

    `_SHIFT` makes times those of the answer; `_FIRST` is one already.
    """
    found = [np.zeros((0, 7), np.int64)]
    for clock, places, shift in view.by_clock(schema):
        if clock == window.clock:
            first, last = places[:, 1] + shift, places[:, 2] + shift
            ordinal, rows, offset, size = (places[:, i] for i in (0, 3, 4, 5))
            number = np.full(len(places), schema)
            table = np.stack([ordinal, first, rows, offset, size, shift, number], axis=1)
            found.append(table[(first <= window.high) & (last >= window.low)])
    return np.concatenate(found)


def _joined(values: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Columns of one signal; payloads that differ in width are filled with zeros."""
    if values[0].ndim == 1:
        return np.concatenate(values)
    width = max(v.shape[1] for v in values)
    return np.concatenate([np.pad(v, ((0, 0), (0, width - v.shape[1]))) for v in values])


def _answer(
    signal: SignalSchema, time: Int64, value: NDArray[Any], points: int, width: int
) -> dict[str, Any]:
    if value.ndim == 2:
        ends = bucket_ends(time, points, width)
        gap_ns = gap_of(np.diff(time))
        texts = [text_of(bytes(row)) for row in value[ends]]
        shown = {"t": _ms(time[ends]), "min": [], "max": [], "last": texts}
    else:
        thinned = thin(time, value, points, width)
        gap_ns = thinned.gap_ns
        shown = {
            "t": _ms(thinned.time),
            "min": _numbers(thinned.least),
            "max": _numbers(thinned.greatest),
            "last": _numbers(thinned.last),
        }
    bucketed = len(time) > points
    # Points are further apart than samples by up to the width of a bucket.
    gap_ns += width if bucketed else 0
    return {
        "kind": kind_of(signal),
        **shown,
        "samples": len(time),
        "bucket": width / MILLISECOND if bucketed else None,
        "gap": gap_ns / MILLISECOND,
    }


def text_of(payload: bytes) -> str:
    """What a payload says: text where it is text, else its bytes in hexadecimal."""
    stripped = payload.rstrip(b"\0\xff ")
    try:
        text = stripped.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    shown = text if text.isprintable() and text else payload.hex()
    return shown[:_TEXT_CHARACTERS]


def _ms(time: Int64) -> list[int | float]:
    """Milliseconds; whole numbers where all of them are."""
    whole, rest = np.divmod(time, MILLISECOND)
    # Apart, because a double cannot hold the nanoseconds since 1970.
    ms: list[int | float] = (whole + rest / MILLISECOND if rest.any() else whole).tolist()
    return ms


def _numbers(values: Float64) -> list[float | None]:
    """For JSON, which has no NaN."""
    missing = np.isnan(values)
    if not missing.any():
        plain: list[float | None] = values.tolist()
        return plain
    boxed = values.astype(object)
    boxed[missing] = None
    found: list[float | None] = boxed.tolist()
    return found
