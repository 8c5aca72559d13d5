"""What is known of one vehicle, and where in which shelf its samples lie.

The state takes in every batch once, whatever the order of arrival. It holds no sample: of each
table of each batch it knows the span of time and the place in the shelf (48 bytes), so that a
question reads what overlaps and has the signal, and nothing else. A schema is held once, however
many batches have it.
"""

import threading
from array import array
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from agent.batch.columns import ReadSchema
from agent.bench.cloud.events import Events
from agent.bench.cloud.shelf import Shelf
from agent.bench.cloud.summary import Content, Moment, Summary, ToldEvent
from agent.bench.cloud.updates import is_update
from agent.blocks import Int64
from agent.clock import Anchor

Order = tuple[int, int, int]
"""Installation (by its first arrival), run, time on board: what is newer has the higher one."""
Key = tuple[str, str, int | None]
"""Bus, message and source: whose signals are named together."""

FIELDS: Final = 6
"""Of a place: ordinal of the batch, first, last, rows, offset, size."""


class Newest(NamedTuple):
    """Where the last row of a schema lies."""

    order: Order
    ordinal: int
    offset: int
    size: int


class Told(NamedTuple):
    """A record that replaces earlier ones of its kind."""

    order: Order
    batch_id: str
    value: Mapping[str, Any]
    moment: Moment


class VehicleState:
    """State of one vehicle; `lock` is held by whoever reads or changes it."""

    def __init__(self) -> None:
        self.taking = threading.Lock()
        """Held by the one thread that takes batches in; `lock` only while it adds one."""
        self.lock = threading.Lock()
        self.seen: set[str] = set()
        self.bytes = 0
        self.received = 0
        """When the last batch came, wall time in ns."""
        self.summaries: list[Summary] = []
        """In the order in which they were taken in: a place in it is an ordinal."""
        self.unreadable: dict[str, str] = {}
        self.anchors: dict[Anchor, None] = {}
        self.installs: dict[str, int] = {}
        self.events = Events()
        self.updates = Events()
        """Of the events those that tell of updates: many others do not push them out."""
        self.health: Told | None = None
        self.database: Told | None = None
        """What was found out about the vehicle and its database files."""
        self.ledger: Told | None = None
        self.newest: tuple[Order, Summary] | None = None
        """The batch that was begun last on board."""
        self.schemas: list[ReadSchema] = []
        self.ids: dict[bytes, int] = {}
        """Digest of a schema -> its place in `schemas`."""
        self.keys: dict[Key, list[int]] = {}
        self.places: list[array[int]] = []
        """Of each schema, `FIELDS` numbers for each table that there is of it."""
        self.last: dict[int, Newest] = {}

    @property
    def revision(self) -> int:
        """Grows with each batch; equal revisions of one process give equal answers."""
        return len(self.seen)

    def places_of(self, schema: int) -> Int64:
        """A copy, int64[n, FIELDS]."""
        return np.array(self.places[schema], np.int64).reshape(-1, FIELDS)

    def rank(self, summary: Summary) -> int:
        return self.installs.setdefault(summary.name.install, len(self.installs))

    def learn(self, schemas: Mapping[bytes, ReadSchema]) -> None:
        """Schemas by their digests."""
        for digest, schema in schemas.items():
            if digest not in self.ids:
                number = self.ids[digest] = len(self.schemas)
                self.schemas.append(schema)
                self.places.append(array("q"))
                table = schema.table
                self.keys.setdefault((table.bus, table.message, table.source), []).append(number)

    def add(self, content: Content, shelf: Shelf) -> None:
        """Take in a batch whose schemas have all been learnt."""
        summary = content.summary
        name = summary.name
        batch_id = summary.stored.batch_id
        ordinal = len(self.summaries)
        self.summaries.append(summary)
        self.anchors.update(dict.fromkeys(content.anchors))
        rank = self.rank(summary)
        kept = [told for told in content.events if not is_health(told.value)]
        self.events.add(rank, name.run, batch_id, kept)
        updates = [told for told in content.events if is_update(told.value)]
        self.updates.add(rank, name.run, batch_id, updates)
        for told in content.events:
            self._note(rank, name.run, batch_id, told)
        for record in content.ledgers:
            boot = record.get("boot")
            ns = boot if type(boot) is int and 0 <= boot < 1 << 63 else 0
            moment = Moment(ns, "boot", summary.boot_id)
            self.ledger = _newer(self.ledger, (rank, name.run, ns), batch_id, record, moment)
        begun = rank, name.run, summary.begun
        if self.newest is None or self.newest[0] <= begun:
            self.newest = begun, summary
        for digest, place in zip(shelf.digests, shelf.places.tolist(), strict=True):
            schema = self.ids[digest]
            first, last, rows, offset, size = place
            self.places[schema].extend((ordinal, first, last, rows, offset, size))
            order = rank, name.run, last
            known = self.last.get(schema)
            if known is None or known.order <= order:
                self.last[schema] = Newest(order, ordinal, offset, size)

    def _note(self, rank: int, run: int, batch_id: str, told: ToldEvent) -> None:
        value = told.value
        order = rank, run, value["time"]
        moment = Moment(value["time"], value["clock"], told.boot_id)
        if is_health(value):
            self.health = _newer(self.health, order, batch_id, value, moment)
        elif value.get("name") == "database" and not value.get("campaign"):
            self.database = _newer(self.database, order, batch_id, value, moment)


def is_health(event: Mapping[str, Any]) -> bool:
    """Whether an event is a health record; a campaign may have events of that kind, too."""
    return event.get("kind") == "health" and not event.get("campaign")


def _newer(
    known: Told | None, order: Order, batch_id: str, value: Mapping[str, Any], moment: Moment
) -> Told:
    if known is not None and known.order > order:
        return known
    return Told(order, batch_id, value, moment)
