"""The real program as processes of their own: cloud and agent, as a person would start them."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from agent.errors import AgentError
from agent.observe.socket import ask

LIMIT_S = 60.0


async def start(
    *arguments: str, log: Path, environment: Mapping[str, str] | None = None
) -> asyncio.subprocess.Process:
    """`edge-agent ARGUMENTS`; its errors go to `log`."""
    with log.open("ab") as errors:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "agent.cli",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **(environment or {})},
        )


async def stop(process: asyncio.subprocess.Process, number: int = signal.SIGTERM) -> int:
    """Send a signal and wait; gives the exit status."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
    return await asyncio.wait_for(process.wait(), LIMIT_S)


@contextlib.asynccontextmanager
async def cloud(folder: Path) -> AsyncIterator[int]:
    """The reference cloud over a folder; gives its port."""
    process = await start(
        *("cloud", "--listen", "127.0.0.1:0", "--data", str(folder)),
        log=folder.with_suffix(".log"),
    )
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), LIMIT_S)).decode()
        address = next(word for word in line.replace(",", " ").split() if "://" in word)
        yield int(address.rstrip("/").rsplit(":", 1)[1])
    finally:
        await stop(process)


async def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a condition, and fail with its name when it does not come."""
    loop = asyncio.get_running_loop()
    end = loop.time() + LIMIT_S
    while loop.time() < end:
        if found := await asyncio.to_thread(condition):
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"waited in vain: {what}")


def status(socket: Path) -> dict[str, Any] | None:
    """What the agent at a socket says; None while none answers."""
    try:
        answer: dict[str, Any] = ask(socket, "status")
    except (AgentError, json.JSONDecodeError):
        return None
    return answer
