"""systemd's notification socket, with a real socket in the place of systemd's."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.observe.notify import notify, watchdog_interval_s


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
    ("value", "interval"),
    [("30000000", 15.0), ("1", 5e-7), ("0", None), ("", None), ("soon", None), ("-5", None)],
)
def test_the_watchdog_is_fed_twice_in_its_time(value: str, interval: float | None) -> None:
    assert watchdog_interval_s({"WATCHDOG_USEC": value}) == interval


def test_without_a_watchdog_there_is_no_interval() -> None:
    assert watchdog_interval_s({}) is None
