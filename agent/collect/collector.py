"""Campaigns at work on the tables of a block."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from agent.blocks import SignalTable, TableSchema
from agent.collect.plan import CompiledCampaign, Plan
from agent.ledger import Ledger
from agent.settings import Lane
from agent.signals.database import ANY_BUS, SignalPath

Destination = tuple[Lane, tuple[str, ...]]
"""A lane and the uplinks for which something is kept."""

_Series = tuple[str, str, int | None, tuple[str, ...]]
"""Bus, message, source and signals: what is thinned together."""


class _Campaign:
    def __init__(self, campaign: CompiledCampaign) -> None:
        self.campaign = campaign
        self._schemas: dict[TableSchema, TableSchema | None] = {}
        self._cells: dict[_Series, int] = {}

    def schema(self, schema: TableSchema) -> TableSchema | None:
        """What this campaign wants of a table; None where it wants nothing."""
        if schema not in self._schemas:
            wanted = self.campaign.signals
            names = [
                name
                for name in schema.names
                if SignalPath(schema.bus, schema.message, name) in wanted
                or SignalPath(ANY_BUS, schema.message, name) in wanted
            ]
            if len(names) == len(schema.names):
                self._schemas[schema] = schema
            else:
                self._schemas[schema] = schema.subset(names) if names else None
        return self._schemas[schema]

    def wanted(self, tables: Iterable[SignalTable]) -> list[SignalTable]:
        """What this campaign wants of tables."""
        found = []
        for table in tables:
            schema = self.schema(table.schema)
            if schema is not None:
                found.append(table if schema is table.schema else table.select(schema))
        return found

    def thin(self, tables: Sequence[SignalTable]) -> list[SignalTable]:
        """The first row of each interval.

        Tables of the same signals (of frames of other lengths, of branches whose own signals are
        not wanted) are one series: what is kept does not depend on what else is decoded.
        """
        series: dict[_Series, list[SignalTable]] = {}
        for table in tables:
            key = (table.bus, table.message, table.source, table.names)
            series.setdefault(key, []).append(table)
        return [kept for key, parts in series.items() for kept in self._thin(key, parts)]

    def _thin(self, key: "_Series", parts: Sequence[SignalTable]) -> Iterator[SignalTable]:
        times = parts[0].time if len(parts) == 1 else np.concatenate([t.time for t in parts])
        order = np.argsort(times, kind="stable") if len(parts) > 1 else slice(None)
        cells = times[order] // self.campaign.every_ns
        before = self._cells.get(key)
        first = np.empty(len(cells), bool)
        first[0] = before is None or cells[0] != before
        np.not_equal(cells[1:], cells[:-1], out=first[1:])
        if parts[0].schema.entries:
            begins = np.diff(times[order], prepend=times[order][0] - 1) != 0
            first = first[begins][np.cumsum(begins) - 1]
        self._cells[key] = int(cells[-1])
        chosen = np.empty(len(cells), bool)
        chosen[order] = first
        begin = 0
        for part in parts:
            rows = chosen[begin : begin + len(part)]
            begin += len(part)
            yield part if rows.all() else part.take(rows)


class Collector:
    """Applies a plan; belongs to the decode thread."""

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self._ledger = ledger
        self._campaigns = [_Campaign(c) for c in plan.campaigns]
        for campaign in plan.campaigns:
            ledger.open("campaign", campaign.name)

    @property
    def destinations(self) -> list[Destination]:
        """Where things can go."""
        return list(dict.fromkeys((c.campaign.lane, c.campaign.uplinks) for c in self._campaigns))

    def offer(
        self, tables: Iterable[SignalTable], skip: frozenset[Destination] = frozenset()
    ) -> dict[Destination, list[SignalTable]]:
        """What is kept of the tables of a block, by destination.

        Destinations in `skip` have had this block in an earlier run: it is not offered to them.
        """
        kept: dict[Destination, list[SignalTable]] = {}
        tables = list(tables)
        for campaign in self._campaigns:
            destination = (campaign.campaign.lane, campaign.campaign.uplinks)
            if destination in skip:
                continue
            mine = campaign.wanted(tables)
            offered = sum(table.samples for table in mine)
            if campaign.campaign.every_ns:
                mine = campaign.thin(mine)
            taken = sum(table.samples for table in mine)
            name = campaign.campaign.name
            rows = [t for t in mine if len(t)]
            if rows:
                kept.setdefault(destination, []).extend(
                    SignalTable(t.schema, t.time, t.values, t.payloads, name) for t in rows
                )
            self._ledger.add(
                "campaign",
                campaign.campaign.name,
                offered=offered,
                kept=taken,
                thinned=offered - taken,
            )
        return kept
