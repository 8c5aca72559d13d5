"""What comes before its reader is there.

Sockets are opened first, then the rest of the program is imported, which takes seconds on a slow
core. A large kernel buffer holds what comes meanwhile; a small one needs somebody to empty it. No
import here but the standard library and the sockets.
"""

import select
import threading
from collections.abc import Iterable

from agent.bus.canraw import MessageSocket
from agent.bus.ring import Messages


class EarlyFrames:
    """What came before its reader was there: the open socket, and full rings in their order."""

    __slots__ = ("captured", "socket")

    def __init__(self, opened: MessageSocket) -> None:
        self.socket = opened
        self.captured: list[Messages] = []


class EarlyReader:
    """Empties open sockets while the program still imports what it needs to parse them.

    A thread reads into the sockets' rings; a full ring is copied and kept. Once `limit_bytes` are
    kept in all, no more is read: the kernel keeps what its buffers hold, and counts the rest. A
    socket whose interface goes away is left alone, for its reader to find out.
    """

    _PAUSE_S = 0.005

    def __init__(self, sockets: Iterable[MessageSocket], *, limit_bytes: int = 64 << 20) -> None:
        self._early = [EarlyFrames(opened) for opened in sockets]
        self._left = limit_bytes
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="early frames", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def hand_over(self, opened: MessageSocket) -> EarlyFrames:
        """Stop reading one socket; it belongs to the caller now.

        Raises:
            KeyError: it was not given to this reader, or was handed over before.
        """
        with self._lock:
            for early in self._early:
                if early.socket is opened:
                    self._early.remove(early)
                    return early
        raise KeyError(opened.fileno())

    def stop(self) -> None:
        """End the thread, and close the sockets that nobody took."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        with self._lock:
            for early in self._early:
                early.socket.close()
            self._early = []

    def _run(self) -> None:
        failed: set[int] = set()
        while not self._stop.is_set():
            with self._lock:
                live = [early for early in self._early if early.socket.fileno() not in failed]
                poll = select.poll()
                for early in live:
                    poll.register(early.socket.fileno(), select.POLLIN)
                if not self._early:
                    return
                ready = {descriptor for descriptor, _ in poll.poll(0)}
                for early in live:
                    if early.socket.fileno() in ready and not self._drain(early):
                        failed.add(early.socket.fileno())
            self._stop.wait(self._PAUSE_S)

    def _drain(self, early: EarlyFrames) -> bool:
        """Read what is there; False where this socket is not to be read any more."""
        opened = early.socket
        try:
            while True:
                if not opened.room:
                    messages = opened.messages()
                    if messages.nbytes > self._left:
                        return False
                    self._left -= messages.nbytes
                    early.captured.append(messages.copy())
                    opened.clear()
                opened.receive()
                if opened.emptied:
                    return True
        except OSError:
            return False
