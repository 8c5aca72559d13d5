"""The meter of the link: is it one that costs money, and what has been spent on it.

All senders share one meter, because they share the contract with the operator. The counts are
written, fsynced and renamed into place after each request over a metered link, so a power cut
forgets the request under way and no more. A file that cannot be read counts as nothing spent; one
that cannot be written is said once, and the count goes on in memory.

Where a plan has budgets, the bytes of the day are counted for it, over metered links and over all.

Whether the link is metered is asked for once a minute, and only where there is a limit or a budget:

    yes, no   it stands in the device file
    file      the first word of a file, `metered` or `unmetered`
    command   the first word that a program prints, within 5 s
    auto      the property `Metered` of NetworkManager (NMMetered: 1 and 3 are yes, a sure and a
              guessed one), read by busctl, which comes with systemd; without NetworkManager, or
              where it does not know: unmetered

Where `file` or `command` gives no such word the link counts as metered: that costs no money.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from agent.clock import SECOND, BootNs, Clock, Quality
from agent.settings import Lane, Link
from agent.uplink.allowance import Allowance, Now, Refusal
from agent.uplink.durable import replace_durably

_log = logging.getLogger("edge_agent.uplink")

FILE: Final = "link.json"
_ALL: Final = "all"
_ASK_EVERY_NS: Final = 60 * SECOND
_COMMAND_S: Final = 5.0
_WORD_BYTES: Final = 256
_WORDS: Final = {"metered": True, "unmetered": False}
_NETWORK_MANAGER: Final = (
    "busctl",
    "--system",
    "--timeout=4",
    "get-property",
    "org.freedesktop.NetworkManager",
    "/org/freedesktop/NetworkManager",
    "org.freedesktop.NetworkManager",
    "Metered",
)

Run = Callable[[list[str]], Awaitable[str]]


class Meter:
    """Belongs to the event loop. `run` is a seam for tests: a program to what it prints."""

    def __init__(
        self, link: Link, state_dir: Path, clock: Clock, *, run: Run | None = None
    ) -> None:
        self._link = link
        self._path = state_dir / FILE
        self._clock = clock
        self._run = run or _output
        kept = self._kept()
        self._allowance = Allowance(link.metered_mb_day, link.metered_mb_month, kept)
        all_links = kept.get(_ALL)
        self._everything = Allowance(0, 0, all_links if isinstance(all_links, dict) else None)
        self.budgeted = False
        """Whether a plan has budgets, so that every byte is counted."""
        self._metered = False
        self._asked_at: BootNs | None = None
        self._trouble = ""
        self._writing = asyncio.Lock()

    async def refusal(self, body_bytes: int, lane: Lane) -> Refusal | None:
        """Why a batch may not go over the link of this moment; None if it may.

        The time to ask again is at most a minute away: the link may be another one then.
        """
        if not self._allowance.limited or not await self._look():
            return None
        return self._allowance.refusal(body_bytes, lane, self._now())

    async def spend(self, body_bytes: int) -> None:
        """So much of a batch has gone out, whatever came of it."""
        if not (self._allowance.limited or self.budgeted):
            return
        metered = await self._look() if self.budgeted else self._metered
        if self.budgeted:
            self._everything.spend(body_bytes, self._now())
        if metered:
            self._allowance.spend(body_bytes, self._now())
        elif not self.budgeted:
            return
        async with self._writing:
            await asyncio.to_thread(self._keep)

    def sent_today(self) -> dict[str, int]:
        """Bytes of this day by class of link: `metered` and `any`."""
        now = self._now()
        return {"metered": self._allowance.today(now), "any": self._everything.today(now)}

    def status(self) -> dict[str, Any]:
        """For the status: the class of the link as last asked for, and what was spent."""
        known = self._asked_at is not None
        return {
            "metered": self._metered if known else None,
            "trouble": self._trouble,
            **self._allowance.state(),
        }

    async def _look(self) -> bool:
        now = self._clock.boot()
        if self._asked_at is None or now - self._asked_at >= _ASK_EVERY_NS:
            self._asked_at = now
            self._metered = await self._ask()
        return self._metered

    async def _ask(self) -> bool:
        match self._link.metered:
            case "yes":
                return True
            case "no":
                return False
            case "auto":
                return _guess(await self._run([*_NETWORK_MANAGER]))
            case "file":
                text = await asyncio.to_thread(_beginning, Path(self._link.file))
                source = self._link.file
            case "command":
                text = await self._run(self._link.command)
                source = self._link.command[0]
        word = (text.split() or [""])[0].lower()
        known = _WORDS.get(word)
        self._say(
            ""
            if known is not None
            else f"{source}: does not say metered or unmetered, so the link counts as metered"
        )
        return known is not False

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            _log.warning("link: %s", trouble)
        self._trouble = trouble

    def _now(self) -> Now:
        clock = self._clock
        good = clock.quality() > Quality.UNSYNCHRONISED
        return Now(clock.boot(), clock.wall(), good)

    def _kept(self) -> dict[str, Any]:
        try:
            kept = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return kept if isinstance(kept, dict) else {}

    def _keep(self) -> None:
        state = {**self._allowance.state(), _ALL: self._everything.state()}
        content = json.dumps(state).encode() + b"\n"
        try:
            replace_durably(self._path, content, 0o640)
        except OSError as e:
            self._say(f"{self._path}: cannot be written: {e.strerror}")


def _guess(answer: str) -> bool:
    """What busctl prints of a property: its type and its value."""
    kind, _, value = answer.strip().partition(" ")
    return kind == "u" and value in ("1", "3")


def _beginning(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_WORD_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


async def _output(command: list[str]) -> str:
    """The beginning of what a program prints; empty where it fails or takes too long."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except (OSError, ValueError):
        return ""
    told = b""
    try:
        async with asyncio.timeout(_COMMAND_S):
            while process.stdout and (piece := await process.stdout.read(_WORD_BYTES)):
                told = told or piece  # the rest is read so that the program can end
            status = await process.wait()
    except TimeoutError:
        return ""
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return told.decode("utf-8", "replace") if status == 0 else ""
