"""Campaigns at work on the tables of a block."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from agent.blocks import SignalTable, TableSchema
from agent.collect.plan import CompiledCampaign, Plan
from agent.ledger import Ledger
from agent.settings import Lane
from agent.signals.database import ANY_BUS, SignalPath

Destination = tuple[Lane, tuple[str, ...]]
"""A lane and the uplinks for which something is kept."""


class _Campaign:
    def __init__(self, campaign: CompiledCampaign) -> None:
        self.campaign = campaign
        self._schemas: dict[TableSchema, TableSchema | None] = {}
        self._cells: dict[tuple[str, str, int | None, str], int] = {}

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

    def thin(self, table: SignalTable) -> SignalTable:
        """The first row of each interval."""
        cells = table.time // self.campaign.every_ns
        key = (table.bus, table.message, table.source, table.branch)
        before = self._cells.get(key)
        first = np.empty(len(cells), bool)
        first[0] = before is None or cells[0] != before
        np.not_equal(cells[1:], cells[:-1], out=first[1:])
        self._cells[key] = int(cells[-1])
        return table if first.all() else table.take(first)


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
            offered = taken = 0
            for table in tables:
                schema = campaign.schema(table.schema)
                if schema is None:
                    continue
                mine = table if schema is table.schema else table.select(schema)
                offered += mine.samples
                if campaign.campaign.every_ns:
                    mine = campaign.thin(mine)
                if len(mine):
                    taken += mine.samples
                    kept.setdefault(destination, []).append(
                        dataclasses.replace(mine, campaign=campaign.campaign.name)
                    )
            self._ledger.add(
                "campaign",
                campaign.campaign.name,
                offered=offered,
                kept=taken,
                thinned=offered - taken,
            )
        return kept
