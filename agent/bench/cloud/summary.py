"""One batch, read once, and what queries need of it.

Nothing in a batch is believed: what has the wrong form is left out.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from agent.batch import BatchReader
from agent.batch.dated import dated_event
from agent.batch.reader import unpack_anchor
from agent.bench.cloud.store import Stored, is_batch_id
from agent.blocks import KeptFrames, SignalSchema, SignalTable, TimeBase
from agent.clock import SECOND, Anchor, BootNs, best_anchor

_TITLE_CHARACTERS = 200
_FOLDED = 100_000
"""A tombstone stands for no more batches than this."""


@dataclasses.dataclass(frozen=True, slots=True)
class BatchName:
    """The parts of a batch id."""

    install: str
    run: int
    lane: str
    sequence: int

    @classmethod
    def parse(cls, batch_id: str) -> Self:
        """Raises ValueError for a text that is no batch id."""
        if not is_batch_id(batch_id):
            raise ValueError(f"{batch_id[:100]!r} is no batch id")
        install, run, lane, sequence = batch_id.split("-")
        return cls(install, int(run), lane, int(sequence))


@dataclasses.dataclass(frozen=True, slots=True)
class Moment:
    """A time and the clock that it was read from; `boot_id` tells boots apart."""

    ns: int
    clock: TimeBase
    boot_id: str

    def dated(self, anchors: Iterable[Anchor]) -> "Moment":
        """In wall time, where an anchor dates this boot."""
        if self.clock != "boot":
            return self
        anchor = best_anchor(tuple(anchors), self.boot_id)
        return Moment(self.ns + anchor.offset, "wall", self.boot_id) if anchor else self

    def json(self) -> dict[str, Any]:
        return {
            "time_ns": self.ns,
            "clock": self.clock,
            "time": iso(self.ns) if self.clock == "wall" else None,
        }

    def __str__(self) -> str:
        if self.clock == "wall":
            return iso(self.ns)
        what = "boot" if self.clock == "boot" else "the recording"
        return f"{self.ns / SECOND:.3f} s of {what}"


def iso(ns: int) -> str:
    """Nanoseconds since 1970 as ISO 8601 in UTC, to the millisecond."""
    try:
        moment = datetime.fromtimestamp(ns // SECOND, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{ns} ns"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ns % SECOND // 1_000_000:03d}Z"


@dataclasses.dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What a ledger record of a batch says."""

    at: str
    final: bool
    boot: BootNs
    stream_samples: int | None
    stream_events: int | None
    uplinks: Mapping[str, Mapping[str, int]]


@dataclasses.dataclass(frozen=True, slots=True)
class Tombstone:
    """A batch that the vehicle threw away, and why; or some of several, to the sequence `end`."""

    batch_id: str
    name: BatchName
    end: int
    samples: int
    reason: str
    uplink: str


@dataclasses.dataclass(frozen=True, slots=True)
class ToldEvent:
    """An event record as it was written: its `time` is a number, its `clock` one that there is."""

    value: Mapping[str, Any]
    boot_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Value:
    """The last sample of one signal in a batch; `raw` is exact, bytes are hexadecimal text."""

    bus: str
    message: str
    source: int | None
    signal: str
    unit: str
    raw: int | float | str
    physical: float | None
    label: str
    time: Moment

    @property
    def key(self) -> tuple[str, str, int | None, str]:
        return self.bus, self.message, self.source, self.signal


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """A batch that is here, as far as questions about it go."""

    stored: Stored
    name: BatchName
    stream: str
    previous: int | None
    uplinks: tuple[str, ...]
    plan: str
    bundle: str
    """What the bundle is called that the plan came with; empty: the factory plan."""
    begun: int
    """When it was begun on board, boot time in ns; 0 where it does not say."""
    sealed: bool
    recovered: bool
    chunks: int
    samples: int
    """With raw frames, each of which counts as one."""
    frames: int
    events: int
    lost_chunks: int
    lost_samples: int
    """Samples of which the footer tells and that cannot be read."""
    first: Moment | None
    last: Moment | None
    ledger: tuple[LedgerEntry, ...]
    tombstones: tuple[Tombstone, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    """A summary and what goes on into the state of the vehicle, so that no batch holds it."""

    summary: Summary
    anchors: tuple[Anchor, ...]
    values: tuple[Value, ...]
    events: tuple[ToldEvent, ...]


def summarise(stored: Stored) -> Content:
    """Read a batch.

    Raises:
        BatchError: the file is no batch any more, or is gone.
    """
    reader = BatchReader(stored.path)
    header = reader.header
    boot_id = _text(header.get("boot_id"))
    scan = reader.scan()
    anchors: list[Any] = []
    for part in (header, scan.footer or {}):
        found = part.get("anchors")
        anchors += found if isinstance(found, list) else []
    ledger: list[LedgerEntry] = []
    tombstones: list[Tombstone] = []
    events: list[ToldEvent] = []
    count = 0
    newest = _Newest(boot_id)
    for kind, value in reader.records():
        if kind == "samples":
            newest.add(value)
        elif kind == "frames":
            newest.add_frames(value)
        elif kind == "event":
            count += 1
            if dated_event(value, None) is not None:
                events.append(ToldEvent(value, boot_id))
        elif kind == "ledger":
            ledger.append(_ledger(value))
        elif kind == "anchor":
            anchors.append(value)
        elif kind == "tombstone" and (tombstone := _tombstone(value)):
            tombstones.append(tombstone)
    uplinks = header.get("uplinks")
    uplinks = uplinks if isinstance(uplinks, list) else []
    first, last = newest.span()
    summary = Summary(
        stored=stored,
        name=BatchName.parse(stored.batch_id),
        stream=_stream(header.get("stream")),
        previous=_count(header.get("previous")),
        uplinks=tuple(u for u in uplinks if isinstance(u, str)),
        plan=_text(header.get("plan")),
        bundle=_text(header.get("bundle"))[:_TITLE_CHARACTERS],
        begun=_begun(header.get("created")),
        sealed=scan.sealed,
        recovered=scan.recovered,
        chunks=scan.chunks,
        samples=newest.samples,
        frames=newest.frames,
        events=count,
        lost_chunks=reader.lost_chunks,
        lost_samples=max(0, (_count(scan.samples) or 0) - newest.samples),
        first=first,
        last=last,
        ledger=tuple(ledger),
        tombstones=tuple(tombstones),
    )
    whole = tuple(a for a in map(unpack_anchor, anchors) if a is not None)
    return Content(summary, whole, newest.values(), tuple(events))


class _Newest:
    """The last row of each schema of a file, how much is in it, and the times that it spans."""

    def __init__(self, boot_id: str) -> None:
        self._boot_id = boot_id
        self.samples = 0
        self.frames = 0
        self._rows: dict[int, tuple[int, SignalTable]] = {}
        self._spans: dict[TimeBase, tuple[int, int]] = {}

    def add(self, table: SignalTable) -> None:
        if not len(table):
            return
        self.samples += table.samples
        first, last = int(table.time.min()), int(table.time.max())
        self._widen(table.clock, first, last)
        # A reader gives all tables of one schema the same object, which the row keeps alive.
        known = self._rows.get(id(table.schema))
        if known is None or known[0] <= last:
            row = len(table) - 1 - int(table.time[::-1].argmax())
            self._rows[id(table.schema)] = (last, table.take(slice(row, row + 1)))

    def add_frames(self, kept: KeptFrames) -> None:
        block = kept.block
        self.samples += len(block)
        self.frames += len(block)
        self._widen(block.clock, int(block.time.min()), int(block.time.max()))

    def _widen(self, clock: TimeBase, first: int, last: int) -> None:
        span = self._spans.get(clock, (first, last))
        self._spans[clock] = min(first, span[0]), max(last, span[1])

    def span(self) -> tuple[Moment, Moment] | tuple[None, None]:
        """The first and the last time; boot time where both kinds occur in one batch."""
        for clock in ("boot", *self._spans):
            if clock in self._spans:
                first, last = self._spans[clock]
                return Moment(first, clock, self._boot_id), Moment(last, clock, self._boot_id)
        return None, None

    def values(self) -> tuple[Value, ...]:
        values: dict[Any, Value] = {}
        for time, table in sorted(self._rows.values(), key=lambda row: row[0]):
            moment = Moment(time, table.clock, self._boot_id)
            for signal in table.schema.signals:
                raw = table.raw[signal.name]
                value = Value(
                    table.bus,
                    table.message,
                    table.source,
                    signal.name,
                    signal.unit,
                    exact(raw)[0],
                    physical(signal, raw)[0],
                    label(signal, raw)[0],
                    moment,
                )
                values[value.key] = value
        return tuple(values.values())


def exact(raw: NDArray[Any]) -> list[int | float | str]:
    """A raw column for JSON: integers and floats as they are, bytes as hexadecimal text."""
    if raw.ndim == 2:
        return [bytes(row).hex() for row in raw]
    values: list[int | float | str] = raw.tolist()
    if raw.dtype.kind == "f":
        return [v if np.isfinite(v) else str(v) for v in values]
    return values


def physical(signal: SignalSchema, raw: NDArray[Any]) -> list[float | None]:
    """A column in its unit for JSON, which has no infinity and no NaN: None."""
    if signal.kind == "bytes":
        return [None] * len(raw)
    try:
        with np.errstate(all="ignore"):
            values = signal.physical(raw)
    except OverflowError:  # a scale beyond all doubles
        return [None] * len(raw)
    return [v if ok else None for v, ok in zip(values.tolist(), np.isfinite(values), strict=True)]


def label(signal: SignalSchema, raw: NDArray[Any]) -> list[str]:
    """The value-table texts of a column, else what codes mean; empty where there is neither."""
    names = dict(signal.choices)
    if not (names or signal.codes) or signal.kind == "bytes":
        return [""] * len(raw)
    meanings = [*(meaning for _, _, meaning in signal.codes), ""]
    codes = signal.code_of(raw).tolist()
    return [names.get(v, meanings[c]) for v, c in zip(raw.tolist(), codes, strict=True)]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and 0 <= value < 1 << 63 else None


def _begun(created: object) -> int:
    return (_count(created.get("boot")) or 0) if isinstance(created, dict) else 0


def _stream(value: Any) -> str:
    return "+".join(str(part) for part in value) if isinstance(value, list) else str(value or "")


def _ledger(value: Mapping[str, Any]) -> LedgerEntry:
    stream = value.get("stream")
    told = stream if isinstance(stream, dict) else {}
    samples = _count(told.get("samples"))
    run = value.get("run")
    accounts = run.get("uplink") if isinstance(run, dict) else None
    uplinks: dict[str, dict[str, int]] = {}
    for name, row in accounts.items() if isinstance(accounts, dict) else ():
        if isinstance(name, str) and isinstance(row, dict):
            uplinks[name] = {str(k): v for k, v in row.items() if isinstance(v, int)}
    return LedgerEntry(
        at=_text(value.get("at")),
        final=value.get("final") is True,
        boot=BootNs(_count(value.get("boot")) or 0),
        stream_samples=samples,
        # Where there were none, the key is absent.
        stream_events=None if samples is None else _count(told.get("events", 0)),
        uplinks=uplinks,
    )


def _tombstone(value: Mapping[str, Any]) -> Tombstone | None:
    batch_id = _text(value.get("batch_id"))
    try:
        name = BatchName.parse(batch_id)
    except ValueError:
        return None
    end = name.sequence
    with contextlib.suppress(ValueError):
        last = BatchName.parse(_text(value.get("last")))
        # What reaches into another run is known by its first batch alone.
        same = (last.install, last.run, last.lane) == (name.install, name.run, name.lane)
        if same and 0 <= last.sequence - end <= _FOLDED:
            end = last.sequence
    return Tombstone(
        batch_id,
        name,
        end,
        _count(value.get("samples")) or 0,
        _text(value.get("reason")),
        _text(value.get("uplink")),
    )
