"""Batches of the spool as reports that are lent to a session, until nothing of a batch is owed.

    outbox.next --read--> open --lend--> lent --confirmed, dropped--> settled --> the outbox again
                   |        ^              |
                   |        +- link ends --+
                   +--> set aside for a while: this boot has no time yet, or the disk failed

A few batches are open at a time, bounded by their number and bytes, and the earliest reports of all
of them go first: what a level-3 alarm brings out of the time before it was stored after reports
that are later. So one batch more is read than the next loan needs.

What becomes of a batch whose reports are all settled, in the ledger by report:

    confirmed   acknowledged
    expired     evicted; a batch of nothing else is evicted from the outbox as by the quota
    refused, or without a time, or of another edition, or unreadable
                quarantined; one such report puts the file in quarantine, so that a person can look,
                though the others of it are counted as what they are

The reports that were confirmed live are known by their keys until their batch comes by. That memory
is bounded and ends with the process; what it forgets goes out twice.

Everything belongs to the event loop; the disk is touched in threads. Files and ledger change in one
call in one thread: who is cancelled leaves nothing half done.
"""

import asyncio
import dataclasses
import enum
import heapq
import itertools
import logging
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from agent.batch import BatchReader
from agent.blocks import Reports
from agent.clock import Anchor, Clock
from agent.errors import BatchError
from agent.gbt32960.codec import Codec
from agent.gbt32960.layout import Layout
from agent.ledger import Ledger
from agent.spool.outbox import Outbox
from agent.spool.parcel import Parcel
from agent.uplink.gbt32960.dates import Dates
from agent.uplink.gbt32960.rows import FORMS, Keys, Row, row_of

_log = logging.getLogger("edge_agent.uplink")

_MOST_OPEN: Final = 8
_MOST_BYTES: Final = 8 << 20
_MOST_KNOWN: Final = 20_000
"""Reports that were settled before their batch was sealed."""
_READS: Final = 3
"""So often the disk may fail at a batch."""
_ELSEWHERE: Final = 64
"""In so many other batches an anchor of an old boot is looked for."""


class ReportOutbox(Outbox, Protocol):
    """An outbox from which one batch may be evicted."""

    def evict(self, reason: str, parcel: Parcel | None = None) -> Parcel | None:
        """Give up this batch; None where it had gone before."""
        ...


class Fate(enum.Enum):
    """What became of a report."""

    CONFIRMED = "confirmed"
    EXPIRED = "too old to be reissued"
    REFUSED = "refused by the platform"
    UNDATED = "without a time, as the clock of that boot was never known"
    UNFIT = "of another edition, or too long for a frame"
    LOST = "not readable"


_LOSSES: Final = (Fate.REFUSED, Fate.UNDATED, Fate.UNFIT, Fate.LOST)


class _NoTimeYetError(Exception):
    """A batch of this boot cannot be dated yet."""


@dataclasses.dataclass(slots=True)
class _Open:
    """A batch that was read; `order` are the keys of what is owed, from `begun` on not lent."""

    parcel: Parcel
    owed: dict[int, Row]
    fates: Counter[Fate]
    order: list[int] = dataclasses.field(default_factory=list)
    begun: int = 0
    nbytes: int = 0

    def rewind(self) -> None:
        self.order, self.begun = sorted(self.owed), 0
        self.nbytes = sum(len(row.data) for row in self.owed.values())

    def left(self) -> Iterator[int]:
        places = range(self.begun, len(self.order))
        return (key for key in map(self.order.__getitem__, places) if key in self.owed)


class Reissue:
    """Of one uplink.

    Args:
        uplink: its name.
        outbox: where its batches wait.
        ledger: counts reports.
        clock: of this boot.
        dates: date reports.
        layout: the edition that the platform speaks; reports of an older one go to it, too.
    """

    def __init__(
        self,
        uplink: str,
        outbox: ReportOutbox,
        ledger: Ledger,
        clock: Clock,
        dates: Dates,
        *,
        layout: Layout,
    ) -> None:
        self._uplink = uplink
        self._outbox = outbox
        self._ledger = ledger
        self._clock = clock
        self._dates = dates
        self._layout = layout
        self._keys = Keys(clock.boot_id)
        self._open: dict[str, _Open] = {}
        self._aside: set[str] = set()
        self._failed: Counter[str] = Counter()
        self._known: OrderedDict[int, Fate] = OrderedDict()
        self.counts: Counter[str] = Counter()
        """Reports by the name of their fate, and `batches` and `quarantined_batches`."""
        self.trouble = ""
        """What the spool does wrong now; empty when all is well."""

    # -- live reports ------------------------------------------------------------------------

    def rows(self, reports: Reports) -> list[Row | None]:
        """Reports that were just made, as rows; None where one has no time or fits no frame."""
        keys = self._keys.of(reports, self._clock.boot_id, Counter())
        offset = self._dates.offset
        return [
            self._fit(row_of(key, time, body, reports, offset))
            for key, time, body in zip(keys, reports.time.tolist(), reports.bodies, strict=True)
        ]

    def _fit(self, row: Row | None) -> Row | None:
        return row if row is not None and self._speaks(row.codec) else None

    def _speaks(self, codec: Codec) -> bool:
        return codec.layout.name <= self._layout.name

    # -- lending -----------------------------------------------------------------------------

    async def lend(self, limit: int) -> list[Row]:
        """The earliest reports that are owed and not lent, `limit` at most.

        They count as lent when this returns. Empty: nothing more for now.
        """
        self.trouble = ""
        while self._room() and (self._lacks(limit) or not self._ahead()):
            if not await self._read_next():
                break
        chosen = list(itertools.islice(self._left(), limit))
        for key, batch in chosen:
            batch.begun = batch.order.index(key, batch.begun) + 1
        return [batch.owed[key] for key, batch in chosen]

    def _lacks(self, limit: int) -> bool:
        return sum(1 for _ in itertools.islice(self._left(), limit)) < limit

    def _left(self) -> Iterator[tuple[int, _Open]]:
        """What is not lent, by key."""

        def of(batch: _Open) -> Iterator[tuple[int, _Open]]:
            return ((key, batch) for key in batch.left())

        return heapq.merge(*map(of, self._open.values()), key=lambda pair: pair[0])

    def _ahead(self) -> bool:
        """Whether a batch is open of which nothing is lent."""
        return any(batch.owed and not batch.begun for batch in self._open.values())

    def _room(self) -> bool:
        nbytes = sum(batch.nbytes for batch in self._open.values())
        return not self._open or (len(self._open) < _MOST_OPEN and nbytes < _MOST_BYTES)

    def ended(self) -> None:
        """The connection has ended: what is owed may be lent again."""
        for batch in self._open.values():
            batch.rewind()

    def give_back(self, keys: Iterable[int]) -> None:
        """These were lent and not sent: they may be lent again."""
        back = set(keys)
        for batch in self._open.values():
            if mine := back & batch.owed.keys():
                batch.order, batch.begun = sorted(mine.union(batch.left())), 0

    def look_again(self) -> None:
        """The clock is better known, or time has passed: batches set aside are read again."""
        self._aside.clear()

    async def owes(self) -> bool:
        """Whether there is something to lend: not what is set aside, nor what is settled."""
        if any(batch.owed for batch in self._open.values()):
            return True
        but = frozenset((*self._open, *self._aside))
        return await asyncio.to_thread(self._outbox.next, but) is not None

    async def _read_next(self) -> bool:
        """Open one batch more; False where there is none."""
        but = frozenset((*self._open, *self._aside))
        parcel: Parcel | None = None
        try:
            parcel = await asyncio.to_thread(self._outbox.next, but)
            if parcel is None:
                return False
            batch = await asyncio.to_thread(self._read, parcel)
        except _NoTimeYetError:
            assert parcel is not None  # noqa: S101  only reading one says so
            self._aside.add(parcel.batch_id)
            return True
        except BatchError as e:
            assert parcel is not None  # noqa: S101  the same
            await self._unreadable(parcel, e)
            return True
        except OSError as e:
            self.trouble = f"the spool cannot be read: {e.strerror or e}"
            return False
        self._open[parcel.batch_id] = batch
        # What was settled live while the file was read is among these, too.
        for key in list(batch.owed):
            if (fate := self._known.pop(key, None)) is not None:
                self._settled(batch, key, fate)
        batch.rewind()
        return True

    async def _unreadable(self, parcel: Parcel, error: BatchError) -> None:
        cause = error.__cause__
        if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
            self._failed[parcel.batch_id] += 1
            if self._failed[parcel.batch_id] < _READS:
                self.trouble = str(error)
                self._aside.add(parcel.batch_id)
                return
        fates = Counter({Fate.LOST: parcel.samples})
        self._open[parcel.batch_id] = _Open(parcel, {}, fates)
        _log.debug("uplink %s: %s", self._uplink, error)

    def _read(self, parcel: Parcel) -> _Open:
        """In a thread.

        Raises:
            BatchError: it cannot be read.
            _NoTimeYetError: it is of this boot, and its clock is not known.
        """
        reader = BatchReader(parcel.path)
        boot_id = str(reader.header.get("boot_id", ""))
        offset = self._dates.offset_of(reader)
        batch = _Open(parcel, {}, Counter())
        places: Counter[int] = Counter()
        found = 0
        for kind, reports in reader.records():
            if kind != "reports":
                continue
            found += len(reports)
            if reports.clock == "boot" and offset is None:
                if boot_id == self._clock.boot_id:
                    raise _NoTimeYetError
                offset = self._elsewhere(parcel, boot_id)
                if offset is None:
                    batch.fates[Fate.UNDATED] += len(reports)
                    continue
            self._take(batch, reports, boot_id, places, offset)
        if reader.lost_chunks:
            batch.fates[Fate.LOST] = max(0, parcel.samples - found)
        return batch

    def _take(
        self,
        batch: _Open,
        reports: Reports,
        boot_id: str,
        places: Counter[int],
        offset: int | None,
    ) -> None:
        keys = self._keys.of(reports, boot_id, places)
        for key, time, body in zip(keys, reports.time.tolist(), reports.bodies, strict=True):
            row = row_of(key, time, body, reports, offset)
            if row is not None and self._speaks(row.codec):
                batch.owed[key] = row
                continue
            fits = reports.form in FORMS and self._speaks(FORMS[reports.form])
            # What fits and is no row has a time that no frame can say, or is too long.
            fate = Fate.UNDATED if fits and row is None else Fate.UNFIT
            batch.fates[fate] += 1

    def _elsewhere(self, parcel: Parcel, boot_id: str) -> int | None:
        """The clock of an old boot, as other batches of it say that wait as well."""
        but = {parcel.batch_id}
        anchors: list[Anchor] = []
        for _ in range(_ELSEWHERE):
            other = self._outbox.next(frozenset(but))
            if other is None:
                break
            but.add(other.batch_id)
            if other.born is None or other.born.boot_id == boot_id:
                try:
                    anchors += BatchReader(other.path).anchors()
                except BatchError:
                    continue
        return self._dates.of_other(boot_id, anchors)

    # -- what became of reports --------------------------------------------------------------

    def settle(self, key: int, fate: Fate) -> None:
        """The session says what became of a report, live or lent."""
        self.counts[fate.name.lower()] += 1
        for batch in self._open.values():
            if key in batch.owed:
                self._settled(batch, key, fate)
                return
        self._known[key] = fate
        while len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)

    def _settled(self, batch: _Open, key: int, fate: Fate) -> None:
        row = batch.owed.pop(key)
        batch.nbytes -= len(row.data)
        batch.fates[fate] += 1

    def wants(self, key: int) -> bool:
        """Whether this report is still owed."""
        return any(key in batch.owed for batch in self._open.values())

    @property
    def settled(self) -> bool:
        """Whether there is something to `close`."""
        return any(not batch.owed for batch in self._open.values())

    async def close(self) -> int:
        """Close the batches of which nothing is owed; gives how many.

        Raises:
            OSError: the disk; what is left is tried again with the next call.
        """
        n = 0
        for batch_id, batch in list(self._open.items()):
            if not batch.owed:
                await asyncio.to_thread(self._close, batch)
                self._open.pop(batch_id, None)
                self._failed.pop(batch_id, None)
                self.counts["batches"] += 1
                n += 1
        return n

    def _close(self, batch: _Open) -> None:
        """In a thread, files and ledger together."""
        parcel, fates, total = batch.parcel, batch.fates, batch.parcel.samples
        lost = min(total, sum(fates[fate] for fate in _LOSSES))
        evicted = min(total - lost, fates[Fate.EXPIRED])
        if any(fates[fate] for fate in _LOSSES):
            reason = _reason(fates, total)
            closed = self._outbox.quarantine(parcel, reason)
            if closed:
                self.counts["quarantined_batches"] += 1
                _log.warning(
                    "uplink %s: %s is in quarantine: %s", self._uplink, parcel.batch_id, reason
                )
        elif evicted and evicted == total:
            closed = self._outbox.evict(f"evicted: {Fate.EXPIRED.value}", parcel) is not None
        else:
            closed = self._outbox.acknowledge(parcel)
        if closed:  # one that was evicted meanwhile is in the ledger already
            self._ledger.add(
                "uplink",
                self._uplink,
                waiting=-total,
                acknowledged=total - lost - evicted,
                evicted=evicted,
                quarantined=lost,
            )


def _reason(fates: Counter[Fate], total: int) -> str:
    parts = [f"{fates[fate]:,} {fate.value}" for fate in _LOSSES if fates[fate]]
    return f"of {total:,} reports {', '.join(parts)}"
