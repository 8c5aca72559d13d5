"""What each message of a bus is found to be: silent, drifting, of a wrong length. Pure.

`Messages` is told which messages came (`absorb`), which frames and samples were wrong (`note`), and
at regular moments it looks at what has come since (`look`). All times are `BusTime`. The rules:

- A cycle is measured from frame to frame over at least ten stated cycles, so that the jitter of one
  frame does not count. A message drifts when the mean was off by more than a fifth twice in a row:
  a sender that starts again once leaves one gap, which is no drift. Of a J1939 group that several
  senders send, no cycle is measured.
- A message is silent when its last frame is `silent_after` cycles old, its stated ones or those
  measured where these are longer: who sends ten times too slowly drifts and is not silent. A
  message that never came is "never seen" a minute after the bus began. Both are judged by the last
  frame of the bus, so nothing is silent on a bus that sleeps.
- A length is wrong when it is not the database's, rounded up to the next length of CAN FD. J1939
  fills frames up to eight bytes (SAE J1939-21, 5.2.3), so these may be longer.
- J1939 messages of more than eight bytes come in parts or not at all, and their length tells
  nothing: only their samples are judged.
- Wrong lengths and wrong samples are over after a whole interval in which the message came and
  nothing was wrong with it.
"""

import enum
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Int64, UInt8, UInt16
from agent.clock import MILLISECOND, SECOND
from agent.signals.model import Message

NEVER: Final = np.iinfo(np.int64).min
_LEAST_CYCLES: Final = 10
_TOLERANCE: Final = 0.2
_IN_A_ROW: Final = 2
_NEVER_SEEN_NS: Final = 60 * SECOND
_FD_LENGTHS: Final = np.array([*range(9), 12, 16, 20, 24, 32, 48, 64], np.uint16)
_ANY_LENGTH: Final = 0xFFFF
_FULL: Final = 8


class State(enum.IntEnum):
    """What a message is found to be, as in the signal `State`; all but OK are findings."""

    OK = 0
    SILENT = 1
    DRIFTING = 2
    WRONG_LENGTH = 3
    STUCK_COUNTER = 4
    OUT_OF_RANGE = 5
    NEVER_SEEN = 6

    @property
    def words(self) -> str:
        return self.name.lower().replace("_", " ")

    @property
    def bit(self) -> int:
        """Its place in a set of findings."""
        return 1 << (self - 1) if self else 0


WORST_FIRST: Final = (
    State.NEVER_SEEN,
    State.SILENT,
    State.WRONG_LENGTH,
    State.DRIFTING,
    State.STUCK_COUNTER,
    State.OUT_OF_RANGE,
)
_OF_SAMPLES: Final = (State.WRONG_LENGTH, State.STUCK_COUNTER, State.OUT_OF_RANGE)

WORST: Final = np.array(
    [next((s for s in WORST_FIRST if s.bit & bits), State.OK) for bits in range(64)], np.uint64
)
"""uint64[64]: the worst state in each set of findings."""


class Messages:
    """The n messages of one bus; a number is a message's place in the database."""

    def __init__(self, messages: Sequence[Message], silent_after: float) -> None:
        n = len(messages)
        self.messages = tuple(messages)
        self._silent_after = silent_after
        long = np.array([m.j1939 and m.length > _FULL for m in messages], bool)
        self.in_parts = frozenset(np.flatnonzero(long).tolist())
        """Numbers of the messages that come in parts, so not as frames."""
        cycles = np.array([m.cycle_ms or 0 for m in messages], np.float64)
        self.cycle_ns = np.where(long, 0, cycles.clip(0) * MILLISECOND)
        """float64[n]: 0 where none is stated."""
        self.shortest, self.longest = right_lengths(messages)
        """uint16[n] each: between these a length is right."""
        self._j1939 = np.array([m.j1939 for m in messages], bool)
        self._senders = np.zeros((n, 256) if self._j1939.any() else (n, 0), bool)
        self._base = np.full(n, NEVER, np.int64)
        self._frames = np.zeros(n, np.int64)
        self.last = np.full(n, NEVER, np.int64)
        """int64[n]: when a message came last; `NEVER` before that."""
        self._came = np.zeros(n, bool)
        self._wrong = {state: np.zeros(n, np.int64) for state in _OF_SAMPLES}
        self.totals = {state: np.zeros(n, np.int64) for state in _OF_SAMPLES}
        """int64[n] each: frames of a wrong length, samples that were wrong."""
        self._off = np.zeros(n, np.int64)
        self.measured_ns = np.full(n, np.nan)
        """float64[n]: the mean cycle that was measured last; NaN where there is none."""
        self.found: UInt8 = np.zeros(n, np.uint8)
        """uint8[n]: the set of findings of each, after the last look."""
        self.told: UInt8 = np.zeros(n, np.uint8)
        """uint8[n]: the set of findings that was told last, and when."""
        self.told_at = np.full(n, NEVER, np.int64)
        self._gone = dict.fromkeys(_OF_SAMPLES, 0)
        self.begun = dict.fromkeys(State, 0)
        """How often each state was found."""

    def has(self, state: State) -> NDArray[np.intp]:
        """Numbers of the messages of which this was found at the last look."""
        return np.flatnonzero(self.found & state.bit)

    def total(self, state: State) -> int:
        """Frames, or samples, of which this was found in the run."""
        return self._gone[state] + int(self.totals[state].sum())

    def absorb(self, numbers: NDArray[np.int16], counts: Int64, first: Int64, last: Int64) -> None:
        """These m messages came: how many frames each, and when the first and the last."""
        fresh = self._base[numbers] == NEVER
        self._base[numbers[fresh]] = first[fresh]
        self._frames[numbers] += counts - fresh
        self.last[numbers] = last
        self._came[numbers] = True

    def senders(self, numbers: NDArray[np.int16], addresses: UInt8) -> None:
        """Which J1939 addresses sent which messages, a pair a frame."""
        self._senders[numbers, addresses] = True

    @property
    def minds_senders(self) -> bool:
        return self._senders.shape[1] > 0

    def note(self, state: State, numbers: NDArray[np.intp]) -> None:
        """Frames or samples of these messages were wrong; a number for each."""
        if len(numbers):
            more = np.bincount(numbers, minlength=len(self.messages))
            self._wrong[state] += more
            self.totals[state] += more

    def sampled(self, numbers: NDArray[np.intp]) -> None:
        """Messages that come in parts came."""
        self._came[numbers] = True

    def look(self, began: int, now: int) -> None:
        """Judge what has come. `now` is when the last frame of the bus came, `began` the first."""
        self._measure()
        before = self.found.copy()
        stated, seen = self.cycle_ns > 0, self.last != NEVER
        age = now - np.where(seen, self.last, now)
        silent = stated & (age > self._silent_after * np.fmax(self.cycle_ns, self.measured_ns))
        never = stated & ~seen & (now - began > _NEVER_SEEN_NS)
        # What comes back is measured from its first frame on.
        self._base[silent] = NEVER
        self._frames[silent] = self._off[silent] = 0
        self.measured_ns[silent] = np.nan
        self._set(State.SILENT, silent)
        self._set(State.NEVER_SEEN, never)
        self._set(State.DRIFTING, self._off >= _IN_A_ROW)
        for state, wrong in self._wrong.items():
            still = ~self._came & (self.found & state.bit > 0)
            self._set(state, (wrong > 0) | still)
            wrong[:] = 0
        self._came[:] = False
        for state in WORST_FIRST:
            self.begun[state] += int(np.count_nonzero(self.found & ~before & state.bit))

    def _measure(self) -> None:
        due = np.flatnonzero((self.cycle_ns > 0) & (self._frames > 0))
        due = due[self.last[due] - self._base[due] >= _LEAST_CYCLES * self.cycle_ns[due]]
        measured = (self.last[due] - self._base[due]) / self._frames[due]
        if self.minds_senders:
            measured[self._senders[due].sum(axis=1) > 1] = np.nan
            self._senders[due] = False
        stated = self.cycle_ns[due]
        off = np.abs(measured - stated) > _TOLERANCE * stated  # NaN is not
        self._off[due] = np.where(off, self._off[due] + 1, 0)
        self.measured_ns[due] = measured
        self._base[due] = self.last[due]
        self._frames[due] = 0

    def _set(self, state: State, on: NDArray[np.bool_]) -> None:
        bit = np.uint8(state.bit)
        self.found = np.where(on, self.found | bit, self.found & ~bit)

    def adopt(self, old: "Messages") -> None:
        """Go on with what was known of messages that are the same."""
        places = {m.name: i for i, m in enumerate(old.messages)}
        mine, theirs = [], []
        for number, message in enumerate(self.messages):
            place = places.get(message.name)
            if place is not None and old.messages[place] == message:
                mine.append(number)
                theirs.append(place)
        kept = ("_base", "_frames", "last", "_came", "_off", "measured_ns", "found")
        for name in (*kept, "told", "told_at"):
            getattr(self, name)[mine] = getattr(old, name)[theirs]
        for here, there in (
            (self._wrong, old._wrong),  # noqa: SLF001 - one of our own
            (self.totals, old.totals),
        ):
            for state in _OF_SAMPLES:
                here[state][mine] = there[state][theirs]
        for state in _OF_SAMPLES:
            self._gone[state] = old.total(state) - int(self.totals[state].sum())
        self.begun = dict(old.begun)


def right_lengths(messages: Sequence[Message]) -> tuple[UInt16, UInt16]:
    """The shortest and the longest right length of each message."""
    stated = np.array([m.length for m in messages], np.int64)
    j1939 = np.array([m.j1939 for m in messages], bool)
    at = np.searchsorted(_FD_LENGTHS, stated.clip(max=64))
    on_bus = np.where(stated > 64, stated, _FD_LENGTHS[at])
    unknown = j1939 & (stated > _FULL)
    shortest = np.where(unknown, 0, on_bus)
    longest = np.where(unknown, _ANY_LENGTH, np.where(j1939, on_bus.clip(min=_FULL), on_bus))
    return shortest.astype(np.uint16), longest.astype(np.uint16)


def worst(counts: Mapping[int, int] | Int64, n: int) -> list[tuple[int, int]]:
    """The n largest of counts that are not 0: (number, count)."""
    items = counts.items() if isinstance(counts, Mapping) else enumerate(counts.tolist())
    return sorted(((i, c) for i, c in items if c), key=lambda pair: (-pair[1], pair[0]))[:n]
