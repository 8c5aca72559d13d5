"""Signing of reports of 2025 by a command: the key is somebody else's, a chip's for example.

The command gets what is to be signed on standard input and prints three words: the kind (SM2, RSA
or ECC), R and S, the last two in hexadecimal.
"""

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from agent.errors import UplinkError
from agent.gbt32960 import signature
from agent.gbt32960.codec import GBT2025
from agent.uplink.gbt32960.rows import Row

_KINDS: Final = {"SM2": 1, "RSA": 2, "ECC": 3}
_LIMIT_S: Final = 5.0
_MOST_BYTES: Final = 16 * 1024
"""What a command may print: R and S of an RSA key of 16 kbit have 8 KiB."""
_MOST_WAITING: Final = 16
_END_S: Final = 1.0


class Signer:
    """One command. Belongs to one event loop; several signatures may be under way at once.

    Args:
        command: program and arguments.
        marker: whether the signature covers its own type byte.
        limit_s: how long the command may take.
    """

    def __init__(
        self, command: Sequence[str], *, marker: bool = False, limit_s: float = _LIMIT_S
    ) -> None:
        self._command = tuple(command)
        self._marker = marker
        self._limit_s = limit_s

    async def sign(self, unsigned: bytes) -> bytes:
        """A data unit with its signature.

        Raises:
            UplinkError: the command fails, takes too long, or prints something else; or the data
                unit cannot be signed.
        """
        told = await self._run(signature.covered(unsigned, marker=self._marker))
        words = told.decode("ascii", "replace").split()
        if len(words) != 3 or words[0].upper() not in _KINDS:
            raise UplinkError("the signing command does not print a kind, R and S")
        try:
            r, s = map(bytes.fromhex, words[1:])
        except ValueError as e:
            raise UplinkError("the signing command prints R or S that is not hexadecimal") from e
        return signature.append(unsigned, _KINDS[words[0].upper()], r, s)

    async def _run(self, covered: bytes) -> bytes:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except (OSError, ValueError) as e:
            why = getattr(e, "strerror", None) or "it cannot be started"
            raise UplinkError(f"the signing command {self._command[0]}: {why}") from e
        try:
            async with asyncio.timeout(self._limit_s):
                return await self._talk(process, covered)
        except TimeoutError as e:
            raise UplinkError(f"the signing command takes longer than {self._limit_s:g} s") from e
        finally:
            await _end(process)

    async def _talk(self, process: asyncio.subprocess.Process, covered: bytes) -> bytes:
        assert process.stdin is not None  # noqa: S101  both are pipes
        assert process.stdout is not None  # noqa: S101
        process.stdin.write(covered)
        # One that does not read, because it signs something else, is not this side's trouble.
        with contextlib.suppress(ConnectionError):
            await process.stdin.drain()
        process.stdin.close()
        told = b""
        while piece := await process.stdout.read(_MOST_BYTES):
            told += piece
            if len(told) > _MOST_BYTES:
                raise UplinkError("the signing command prints too much")
        if status := await process.wait():
            raise UplinkError(f"the signing command ends with status {status}")
        return told


async def _end(process: asyncio.subprocess.Process) -> None:
    """Nothing is left of it, nor of what it has started."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.stdout is not None  # noqa: S101  it is a pipe
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_END_S):
            while await process.stdout.read(_MOST_BYTES):
                pass  # while something is left there, the pipe stays open
    await process.wait()


class Desk:
    """Where reports get what the platform wants to see: a signature, or nothing.

    Args:
        signer: None where reports are not signed.

    Attributes:
        failures: how often the command failed.
        trouble: why it failed the last time; empty when all is well.
    """

    def __init__(self, signer: Signer | None) -> None:
        self._signer = signer
        self._waiting: deque[Row] = deque()
        self.failures = 0
        self.trouble = ""

    def ready(self, row: Row) -> bool:
        """Whether it can go out as it is. Only reports of 2025 are signed."""
        return self._signer is None or row.codec is not GBT2025 or bool(row.signed)

    async def finish(self, row: Row) -> bool:
        """Sign it, if it is to be signed; False where that failed."""
        if self.ready(row):
            return True
        assert self._signer is not None  # noqa: S101  otherwise it is ready
        try:
            row.signed = await self._signer.sign(row.body)
        except UplinkError as e:
            self.failures += 1
            self.trouble = str(e)
            return False
        self.trouble = ""
        return True

    def put(self, row: Row) -> bool:
        """A live report that is to be finished; False where too many wait already."""
        if len(self._waiting) >= _MOST_WAITING:
            return False
        self._waiting.append(row)
        return True

    async def work(self, tell: Callable[[Row], None]) -> None:
        """Finish what was put, in its order, until nothing waits; `tell` gets what is ready."""
        while self._waiting:
            row = self._waiting.popleft()
            if await self.finish(row):
                tell(row)

    def clear(self) -> None:
        """What waits is not live any more."""
        self._waiting.clear()
