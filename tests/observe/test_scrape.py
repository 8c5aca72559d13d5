"""The server of metrics: real sockets, honest and hostile clients."""

import asyncio
import contextlib
import http.client
import socket
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.clock import SECOND, BootNs, Quality, WallNs
from agent.errors import ConfigError
from agent.observe.clients import MOST_CLIENTS
from agent.observe.scrape import MOST_REQUEST, MetricsServer
from agent.settings.metrics import Metrics, TcpAddress, address_of

TEXT = "# TYPE a gauge\na 1\n"
ANYWHERE = TcpAddress("127.0.0.1", 0)
GET = b"GET /metrics HTTP/1.1\r\nHost: van\r\n\r\n"


class HandClock:
    boot_id = "boot-1"

    def __init__(self) -> None:
        self.now_s = 1000.0

    def boot(self) -> BootNs:
        return BootNs(round(self.now_s * SECOND))

    def wall(self) -> WallNs:
        return WallNs(0)

    def quality(self) -> Quality:
        return Quality.UNSYNCHRONISED


def served(
    client: Callable[[TcpAddress], Any],
    text: Callable[[], str] = lambda: TEXT,
    *,
    clock: HandClock | None = None,
    patience_s: float = 5.0,
) -> Any:
    """What a client in a thread makes of a server."""

    async def both() -> Any:
        server = MetricsServer(ANYWHERE, text, clock or HandClock(), patience_s=patience_s)
        async with server:
            assert isinstance(server.address, TcpAddress)
            return await asyncio.to_thread(client, server.address)

    return asyncio.run(both())


def connected(address: TcpAddress) -> socket.socket:
    return socket.create_connection(address, timeout=20)


def said(client: socket.socket) -> bytes:
    """All that the server says, until it hangs up."""
    answer = b""
    try:
        while chunk := client.recv(1 << 16):
            answer += chunk
    except ConnectionError:
        pass  # it was cut short
    return answer


def asked(address: TcpAddress, request: bytes = GET) -> bytes:
    with connected(address) as client:
        with contextlib.suppress(ConnectionError):  # it may have heard enough
            client.sendall(request)
        return said(client)


def fetched(address: TcpAddress, method: str = "GET", path: str = "/metrics") -> tuple[int, Any]:
    """Status and body, as a library for HTTP understands them."""
    connection = http.client.HTTPConnection(*address, timeout=20)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, (response.headers, response.read())
    finally:
        connection.close()


def test_metrics_come_as_prometheus_wants_them() -> None:
    status, (headers, body) = served(fetched)
    assert (status, body) == (200, TEXT.encode())
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_each_connection_is_one_request() -> None:
    def client(address: TcpAddress) -> list[int]:
        return [fetched(address)[0] for _ in range(3 * MOST_CLIENTS)]

    assert served(client) == [200] * 3 * MOST_CLIENTS


def test_head_gives_the_head_alone() -> None:
    status, (headers, body) = served(lambda address: fetched(address, "HEAD"))
    assert (status, body, headers["Content-Length"]) == (200, b"", str(len(TEXT)))


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics?name[]=a HTTP/1.0\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics/../secret HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET  /metrics HTTP/1.1\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
    ],
)
def test_what_else_is_asked_gets_a_word_about_it(request_: bytes, status: int) -> None:
    answer = served(lambda address: asked(address, request_))
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nConnection: close\r\n" in answer


def test_a_client_that_hangs_up_in_the_middle_costs_itself() -> None:
    def client(address: TcpAddress) -> int:
        for part in (b"", b"GET /metr", GET):
            with connected(address) as gone:
                gone.sendall(part)
        return fetched(address)[0]

    assert served(client) == 200


def test_a_request_that_does_not_end_is_cut_off() -> None:
    def client(address: TcpAddress) -> tuple[bytes, int]:
        huge = asked(address, b"GET /metrics HTTP/1.1\r\nX: " + b"x" * (50 * MOST_REQUEST))
        return huge, fetched(address)[0]

    huge, status = served(client)
    assert huge == b"" or huge.startswith(b"HTTP/1.1 431 ")
    assert status == 200


def test_a_client_that_says_nothing_is_sent_away() -> None:
    def client(address: TcpAddress) -> bytes:
        with connected(address) as silent:
            silent.sendall(b"GET /metrics HTTP/1.1\r\n")
            return said(silent)

    assert served(client, patience_s=0.1) == b""


def test_a_client_that_reads_nothing_is_sent_away() -> None:
    """The answer is more than the buffers of both ends hold; what is in them may be read later."""
    answer = "x" * (32 << 20)
    asked_for = asyncio.Event()
    sent_away = threading.Event()

    def text() -> str:
        asked_for.set()
        return answer

    def client(address: TcpAddress) -> int:
        with connected(address) as deaf:
            deaf.sendall(GET)
            assert sent_away.wait(20)
            return len(said(deaf))

    async def both() -> int:
        server = MetricsServer(ANYWHERE, text, HandClock(), patience_s=0.2)
        async with server:
            assert isinstance(server.address, TcpAddress)
            told = asyncio.ensure_future(asyncio.to_thread(client, server.address))
            await asked_for.wait()
            # Until only this task and the client's are left: its connection is forgotten.
            while len(asyncio.all_tasks()) > 2:  # noqa: ASYNC110 - no task has an event for its end
                await asyncio.sleep(0.01)
            sent_away.set()
            return await told

    assert asyncio.run(both()) < len(answer)


def test_many_who_say_nothing_lock_nobody_out() -> None:
    def client(address: TcpAddress) -> list[int]:
        silent = [connected(address) for _ in range(5 * MOST_CLIENTS)]
        try:
            return [fetched(address)[0] for _ in range(3)]
        finally:
            for each in silent:
                each.close()

    assert served(client, patience_s=60) == [200] * 3


def test_many_who_ask_at_once_are_all_answered_or_cut_off() -> None:
    """And nothing but them: the server goes on."""

    def client(address: TcpAddress) -> tuple[set[bytes], int]:
        with ThreadPoolExecutor(32) as threads:
            answers = {a[:12] for a in threads.map(lambda _: asked(address), range(200))}
        return answers, fetched(address)[0]

    answers, status = served(client)
    assert answers <= {b"HTTP/1.1 200", b""}
    assert b"HTTP/1.1 200" in answers
    assert status == 200


def test_however_often_it_is_asked_the_text_is_made_once_a_second() -> None:
    clock = HandClock()
    numbers = iter(range(100))

    def client(address: TcpAddress) -> list[bytes]:
        bodies = [fetched(address)[1][1] for _ in range(3)]
        clock.now_s += 1
        return [*bodies, fetched(address)[1][1]]

    told = served(client, lambda: f"a {next(numbers)}\n", clock=clock)
    assert told == [b"a 0\n", b"a 0\n", b"a 0\n", b"a 1\n"]


def test_a_defect_is_told_once_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    good = iter([False, False, True])

    def text() -> str:
        return TEXT if next(good) else str(1 // 0)

    told = served(lambda address: [fetched(address)[0] for _ in range(3)], text)
    assert told == [500, 500, 200]
    assert len(caplog.records) == 1


def test_names_that_are_no_unicode_are_told_with_marks() -> None:
    assert served(fetched, lambda: 'a{b="\ud800"} 1\n')[1][1] == b'a{b="?"} 1\n'


def test_the_end_of_the_agent_waits_for_no_client() -> None:
    async def both() -> bytes:
        async with MetricsServer(ANYWHERE, lambda: TEXT, HandClock()) as server:
            assert isinstance(server.address, TcpAddress)
            silent = await asyncio.to_thread(connected, server.address)
        with silent:
            return await asyncio.to_thread(said, silent)

    assert asyncio.run(both()) == b""


# -- Unix sockets ----------------------------------------------------------------------------------


def over(path: Path, client: Callable[[], Any]) -> Any:
    async def both() -> Any:
        async with MetricsServer(path, lambda: TEXT, HandClock()):
            return await asyncio.to_thread(client)

    return asyncio.run(both())


def asked_over(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        client.sendall(GET)
        return said(client)


def test_a_unix_socket_is_for_owner_and_group(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.sock"
    answer, mode = over(path, lambda: (asked_over(path), path.stat().st_mode))
    assert answer.endswith(TEXT.encode())
    assert stat.S_IMODE(mode) == 0o660
    assert not path.exists()


def test_a_socket_that_a_dead_agent_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert over(path, lambda: asked_over(path)).startswith(b"HTTP/1.1 200 ")


def test_what_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine", "utf-8")
    with pytest.raises(ConfigError, match=r"notes\.txt: is no socket"):
        over(path, lambda: None)
    assert path.read_text("utf-8") == "mine"


def test_where_it_cannot_listen_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is too long for a socket"):
        MetricsServer(tmp_path / ("x" * 120), lambda: TEXT, HandClock())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = TcpAddress(*taken.getsockname())

        async def listen() -> None:
            async with MetricsServer(address, lambda: TEXT, HandClock()):
                pass

        words = rf"127\.0\.0\.1:{address.port}: cannot listen here: Address already in use; .*"
        with pytest.raises(ConfigError, match=words + r'"listen" in \[metrics\]'):
            asyncio.run(listen())


# -- settings --------------------------------------------------------------------------------------


def settings(**keys: Any) -> Metrics:
    return msgspec.convert(keys, Metrics)


def test_metrics_are_off_unless_somebody_wants_them() -> None:
    assert address_of(settings()) is None


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:9469", TcpAddress("127.0.0.1", 9469)),
        ("127.3.2.1:1", TcpAddress("127.3.2.1", 1)),
        ("localhost:9469", TcpAddress("127.0.0.1", 9469)),
        ("[::1]:9469", TcpAddress("::1", 9469)),
        ("/run/edge-agent/metrics.sock", Path("/run/edge-agent/metrics.sock")),
        ("./metrics:1", Path("metrics:1")),
    ],
)
def test_where_it_listens(listen: str, address: TcpAddress | Path) -> None:
    assert address_of(settings(listen=listen)) == address


@pytest.mark.parametrize("listen", ["0.0.0.0:9469", "192.168.1.4:9469", "[::]:9469", "[fe80::1]:1"])
def test_an_address_beyond_this_computer_has_to_be_wanted(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"can be reached from outside.*beyond_loopback = true"):
        address_of(settings(listen=listen))
    told = address_of(settings(listen=listen, beyond_loopback=True))
    assert str(told) == listen


@pytest.mark.parametrize("listen", ["example.com:9469", "127.1:80", "[127.0.0.1:80", "::1:x:80"])
def test_a_name_is_no_address(listen: str) -> None:
    with pytest.raises(ConfigError, match="is no IP address with a port"):
        address_of(settings(listen=listen, beyond_loopback=True))


def test_a_port_has_a_highest_number() -> None:
    with pytest.raises(ConfigError, match="a port is 0 to 65535, not 65536"):
        address_of(settings(listen="127.0.0.1:65536"))


@pytest.mark.parametrize("listen", ["9469", "127.0.0.1", "127.0.0.1:", "metrics.sock", "a b:1"])
def test_what_is_neither_is_refused_where_the_file_is_read(listen: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="listen"):
        settings(listen=listen)
