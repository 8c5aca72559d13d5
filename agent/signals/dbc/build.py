"""A document to messages: ids, names, duplicates.

What a file means is what cantools (strict=False) makes of it; what cantools refuses is repaired or
left out here, item by item. Two messages of one id are one on the bus: the first gets the signals
of the other.
"""

import dataclasses

from agent.blocks import ID_BITS
from agent.signals.dbc.attributes import Attributes
from agent.signals.dbc.document import Document
from agent.signals.dbc.fields import MessageLine
from agent.signals.dbc.layout import FRAME_BYTES, Overlaps
from agent.signals.dbc.names import Names, aliased
from agent.signals.dbc.report import Report
from agent.signals.dbc.signals import SignalBuilder, layout, renamed
from agent.signals.model import Message, Signal

_STANDARD = 0x7FF
_EXTENDED = 1 << 31
_LONGEST = 65_535
"""Bytes of a message: what a block's lengths can say."""


@dataclasses.dataclass(slots=True)
class _Made:
    """A message that is being put together; `lines` tells where its signals stand."""

    line: int
    message: Message
    signals: list[Signal]
    lines: dict[str, int]
    names: Names = dataclasses.field(default_factory=Names)
    same: dict[tuple[object, ...], str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for signal in self.signals:
            self.names.give(signal.name)
            self.same[_written(signal)] = signal.name


def build(document: Document, report: Report) -> tuple[Message, ...]:
    """The messages, with names and ids of their own, in the order of the file."""
    return _Builder(document, report).messages()


class _Builder:
    def __init__(self, document: Document, report: Report) -> None:
        self._document = document
        self._report = report
        self._attributes = Attributes(document, report)
        self._signals = SignalBuilder(document, self._attributes, report)
        self._numbers = {message.number for message in document.messages}

    def messages(self) -> tuple[Message, ...]:
        made: dict[tuple[bool, int], _Made] = {}
        names = Names()
        for line in self._document.messages:
            key = self._id(line)
            if key is None:
                continue
            new = self._message(line, *key)
            first = made.get(key)
            if first is None:
                made[key] = new
                self._name(new, names)
            else:
                self._join(first, new)
        overlaps = Overlaps()
        for each in made.values():
            each.message = dataclasses.replace(each.message, signals=tuple(each.signals))
            self._check_layout(each, overlaps)
        if overlaps.given_up:
            what = "has too many signals in one place to look for all that share bits"
            self._report.add("overlap", 0, "the file", what, "all are decoded")
        return tuple(each.message for each in made.values())

    def _id(self, line: MessageLine) -> tuple[bool, int] | None:
        """Whether it is a 29-bit id, and the id."""
        number, item = line.number, f"message {line.name}"
        if -_EXTENDED <= number < 0:
            number += 2 * _EXTENDED
            what = f"the id {line.number} is negative"
            self._report.add("id", line.line, item, what, f"read as the 32 bits {number}")
        if not 0 <= number < 2 * _EXTENDED:
            what = f"the id {line.number} has more than 32 bits"
            self._report.add("id", line.line, item, what, "left out, with its signals")
            return None
        extended, frame_id = number >= _EXTENDED, number & (_EXTENDED - 1)
        if frame_id > ID_BITS:
            kept = frame_id & ID_BITS
            what = f"the id {line.number} has more than 29 bits"
            if not extended or any(n in self._numbers for n in (kept | _EXTENDED, kept)):
                self._report.add("id", line.line, item, what, "left out, with its signals")
                return None
            self._report.add("id", line.line, item, what, f"read as the 29-bit id {kept:#x}")
            return True, kept
        if not extended and frame_id > _STANDARD:
            what = f"the id {line.number} has more than 11 bits and is not marked as extended"
            self._report.add("id", line.line, item, what, "read as a 29-bit id")
            return True, frame_id
        return extended, frame_id

    def _message(self, line: MessageLine, extended: bool, frame_id: int) -> _Made:
        name = self._attributes.long_name(line.number) or line.name
        name = aliased(name, "message", line.line, self._report)
        j1939 = extended and self._attributes.is_j1939(line.number)
        length = self._length(line, name, j1939=j1939)
        signals = self._signals.of(line, name, length)
        message = Message(
            name=name,
            id=frame_id,
            extended=extended,
            length=length,
            signals=(),
            j1939=j1939,
            cycle_ms=self._attributes.cycle_ms(line.number),
        )
        lines = {s.name: number for s, number in signals}
        return _Made(line.line, message, [s for s, _ in signals], lines)

    def _length(self, line: MessageLine, name: str, *, j1939: bool) -> int:
        item, what = f"message {name}", f"has {line.length} bytes"
        if line.length > _LONGEST:
            self._report.add("length", line.line, item, what[:40], f"taken as {_LONGEST:,}")
            return _LONGEST
        if line.length > FRAME_BYTES and not j1939:
            what += ", more than a frame, and no transport protocol is named"
            done = "decoded where such a payload comes"
            self._report.add("length", line.line, item, what, done)
        return line.length

    def _name(self, made: _Made, names: Names) -> None:
        message = made.message
        name = names.give(message.name)
        if name != message.name:
            item = f"message {message.name} (id {message.id:#x})"
            what = "another message has this name"
            self._report.add("duplicate", made.line, item, what, f'is called "{name}"')
            made.message = dataclasses.replace(message, name=name)

    def _join(self, first: _Made, second: _Made) -> None:
        """Add the signals of a second message with one id, as far as they are others."""
        new_names: dict[str, str] = {}
        added = []
        for signal in second.signals:
            same = None if signal.parent else first.same.get(_written(signal))
            new_names[signal.name] = same or first.names.give(signal.name)
            if same is None:
                added.append(signal)
        into = first.message.name
        done = "left out: it says the same"
        if added:
            done = f"its signals are decoded as those of {into}"
            others = [f"{old} as {new}" for old, new in new_names.items() if old != new]
            done += f" ({', '.join(others[:5])})" if others else ""
        item = f"message {second.message.name} (id {second.message.id:#x})"
        what = f"{into} in line {first.line} has the same id"
        self._report.add("duplicate", second.line, item, what, done)
        for old in added:
            signal = renamed(old, new_names[old.name], new_names.get(old.parent, ""))
            first.signals.append(signal)
            first.same.setdefault(_written(signal), signal.name)
            first.lines[signal.name] = second.lines[old.name]
        if second.message.length > first.message.length:
            first.message = dataclasses.replace(first.message, length=second.message.length)

    def _check_layout(self, made: _Made, overlaps: Overlaps) -> None:
        message, report = made.message, self._report
        for signal in message.signals:
            if signal.end_byte > message.length:
                item = f"{message.name}.{signal.name}"
                what = f"ends in byte {signal.end_byte} of a message of {message.length}"
                done = "decoded where a frame is long enough"
                report.add("fit", made.lines[signal.name], item, what, done)
        if report.full("overlap") or overlaps.given_up:
            return
        for first, second in overlaps.of(message.signals):
            item = f"{message.name}.{second.name}"
            what = f"shares bits with {first.name}"
            report.add("overlap", made.lines[second.name], item, what, "both are decoded")


def _written(signal: Signal) -> tuple[object, ...]:
    return (signal.name, signal.parent, signal.selected_by, *layout(signal))
