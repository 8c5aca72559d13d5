"""systemd's notification socket, with a real socket in the place of systemd's."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.observe.notify import feed_watchdog, notify, watchdog_limit_s


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """What systemd would listen on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        yield listening


def test_a_message_arrives_whole(manager: socket.socket) -> None:
    assert notify("READY=1\nSTATUS=plan é", {"NOTIFY_SOCKET": str(manager.getsockname())})
    assert manager.recv(4096) == "READY=1\nSTATUS=plan é".encode()


def test_an_abstract_address_is_understood(tmp_path: Path) -> None:
    name = f"edge-agent-test-{tmp_path.name}-{tmp_path.parent.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.settimeout(5)
        assert notify("WATCHDOG=1", {"NOTIFY_SOCKET": f"@{name}"})
        assert listening.recv(4096) == b"WATCHDOG=1"


@pytest.mark.parametrize("address", [None, "", "relative/path", "vsock:2:1"])
def test_without_systemd_nothing_is_told(address: str | None) -> None:
    assert not notify("READY=1", {} if address is None else {"NOTIFY_SOCKET": address})


def test_a_socket_where_nobody_listens_does_no_harm(tmp_path: Path) -> None:
    assert not notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "none")})
    assert not notify("READY=1", {"NOTIFY_SOCKET": "/" + "x" * 200})


@pytest.mark.parametrize(
    ("value", "limit"),
    [("30000000", 30.0), ("1", 1e-6), ("0", None), ("", None), ("soon", None), ("-5", None)],
)
def test_systemd_says_how_often_it_is_fed(value: str, limit: float | None) -> None:
    assert watchdog_limit_s({"WATCHDOG_USEC": value}) == limit


def test_without_a_watchdog_there_is_no_limit() -> None:
    assert watchdog_limit_s({}) is None


class Steps:
    """Work whose steps take these times; then whoever watches is stopped."""

    name = "the work"

    def __init__(self, *steps_s: float) -> None:
        self._steps_s = list(steps_s)

    @property
    def stuck_s(self) -> float:
        if not self._steps_s:
            raise asyncio.CancelledError
        return self._steps_s.pop(0)

    def where(self) -> str:
        return "in its third line"


def watched(manager: socket.socket, *steps_s: float) -> list[bytes]:
    """What systemd is told while work has such steps, with a limit of 1 ms."""
    environment = {"NOTIFY_SOCKET": str(manager.getsockname()), "WATCHDOG_USEC": "1000"}
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(feed_watchdog(Steps(*steps_s), environment))
    manager.setblocking(False)
    told = []
    with contextlib.suppress(BlockingIOError):
        while True:
            told.append(manager.recv(4096))
    return told


def test_the_watchdog_is_fed_while_the_work_goes_on(manager: socket.socket) -> None:
    assert watched(manager, 0.0, 0.0004, 0.0, 0.0005) == [b"WATCHDOG=1"] * 4


def test_work_that_hangs_starves_it_and_says_where(
    manager: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "edge_agent")
    told = watched(manager, 0.0, 0.0006, 10.0, 20.0, 0.0, 0.0)
    assert told == [b"WATCHDOG=1"] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "the work hangs; systemd will start the agent again\nin its third line",
        "the work goes on",
    ]


def test_nobody_watches(manager: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": str(manager.getsockname())}
    asyncio.run(feed_watchdog(Steps(), environment))
