"""The decode thread: takes what the buses give, in order, through the pipeline."""

import dataclasses
import logging
import queue
import threading
from collections.abc import Callable

from agent.intake import Item
from agent.pipeline import Pipeline, Prepared

log = logging.getLogger("edge_agent")

_QUEUE_BLOCKS = 8
_IDLE_S = 0.1


@dataclasses.dataclass(frozen=True)
class _Following:
    """A plan that waits to take its place."""

    prepared: Prepared
    done: threading.Event = dataclasses.field(default_factory=threading.Event)


class DecodeThread:
    """One thread; what is put is taken in the order in which it came."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        switched: Callable[[Prepared], None],
        ended: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        """The callables are called in this thread.

        `switched` after a plan took its place, `ended` after the last block, `failed` after a
        defect of this program, with a sentence.
        """
        self._pipeline = pipeline
        self._switched = switched
        self._ended = ended
        self._failed = failed
        self._queue: queue.Queue[Item] = queue.Queue(_QUEUE_BLOCKS)
        self._following: _Following | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, item: Item) -> None:
        """Waits while the queue is full."""
        self._queue.put(item)

    def offer(self, item: Item) -> bool:
        """Does not wait: False where the queue is full."""
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            return False
        return True

    def switch(self, prepared: Prepared) -> threading.Event:
        """Go on with another plan before the next block; the event tells when that is done."""
        self._following = _Following(prepared)
        return self._following.done

    def end(self) -> None:
        """No block comes any more: end once the queue is empty."""
        self._end.set()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while True:
                following, self._following = self._following, None
                if following is not None:
                    self._pipeline.switch(following.prepared)
                    self._switched(following.prepared)
                    following.done.set()
                try:
                    block, position, skip = self._queue.get(timeout=_IDLE_S)
                except queue.Empty:
                    if self._end.is_set():
                        break
                    self._pipeline.idle()
                    continue
                self._pipeline.take(block, position, skip, idle=self._queue.empty())
            self._ended()
        except Exception:
            log.exception("decoding failed")
            self._failed("decoding failed")
