"""`edge-agent status --watch` in a real terminal, beside agents that come and go."""

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from agent.ledger import Ledger
from agent.observe.socket import StatusServer
from tests.commands.test_status import status

WIDTH: Final = 60
HEIGHT: Final = 8
LIMIT_S: Final = 60.0


class Terminal:
    """A screen of a few lines in which a command runs, and what it has shown there."""

    def __init__(self, *words: str) -> None:
        self._line, end = pty.openpty()
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "agent.cli", *words],
            stdin=end,
            stdout=end,
            stderr=end,
            env=environment,
        )
        os.close(end)
        self._shown = b""
        self._more = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO is the end of a terminal
            while chunk := os.read(self._line, 4096):
                with self._more:
                    self._shown += chunk
                    self._more.notify_all()

    def until(self, condition: Callable[[str], Any]) -> str:
        """All that was shown, once it is so."""
        with self._more:
            met = self._more.wait_for(lambda: condition(self._shown.decode()), LIMIT_S)
            assert met, self._shown.decode()
            return self._shown.decode()

    def interrupt(self) -> int:
        """As ^C does; gives the exit status."""
        self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(LIMIT_S)
        finally:
            self.close()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._line)


@contextlib.contextmanager
def agent(path: Path) -> Iterator[None]:
    """Answers at a socket, each time half a second and 500 frames later."""
    ledger = Ledger()
    uptime_s = 0.0

    def answer() -> dict[str, Any]:
        nonlocal uptime_s
        uptime_s += 0.5
        ledger.add("bus", "can0", received=500, read=500, decoded=500)
        return {**status(ledger), "uptime_s": uptime_s}

    loop = asyncio.new_event_loop()
    ready, end = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with StatusServer(path, {"status": answer}):
            ready.set()
            await end.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(LIMIT_S)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(LIMIT_S)
        loop.close()


def screens(shown: str) -> list[list[str]]:
    """Each whole screen, as lines."""
    found = [part for part in shown.split("\x1b[H") if part.endswith("\x1b[J")]
    return [re.sub(r"\x1b\[[KJ]", "", part).splitlines() for part in found]


def test_it_shows_rates_and_outlives_the_agent(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    terminal = Terminal("status", "--socket", str(path), "--watch")
    try:
        terminal.until(lambda shown: "waiting for an agent" in shown)
        with agent(path):
            terminal.until(lambda shown: "can0 (slcan): reading; 1,000 frames/s" in shown)
        gone = terminal.until(
            lambda shown: "waiting for an agent" in shown.rpartition("frames/s")[2]
        )
        with agent(path):
            terminal.until(
                lambda shown: len(shown) > len(gone) and "frames/s" in shown[len(gone) :]
            )
    finally:
        assert terminal.interrupt() == 130
    shown = terminal.until(lambda _: True)
    assert "Traceback" not in shown
    for screen in screens(shown):
        assert len(screen) < HEIGHT
        assert max(map(len, screen)) <= WIDTH
    assert any("the terminal is too low" in screen[-1] for screen in screens(shown))


@pytest.mark.parametrize("words", [("--json",), ()])
def test_into_a_pipe_it_goes_line_by_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    path = tmp_path / "agent.sock"
    command = [sys.executable, "-m", "agent.cli", "status", "--socket", str(path), "--watch"]
    with (
        agent(path),
        subprocess.Popen([*command, *words], stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout is not None
        first = process.stdout.readline()
        assert "\x1b" not in first
        assert first.startswith('{"' if words else "vehicle kona-1")
        process.terminate()
