"""What reading CAN interfaces costs, against python-can, and how much is read without loss.

    python3 tests/vm/bench_socketcan.py [--json] [--seconds 20]

Needs a kernel with virtual CAN buses, and root.

Cost. One thread does everything, so the clock on the wall tells what its code costs, also where the
kernel counts CPU time in ticks of 10 ms (User-mode Linux). Classic frames with eight bytes come at
4,000 a second, a full bus of 500 kbit/s. The agent's source pauses between its reads; the bench
takes the pause over, puts on the bus what comes in that time, and measures from there to the next
pause: up to delivered blocks of arrays. python-can is given as many at once, and measured until its
`recv` has made a `Message` of each. Seconds of each take turns; the least one counts: in it other
programs of the machine took least. What the kernel does for a frame before it is in the socket is
not in it, and neither is going to sleep and waking up: 20 times a second for the agent, for
python-can in real traffic once a frame.

Rate. A process of its own sends at a steady rate while the agent reads, both on one CPU; the rate
is raised until a frame is lost.
"""

import argparse
import json
import logging
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import can

from agent.blocks import FrameBlock, SignalTable
from agent.bus.socketcan import SocketCanSource
from tests.benchmarks.report import Figure, parser, show
from tests.vm.frames import Prepared, Sender, numbered
from tests.vm.links import Links

RATE: Final = 4_000
BURST_S: Final = 0.05
BATCH_S: Final = 0.005
TARGET: Final = 25
HIGHEST: Final = 400_000


class Counting:
    """Takes blocks, as the daemon does, and counts their frames."""

    def __init__(self) -> None:
        self.frames = 0

    def __call__(self, block: FrameBlock | SignalTable) -> None:
        if isinstance(block, FrameBlock):
            self.frames += len(block)


class Turns(threading.Event):
    """The `stop` of a source: where it would pause, the next frames come, and the clock stands."""

    def __init__(self, sender: Sender, seconds: float) -> None:
        super().__init__()
        self.spent = 0.0
        self.sent = 0
        self._lock = threading.Lock()
        self._sender = sender
        self._prepared: dict[int, Prepared] = {}
        self._next = time.perf_counter()
        self._ends = self._next + seconds
        self._resumed = self._next

    def prod(self) -> None:
        """Until the end: where no pause has come for long, feed a frame."""
        seen = -1
        while not super().wait(0.3):
            if seen == self.sent:
                self.feed(1)
            seen = self.sent

    def feed(self, frames: int) -> None:
        prepared = self._prepared.get(frames)
        if prepared is None:
            prepared = self._prepared[frames] = Prepared(numbered(frames))
        with self._lock:
            self._sender.send_many(prepared)
            self.sent += frames
        self._resumed = time.perf_counter()

    def wait(self, timeout: float | None = None) -> bool:
        now = time.perf_counter()
        self.spent += now - self._resumed
        if now >= self._ends:
            self.set()
            return True
        pause_s = timeout or 0.0
        self._next = max(self._next + pause_s, now)
        time.sleep(max(0.0, self._next - now))
        self.feed(max(1, round(RATE * pause_s)))
        return False


def agent_us(name: str, seconds: float) -> float:
    """Microseconds a frame in the agent's reader."""
    taken = Counting()
    with Sender(name) as sender:
        turns = Turns(sender, seconds)
        source = SocketCanSource(name, name)
        # A source pauses only while frames come: the first one, and after a late one another.
        prod = threading.Thread(target=turns.prod)
        prod.start()
        source.run(taken, turns)
        prod.join()
    if taken.frames != turns.sent:
        raise RuntimeError(f"{taken.frames} of {turns.sent} frames were read")
    return turns.spent * 1e6 / taken.frames


def python_can_us(name: str, seconds: float) -> float:
    """Microseconds a frame in python-can's `recv`."""
    burst = Prepared(numbered(round(RATE * BURST_S)))
    spent, frames = 0.0, 0
    with Sender(name) as sender, can.Bus(interface="socketcan", channel=name, fd=True) as bus:
        wanted = time.perf_counter()
        ends = wanted + seconds
        while wanted < ends:
            sender.send_many(burst)
            began = time.perf_counter()
            got = 0
            while got < burst.count:
                got += bus.recv(1.0) is not None
            now = time.perf_counter()
            spent, frames = spent + now - began, frames + got
            wanted = max(wanted + BURST_S, now)
            time.sleep(max(0.0, wanted - now))
    return spent * 1e6 / frames


def cost(name: str, seconds: float) -> list[Figure]:
    rounds = max(3, round(seconds / 2))
    found = {"agent": float("inf"), "python-can": float("inf")}
    for _ in range(rounds):
        found["agent"] = min(found["agent"], agent_us(name, 1.5))
        found["python-can"] = min(found["python-can"], python_can_us(name, 1.0))
    ratio = found["python-can"] / found["agent"]
    return [
        Figure("reading, the agent", found["agent"], "us a frame"),
        Figure("reading, python-can's recv", found["python-can"], "us a frame"),
        Figure("python-can against the agent", ratio, "times", target=TARGET),
    ]


# -- rate ------------------------------------------------------------------------------------


def send(interfaces: list[str], rate: float, seconds: float) -> None:
    """The sender process: `rate` frames a second on each interface; prints how many in all."""
    a_batch = max(1, round(rate * BATCH_S))
    prepared = Prepared(numbered(a_batch))
    senders = [Sender(interface) for interface in interfaces]
    sent = 0
    begin = time.monotonic()
    for batch in range(round(seconds * rate / a_batch)):
        wait_s = begin + batch * a_batch / rate - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)
        for sender in senders:
            sent += sender.send_many(prepared)
    print(json.dumps({"sent": sent, "seconds": time.monotonic() - begin}))


def loss(names: list[str], rate: float, seconds: float) -> tuple[int, int, float]:
    """Frames that were lost, those of them that were counted, and the rate that was reached."""
    stop = threading.Event()
    taken = [Counting() for _ in names]
    sources = [SocketCanSource(name, name) for name in names]
    threads = [
        threading.Thread(target=source.run, args=(count, stop))
        for source, count in zip(sources, taken, strict=True)
    ]
    for thread in threads:
        thread.start()
    while any(source.state != "reading" for source in sources):
        time.sleep(0.01)
    words = [sys.executable, __file__, "--send", *names]
    done = subprocess.run(
        [*words, "--rate", str(rate), "--seconds", str(seconds)],
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    time.sleep(1)
    stop.set()
    for thread in threads:
        thread.join()
    read = sum(count.frames for count in taken)
    dropped = sum(source.counts["dropped"] for source in sources)
    return told["sent"] - read, dropped, told["sent"] / told["seconds"] / len(names)


def highest(names: list[str]) -> Figure:
    """The highest rate that is read without loss."""
    best, rate, note = 0.0, 4_000.0, ""
    while rate <= HIGHEST:
        lost, dropped, reached = loss(names, rate, 3)
        if lost:
            note = f"at {reached:,.0f}: {lost:,} lost, {dropped:,} of them counted by the sockets"
            break
        best = max(best, reached)
        if reached < 0.8 * rate:
            note = "the sender reaches no more on this CPU"
            break
        rate *= 1.5
    buses = "one bus" if len(names) == 1 else f"each of {len(names)} buses"
    return Figure(f"without loss on {buses}", best, "frames/s", note=note)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--seconds", type=float, default=20)
    options.add_argument("--rate", type=float, default=0, help=argparse.SUPPRESS)
    options.add_argument("--send", nargs="+", help=argparse.SUPPRESS)
    asked = options.parse_args()
    if asked.send:
        send(asked.send, asked.rate, asked.seconds)
        return
    logging.getLogger("can").setLevel(logging.ERROR)
    logging.getLogger("edge_agent").setLevel(logging.ERROR)
    os.sched_setaffinity(0, {0})
    notes = [f"kernel {platform.release()}; sender and reader share one CPU"]
    if "User Mode Linux" in Path("/proc/cpuinfo").read_text("ascii"):
        notes.append(
            "User-mode Linux: a system call costs some 40 times a native one, which flatters "
            "whatever makes few of them; under --engine tcg the ratio is about half of this"
        )
    links = Links()
    backlog = Path("/proc/sys/net/core/netdev_max_backlog")
    before = backlog.read_text("ascii")
    backlog.write_text("100000", "ascii")  # a virtual bus is fed in bursts that no wire carries
    try:
        names = [links() for _ in range(8)]
        figures = [*cost(names[0], asked.seconds), highest(names[:1]), highest(names)]
    finally:
        links.close()
        backlog.write_text(before, "ascii")
    show("Reading SocketCAN", figures, notes, as_json=asked.json)


if __name__ == "__main__":
    main()
