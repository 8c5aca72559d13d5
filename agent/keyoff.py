"""Key-off: what follows from it, as a state machine without inputs and outputs of its own.

    awake --key off for off_after_s--> sealing --all sent, or deadline_s--> asleep
      ^------------------------------- key on, at any time -------------------+

On the way to sleep everything is committed and sealed, and uplinks may send until the deadline. In
`asleep` nothing is sent and the computer may be switched off; buses are still read and what they
say is kept, for a key-off that was none must lose nothing.

The key comes from one of: a signal, a GPIO line, silence on all buses, or the commands
`edge-agent sleep` and `edge-agent wake`. A command counts at once, and until the input changes.
"""

import enum
from typing import Literal

from agent.clock import SECOND, BootNs
from agent.settings import Ignition

Action = Literal["seal", "done", "wake"]


class State(enum.Enum):
    """How far the way to sleep is."""

    AWAKE = "awake"
    SEALING = "sealing"
    ASLEEP = "asleep"


class KeyOff:
    """Takes the key and the time, gives what is to be done. Belongs to one thread."""

    def __init__(self, settings: Ignition) -> None:
        self.state = State.AWAKE
        self._off_after_ns = round(settings.off_after_s * SECOND)
        self._deadline_ns = round(settings.deadline_s * SECOND)
        self._off_since: BootNs | None = None
        self._sealed_at = BootNs(0)
        self._key: bool | None = None

    def key(self, now: BootNs, *, on: bool) -> Action | None:
        """What an input says; that counts when it changes."""
        if on is self._key:
            return None
        self._key = on
        if on:
            return self.wake()
        self._off_since = now
        return None

    def sleep(self, now: BootNs) -> Action | None:
        """A command: the key is off, for sure."""
        if self.state is not State.AWAKE:
            return None
        self.state, self._sealed_at = State.SEALING, now
        return "seal"

    def wake(self) -> Action | None:
        """A command: the key is on, for sure."""
        was, self.state = self.state, State.AWAKE
        self._off_since = None
        return None if was is State.AWAKE else "wake"

    def tick(self, now: BootNs, *, drained: bool) -> Action | None:
        """What time asks for; `drained` says that all is durable and sent."""
        if self.state is State.AWAKE:
            since = self._off_since
            if since is not None and now - since >= self._off_after_ns:
                self._off_since = None
                return self.sleep(now)
        elif self.state is State.SEALING and (
            drained or now - self._sealed_at >= self._deadline_ns
        ):
            self.state = State.ASLEEP
            return "done"
        return None
