"""The seam between the doctor and the computer that it examines.

Each look is bounded: a file by its size, a command by its size and its time. What may hang none the
less, as any file on a dying disk may, is called through `together`, which gives up on it.
"""

import contextlib
import dataclasses
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from agent.bus.linkmessage import LinkInfo
from agent.bus.netlink import links
from agent.clock import Clock, SystemClock
from agent.observe.facts import Space
from agent.observe.socket import ask

MOST_BYTES: Final = 1 << 20
_PIECE: Final = 65_536
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """What a command printed, to both of its outputs."""

    status: int
    text: bytes
    cut: bool = False
    """Something is missing: before the rest with `tail`, after it without."""


class TooLong(OSError):  # noqa: N818  (what happened, and so reads at its place)
    """It did not end in its time."""


class Machine(Protocol):
    """What the doctor may look at. Every method but `clock` may raise OSError."""

    clock: Clock
    environment: Mapping[str, str]
    root: bool
    """Whether all may be read."""

    def run(self, command: Sequence[str], timeout_s: float, *, tail: bool = False) -> Output:
        """Run a command and wait; at most `MOST_BYTES` of what it prints, from either end."""
        ...

    def read(self, path: str, most: int = MOST_BYTES) -> bytes:
        """The beginning of a file."""
        ...

    def names(self, path: str) -> list[str]:
        """What lies in a folder, sorted."""
        ...

    def space(self, path: str) -> Space:
        """The file system of a folder; how it is mounted is left open."""
        ...

    def links(self) -> list[LinkInfo]:
        """The network interfaces; an AgentError where the kernel does not tell."""
        ...

    def ask(self, socket: Path, command: str) -> Any:
        """What a running agent answers; an AgentError where none does."""
        ...

    def wait(self, seconds: float) -> None:
        """Let time pass between two looks."""
        ...


class SystemMachine:
    """This computer."""

    def __init__(self) -> None:
        self.clock: Clock = SystemClock()
        self.environment: Mapping[str, str] = os.environ
        self.root = os.geteuid() == 0

    def run(self, command: Sequence[str], timeout_s: float, *, tail: bool = False) -> Output:
        # The words of a command are fixed, but for names of files; there is no shell.
        process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**self.environment, "LC_ALL": "C", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"},
            start_new_session=True,
        )
        try:
            text, cut = _output(process, time.monotonic() + timeout_s, tail=tail)
            return Output(process.wait(), text, cut)
        except TooLong as e:
            raise TooLong(f"{command[0]} did not end in {timeout_s:g} s") from e
        finally:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def read(self, path: str, most: int = MOST_BYTES) -> bytes:
        # Without waiting: a path may be a pipe that nobody writes into.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - it is open already
            pieces = bytearray()
            while len(pieces) < most and (piece := file.read(min(_PIECE, most - len(pieces)))):
                pieces += piece
            return bytes(pieces)

    def names(self, path: str) -> list[str]:
        return sorted(os.listdir(path))  # noqa: PTH208 - names are all that is wanted

    def space(self, path: str) -> Space:
        told = os.statvfs(path)
        return Space(
            path,
            total_bytes=told.f_blocks * told.f_frsize,
            free_bytes=told.f_bavail * told.f_frsize,
            free_files=told.f_favail if told.f_files else None,
        )

    def links(self) -> list[LinkInfo]:
        return links()

    def ask(self, socket: Path, command: str) -> Any:
        return ask(socket, command)

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


def _output(
    process: "subprocess.Popen[bytes]", deadline: float, *, tail: bool
) -> tuple[bytes, bool]:
    """All that a process prints until it closes its output, and whether that was too much."""
    if process.stdout is None:
        return b"", False
    channel = process.stdout.fileno()
    kept, cut = bytearray(), False
    while True:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not select.select([channel], [], [], left_s)[0]:
            raise TooLong
        if not (piece := os.read(channel, _PIECE)):
            break
        if tail or len(kept) < MOST_BYTES:
            kept += piece
        else:
            cut = True
        if len(kept) > 2 * MOST_BYTES:
            cut = True
            del kept[:-MOST_BYTES]
    cut |= len(kept) > MOST_BYTES
    return bytes(kept[-MOST_BYTES:] if tail else kept[:MOST_BYTES]), cut


def together(jobs: Sequence[tuple[Callable[[], _T], float]]) -> Iterator["_T | Exception"]:
    """Results of functions, in their order, each within its seconds from now on.

    They run at the same time, in threads of their own. One that does not end is left alone, and
    does not keep the process from ending; its result is TooLong.
    """
    began = time.monotonic()
    results: list[list[_T | Exception]] = []
    threads = []
    for function, _ in jobs:
        result: list[_T | Exception] = []
        thread = threading.Thread(target=_caught, args=(function, result), daemon=True)
        thread.start()
        results.append(result)
        threads.append(thread)
    for (_, seconds), thread, result in zip(jobs, threads, results, strict=True):
        thread.join(max(0.0, began + seconds - time.monotonic()))
        yield result[0] if result else TooLong(f"it did not end in {seconds:g} s")


def _caught(function: Callable[[], _T], result: "list[_T | Exception]") -> None:
    try:
        result.append(function())
    except Exception as e:  # noqa: BLE001 - one look that fails must not cost the others
        result.append(e)
