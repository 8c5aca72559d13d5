"""The whole agent on buses of a real kernel, with the reference cloud beside it."""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import pytest

from agent.batch import read_batch
from tests import processes
from tests.vm import frames
from tests.vm.car import Car
from tests.vm.links import Links

pytestmark = pytest.mark.vm

WANTED, UNWANTED = 0x123, 0x321


def prepared(n: int, begin: int = 0, identifier: int = WANTED) -> frames.Prepared:
    return frames.Prepared(
        [frames.classic(identifier, i.to_bytes(8, "little")) for i in range(begin, begin + n)]
    )


async def listens(interface: str) -> None:
    """Wait until somebody has a socket open on the interface."""

    def open_now() -> bool:
        lists = Path("/proc/net/can").glob("rcvlist_*")
        return any(interface in line.split() for p in lists for line in p.read_text().splitlines())

    await processes.until(open_now, f"a socket on {interface}")


def run(coroutine: Any) -> None:
    asyncio.run(coroutine)


def test_frames_of_the_first_moment_arrive(vcan: Links, tmp_path: Path) -> None:
    """They are sent as soon as the socket is open, long before the agent can decode."""
    run(_first_moment(vcan(), tmp_path))


async def _first_moment(interface: str, folder: Path) -> None:
    n = 30_000
    async with processes.cloud(folder / "cloud") as port:
        car = Car(folder, {"body": interface}, port)
        with frames.Sender(interface) as sender:
            began = time.monotonic()
            async with car.agent():
                await listens(interface)
                opened = time.monotonic()
                assert processes.status(car.socket) is None
                for begin in range(0, n, 500):  # 10,000 a second: more than any classic bus has
                    sender.send_many(prepared(500, begin))
                    await asyncio.sleep(0.05)
                row = await car.read("body", n)
                print(f"a socket was open {1000 * (opened - began):.0f} ms after the start")
                assert (row["read"], row["dropped"], row["decoded"]) == (n, 0, n)
                await processes.until(lambda: len(car.arrived("body")) >= n, "all of them")
        assert sorted(car.arrived("body")) == list(range(n))


def test_eight_buses_at_once_and_one_that_is_pulled_out(vcan: Links, tmp_path: Path) -> None:
    run(_eight(vcan, tmp_path))


async def _eight(vcan: Links, folder: Path) -> None:
    buses = {f"bus{i}": vcan() for i in range(8)}
    rounds, each = 60, 100  # more at once overflow the queue of a virtual bus, before any socket
    async with processes.cloud(folder / "cloud") as port:
        car = Car(folder, buses, port)
        async with car.agent():
            await processes.until(lambda: car.bus("bus7"), "the agent")
            with contextlib.ExitStack() as stack:
                senders = {b: stack.enter_context(frames.Sender(i)) for b, i in buses.items()}
                for number in range(rounds):
                    if number == 10:
                        vcan.remove(buses["bus0"])
                    for bus, sender in senders.items():
                        if bus != "bus0" or number < 10:
                            sender.send_many(prepared(each, number * each))
                    await asyncio.sleep(0.01)
            vcan.add(buses["bus0"])
            await processes.until(
                lambda: "bus bus0: reading" in car.said.partition("there is no interface")[2],
                "bus0 is read again",
            )
            with frames.Sender(buses["bus0"]) as sender:
                sender.send_many(prepared(each, 10 * each))
            for bus in buses:
                n = each * (rounds if bus != "bus0" else 11)
                row = await car.read(bus, n)
                assert (row["received"], row["dropped"], row["decoded"]) == (n, 0, n)
    for bus in buses:
        n = each * (rounds if bus != "bus0" else 11)
        assert sorted(car.arrived(bus) + waiting(car, bus)) == list(range(n))


def waiting(car: Car, bus: str) -> list[int]:
    """What the spool still has."""
    paths = sorted((car.folder / "state/spool/uplinks/cloud").rglob("*.batch"))
    tables = [t for t in read_batch(*paths) if (t.bus, t.message) == (bus, "Numbers")]
    return [v for table in tables for v in table.raw["Number"].tolist()]


def test_a_kernel_filter_hides_what_the_plan_does_not_want(vcan: Links, tmp_path: Path) -> None:
    run(_filtered(vcan(), tmp_path))


async def _filtered(interface: str, folder: Path) -> None:
    async with processes.cloud(folder / "cloud") as port:
        car = Car(folder, {"body": interface}, port, "kernel_filter = true")
        async with car.agent():
            await processes.until(lambda: car.bus("body"), "the agent")
            with frames.Sender(interface) as sender:
                # The queue before the socket takes a thousand, whatever the filters say.
                for begin in range(0, 5000, 250):
                    sender.send_many(prepared(250, begin, UNWANTED))
                    sender.send_many(prepared(250, begin))
                    row = await car.read("body", begin + 250)
            assert (row["read"], row["decoded"], row["unknown"]) == (5000, 5000, 0)
