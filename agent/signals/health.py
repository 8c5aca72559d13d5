"""Whether a bus is well, and whether its database speaks of it: what the decode thread looks at.

`DatabaseHealth.look` takes each block with the tables that the decoder made of it. It finds frames
that are in no database and frames of a wrong length, messages that are silent, never came or come
too often or too seldom (`health_messages`), samples out of their range and counters that stand
still (`health_values`). Nothing is done for each frame: counts come from the decoder's own sorting,
and what must be looked at one by one is what is wrong.

Time is that in which the bus had frames (`health_time`): a vehicle that sleeps misses nothing. It
is cut by a fixed grid into intervals of `interval_s`, and intervals of more than ten seconds into
equal looks. At the end of each look findings begin and end; so they are as late as a look is long,
and do not depend on where blocks end. Two tables tell of it:

- `BusHealth`, a row at the end of each interval in which the bus had frames. UnknownFrames,
  UnknownIds (up to 4096), WrongLength (frames) and OutOfRange (samples) are totals of the run.
  Drifting, Silent and StuckCounters say how often that was found of a message in the run, and the
  same names with Now of how many messages it is true. Silent includes messages never seen.
- `MessageHealth`, a row when what is found of a message changes: its id as DBC files write it (the
  highest of 32 bits says that it is one of 29), the worst State, the set of all Findings, and the
  cycle that was measured last. At most 64 rows a look: what changed more often than that is told
  by the next looks, as it is then.

The log has one line for what begins and one for what ends at a look, six in a minute at the most.
"""

import logging
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.blocks import EXTENDED, FrameBlock, Int64, SignalTable, UInt8
from agent.clock import MILLISECOND, SECOND
from agent.settings.plan import Health
from agent.signals.database import ANY_BUS, Database, SignalPath
from agent.signals.decoder import Decoder, Occurrences
from agent.signals.health_block import Pending
from agent.signals.health_counters import is_counter
from agent.signals.health_messages import WORST_FIRST, Messages, State, worst
from agent.signals.health_tables import Rows, schemas
from agent.signals.health_time import BusTime, IdCounter
from agent.signals.health_values import Values

__all__ = ["DatabaseHealth", "counters", "schemas"]

log = logging.getLogger("edge_agent")

_LOOK_NS: Final = 10 * SECOND
_ROWS: Final = 64
_MOST: Final = 20
_NAMES: Final = 3
_LINES: Final = 6
_MINUTE_NS: Final = 60 * SECOND

_WORDS: Final = {
    State.NEVER_SEEN: ("never seen, though the database states a cycle", "seen at last"),
    State.SILENT: ("silent", "no longer silent"),
    State.DRIFTING: ("the cycle is not the stated one", "the cycle is the stated one again"),
    State.WRONG_LENGTH: ("frames of a wrong length", "frames of the right length again"),
    State.STUCK_COUNTER: ("a counter stands still", "the counter counts again"),
    State.OUT_OF_RANGE: ("values out of range", "values in range again"),
}


def counters(database: Database, settings: Health) -> set[SignalPath]:
    """The counters to watch: those of the plan, else what is called a counter.

    They can only be watched where they are decoded.

    Raises:
        ConfigError: a pattern names nothing, or a plain name names several signals.
    """
    if settings.counters:
        return database.select(settings.counters)
    return {
        SignalPath(bus, message.name, signal.name)
        for bus, messages in database.buses.items()
        for message in messages
        for signal in message.signals
        if is_counter(signal.schema)
    }


class DatabaseHealth:
    """Watches all buses of a decoder. Of one thread; `status` may be called from any.

    Raises:
        ConfigError: a counter of the settings names nothing.
    """

    def __init__(self, decoder: Decoder, settings: Health) -> None:
        self._decoder = decoder
        self._settings = settings
        self._asked = frozenset(counters(decoder.database, settings)) if settings.counters else None
        self._voice = _Voice()
        self._buses: dict[str, _Bus] = {}

    def look(self, block: FrameBlock, tables: Sequence[SignalTable]) -> list[SignalTable]:
        """Take the next block of a bus and what was decoded of it; gives the tables now due."""
        if not len(block):
            return []
        bus = self._bus(block.bus)
        return bus.look(block, self._decoder.occurrences(block), tables)

    def status(self) -> dict[str, Any]:
        """What is known of each bus, for people and programs."""
        return {name: bus.status() for name, bus in list(self._buses.items())}

    def adopt(self, old: "DatabaseHealth") -> None:
        """Go on where another one has ended, with another plan or database."""
        self._voice = old._voice  # noqa: SLF001 - one of our own
        for name, bus in old._buses.items():  # noqa: SLF001 - one of our own
            self._bus(name).adopt(bus)

    def _bus(self, name: str) -> "_Bus":
        bus = self._buses.get(name)
        if bus is None:
            made = _Bus(name, self._decoder.database, self._settings, self._asked, self._voice)
            bus = self._buses[name] = made
        return bus


class _Bus:
    """One bus."""

    def __init__(
        self,
        name: str,
        database: Database,
        settings: Health,
        asked: frozenset[SignalPath] | None,
        voice: "_Voice",
    ) -> None:
        interval_ns = round(settings.interval_s * SECOND)
        self._looks = math.ceil(interval_ns / _LOOK_NS)
        self._look_ns = interval_ns // self._looks
        self._cell = 0
        """The look that goes on, by its place in the grid."""
        self.began: int | None = None
        self._name = name
        self._voice = voice
        self._schemas = schemas(name)
        self.time = BusTime()
        self.unknown = IdCounter()
        self.told_unknown = False
        self.messages = Messages(database.messages(name), settings.silent_after)
        self._ids = np.array(
            [m.id | (EXTENDED if m.extended else 0) for m in self.messages.messages], np.uint64
        )
        self.lists = database.lists(name)
        self.asked = (
            None
            if asked is None
            else frozenset((p.message, p.signal) for p in asked if p.bus in (name, ANY_BUS))
        )
        numbers = {m.name: i for i, m in enumerate(self.messages.messages)}
        self.values = Values(numbers, self.messages.in_parts, self.asked)

    def look(
        self, block: FrameBlock, there: Occurrences, tables: Sequence[SignalTable]
    ) -> list[SignalTable]:
        stamp = int(block.time[0]) if self.time.stamp is None else self.time.stamp
        now = self.time.now
        time = self.time.take(block.time)
        if self.began is None:
            self.began = now = int(time[0])
            self._cell = now // self._look_ns
        pending = Pending(block, time, there, self.messages, self.values.take(tables))
        rows = Rows()
        for border in self._borders(time):
            self._absorb(pending, border)
            if border:
                stamp, now = int(block.time[border - 1]), int(time[border - 1])
            end = (self._cell + 1) * self._look_ns
            self._judge(now, stamp + end - now, rows)
            self._cell = int(time[border]) // self._look_ns
        self._absorb(pending, len(block))
        return rows.tables(self._schemas, block.clock)

    def _borders(self, time: Int64) -> list[int]:
        """The rows of a block with which another look begins."""
        if int(time[-1]) // self._look_ns == self._cell:
            return []
        return np.flatnonzero(np.diff(time // self._look_ns, prepend=self._cell)).tolist()

    def _absorb(self, pending: "Pending", end: int) -> None:
        unknown = pending.take(end)
        self.unknown.add(unknown)

    def _judge(self, now: int, date: int, rows: "Rows") -> None:
        """The end of a look: `now` is when the last frame came, `date` is that end as a stamp."""
        messages = self.messages
        before = messages.found
        messages.look(self.began or 0, now)
        self._say(before, date)
        if (self._cell + 1) % self._looks == 0:
            rows.add_bus(date, self._totals())
        changed = np.flatnonzero(messages.told != messages.found)
        if len(changed) > _ROWS:  # who waits for longest comes first
            order = np.argsort(messages.told_at[changed], kind="stable")
            changed = np.sort(changed[order[:_ROWS]])
        if len(changed):
            messages.told[changed] = messages.found[changed]
            messages.told_at[changed] = now
            rows.add_messages(
                date, self._ids[changed], messages.found[changed], messages.measured_ns[changed]
            )

    def _totals(self) -> list[int]:
        """As `_BUS_SIGNALS`."""
        m = self.messages
        silent_now = len(m.has(State.SILENT)) + len(m.has(State.NEVER_SEEN))
        return [
            self.unknown.frames,
            self.unknown.ids,
            m.total(State.WRONG_LENGTH),
            m.begun[State.DRIFTING],
            m.begun[State.SILENT] + m.begun[State.NEVER_SEEN],
            m.total(State.OUT_OF_RANGE),
            m.begun[State.STUCK_COUNTER],
            len(m.has(State.DRIFTING)),
            silent_now,
            len(m.has(State.STUCK_COUNTER)),
        ]

    def _say(self, before: UInt8, date: int) -> None:
        found = self.messages.found
        if self.unknown.frames and not self.told_unknown:
            self.told_unknown = True
            text = f"bus {self._name}: {self.unknown.ids} ids are not in the database so far"
            self._voice.say(date, logging.INFO, text)
        if np.array_equal(before, found):
            return
        for state in WORST_FIRST:
            bit = np.uint8(state.bit)
            begins = np.flatnonzero(found & ~before & bit)
            ends = np.flatnonzero(before & ~found & bit)
            level = logging.WARNING
            for numbers, words in zip((begins, ends), _WORDS[state], strict=True):
                if len(numbers):
                    text = f"bus {self._name}: {words}: {self._names(numbers)}"
                    self._voice.say(date, level, text)
                level = logging.INFO

    def _names(self, numbers: NDArray[np.intp]) -> str:
        names = [self.messages.messages[i].name for i in numbers[:_NAMES].tolist()]
        more = len(numbers) - len(names)
        return ", ".join(names) + (f" and {more} more" if more else "")

    def adopt(self, old: "_Bus") -> None:
        self.time, self.began = old.time, old.began
        self._cell = self.time.now // self._look_ns
        self.told_unknown = old.told_unknown
        self.messages.adopt(old.messages)
        if self.messages.messages == old.messages.messages:
            self.unknown = old.unknown
            if self.asked == old.asked and self.lists == old.lists:
                self.values.adopt(old.values)
        else:
            # What was unknown may be known now, so only the frames are the run's.
            self.unknown.frames = old.unknown.frames

    # -- status ------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        messages, unknown, values = self.messages, self.unknown, self.values
        named = messages.messages
        wrong = messages.totals[State.WRONG_LENGTH]
        drifting = messages.has(State.DRIFTING)
        silent, never = messages.has(State.SILENT), messages.has(State.NEVER_SEEN)
        return {
            "unknown": {
                "frames": unknown.frames,
                "ids": unknown.ids,
                "more_ids": unknown.full,
                "most": [
                    # Without the flag of 29 bits, as everybody writes them.
                    {"id": f"{i & ~EXTENDED:#x}", "frames": n}
                    for i, n in unknown.most(_MOST)
                ],
            },
            "wrong_length": {
                "frames": messages.total(State.WRONG_LENGTH),
                "messages": int(np.count_nonzero(wrong)),
                "worst": [
                    {"message": named[i].name, "length": named[i].length, "frames": n}
                    for i, n in worst(wrong, _MOST)
                ],
            },
            "drifting": {
                "messages": len(drifting),
                "worst": [
                    {
                        "message": named[i].name,
                        "stated_ms": named[i].cycle_ms,
                        "measured_ms": _ms(messages.measured_ns[i]),
                    }
                    for i in self._farthest(drifting)
                ],
            },
            "silent": {
                "messages": len(silent),
                "longest": [
                    {
                        "message": named[i].name,
                        "seconds": round((self.time.now - int(messages.last[i])) / SECOND, 3),
                    }
                    for i in silent[np.argsort(messages.last[silent])][:_MOST].tolist()
                ],
            },
            "never_seen": {
                "messages": len(never),
                "names": [named[i].name for i in never[:_MOST].tolist()],
            },
            "out_of_range": {
                "samples": messages.total(State.OUT_OF_RANGE),
                "worst": [
                    {"signal": values.name(i), "samples": n}
                    for i, n in worst(dict(values.out_of_range), _MOST)
                ],
            },
            "stuck_counters": {
                "messages": len(messages.has(State.STUCK_COUNTER)),
                "names": values.stuck[:_MOST],
            },
        }

    def _farthest(self, drifting: NDArray[np.intp]) -> list[int]:
        """Those of which the cycle is off by the largest part, first."""
        with np.errstate(invalid="ignore", divide="ignore"):
            off = np.abs(np.log(self.messages.measured_ns / self.messages.cycle_ns))[drifting]
        found: list[int] = drifting[np.argsort(-off, kind="stable")][:_MOST].tolist()
        return found


def _ms(ns: float) -> float | None:
    return None if math.isnan(ns) else round(float(ns) / MILLISECOND, 3)


class _Voice:
    """The log: a few lines a minute, and how many there were besides."""

    def __init__(self) -> None:
        self._minute: int | None = None
        self._lines = 0
        self._unsaid = 0

    def say(self, now: int, level: int, text: str) -> None:
        """Log a line, if there is room; `now` is a stamp."""
        if self._minute is None or not 0 <= now - self._minute < _MINUTE_NS:
            if self._unsaid:
                log.info("database health: %d more findings began or ended", self._unsaid)
            self._minute, self._lines, self._unsaid = now, 0, 0
        if self._lines < _LINES:
            self._lines += 1
            log.log(level, "%s", text)
        else:
            self._unsaid += 1
