"""Looks at the repository with what is remembered of it, and remembers what it says.

Blocking, for a thread. python-tuf and what it needs are imported at the first look: a vehicle that
has no link does not carry them.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent import __version__
from agent.clock import SECOND, Clock, Quality, WallNs, certain
from agent.ota import record as records
from agent.ota.store import Store
from agent.ota.trusted import Learned, LookError
from agent.ota.types import Target
from agent.settings import Ota

if TYPE_CHECKING:
    from agent.ota.client import Client
    from agent.ota.trusted import Looked

_FLOOR_STEP_NS: Final = 6 * 3600 * SECOND
"""The floor of time is raised in steps of this, not at every look."""


class Watch:
    """One repository, as one vehicle sees it."""

    def __init__(self, settings: Ota, store: Store, clock: Clock, work: Path) -> None:
        """`work` is a folder for what need not last."""
        self._settings = settings
        self._store = store
        self._clock = clock
        self._work = work
        self._client: Client | None = None

    @property
    def reference(self) -> WallNs:
        """The time that expiries are judged by: never before what was once known for certain."""
        return max(self._clock.wall(), self._store.record.time_floor)

    @property
    def clock_untrusted(self) -> bool:
        """Whether the clock was never set, or is behind what was once known."""
        behind = self._clock.wall() < self._store.record.time_floor
        return behind or self._clock.quality() is Quality.UNSYNCHRONISED

    def look(self) -> "Looked":
        """What the repository says now; durable before it is acted on.

        Raises:
            UpdateError: it cannot be reached, its word is not good, or it could not be kept.
        """
        store = self._store
        try:
            looked = self._known().look(store.trusted(), store.record.floors, self.reference)
        except LookError as e:
            if e.learned is not None:
                self._keep(e.learned, records.UNKNOWN)
            raise
        wall = certain(self._clock)
        raised = records.raised(store.record.floors, looked.floors) != store.record.floors
        if looked.changed or raised or wall - store.record.time_floor >= _FLOOR_STEP_NS:
            self._keep(Learned(looked.trusted, looked.floors), wall)
        return looked

    def _keep(self, learned: Learned, wall: WallNs) -> None:
        """Floors first: after a cut between the two, all metadata are asked for anew."""
        self._store.change(lambda record: records.trust(record, learned.floors, wall))
        self._store.trust(learned.trusted)

    def download(self, target: Target) -> bytes:
        """The content of a target of the last look.

        Raises:
            UpdateError: it cannot be reached, or is not what was signed.
        """
        return self._known().download(target)

    def _known(self) -> "Client":
        from agent.ota.client import Client  # noqa: PLC0415 - see above

        if self._client is None:
            agent = f"vehicle-edge-agent/{__version__}"
            self._client = Client(self._settings, self._work, agent, time.monotonic)
        return self._client
