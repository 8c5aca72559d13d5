"""A sealed batch that waits for an uplink."""

import dataclasses
from pathlib import Path

from agent.settings import Lane
from agent.spool.ages import Born


@dataclasses.dataclass(frozen=True, slots=True)
class Parcel:
    batch_id: str
    lane: Lane
    path: Path
    size: int
    samples: int
    born: Born | None = None
    tombstones: bool = True
    """Whether it may carry tombstones."""
