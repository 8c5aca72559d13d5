"""The local socket: the running agent's side and the asking side.

A request is a line, and so is its answer. How many clients are connected is bounded
(`agent.observe.clients`), and so is the time that one takes to ask, and to take what it asked for.
"""

import asyncio
import contextlib
import inspect
import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from agent.errors import AgentError, ConfigError
from agent.observe.clients import Clients

_MAX_REQUEST = 4096
_MAX_ANSWER = 16 << 20
_WORDS_S = 5.0
"""A client that says or takes nothing for so long costs itself."""
_MAX_PATH = 107
"""sun_path of sockaddr_un, less its end mark."""


Command = Callable[..., Any]
"""Takes words; gives what can be told as JSON, or something to await that gives it."""


class NobodyAnswers(AgentError):  # noqa: N818  (what happened, and so reads at its place)
    """No agent runs, or not there."""


class StatusServer:
    """Answers on a Unix socket until it is closed."""

    def __init__(self, path: Path, commands: Mapping[str, Command]) -> None:
        """`commands` take words; they run in the event loop, and must not block it.

        Raises:
            ConfigError: the path is too long for a socket.
        """
        if len(os.fsencode(path)) > _MAX_PATH:
            raise ConfigError(
                f"{path}: is too long for a socket (over {_MAX_PATH} bytes); set a shorter "
                '"socket" in agent.toml'
            )
        self._path = path
        self._commands = commands
        self._server: asyncio.Server | None = None
        self._clients = Clients(self._serve)

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            ConfigError: the socket cannot be made.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(
                self._clients.accept, self._path, limit=_MAX_REQUEST
            )
            self._path.chmod(0o660)
        except OSError as e:
            raise ConfigError(f"{self._path}: cannot listen here: {e.strerror}") from e
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            await self._clients.close(self._server)
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client that misbehaves costs itself.
        with contextlib.suppress(TimeoutError, ValueError, OSError):
            async with asyncio.timeout(_WORDS_S):
                line = await reader.readline()
            self._clients.keep(writer)
            reply = await self._reply(line)  # a command takes the time that it takes
            async with asyncio.timeout(_WORDS_S):
                writer.write(json.dumps(reply).encode() + b"\n")
                await writer.drain()
                writer.write_eof()

    async def _reply(self, line: bytes) -> Any:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return {"error": 'not understood; ask {"cmd": "status"}'}
        command = request.get("cmd") if isinstance(request, dict) else None
        handler = self._commands.get(command) if isinstance(command, str) else None
        if handler is None:
            return {"error": f"unknown command; there is: {', '.join(self._commands)}"}
        arguments = request.get("arguments", [])
        if not isinstance(arguments, list) or not all(isinstance(a, str) for a in arguments):
            return {"error": '"arguments" is a list of words'}
        try:
            inspect.signature(handler).bind(*arguments)
        except TypeError as e:
            return {"error": f"{command}: {e}"}
        try:
            answer = handler(*arguments)
            return await answer if inspect.isawaitable(answer) else answer
        except AgentError as e:
            return {"error": str(e)}


def ask(path: Path, command: str, *arguments: str, timeout_s: float = 5.0) -> Any:
    """What a running agent answers to a command and its arguments.

    Raises:
        AgentError: no agent answers on that socket, or it refuses the command.
    """
    chunks = []
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as client:
            client.settimeout(timeout_s)
            client.connect(os.fspath(path))
            client.sendall(json.dumps({"cmd": command, "arguments": arguments}).encode() + b"\n")
            size = 0
            while chunk := client.recv(1 << 16):
                chunks.append(chunk)
                size += len(chunk)
                if size > _MAX_ANSWER:
                    raise AgentError(f"{path}: the answer does not end")
    except OSError as e:
        raise NobodyAnswers(
            f"{path}: no agent answers here ({e.strerror or e}); is it running?"
        ) from e
    try:
        answer = json.loads(b"".join(chunks))
    except ValueError as e:
        raise AgentError(f"{path}: what answers here is no agent") from e
    if isinstance(answer, dict) and "error" in answer:
        raise AgentError(f"{path}: the agent answers: {answer['error']}")
    return answer
