"""The agent's own programs as processes of their own, and what the kernel says about them."""

import contextlib
import dataclasses
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

AGENT: Sequence[str] = (sys.executable, "-m", "agent.cli")
VEHICLE_SET = "import sys; sys.modules.update(dict.fromkeys(('asammdf', 'pandas', 'pyarrow')))\n"
"""Python that hides what only the extras install: a vehicle does not have it, and what is there is
imported by libraries that can do without."""
_AS_ON_A_VEHICLE: Sequence[str] = (
    sys.executable,
    "-c",
    VEHICLE_SET + "from agent.cli import main; sys.exit(main())",
)
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_START_S = 60.0


@contextlib.contextmanager
def cloud(folder: Path) -> Iterator[str]:
    """The reference cloud on loopback; gives its address. Its CPU time is its own."""
    command = [*AGENT, "cloud", "--listen", "127.0.0.1:0", "--data", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield next(word.rstrip(",") for word in line.split() if word.startswith("http://"))
        finally:
            process.terminate()
            process.wait()


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used so far."""

    cpu_s: float
    rss_mb: float
    peak_mb: float
    written_bytes: int
    """Passed to write() and the like, to files and sockets."""
    to_disk_bytes: int
    """Of that, what went towards a block device."""


def usage(pid: int) -> Usage:
    """What a running process has used."""
    folder = Path(f"/proc/{pid}")
    # Behind the name, which may hold anything: utime and stime are fields 14 and 15 (proc(5)).
    fields = (folder / "stat").read_text("ascii").rpartition(")")[2].split()
    status = _pairs(folder / "status")
    io = _pairs(folder / "io")
    return Usage(
        cpu_s=(int(fields[11]) + int(fields[12])) * _TICK_S,
        rss_mb=_kilobytes(status["VmRSS"]),
        peak_mb=_kilobytes(status["VmHWM"]),
        written_bytes=int(io["wchar"]),
        to_disk_bytes=int(io["write_bytes"]),
    )


class Daemon:
    """A running `edge-agent run`."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path, ready_s: float) -> None:
        self._process = process
        self._log = log
        self.ready_s = ready_s
        """From the start of the process until it said that it was ready."""

    def usage(self) -> Usage:
        """What it has used so far.

        Raises:
            RuntimeError: it has ended; with its log.
        """
        if self._process.poll() is not None:
            raise RuntimeError(f"the daemon has ended:\n{self._log.read_text('utf-8')}")
        return usage(self._process.pid)

    def stop(self) -> int:
        """End it as systemd does; gives its exit status."""
        self._process.terminate()
        return self._process.wait()


def _pairs(path: Path) -> dict[str, str]:
    lines = (line.partition(":") for line in path.read_text("utf-8").splitlines())
    return {key: value.strip() for key, _, value in lines}


def _kilobytes(text: str) -> float:
    """`VmRSS: 1234 kB`, where a kB is 1,024 bytes, as MB of 1,000,000."""
    return int(text.split(maxsplit=1)[0]) * 1024 / 1e6


@contextlib.contextmanager
def daemon(
    config: Path,
    folder: Path,
    *,
    extras: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Daemon]:
    """Start the agent, and wait until it tells systemd's socket that it is ready.

    `extras`: with all that is installed here, and not only what a vehicle has.
    """
    address, log = folder / "notify", folder / "agent.log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, log.open("w") as errors:
        ready.bind(str(address))
        began = time.monotonic()
        with subprocess.Popen(
            [*(AGENT if extras else _AS_ON_A_VEHICLE), "run", "-c", str(config)],
            env={**(environment or os.environ), "NOTIFY_SOCKET": str(address)},
            stderr=errors,
            text=True,
        ) as process:
            try:
                while not select.select([ready], [], [], 0.01)[0]:
                    if process.poll() is not None or time.monotonic() - began > _START_S:
                        raise RuntimeError(log.read_text("utf-8"))
                assert ready.recv(4096).startswith(b"READY=1")
                yield Daemon(process, log, time.monotonic() - began)
            finally:
                process.terminate()
                process.wait()
                address.unlink()
