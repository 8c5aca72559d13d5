"""The ground that the other tests of this folder stand on."""

import socket
import subprocess
import sys

import pytest

from tests.vm.guest import POWER_CUT, REPOSITORY, TIME_LIMIT, Guest
from tests.vm.links import Links

_CLASSIC_FRAME = bytes.fromhex(
    "23010000 03000000 aabbcc0000000000"
)  # linux/can.h: struct can_frame


@pytest.mark.vm
def test_a_virtual_bus_carries_a_frame_from_one_socket_to_another(vcan: Links) -> None:
    name = vcan()
    with (
        socket.socket(socket.PF_CAN, socket.SOCK_RAW, socket.CAN_RAW) as sender,
        socket.socket(socket.PF_CAN, socket.SOCK_RAW, socket.CAN_RAW) as reader,
    ):
        sender.bind((name,))
        reader.bind((name,))
        reader.settimeout(30)

        sender.send(_CLASSIC_FRAME)

        assert reader.recv(16) == _CLASSIC_FRAME


@pytest.mark.vm
def test_the_program_starts_from_this_checkout() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "usage: edge-agent" in done.stdout


@pytest.mark.vm_guest
def test_in_a_guest_the_checkout_cannot_be_changed() -> None:
    with pytest.raises(OSError, match="Read-only file system"):
        (REPOSITORY / "changed").touch()


@pytest.mark.vm_host
def test_a_guest_has_systemd_virtual_buses_and_the_installed_program(guest: Guest) -> None:
    seen = guest.run("ps -p 1 -o comm=; cat /sys/class/net/vcan0/mtu; edge-agent --help; exit 3")

    systemd, mtu, rest = seen.output.split("\n", 2)
    assert (systemd, mtu) == ("systemd", "72")
    assert "usage: edge-agent" in rest
    assert seen.exit == 3


@pytest.mark.vm_host
def test_a_command_that_takes_too_long_is_ended(guest: Guest) -> None:
    assert guest.run("echo begun; sleep 1000", timeout_s=1).exit == TIME_LIMIT


_WRITE = """
printf kept >/mnt/data/kept
sync /mnt/data/kept /mnt/data
printf lost >/mnt/data/lost
cat /mnt/data/kept /mnt/data/lost
echo ' is written'
sleep 1000
"""


@pytest.mark.vm_host
def test_a_power_cut_takes_what_was_not_synced_and_nothing_else(guest: Guest, disk: str) -> None:
    cut = guest.run(_WRITE, disk=disk, kill_on="is written")
    found = guest.run("cat /mnt/data/kept; echo; cat /mnt/data/lost 2>/dev/null", disk=disk)

    assert (cut.exit, cut.output) == (POWER_CUT, "keptlost is written\n")
    assert found.output == "kept\n"
