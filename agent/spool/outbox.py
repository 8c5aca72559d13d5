"""The door between the spool and a sender: what waits for one uplink, and what became of it."""

import dataclasses
from pathlib import Path
from typing import Protocol

from agent.settings import Lane


@dataclasses.dataclass(frozen=True, slots=True)
class Parcel:
    """A sealed batch that waits for an uplink."""

    batch_id: str
    lane: Lane
    path: Path
    size: int
    samples: int


class Outbox(Protocol):
    """The sealed batches of one uplink. Every method may touch the disk, so none is called from the
    event loop."""

    uplink: str

    def next(self) -> Parcel | None:
        """The most urgent batch: lanes in order, the newest telemetry first, then the oldest."""
        ...

    def acknowledge(self, parcel: Parcel) -> None:
        """The receiver has it: the link of this uplink goes."""
        ...

    def quarantine(self, parcel: Parcel, reason: str) -> None:
        """The receiver will never take it: aside, with the reason."""
        ...

    def waiting(self) -> tuple[int, int]:
        """How many batches wait, and how many bytes they have."""
        ...
