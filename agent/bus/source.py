"""The door between a bus and the daemon."""

import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from agent.blocks import FrameBlock, SignalTable

DeliverFrames = Callable[[FrameBlock], None]
Deliver = Callable[[FrameBlock | SignalTable], None]
"""Takes a block of frames, or samples that the source makes itself (bus state, position, ...)."""


class Source(Protocol):
    """Something that gives the frames of one bus, or samples of its own.

    `state` is for people: "starting", "reading", "waiting: <why, a sentence>" or "ended". It is
    written by the thread of `run` and may be read from any other.

    `counts` are totals of this run, by the names of the ledger's account `bus`: `dropped` (frames
    that the kernel or an adapter had and did not give), `bad_lines`, `clamped`. They only grow, and
    may be read from any thread.
    """

    bus: str
    state: str

    @property
    def counts(self) -> Mapping[str, int]: ...

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        """Read until `stop` is set or the input has ended; called in a thread of its own.

        `deliver` may block: that is back-pressure, and nothing is dropped meanwhile by the source
        itself. A device that is missing or goes away is waited for, and is no error.
        """
        ...
