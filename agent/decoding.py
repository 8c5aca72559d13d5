"""The decode thread: takes what the buses give, in order, through the pipeline."""

import collections
import logging
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from agent.errors import AgentError
from agent.intake import Item
from agent.pipeline import Pipeline, Prepared

log = logging.getLogger("edge_agent")

_QUEUE_BLOCKS = 8
_IDLE_S = 0.1


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
        self._between: collections.deque[tuple[Callable[[], Any], Future[Any]]] = (
            collections.deque()
        )
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)
        self._began = time.monotonic()

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

    def switch(self, prepared: Prepared) -> "Future[None]":
        """Go on with another plan before the next block."""

        def switch() -> None:
            self._pipeline.switch(prepared)
            self._switched(prepared)

        return self.between(switch)

    def between(self, action: Callable[[], Any]) -> "Future[Any]":
        """Do something between two blocks, in this thread; what an AgentError says is told."""
        done: Future[Any] = Future()
        self._between.append((action, done))
        return done

    def end(self) -> None:
        """No block comes any more: end once the queue is empty."""
        self._end.set()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def name(self) -> str:
        return "decoding"

    @property
    def stuck_s(self) -> float:
        """How long the present block takes already; 0 where no block comes any more."""
        return time.monotonic() - self._began if self.alive else 0.0

    def where(self) -> str:
        """The calls that it is in now, the innermost last."""
        frame = sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001 - its only way
        return "".join(traceback.format_stack(frame)) if frame is not None else ""

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while True:
                self._began = time.monotonic()
                while self._between:
                    _do(*self._between.popleft())
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


def _do(action: Callable[[], Any], done: "Future[Any]") -> None:
    try:
        done.set_result(action())
    except AgentError as e:
        done.set_exception(e)
    except Exception as e:
        done.set_exception(e)
        raise
