"""Statements to a document: what a file says, item by item, before it is put together."""

import dataclasses
import re
from collections.abc import Iterable

from agent.signals.dbc.fields import (
    NUMBER,
    MessageLine,
    read_message,
    read_signal,
    whole_of,
)
from agent.signals.dbc.report import Report
from agent.signals.dbc.statements import Statement, report_unknown

_UNASSIGNED = "VECTOR__INDEPENDENT_SIG_MSG"
"""Where CANdb++ keeps signals that belong to no message (id 3221225472): nothing is lost there."""
_LAST_VALUE = (1 << 64) - 1
_LEAST_VALUE = -(1 << 63)
_MOST_MESSAGES = 32_767
"""The decoder numbers them with 16 bits."""
_MOST_SIGNALS = 100_000
"""Three times the largest files of vehicle makers."""
_MOST_SELECTORS = 1 << 16
"""Multiplexer values of one signal, and times 8 of one file."""

_STRING = r'"([^"\\]*+(?:\\"?+[^"\\]*+)*+)(?:"|\Z)'
_VALUE = re.compile(rf"\s*+({NUMBER.pattern})\s*+{_STRING}")
_REFERENCE = re.compile(r"\s*+(?:([-+]?[0-9]++)\s++)?([^\s:;\"]++)")
_COMMENTED = re.compile(r"\s*+(SG_|BO_)\s++([-+]?[0-9]++)(?:\s++([^\s:;\"]++))?")
_DEFINITION = re.compile(rf"\s*+(?:(?:SG_|BO_|EV_|BU_)\s*+)?{_STRING}\s*+(\w++)")
_NAMED = re.compile(rf"\s*+{_STRING}\s*+(?:(BU_|EV_)\s++\S++\s*+|(BO_|SG_)\s++([-+]?[0-9]++)\s*+)?")
_ATTRIBUTE_SIGNAL = re.compile(r"([^\s\"]++)\s++")
_DEFAULT = re.compile(rf"\s*+{_STRING}\s*+(?:{_STRING}|([^\s;]++))")
_TEXT_OR_NUMBER = re.compile(rf"\s*+(?:{_STRING}|([^\s;]++))")
_EACH_STRING = re.compile(_STRING)
_TYPE = re.compile(r"\s*+([-+]?[0-9]++)\s++([^\s:;\"]++)\s*+:?\s*+([0-9]++)")
_SELECTED = re.compile(r"\s*+([-+]?[0-9]++)\s++([^\s:;\"]++)\s++([^\s:;\",]++)\s++")
_RANGE = re.compile(r"\s*+,?\s*+([0-9]{1,24})\s*+-\s*+([0-9]{1,24})")

# What belongs to statements without a semicolon; the lines after it belong to none.
_OWN_TEXT = {
    "VERSION": re.compile(rf"\s*+{_STRING}|[^\n]*+"),
    "BS_": re.compile(r"[^\n]*+"),
    "BU_": re.compile(r"[^\n]*+(?:\n[^\S\n]*+(?:\w++[^\S\n]*+)*+(?=\n|\Z))*+"),
}

# Attributes that our model, or the meaning of others, depends on.
FRAME_FORMAT = "VFrameFormat"
CYCLE_TIME = "GenMsgCycleTime"
LONG_MESSAGE = "SystemMessageLongSymbol"
LONG_SIGNAL = "SystemSignalLongSymbol"
_USED = frozenset({FRAME_FORMAT, CYCLE_TIME, LONG_MESSAGE, LONG_SIGNAL})

Choices = dict[int, str]
Key = tuple[int, str]
"""A message's number as it is written, and a signal's name ("" for the message itself)."""


@dataclasses.dataclass(slots=True)
class Definition:
    """An attribute's type; `default` is text or, without quotes, a number."""

    type: str
    choices: list[str]
    default: str | None = None


@dataclasses.dataclass(slots=True)
class Document:
    """What a file says. Of two statements about one thing, the last counts, as elsewhere."""

    messages: list[MessageLine] = dataclasses.field(default_factory=list)
    unassigned: set[int] = dataclasses.field(default_factory=set)
    """Numbers of `VECTOR__INDEPENDENT_SIG_MSG`."""
    sections: set[str] = dataclasses.field(default_factory=set)
    tables: dict[str, Choices] = dataclasses.field(default_factory=dict)
    choices: dict[Key, tuple[int, Choices]] = dataclasses.field(default_factory=dict)
    types: dict[Key, tuple[int, int]] = dataclasses.field(default_factory=dict)
    selected: dict[int, dict[str, dict[str, tuple[int, set[int]]]]] = dataclasses.field(
        default_factory=dict
    )
    """Message -> multiplexer -> signal -> (line, multiplexer values)."""
    definitions: dict[str, Definition] = dataclasses.field(default_factory=dict)
    attributes: dict[str, dict[Key, tuple[int, str]]] = dataclasses.field(default_factory=dict)
    """Of those that are used: name -> place -> (line, value as it is written)."""
    mentions: list[tuple[int, str, Key]] = dataclasses.field(default_factory=list)
    """Comments and attributes: line, what it is, and the place of which it speaks."""


def read(statements: Iterable[Statement], report: Report) -> Document:
    """Read all statements; a note for each that cannot be."""
    reader = _Reader(report)
    for statement in statements:
        reader.take(statement)
    return reader.finish()


class _Reader:
    def __init__(self, report: Report) -> None:
        self._report = report
        self._document = Document()
        self._message: MessageLine | None = None
        self._defaults: dict[str, tuple[int, str]] = {}
        self._undefined: dict[str, int] = {}
        self._pending: list[tuple[int, Key, str]] = []
        self._selectors = 8 * _MOST_SELECTORS
        self._last = ""
        self._orphans = True
        self._signals = _MOST_SIGNALS
        self._takers = {
            "BO_": self._bo,
            "SG_": self._sg,
            "VAL_": self._val,
            "VAL_TABLE_": self._val_table,
            "SIG_VALTYPE_": self._sig_valtype,
            "SG_MUL_VAL_": self._sg_mul_val,
            "CM_": self._cm,
            "BA_DEF_": self._ba_def,
            "BA_DEF_DEF_": self._ba_def_def,
            "BA_": self._ba,
        }

    def take(self, statement: Statement) -> None:
        self._document.sections.add(statement.keyword)
        taker = self._takers.get(statement.keyword)
        if taker is not None:
            taker(statement)
        own = _OWN_TEXT.get(statement.keyword)
        if own is not None and (match := own.match(statement.text)):
            line = statement.line + match[0].count("\n")
            report_unknown(statement.text[match.end() :], line, self._report)
        self._last = statement.keyword

    def finish(self) -> Document:
        document, report = self._document, self._report
        for name, (line, value) in self._defaults.items():
            if name in document.definitions:
                document.definitions[name].default = value
            else:
                item = f'BA_DEF_DEF_ "{name}"'
                report.add("reference", line, item, "is a default of no attribute", "left out")
        for name, line in self._undefined.items():
            if name not in document.definitions:
                item = f'attribute "{name}"'
                done = "read with its usual meaning" if name in _USED else "not used"
                report.add("reference", line, item, "is not defined by BA_DEF_", done)
        for line, key, table in self._pending:
            item = f"VAL_ {key[0]} {key[1]}"
            if table in document.tables:
                document.choices[key] = (line, document.tables[table])
                what = f"names the table {table} in place of values"
                report.add("values", line, item, what, "the table's values are used")
            else:
                report.add("values", line, item, f"the table {table} is missing", "left out")
        for section, lost in (("VERSION", "version"), ("BS_", "section"), ("BU_", "nodes")):
            if section not in document.sections:
                report.add("section", 0, section, f"the file has no {lost}", "none is needed")
        return document

    def _bad(self, statement: Statement, what: str = "cannot be read") -> None:
        item = f'{statement.keyword} "{statement.text}"'
        self._report.add("statement", statement.line, item, what, "left out")

    def _bo(self, statement: Statement) -> None:
        self._orphans = False
        self._message = None
        if len(self._document.messages) == _MOST_MESSAGES or self._signals <= 0:
            return self._bad(statement, "is one message more than can be decoded")
        message = read_message(statement, self._report)
        if message is None:
            return None
        self._message = message
        if message.name == _UNASSIGNED:
            self._document.unassigned.add(message.number)
            return None
        messages = self._document.messages
        if messages and messages[-1].line == message.line:
            what = "begins on the line of another message"
            done = "read as a message of its own"
            self._report.add("unclosed", message.line, f"message {message.name}", what, done)
        messages.append(message)
        return None

    def _sg(self, statement: Statement) -> None:
        message = self._message
        if message is None:
            if self._orphans:
                self._bad(statement, "is a signal without a message")
            return  # else the note on its message speaks of it
        if message.name == _UNASSIGNED:
            return
        if self._last not in {"BO_", "SG_"}:
            item = f"{message.name}, SG_{statement.text}"
            what = "stands apart from its message"
            self._report.add("unclosed", statement.line, item, what, "taken as a signal of it")
        self._signals -= 1
        if self._signals < 0:
            self._bad(statement, "is one signal more than can be decoded")
            return
        signal = read_signal(statement, message, self._report)
        if signal is not None:
            message.signals.append(signal)

    def _values(self, statement: Statement, at: int, item: str) -> tuple[Choices, int]:
        values: Choices = {}
        text, report = statement.text, self._report
        while match := _VALUE.match(text, at):
            at = match.end()
            value, label = whole_of(match[1]), match[2].replace('\\"', '"')
            if value is None or not _LEAST_VALUE <= value <= _LAST_VALUE:
                what = f'"{label}" is for {match[1]}, which is no raw value'
                report.add("values", statement.line, item, what, "the value is left out")
                continue
            if not match[1].lstrip("-").isdigit():
                what = f"the value is written {match[1]}"
                report.add("values", statement.line, item, what, f"read as {value}")
            if values.get(value, label) != label:
                what = f'{value} is "{values[value]}" and "{label}"'
                report.add("values", statement.line, item, what, "the last one counts")
            values[value] = label
        return values, at

    def _val(self, statement: Statement) -> None:
        match = _REFERENCE.match(statement.text)
        if match is None:
            return self._bad(statement)
        if match[1] is None:
            return None  # of an environment variable
        number = whole_of(match[1])
        if number is None:
            return self._bad(statement)
        key = (number, match[2])
        item = f"VAL_ {key[0]} {key[1]}"
        values, at = self._values(statement, match.end(), item)
        rest = statement.text[at:].strip()
        if not values and re.fullmatch(r"\w+", rest):
            self._pending.append((statement.line, key, rest))
        elif rest:
            what = f'"{rest}" is no value and label'
            self._report.add("values", statement.line, item, what, "left out")
        if values:
            self._document.choices[key] = (statement.line, values)
        return None

    def _val_table(self, statement: Statement) -> None:
        match = re.match(r"\s*+(\w++)", statement.text)
        if match is None:
            return self._bad(statement)
        item = f"VAL_TABLE_ {match[1]}"
        self._document.tables[match[1]], at = self._values(statement, match.end(), item)
        rest = statement.text[at:].strip()
        if rest:
            what = f'"{rest}" is no value and label'
            self._report.add("values", statement.line, item, what, "left out")
        return None

    def _sig_valtype(self, statement: Statement) -> None:
        match = _TYPE.match(statement.text)
        number = whole_of(match[1]) if match else None
        kind = whole_of(match[3]) if match else None
        if match is None or number is None or kind is None:
            return self._bad(statement)
        self._document.types[number, match[2]] = (statement.line, kind)
        return None

    def _sg_mul_val(self, statement: Statement) -> None:
        match = _SELECTED.match(statement.text)
        number = whole_of(match[1]) if match else None
        if match is None or number is None:
            return self._bad(statement)
        values: set[int] = set()
        item = f"SG_MUL_VAL_ {number} {match[2]}"
        at, left = match.end(), min(_MOST_SELECTORS, self._selectors)
        while span := _RANGE.match(statement.text, at):
            at = span.end()
            first, last = int(span[1]), int(span[2])
            if last < first:
                what = f"{first}-{last} is no range"
                self._report.add("multiplexer", statement.line, item, what, "left out")
            elif last - first >= left - len(values) or last > _LAST_VALUE:
                what = f"{first}-{last} are too many values"
                done = "the signal is not decoded with these"
                self._report.add("multiplexer", statement.line, item, what, done)
            else:
                values.update(range(first, last + 1))
        self._selectors -= len(values)
        if statement.text[at:].strip() or not values:
            what = "is no list of ranges" if not values else "has more than ranges"
            self._report.add("multiplexer", statement.line, item, what, "the rest is left out")
        if values:
            multiplexers = self._document.selected.setdefault(number, {})
            multiplexers.setdefault(match[3], {})[match[2]] = (statement.line, values)
        return None

    def _cm(self, statement: Statement) -> None:
        match = _COMMENTED.match(statement.text)
        if match is None:
            if re.match(r"\s*+(?:SG_|BO_)", statement.text):
                self._bad(statement, "is a comment on nothing")
            return
        number = whole_of(match[2])
        if number is None or (match[1] == "SG_" and match[3] is None):
            item = f"CM_ SG_ {match[2]}"
            what = "is a comment on a signal without the signal's name"
            self._report.add("comment", statement.line, item, what, "the comment is not used")
            return
        name = match[3] if match[1] == "SG_" else ""
        self._document.mentions.append((statement.line, "CM_", (number, name)))

    def _ba_def(self, statement: Statement) -> None:
        match = _DEFINITION.match(statement.text)
        if match is None:
            return self._bad(statement)
        name = match[1]
        choices = _EACH_STRING.findall(statement.text, match.end()) if name in _USED else []
        self._document.definitions[name] = Definition(match[2], choices)
        return None

    def _ba_def_def(self, statement: Statement) -> None:
        match = _DEFAULT.match(statement.text)
        if match is None:
            return self._bad(statement)
        value = match[2] if match[2] is not None else match[3]
        self._defaults[match[1]] = (statement.line, value)
        return None

    def _ba(self, statement: Statement) -> None:
        match = _NAMED.match(statement.text)
        if match is None:
            return self._bad(statement)
        name, at = match[1], match.end()
        self._undefined.setdefault(name, statement.line)
        if match[3] is None:
            return None  # of the file, a node or an environment variable: none of these is used
        number = whole_of(match[4])
        signal = _ATTRIBUTE_SIGNAL.match(statement.text, at) if match[3] == "SG_" else None
        if number is None or (match[3] == "SG_" and signal is None):
            return self._bad(statement, "is an attribute of nothing")
        at = signal.end() if signal else at
        key = (number, signal[1] if signal else "")
        self._document.mentions.append((statement.line, f'BA_ "{name}"', key))
        if name in _USED:
            value = _TEXT_OR_NUMBER.match(statement.text, at)
            if value is None:
                return self._bad(statement, "is an attribute without a value")
            given = value[1] if value[1] is not None else value[2]
            self._document.attributes.setdefault(name, {})[key] = (statement.line, given)
        return None
