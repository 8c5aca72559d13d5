"""Updates that are ended by force, and what is left of them: what the tests of cuts run in a guest.

    python3 -m tests.vm.updates_drive run FOLDER INTERFACE ROUND WINDOW DELAY
    python3 -m tests.vm.updates_drive finish FOLDER INTERFACE ROUND

`run` publishes a bundle while frames come, and prints `cut` so many seconds after a step of the
update has begun; the power goes then. `finish` publishes one more, waits until that stays, and
tells what there is in the end, at the cloud and in the spool. All of it has its data in FOLDER.

Before anything else both tell what the last cut has left. Meanwhile they tell what is durable: of
samples as the agent's ledger counts them, and of the record what both of its copies say, because
the second one is written when the first one is on the disk.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from agent.batch import read_events
from agent.ota.record import Record, summary
from agent.ota.store import Store
from agent.ota.stored import COPIES, LIMITS, found
from tests import processes
from tests.vm import drive
from tests.vm.car import PLAN
from tests.vm.drive import say
from tests.vm.updates import FLEET, NOTHING_MAY_GO, Place, command, station

WINDOWS: Final = {"look": 1.5, "fetching": 7.0, "trial": 9.0}
"""The steps after which the power is cut, and within how many seconds: the look and the download;
watching what runs, the rehearsal and the switch; the trial, and what follows from its verdict."""
_TRIAL_S: Final = 5.0
_ROUND: Final = 32  # bits of a number within its round


def bundle(number: int) -> str:
    """The plan of a round; every second one does harm, and is taken back."""
    return of_events(FLEET) + (NOTHING_MAY_GO if number % 2 == 0 else "")


def of_events(plan: str) -> str:
    """Only numbers, in the lane that is kept whole whatever happens: also by a plan to no good."""
    return plan.replace('"Numbers.Number", "*.BusState.*"]', '"Numbers.Number"]\nlane = "event"')


def told(record: Record) -> dict[str, Any]:
    """What the host compares."""
    said = summary(record)
    return {
        "serial": record.serial,
        "floors": {role: floor.version for role, floor in record.floors.items()},
        "running": said["running"],
        "last_good": said["last_good"],
        "rejected": [each["bundle"] for each in said["rejected"]],
    }


def left(place: Place) -> None:
    """What the last run has left: as the store reads it, and as a person is told it."""
    folder = place.folder / "state/ota"
    if not folder.exists():
        return
    store = Store(folder)
    say(left=told(store.load()), trouble=store.trouble)
    status, shown = command("ota", "show", "--json", "-c", place.car.config)
    say(shown=status, running=json.loads(shown)["running"])


async def promise(folder: Path) -> None:
    """Tell of each record that is durable for certain."""
    known = -1
    while True:
        copies = []
        for name in COPIES:
            contents = dict.fromkeys(LIMITS, None)
            with contextlib.suppress(FileNotFoundError):
                contents[name] = (folder / name).read_bytes()
            copies.append(found(folder, contents).record)
        if copies[0] == copies[1] and copies[0].serial > known:
            known = copies[0].serial
            say(promised=told(copies[0]))
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def driven(folder: Path, interface: str, number: int) -> AsyncIterator[Place]:
    """The agent collects frames of this round; what is durable is told."""
    async with station(folder, interface, plan=of_events(PLAN), trial_s=_TRIAL_S) as place:
        left(place)
        async with place.car.agent():
            await processes.until(lambda: uplink(place), "the agent")
            status = processes.status(place.car.socket)
            assert status is not None
            say(started=status["ota"]["running"], plan=status["plan"])
            stop = asyncio.Event()
            driving = asyncio.create_task(drive.drive(interface, number, place.car, stop))
            telling = asyncio.create_task(promise(folder / "state/ota"))
            try:
                await processes.until(lambda: uplink(place).get("spooled"), "something is kept")
                place.desk.publish(number, bundle(number))
                yield place
                stop.set()
                await driving
            finally:
                telling.cancel()
                driving.cancel()


def uplink(place: Place) -> dict[str, int]:
    """The ledger of the uplink; empty while no agent answers."""
    status = processes.status(place.car.socket)
    assert status is None or status["differences"] == [], status
    return {} if status is None else dict(status["ledger"]["uplink"]["cloud"])


async def run(folder: Path, interface: str, number: int, window: str, delay_s: float) -> None:
    async with driven(folder, interface, number) as place:
        if window == "fetching":
            await place.until(lambda ota: ota["state"] in ("fetching", "rehearsing"), window)
        elif window == "trial":
            await place.on_trial(f"fleet {number}")
        await asyncio.sleep(delay_s)
        say(cut=window)
        await asyncio.sleep(processes.LIMIT_S)


async def finish(folder: Path, interface: str, number: int) -> None:
    name = f"fleet {number}"
    async with driven(folder, interface, number) as place:
        await place.settled(name)
    heard = [
        event["what"]
        for batch in place.batches()
        for event in read_events(batch.path)
        if event.get("bundle") == name
    ]
    numbers = [n for some in place.numbers().values() for n in some]
    rounds: dict[int, list[int]] = {}
    for n in sorted(set(numbers)):
        rounds.setdefault(n >> _ROUND, []).append(n & (1 << _ROUND) - 1)
    whole = {n: len(some) for n, some in rounds.items() if some == list(range(len(some)))}
    twice = len(numbers) - len(set(numbers))
    say(arrived=whole, rounds=len(rounds), twice=twice, heard=heard)


def main(words: list[str]) -> None:
    what, name, interface, number, *more = words
    folder = Path(name)
    folder.mkdir(exist_ok=True)
    match what:
        case "run":
            asyncio.run(run(folder, interface, int(number), more[0], float(more[1])))
        case "finish":
            asyncio.run(finish(folder, interface, int(number)))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
