"""One source at work: its thread, what it delivers counted and passed on, its silence noted.

What is handed on is counted before it is in the queue, so that the ledger closes at any moment. The
totals that a source keeps itself (frames that the kernel dropped, lines that were none) are taken
over by their differences: with each delivery, whenever a status is asked for, and at the end.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from agent.blocks import FrameBlock, SignalTable
from agent.bus.recording import RecordingSource
from agent.bus.source import Source
from agent.clock import SECOND, BootNs, Clock
from agent.collect.collector import Destination
from agent.ledger import Ledger
from agent.spool.folder import Positions, same_recording

log = logging.getLogger("edge_agent")

SILENT_NS = 5 * SECOND
"""A bus without a frame for so long is silent: cyclic messages come far more often."""

Item = tuple[FrameBlock | SignalTable, Positions | None, frozenset[Destination]]
"""What is decoded next; how far recordings are read with it; which destinations have had it."""


class Intake:
    """Reads one source in a thread of its own."""

    def __init__(
        self,
        source: Source,
        *,
        ledger: Ledger,
        clock: Clock,
        put: Callable[[Item], None],
        room: Callable[[], bool],
        stop: threading.Event,
    ) -> None:
        """`put` takes what was read, and may block; `room` tells whether the spool has some."""
        self.source = source
        self.failed = ""
        """Why reading ended by a defect of this program."""
        self.heard: BootNs | None = None
        """When frames were last delivered; None before the first."""
        self.silent = False
        self._ledger = ledger
        self._clock = clock
        self._put = put
        self._room = room
        self._stop = stop
        self._counted: dict[str, int] = {}
        self._lock = threading.Lock()
        self._recording = (
            source if isinstance(source, RecordingSource) and source.resumable else None
        )
        self._reached: Mapping[Destination, int] = {}
        self._finished: frozenset[Destination] = frozenset()
        """Destinations that have had all of the recording, and what was held back at its end."""
        self._frames = 0
        self._thread = threading.Thread(target=self._run, name=f"bus {source.bus}", daemon=True)
        ledger.open("bus", source.bus)

    def resume(
        self,
        destinations: list[Destination],
        known: Callable[[Destination], Positions],
        *,
        from_begin: bool = False,
    ) -> None:
        """Begin a recording where each destination's data of it ended in an earlier run.

        With `from_begin` it is read from its first frame on, without waiting, and what a
        destination had before is for nobody: so conditions, rates and windows are what they were.
        """
        recording = self._recording
        if recording is None:
            return
        here = _position(recording, 0)
        reached: dict[Destination, int] = {}
        finished = set()
        for destination in destinations:
            before = known(destination).get(recording.bus)
            same = before is not None and same_recording(before, here)
            reached[destination] = int(before["frames"]) if before and same else 0
            if before and same and before.get("ended"):
                finished.add(destination)
        goes_on = min(reached.values(), default=0)
        recording.begin_at = 0 if from_begin else goes_on
        recording.play_from = goes_on
        recording.cuts = frozenset(reached.values())
        self._reached = reached
        self._finished = frozenset(finished)
        self._frames = recording.begin_at
        if goes_on:
            log.info("bus %s: goes on at frame %d of %s", recording.bus, goes_on, recording.path)

    @property
    def is_recording(self) -> bool:
        """Whether a run can go on in it where one before was durable."""
        return self._recording is not None

    @property
    def ended(self) -> bool:
        """Whether a recording was read to its end."""
        return not self._thread.is_alive() and self.source.state.startswith("ended")

    def end(self) -> tuple[Positions, frozenset[Destination]]:
        """The position behind the end of a recording, and which destinations have had that."""
        if self._recording is None:
            return {}, frozenset()
        position = _position(self._recording, self._frames) | {"ended": True}
        return {self.source.bus: position}, self._finished

    def set_filters(self, filters: list[tuple[int, int]] | None) -> None:
        """What passes from now on, where the source has filters of the kernel."""
        if (change := getattr(self.source, "set_filters", None)) is not None:
            change(filters)

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def deliver(self, what: FrameBlock | SignalTable) -> None:
        """Count and pass on; what the source calls, in its own thread."""
        position = None
        skip: frozenset[Destination] = frozenset()
        if isinstance(what, FrameBlock):
            n = len(what)
            self._ledger.add("bus", self.source.bus, received=n, read=n, queued=n)
            self.heard = self._clock.boot()
            if self._recording is not None:
                # A recording can wait: it is held back before anything would have to be dropped.
                while not self._room() and not self._stop.wait(0.05):
                    pass
                self._frames += n
                position = {self.source.bus: _position(self._recording, self._frames)}
                reached = self._reached.items()
                skip = frozenset(key for key, begin in reached if begin >= self._frames)
        self.count()
        self._put((what, position, skip))

    def count(self) -> None:
        """Take over what the source has counted itself since the last time. From any thread."""
        with self._lock:
            totals = dict(self.source.counts)
            new = {k: n - self._counted.get(k, 0) for k, n in totals.items()}
            self._counted = totals
            changes = {k: n for k, n in new.items() if n}
            if "dropped" in changes:
                changes["received"] = changes["dropped"]
            if changes:
                self._ledger.add("bus", self.source.bus, **changes)

    def listen(self) -> None:
        """Note when a bus falls silent, and when it speaks again; called about every second."""
        now = self._clock.boot()
        silent = self.heard is not None and now - self.heard >= SILENT_NS
        if silent and not self.silent and self.source.state == "reading":
            log.info("bus %s: silent for %d s", self.source.bus, SILENT_NS // SECOND)
            self.silent = True
        elif self.silent and not silent:
            log.info("bus %s: frames again", self.source.bus)
            self.silent = False

    def status(self, kind: str) -> dict[str, Any]:
        """What the status tells of it."""
        heard = self.heard
        age = None if heard is None else round((self._clock.boot() - heard) / SECOND, 3)
        more = getattr(self.source, "status", None)
        return {
            "name": self.source.bus,
            "kind": kind,
            "state": self.source.state,
            "last_frames_s": age,
            **(more() if more is not None else {}),
        }

    def _run(self) -> None:
        source = self.source
        try:
            source.run(self.deliver, self._stop)
        except Exception:
            log.exception("bus %s: reading failed", source.bus)
            self.failed = f"bus {source.bus}: reading failed"
        self.count()
        for note in getattr(source, "notes", ()):
            log.warning("%s", note)
        if source.state != "reading":
            log.info("bus %s: %s", source.bus, source.state)


def _position(source: RecordingSource, frames: int) -> dict[str, Any]:
    return {"path": source.path, "size": source.size, "frames": frames}
