"""A drive that is ended by force, and what is left of it: what the tests of cuts run in a guest.

    python3 -m tests.vm.drive run FOLDER INTERFACE ROUND S   drive until the power is cut
    python3 -m tests.vm.drive kill FOLDER INTERFACE N SEED   N drives, the agent killed in each
    python3 -m tests.vm.drive check FOLDER INTERFACE         send what is left, tell what arrived

Agent and cloud are the real programs, and both have their data in FOLDER. Each frame carries its
round and its number in it. Lines of JSON tell how many samples of a round are durable, as the
agent's ledger counts them after its fsync, and in the end which numbers of which round the cloud
has.
"""

import asyncio
import collections
import contextlib
import json
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from agent.batch import read_batch
from agent.errors import BatchError
from agent.ledger import differences
from tests import processes
from tests.vm import frames
from tests.vm.car import Car

_ID = 0x123
_FRAMES = 20
_PERIOD_S = 0.01
_PLAN_SIGNALS = 'signals = ["Numbers.Number"]'
_ROUND = 32  # bits of a number within its round


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


@contextlib.asynccontextmanager
async def car(folder: Path, interface: str) -> AsyncIterator[Car]:
    """A car that keeps the numbers, and its cloud."""
    async with processes.cloud(folder / "cloud") as port:
        made = Car(folder, {"body": interface}, port)
        plan = folder / "plan.toml"
        lines = plan.read_text().splitlines()
        plan.write_text("\n".join([*lines[:-1], _PLAN_SIGNALS, ""]))
        yield made


async def drive(
    interface: str, number: int, car: Car, stop: asyncio.Event, cut_after_s: float | None = None
) -> int:
    """Send frames and tell what is durable, until told to stop; gives the last such count.

    So long after something was durable for the first time it says that the power may go.
    """
    loop = asyncio.get_running_loop()
    sent = durable = 0
    cut_at = None
    with frames.Sender(interface) as sender:
        while not stop.is_set():
            numbers = range(sent, sent + _FRAMES)
            made = [number << _ROUND | n for n in numbers]
            payloads = [n.to_bytes(8, "little") for n in made]
            sender.send_many(frames.Prepared([frames.classic(_ID, p) for p in payloads]))
            sent += _FRAMES
            if sent % (10 * _FRAMES) == 0:
                status = await asyncio.to_thread(processes.status, car.socket)
                if status is not None:
                    durable = status["ledger"]["uplink"]["cloud"]["spooled"]
                    say(round=number, durable=durable)
                    if durable and cut_at is None and cut_after_s is not None:
                        cut_at = loop.time() + cut_after_s
            if cut_at is not None and loop.time() >= cut_at:
                say(cut=True)
            await asyncio.sleep(_PERIOD_S)
    return durable


async def run(folder: Path, interface: str, number: int, cut_after_s: float) -> None:
    async with car(folder, interface) as made, made.agent():
        await processes.until(lambda: made.bus("body"), "the agent")
        await drive(interface, number, made, asyncio.Event(), cut_after_s)


async def kill(folder: Path, interface: str, rounds: int, seed: int) -> None:
    """SIGKILL at random moments; the cloud lives on."""
    moments = random.Random(seed)
    async with car(folder, interface) as made:
        for number in range(rounds):
            with made.log.open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "agent.cli", "run", "-c", str(made.config)),
                    stderr=log,
                )
            await processes.until(lambda: made.bus("body"), "the agent")
            stop = asyncio.Event()
            driving = asyncio.create_task(drive(interface, number, made, stop))
            await asyncio.sleep(moments.uniform(0.2, 2.5))
            process.send_signal(signal.SIGKILL)
            await process.wait()
            stop.set()
            await driving
    await check(folder, interface)


async def check(folder: Path, interface: str) -> None:
    """Start once more, wait until everything is sent, and tell what the cloud has."""
    async with car(folder, interface) as made, made.agent():

        def sent() -> bool:
            status = processes.status(made.socket)
            if status is None:
                return False
            rows = status["ledger"]
            assert differences(rows) == [], differences(rows)
            uplink = rows["uplink"]["cloud"]
            return not any((uplink["waiting"], uplink["memory"], uplink["quarantined"]))

        await processes.until(sent, "all is sent")
    counts: collections.Counter[int] = collections.Counter()
    unreadable = 0
    for path in sorted((folder / "cloud").rglob("*.batch")):
        try:
            tables = list(read_batch(path))
        except BatchError:
            unreadable += 1
            continue
        counts.update(v for t in tables for v in t.raw["Number"].tolist())
    rounds = collections.defaultdict(set)
    for value in counts:
        rounds[value >> _ROUND].add(value & (1 << _ROUND) - 1)
    whole = {n: _unbroken(rounds[n].__contains__) for n in rounds}
    twice = sum(1 for n in counts.values() if n > 1)
    say(arrived=whole, total=len(counts), twice=twice, unreadable=unreadable)


def _unbroken(has: Callable[[int], bool]) -> int:
    """How many numbers there are from 0 on without a gap."""
    n = 0
    while has(n):
        n += 1
    return n


def main(words: list[str]) -> None:
    what, folder, interface, *numbers = words
    where = Path(folder)
    where.mkdir(exist_ok=True)
    match what:
        case "run":
            asyncio.run(run(where, interface, int(numbers[0]), float(numbers[1])))
        case "kill":
            asyncio.run(kill(where, interface, int(numbers[0]), int(numbers[1])))
        case "check":
            asyncio.run(check(where, interface))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
