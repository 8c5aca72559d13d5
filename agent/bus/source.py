"""The door between a bus and the daemon."""

import threading
from collections.abc import Callable
from typing import Protocol

from agent.blocks import FrameBlock

Deliver = Callable[[FrameBlock], None]


class Source(Protocol):
    """Something that gives the frames of one bus.

    `state` is for people: "starting", "reading", "waiting: <why, a sentence>" or "ended". It is
    written by the thread of `run` and may be read from any other.
    """

    bus: str
    state: str

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        """Read until `stop` is set or the input has ended; called in a thread of its own.

        `deliver` may block: that is back-pressure, and nothing is dropped meanwhile by the source
        itself. A device that is missing or goes away is waited for, and is no error.
        """
        ...
