"""The status socket: real Unix sockets, a server in the loop and clients in threads."""

import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.errors import AgentError, ConfigError
from agent.observe.clients import MOST_CLIENTS
from agent.observe.socket import StatusServer, ask

STATUS = {"vehicle": "é", "numbers": list(range(50_000))}


def served(path: Path, client: Callable[[], Any], **commands: Callable[[], Any]) -> Any:
    """What a client in a thread gets from a server with these commands."""

    async def both() -> Any:
        async with StatusServer(path, {"status": lambda: STATUS, **commands}):
            return await asyncio.to_thread(client)

    return asyncio.run(both())


def exchange(path: Path, request: bytes) -> bytes:
    """Bytes there and back, until the server has said all."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := client.recv(1 << 16):
            answer += chunk
        return answer


def test_a_question_gets_the_answer_however_long(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    assert served(path, lambda: ask(path, "status")) == STATUS


def test_one_after_another_is_answered(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    numbers = iter(range(10))
    answers = served(
        path, lambda: [ask(path, "count") for _ in range(3)], count=lambda: next(numbers)
    )
    assert answers == [0, 1, 2]


@pytest.mark.parametrize("request_", [b'{"cmd": "nothing"}\n', b"[]\n", b'{"cmd": ["status"]}\n'])
def test_an_unknown_command_gets_the_list_of_known_ones(tmp_path: Path, request_: bytes) -> None:
    path = tmp_path / "agent.sock"
    answer = json.loads(served(path, lambda: exchange(path, request_)))
    assert answer == {"error": "unknown command; there is: status"}


@pytest.mark.parametrize("request_", [b"hello\n", b"\xff\xfe\n", b"[" * 4000 + b"\n", b"", b"\n"])
def test_what_is_no_request_gets_a_word_about_it(tmp_path: Path, request_: bytes) -> None:
    path = tmp_path / "agent.sock"
    answer = json.loads(served(path, lambda: exchange(path, request_)))
    assert answer == {"error": 'not understood; ask {"cmd": "status"}'}


def test_a_refusal_is_told_to_whoever_asks(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    words = "the agent answers: unknown command; there is: status"
    with pytest.raises(AgentError, match=words):
        served(path, lambda: ask(path, "reload"))


def test_a_client_that_misbehaves_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"

    def clients() -> Any:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as gone:
            gone.connect(str(path))
            gone.sendall(b'{"cmd": "status"}\n')  # and never reads the answer
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as loud:
            loud.settimeout(10)
            loud.connect(str(path))
            loud.sendall(b"x" * 20_000)
            assert loud.recv(1) == b""
        return ask(path, "status")["vehicle"]

    assert served(path, clients) == "é"


def test_clients_who_say_nothing_lock_nobody_out(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"

    def clients() -> Any:
        with contextlib.ExitStack() as crowd:
            for _ in range(5 * MOST_CLIENTS):
                silent = crowd.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                silent.connect(str(path))
            return ask(path, "status")["vehicle"]

    assert served(path, clients) == "é"


def test_who_has_asked_is_answered_whoever_comes_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    heard = asyncio.Semaphore(0)
    finish = asyncio.Event()

    async def slow() -> str:
        heard.release()
        await finish.wait()
        return "at last"

    async def both() -> list[bytes]:
        async with StatusServer(path, {"slow": slow, "status": lambda: STATUS}):
            asked = [asyncio.open_unix_connection(path) for _ in range(MOST_CLIENTS)]
            patient = await asyncio.gather(*asked)
            for _, writer in patient:
                writer.write(b'{"cmd": "slow"}\n')
                await heard.acquire()
            with pytest.raises(AgentError):
                await asyncio.to_thread(ask, path, "status")
            finish.set()
            answers = [await reader.read() for reader, _ in patient]
            for _, writer in patient:
                writer.close()
            return answers

    assert asyncio.run(both()) == [b'"at last"\n'] * MOST_CLIENTS


def test_only_owner_and_group_may_connect_and_nothing_is_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "run" / "agent.sock"
    mode = served(path, path.stat)
    assert stat.S_IMODE(mode.st_mode) == 0o660
    assert not path.exists()


def test_a_socket_that_a_dead_agent_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    assert served(path, lambda: ask(path, "status")["vehicle"]) == "é"


def test_no_agent_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with pytest.raises(AgentError, match=r"no agent answers here \(No such file or directory\)"):
        ask(path, "status")
    path.write_text("", "utf-8")
    with pytest.raises(AgentError, match=r"no agent answers here \(Connection refused\); is it"):
        ask(path, "status")


@pytest.mark.parametrize("answer", [b"", b"220 mail.example.com ESMTP\r\n", b"\xff"])
def test_something_else_that_answers_is_no_agent(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "agent.sock"

    async def impostor() -> None:
        async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(answer)
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_unix_server(reply, path):
            await asyncio.to_thread(ask, path, "status")

    with pytest.raises(AgentError, match="what answers here is no agent"):
        asyncio.run(impostor())


def test_a_path_that_no_socket_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'too long for a socket .*set a shorter "socket"'):
        StatusServer(tmp_path / ("x" * 120), {})


def test_a_path_of_umlauts_is_measured_in_bytes(tmp_path: Path) -> None:
    room = 107 - len(os.fsencode(tmp_path)) - 1
    StatusServer(tmp_path / ("x" * room), {})
    with pytest.raises(ConfigError, match="too long"):
        StatusServer(tmp_path / ("ä" * (room // 2 + 1)), {})


def test_a_place_that_cannot_be_listened_on_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    path.mkdir()
    with pytest.raises(ConfigError, match=r"agent\.sock: cannot listen here: "):
        served(path, lambda: None)
