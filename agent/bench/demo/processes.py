"""The processes of the demo: started, asked, ended in order."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from agent.bench.demo.telling import process as tell_process
from agent.errors import AgentError
from agent.observe.socket import ask

START_S = 20.0
END_S = 60.0


class DemoError(AgentError):
    """The demo did not end as it should; the message says why."""


async def spawn(
    stack: contextlib.AsyncExitStack,
    log: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
) -> asyncio.subprocess.Process:
    """Start `edge-agent` with these arguments; its errors go to `log`."""
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "agent.cli",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **(environment or {})},
            # A Ctrl-C is for the demo, which ends the others in order.
            process_group=0,
        )
    stack.push_async_callback(stop, process)
    return process


async def stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()


async def start_cloud(stack: contextlib.AsyncExitStack, folder: Path) -> int:
    """Start the reference cloud; its port."""
    log = folder / "cloud.log"
    process = await spawn(
        stack, log, *("cloud", "--listen", "127.0.0.1:0", "--data", str(folder / "cloud"))
    )
    line = b""
    with contextlib.suppress(TimeoutError):
        line = await asyncio.wait_for(out(process).readline(), START_S)
    if not line:
        raise DemoError(f"the cloud did not start; see {log}:\n{tail(log)}")
    text = line.decode().strip()
    tell_process("cloud", process.pid, text)
    address = next(word for word in text.replace(",", " ").split() if word.startswith("http://"))
    return int(address.rsplit(":", 1)[1].rstrip("/"))


def out(process: asyncio.subprocess.Process) -> asyncio.StreamReader:
    if process.stdout is None:
        raise AssertionError
    return process.stdout


def tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-5:])


async def result_of(process: asyncio.subprocess.Process, log: Path) -> dict[str, Any]:
    """The last line of a process that ends, as JSON.

    Raises:
        DemoError: it failed.
    """
    output = await out(process).read()
    if await process.wait():
        raise DemoError(f"a process failed; see {log}:\n{tail(log)}")
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


async def ticks(limit_s: float, what: str, step_s: float = 0.1) -> AsyncIterator[float]:
    """Seconds since the start, each `step_s`, until somebody has seen `what` is waited for.

    Raises:
        DemoError: `limit_s` is over.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    while (passed := loop.time() - began) < limit_s:
        yield passed
        await asyncio.sleep(step_s)
    raise DemoError(f"waited {limit_s:.0f} s in vain: {what}")


async def status_of(socket: Path) -> dict[str, Any] | None:
    """What the agent says of itself; None while it does not answer."""
    try:
        status: dict[str, Any] = await asyncio.to_thread(ask, socket, "status")
    except AgentError:
        return None
    return status
