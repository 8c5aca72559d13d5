"""Which columns of a table, and which frames of a block, somebody wants."""

from collections.abc import Iterable, Sequence

import numpy as np

from agent.blocks import REMOTE, FrameBlock, KeptFrames, SignalTable, TableSchema
from agent.collect.plan import FrameFilter
from agent.signals.database import ANY_BUS, SignalPath


class Columns:
    """The wanted signals of tables."""

    def __init__(self, signals: frozenset[SignalPath]) -> None:
        self._wanted = signals
        self._schemas: dict[TableSchema, TableSchema | None] = {}

    def schema(self, schema: TableSchema) -> TableSchema | None:
        """What is wanted of a table; None where nothing is."""
        if schema not in self._schemas:
            wanted = self._wanted
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

    def of(self, tables: Iterable[SignalTable]) -> list[SignalTable]:
        found = []
        for table in tables:
            schema = self.schema(table.schema)
            if schema is not None:
                found.append(table if schema is table.schema else table.select(schema))
        return found


class Frames:
    """The wanted frames of blocks. Error frames belong to a bus as a whole, and to no id."""

    def __init__(self, filters: Sequence[FrameFilter], campaign: str) -> None:
        self._filters = filters
        self._campaign = campaign

    def of(self, block: FrameBlock) -> KeptFrames | None:
        """None where there are none."""
        mine = [f for f in self._filters if f.bus in (block.bus, ANY_BUS)]
        if not mine or not len(block):
            return None
        if all(f.ranges for f in mine):
            ids = block.id & ~np.uint32(REMOTE)
            inside = np.zeros(len(block), bool)
            for first, last in (r for f in mine for r in f.ranges):
                inside |= (ids >= first) & (ids <= last)
            if not inside.any():
                return None
            block = block[inside]
        return KeptFrames(block, self._campaign)
