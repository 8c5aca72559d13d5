"""Is this the vehicle that the plan is for, and does the database fit its traffic? Pure.

Both are answered once, by what is seen in the first minute, counted by stamps from the first frame
of any bus. What the plan's `[recognise]` asks for can be answered with yes before that.

Whether a database fits a bus is judged by its messages, not by its frames: a file of two messages
fits a truck on which they are 6 % of the frames, and among 100 ids of another vehicle some are
always in a file of 100 messages, because 11-bit ids are few and everybody uses the same ones. A
message counts as *met* when most of its frames had the right length. Then

    coverage  the larger of: messages met of those in the database; messages met of those with a
              cycle, where there are at least 5; messages met of the ids seen
    lengths   messages met, of those of which any frame came

    fits           coverage at least 25 % and lengths at least 70 %, with at least two messages met
                   or half of the frames known
    does not fit   coverage under 15 %, or lengths under 70 % of at least 5 messages that came;
                   only with a database of at least 5 messages, and 100 frames of 5 ids
    undecided      all else: between these, or too little to tell

Why these numbers: of real recordings (two Hyundai Kona, a J1939 truck, a CANmod logger, a car that
polls OBD) with their own files, coverage was 0.36 to 1 and lengths 0.9 to 1; the 0.36 is the
chassis bus of the Kona with the file of its powertrain, some of whose messages a gateway passes on.
With the files of other vehicles (Tesla Model 3, VW MQB, Hyundai CAN FD, this project's own car)
coverage was 0 to 0.13, and lengths anything, as nearly all messages have 8 bytes; a recording that
is partly like a Model 3 had 0.51. Small files are left undecided: the one OBD answer that a file of
four messages describes is there when somebody asks for it.

Frames of which nothing is known for a good reason (remote and error frames, parts of transport) are
left out. At most 4096 unknown ids are remembered, so a hostile bus costs no memory.
"""

import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.blocks import ERROR, EXTENDED, ID_BITS, REMOTE, FrameBlock, Int64, SignalTable
from agent.clock import SECOND
from agent.errors import ConfigError
from agent.settings.plan import Recognise
from agent.signals.database import ANY_BUS, Database, SignalPath
from agent.signals.decoder import Decoder, Occurrences
from agent.signals.health_messages import right_lengths
from agent.signals.health_time import IdCounter

log = logging.getLogger("edge_agent")

Verdict = Literal["fits", "does not fit", "undecided"]

_MINUTE_NS: Final = 60 * SECOND
_LATE_NS: Final = 5 * SECOND
"""Blocks of other buses may come so much later."""
_FITS: Final = 0.25
_NO_FIT: Final = 0.15
_LENGTHS: Final = 0.7
_LEAST_MESSAGES: Final = 5
_LEAST_FRAMES: Final = 100
_LEAST_IDS: Final = 5
_PADDING: Final = b"\0 *\xff"
"""What fills a VIN up: NUL and blanks, the delimiter of J1939 (SAE J1939-71), erased memory."""
_ID: Final = r"\s*(0[xX][0-9a-fA-F]{1,8}|\d{1,10})\s*\Z"


class Recognition:
    """Of one thread; `status` may be called from any.

    Args:
        settings: what the plan asks for; None where it asks for nothing.
        decoder: of the plan's database.
        files: the names of a bus's database files, for sentences.

    Raises:
        ConfigError: an id is none, or the signal of the VIN does not exist or is no text.
    """

    def __init__(
        self,
        settings: Recognise | None,
        decoder: Decoder,
        files: dict[str, Sequence[str]] | None = None,
    ) -> None:
        self.findings: list[str] = []
        """What is wrong, in sentences. Each has been logged once, as a warning."""
        self._decoder = decoder
        self._files = files or {}
        self._buses: dict[str, _Bus] = {}
        self._first: int | None = None
        self._signs = None if settings is None else _Signs(settings, decoder.database)
        self._recognised: bool | None = None
        self._done = False

    @property
    def recognised(self) -> bool | None:
        """Whether this is the vehicle; None as long as that is open, and if nobody asks."""
        return self._recognised

    @property
    def done(self) -> bool:
        """Whether the minute is over. Only a bus that was not seen until then is still open."""
        return self._done

    def look(
        self,
        block: FrameBlock | None,
        tables: Sequence[SignalTable] = (),
        *,
        came_true: bool = False,
    ) -> bool:
        """Take the next block and what was decoded of it, or tables that came without frames.

        `came_true`: the condition of the plan has come true. Gives whether something was decided.
        """
        decided = False
        if block is not None and len(block):
            if self._first is None:
                self._first = int(block.time[0])
            decided = self._count(block, self._first + _MINUTE_NS)
        if self._signs is not None and self._recognised is None:
            end = None if self._first is None else self._first + _MINUTE_NS
            self._signs.look(block, tables, end, came_true=came_true)
            if not self._signs.missing():
                self._recognised = decided = True
        # The other buses get a little longer: their blocks come when they are full.
        end = None if self._first is None else self._first + _MINUTE_NS + _LATE_NS
        late = block is not None and len(block) and end is not None and block.time[-1] >= end
        if late and not self._done:
            decided |= self._end()
        return decided

    def conclude(self) -> bool:
        """Decide by what there is, as at the end of a recording; whether anything was open."""
        for name in self._decoder.database.buses:
            if name != ANY_BUS:
                self._bus(name)
        return self._end()

    def _end(self) -> bool:
        decided = [self._decide(bus) for bus in self._buses.values()]
        if self._signs is not None and self._recognised is None:
            self._recognised = False
            missing = "; ".join(self._signs.missing())
            self._find(f"this does not look like the vehicle that the plan is for: {missing}")
        was_done, self._done = self._done, True
        return any(decided) or not was_done

    def status(self) -> dict[str, Any]:
        """What is known so far."""
        return {
            "decided": self._done,
            "recognised": self._recognised,
            "buses": {name: bus.status() for name, bus in list(self._buses.items())},
            "findings": list(self.findings),
        }

    def report(self) -> dict[str, Any]:
        """The same for the event lane."""
        return {"kind": "database", **self.status()}

    def _count(self, block: FrameBlock, deadline: int) -> bool:
        bus = self._bus(block.bus)
        if bus.verdict is not None:
            return False
        rows = np.flatnonzero(block.time >= deadline)
        end = int(rows[0]) if len(rows) else len(block)
        if end:
            bus.take(block, self._decoder.occurrences(block), end)
        return end < len(block) and self._decide(bus)

    def _decide(self, bus: "_Bus") -> bool:
        if bus.verdict is not None:
            return False
        verdict, why = bus.judge()
        if verdict == "does not fit":
            self._find(why)
        return True

    def _find(self, sentence: str) -> None:
        self.findings.append(sentence)
        log.warning("%s", sentence)

    def _bus(self, name: str) -> "_Bus":
        bus = self._buses.get(name)
        if bus is None:
            files = self._files.get(name, self._files.get(ANY_BUS, ()))
            bus = self._buses[name] = _Bus(name, self._decoder.database, files)
        return bus


class _Bus:
    """The traffic of one bus against its database."""

    def __init__(self, name: str, database: Database, files: Sequence[str]) -> None:
        self.verdict: Verdict | None = None
        self.why = ""
        self._name = name
        self._files = ", ".join(files) or "the database"
        self._messages = database.messages(name)
        self._shortest, self._longest = right_lengths(self._messages)
        self._cyclic = np.array([bool(m.cycle_ms) for m in self._messages], bool)
        self._frames: Int64 = np.zeros(len(self._messages), np.int64)
        self._right: Int64 = np.zeros(len(self._messages), np.int64)
        self._unknown = IdCounter()

    def take(self, block: FrameBlock, there: Occurrences, end: int) -> None:
        """Count the first `end` rows of a block."""
        self._unknown.add(block.id[there.unknown[there.unknown < end]])
        if not len(there.numbers):
            return
        rows = there.order[int(there.begins[0]) :][: int(there.counts.sum())]
        numbers = np.repeat(there.numbers, there.counts)[rows < end]
        length = block.length[rows[rows < end]]
        right = (length >= self._shortest[numbers]) & (length <= self._longest[numbers])
        n = len(self._messages)
        self._frames += np.bincount(numbers, minlength=n)
        self._right += np.bincount(numbers[right], minlength=n)

    def judge(self) -> tuple[Verdict, str]:
        """The verdict, and a sentence for people."""
        self.verdict, self.why = self._judge()
        return self.verdict, self.why

    def _judge(self) -> tuple[Verdict, str]:
        name, files, database = self._name, self._files, len(self._messages)
        came, met = self._came(), self._met()
        known = int(self._frames.sum())
        frames, ids = known + self._unknown.frames, len(came) + self._unknown.ids
        if not frames:
            return "undecided", f"bus {name}: no frames were seen in the first minute"
        share = known / frames
        more = " or more" if self._unknown.full else ""
        seen = (
            f"bus {name}: {len(came)} of {ids}{more} ids that are seen are in {files} "
            f"({_percent(share)} of the frames)"
        )
        coverage = self._coverage(met, ids)
        lengths = len(met) / len(came) if len(came) else 0.0
        enough = len(met) >= 2 or (len(met) and share >= 0.5)
        if coverage >= _FITS and lengths >= _LENGTHS and enough:
            return "fits", seen
        if database < _LEAST_MESSAGES or frames < _LEAST_FRAMES or ids < _LEAST_IDS:
            return "undecided", f"{seen}; that is too little to tell"
        strange = len(came) >= _LEAST_MESSAGES and lengths < _LENGTHS
        if coverage < _NO_FIT or strange:
            if strange:
                seen += f", and {len(came) - len(met)} of these have other lengths there"
            return "does not fit", f"{seen}; this looks like another vehicle's database"
        return "undecided", f"{seen}, and {len(met)} of its {database} messages are there"

    def _came(self) -> NDArray[np.intp]:
        return np.flatnonzero(self._frames)

    def _met(self) -> NDArray[np.intp]:
        return np.flatnonzero((self._frames > 0) & (2 * self._right > self._frames))

    def _coverage(self, met: NDArray[np.intp], ids: int) -> float:
        shares = [len(met) / max(1, len(self._messages)), len(met) / max(1, ids)]
        if np.count_nonzero(self._cyclic) >= _LEAST_MESSAGES:
            shares.append(float(self._cyclic[met].sum() / self._cyclic.sum()))
        return max(shares)

    def status(self) -> dict[str, Any]:
        known = int(self._frames.sum())
        return {
            "verdict": self.verdict or "undecided",
            "why": self.why,
            "frames": known + self._unknown.frames,
            "known_frames": known,
            "right_length_frames": int(self._right.sum()),
            "known_ids": len(self._came()),
            "unknown_ids": self._unknown.ids,
            "messages": len(self._messages),
            "messages_met": len(self._met()),
        }


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 or not share else "less than 1 %"


class _Text(NamedTuple):
    """Where a VIN is told."""

    path: SignalPath
    octets: int
    """Of a whole number; 0 of bytes."""
    big_endian: bool


class _Signs:
    """What the plan says by which its vehicle is recognised, as far as it has been seen."""

    def __init__(self, settings: Recognise, database: Database) -> None:
        self._bus = settings.bus
        self._waits = np.array(sorted({_id(item) for item in settings.ids}), np.uint32)
        self._vin = settings.vin.encode("ascii", "replace").upper()
        self._texts = _texts(settings, database) if self._vin else []
        self._vin_waits = bool(self._vin)
        self._other_vin = False
        self._condition_waits = bool(settings.signal)

    def look(
        self,
        block: FrameBlock | None,
        tables: Iterable[SignalTable],
        end: int | None,
        *,
        came_true: bool,
    ) -> None:
        """Take what comes before the stamp `end`."""
        self._condition_waits &= not came_true
        if block is not None and len(self._waits) and self._bus in (block.bus, ANY_BUS):
            mask = np.uint32(ERROR | REMOTE | EXTENDED | ID_BITS)
            ids = block.id & mask
            seen = ids if end is None else ids[block.time < end]
            self._waits = self._waits[~np.isin(self._waits, seen)]
        for table in tables if self._vin_waits else ():
            for text in self._texts:
                path = text.path
                there = path.message == table.message and path.signal in table.names
                if there and path.bus in (table.bus, ANY_BUS):
                    rows = slice(None) if end is None else table.time < end
                    self._read(text, table.raw[path.signal][rows])

    def _read(self, text: _Text, raw: NDArray[Any]) -> None:
        for value in np.unique(raw, axis=0)[:64] if len(raw) else ():
            vin = _octets(text, value).strip(_PADDING).upper()
            if vin.startswith(self._vin):
                self._vin_waits = False
            elif vin:
                self._other_vin = True

    def missing(self) -> list[str]:
        """What has not been seen, in words without the VIN itself."""
        found = []
        if len(self._waits):
            ids = [f"{i & ID_BITS:#x}" for i in self._waits.tolist()]
            more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
            found.append(f"ids {', '.join(ids[:5])}{more} are not seen")
        if self._vin_waits:
            found.append("the VIN begins otherwise" if self._other_vin else "no VIN is seen")
        if self._condition_waits:
            found.append("its condition does not come true")
        return found


def _octets(text: _Text, value: Any) -> bytes:
    if isinstance(value, np.ndarray):
        return bytes(value.tobytes())
    if isinstance(value, bytes):
        return value
    return int(value).to_bytes(text.octets, "big" if text.big_endian else "little")


def _texts(settings: Recognise, database: Database) -> list[_Text]:
    """The signals that tell the VIN.

    Raises:
        ConfigError: there is none, or it is no text.
    """
    if not settings.vin_signal:
        raise ConfigError("recognise: vin needs vin_signal, the signal that tells the VIN")
    paths = sorted(database.select([settings.vin_signal]), key=str)
    found = []
    for path in paths:
        signals = [
            (s.schema, s.big_endian)
            for m in database.messages(path.bus)
            for s in m.signals
            if (m.name, s.name) == (path.message, path.signal)
        ]
        signals += [
            (s, True)
            for t in (*database.tables, *database.telling)
            for s in t.signals
            if (t.bus, t.message, s.name) == (path.bus, path.message, path.signal)
        ]
        for schema, big_endian in signals:
            if schema.kind == "bytes":
                found.append(_Text(path, 0, big_endian))
            elif schema.kind == "uint64" and schema.bits % 8 == 0:
                found.append(_Text(path, schema.bits // 8, big_endian))
    if not found:
        raise ConfigError(f"recognise: {settings.vin_signal} is no text, so it tells no VIN")
    return found


def _id(item: int | str) -> int:
    """An id with the kernel's flag for 29 bits: above 0x7FF, or with 0x and more than 3 digits.

    Raises:
        ConfigError: it is none.
    """
    match = re.match(_ID, str(item))
    number = -1 if match is None else int(match[1], 0 if match[1][:2] in ("0x", "0X") else 10)
    if match is None or not 0 <= number <= ID_BITS:
        raise ConfigError(f'recognise: "{item}" is no id; write 256, "0x100" or "0x18FEF100"')
    long = number > 0x7FF or (match[1][:2] in ("0x", "0X") and len(match[1]) > 5)
    return number | EXTENDED if long else number
