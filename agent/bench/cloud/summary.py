"""One batch, read once, and what queries need of it.

Reading is in two steps. `read` decodes the file: its samples as tables, and of all else an extract,
which is plain data that can be kept (`agent.bench.cloud.shelf`). `content` makes a summary of an
extract, at once or after a restart. Nothing in either is believed: what has the wrong form is left
out.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from agent.batch import BatchReader
from agent.batch.dated import dated_event
from agent.batch.reader import unpack_anchor
from agent.bench.cloud.store import Stored, is_batch_id
from agent.blocks import Int64, SignalSchema, SignalTable, TableSchema, TimeBase, concatenate
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
class Summary:
    """A batch that is here, as far as questions about it go."""

    stored: Stored
    name: BatchName
    boot_id: str
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
    events: tuple[ToldEvent, ...]
    ledgers: tuple[Mapping[str, Any], ...]
    """The ledger records as they were written."""


def read(stored: Stored) -> tuple[dict[str, Any], list[SignalTable]]:
    """Decode a batch: the extract, and the tables, one for each schema (more where it is large).

    Raises:
        BatchError: the file is no batch any more, or is gone.
    """
    reader = BatchReader(stored.path)
    scan = reader.scan()
    header = {key: reader.header[key] for key in _HEADER if key in reader.header}
    footer = scan.footer or {}
    told: dict[str, list[Any]] = {"ledger": [], "tombstone": [], "event": [], "anchor": []}
    for part in (reader.header, footer):
        found = part.get("anchors")
        told["anchor"] += found if isinstance(found, list) else []
    samples = frames = 0
    spans: dict[TimeBase, list[int]] = {}
    gathered = _Gathered()
    for kind, value in reader.records():
        if kind == "samples":
            if len(value):
                samples += value.samples
                _widen(spans, value.clock, value.time)
                gathered.add(value)
        elif kind == "frames":
            samples += len(value)
            frames += len(value)
            _widen(spans, value.block.clock, value.block.time)
        elif kind == "reports":
            samples += len(value)
            _widen(spans, value.clock, value.time)
        elif kind in told:
            told[kind].append(value)
    extract = {
        "header": header,
        "sealed": scan.sealed,
        "recovered": scan.recovered,
        "chunks": scan.chunks,
        "promised": scan.samples,
        "lost_chunks": reader.lost_chunks,
        "samples": samples,
        "frames": frames,
        "spans": spans,
        **told,
    }
    return extract, gathered.tables()


_HEADER: Final = ("boot_id", "stream", "previous", "uplinks", "plan", "bundle", "created")
_ROOM_BYTES: Final = 64 << 20
"""Decoded samples of one schema lie together as far as this goes."""


class _Gathered:
    """The tables of a file, joined by schema, in pieces of bounded size."""

    def __init__(self) -> None:
        self._groups: dict[tuple[TableSchema, str], list[SignalTable]] = {}
        self._done: list[SignalTable] = []
        self._bytes = 0

    def add(self, table: SignalTable) -> None:
        self._groups.setdefault((table.schema, table.campaign), []).append(table)
        self._bytes += table.nbytes
        if self._bytes > _ROOM_BYTES:
            self.tables()

    def tables(self) -> list[SignalTable]:
        self._done += [concatenate(group) for group in self._groups.values()]
        self._groups.clear()
        self._bytes = 0
        return self._done


def _widen(spans: dict[TimeBase, list[int]], clock: TimeBase, time: Int64) -> None:
    first, last = int(time.min()), int(time.max())
    span = spans.setdefault(clock, [first, last])
    span[:] = min(first, span[0]), max(last, span[1])


def content(stored: Stored, extract: Mapping[str, Any]) -> Content:
    """What queries need of an extract."""
    header = extract["header"]
    boot_id = _text(header.get("boot_id"))
    uplinks = header.get("uplinks")
    uplinks = uplinks if isinstance(uplinks, list) else []
    samples = extract["samples"]
    first, last = _span(extract["spans"], boot_id)
    events = extract["event"]
    summary = Summary(
        stored=stored,
        name=BatchName.parse(stored.batch_id),
        boot_id=boot_id,
        stream=_stream(header.get("stream")),
        previous=_count(header.get("previous")),
        uplinks=tuple(u for u in uplinks if isinstance(u, str)),
        plan=_text(header.get("plan")),
        bundle=_text(header.get("bundle"))[:_TITLE_CHARACTERS],
        begun=_begun(header.get("created")),
        sealed=extract["sealed"],
        recovered=extract["recovered"],
        chunks=extract["chunks"],
        samples=samples,
        frames=extract["frames"],
        events=len(events),
        lost_chunks=extract["lost_chunks"],
        lost_samples=max(0, (_count(extract["promised"]) or 0) - samples),
        first=first,
        last=last,
        ledger=tuple(map(_ledger, extract["ledger"])),
        tombstones=tuple(t for t in map(_tombstone, extract["tombstone"]) if t is not None),
    )
    anchors = tuple(a for a in map(unpack_anchor, extract["anchor"]) if a is not None)
    told = tuple(ToldEvent(e, boot_id) for e in events if dated_event(e, None) is not None)
    return Content(summary, anchors, told, tuple(extract["ledger"]))


def _span(
    spans: Mapping[TimeBase, Sequence[int]], boot_id: str
) -> tuple[Moment, Moment] | tuple[None, None]:
    """The first and the last time; boot time where both kinds occur in one batch."""
    for clock in ("boot", *spans):
        if clock in spans:
            first, last = spans[clock]
            return Moment(first, clock, boot_id), Moment(last, clock, boot_id)
    return None, None


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
