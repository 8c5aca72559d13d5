"""A real mosquitto on a free port, that can be stopped, killed and held, and comes back."""

import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests import processes


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class Mosquitto:
    """Its folder holds configuration, log and what it keeps.

    Args:
        folder: for its files.
        settings: lines of mosquitto.conf, among them how clients are let in.
        port: where it listens; 0 takes a free one.
    """

    def __init__(
        self,
        folder: Path,
        settings: Sequence[str] = ("allow_anonymous true", "persistence false"),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.log = folder / "mosquitto.log"
        self._configuration = folder / "mosquitto.conf"
        lines = [
            f"listener {self.port} 127.0.0.1",
            "user root",
            f"persistence_location {folder}/",
            "log_type all",
            *settings,
        ]
        self._configuration.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None
        self.user = ""
        """Who may use it, with password and @."""

    @property
    def url(self) -> str:
        return f"mqtt://{self.user}127.0.0.1:{self.port}"

    async def start(self) -> None:
        program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
        assert program, "mosquitto is not installed: make test-system installs it"
        with self.log.open("ab") as log:
            self._process = await asyncio.to_thread(
                subprocess.Popen,
                [program, "-c", str(self._configuration)],
                stdout=log,
                stderr=log,
            )
        await processes.until(self._listens, f"mosquitto listens; {self.log}")

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        try:
            socket.create_connection(("127.0.0.1", self.port), 5).close()
        except OSError:
            return False
        return True

    def send(self, number: int) -> None:
        """A signal: SIGSTOP holds it, SIGCONT lets it go on."""
        assert self._process is not None
        self._process.send_signal(number)

    async def stop(self, number: int = signal.SIGTERM) -> None:
        """End it and wait; SIGKILL is the power cut of a broker."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(number)
            await asyncio.to_thread(process.wait, 30)

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None


@contextlib.contextmanager
def mosquitto(
    folder: Path, settings: Sequence[str] = ("allow_anonymous true", "persistence false")
) -> Iterator[Mosquitto]:
    """A broker that is not started yet, and surely ended."""
    broker = Mosquitto(folder, settings)
    try:
        yield broker
    finally:
        broker.end()
