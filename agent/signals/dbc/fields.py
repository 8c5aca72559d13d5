"""Numbers, names and the two statements that matter most, `BO_` and `SG_`.

Each has an exact pattern for what is well formed and a loose one for what is not: the loose one
takes what leaves no doubt, with a note, and gives up otherwise. A signal whose bits or scale are in
doubt is left out: no value is better than a wrong one.
"""

import dataclasses
import math
import re
from fractions import Fraction

from agent.signals.dbc.report import Report
from agent.signals.dbc.statements import Statement, report_unknown

_NUMBER = r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
NUMBER = re.compile(_NUMBER)
_DIGITS = re.compile(r"[-+]?[0-9]+")
_LONGEST_NUMBER = 64
_LEAST_WHOLE, _MOST_WHOLE = -(1 << 63), (1 << 64) - 1  # what a batch can carry exactly

_BO = re.compile(r"\s*+([0-9]++)\s++([^\s:\"]++)\s*+:\s*+([0-9]++)(?:\s++\w++)")
_BO_LOOSE = re.compile(
    r"\s*+(?P<id>[-+]?\w++)(?:\s++(?P<name>[^\s:\"]++))?\s*+:?\s*+(?P<length>[0-9][0-9.,]*+)?"
    r"(?P<sender>[^\S\n]*+\w++)?"
)
_SG = re.compile(
    r"\s*+([^\s:\"]++)(?:\s++([^\s:\"]++))?\s*+:\s*+([0-9]++)\s*+\|\s*+([0-9]++)\s*+@\s*+([01])"
    rf"\s*+([-+])\s*+\(\s*+({_NUMBER})\s*+,\s*+({_NUMBER})\s*+\)"
    rf"\s*+\[\s*+({_NUMBER})\s*+\|\s*+({_NUMBER})\s*+\]"
    r'\s*+"((?:[^"\\\n]|\\"?+)*+)"(?:\s*+\w++(?:\s*+,\s*+\w++)*+)'
)
_WHERE = (
    r"\s*+(?P<name>[^\s:\"]++)(?:\s++(?P<mark>[^\s:\"]++))?\s*+:\s*+(?P<start>[-+]?[0-9][0-9.,eE]*+)"
    r"\s*+\|\s*+(?P<length>[-+]?[0-9][0-9.,eE]*+)\s*+@\s*+(?P<order>[0-9])\s*+(?P<sign>[-+])"
)
_SCALE = r"\s*+\(?(?P<scale>[^()\[\]\"\n|]++)\)?"
_LIMITS = r"(?:\s*+\[?(?P<minimum>[^()\[\]\"\n|]*+)\|(?P<maximum>[^()\[\]\"\n|]*+)\]?)?"
_UNIT = r'(?:\s*+"(?P<unit>[^"\n]*+)(?P<close>"?+))?(?P<receivers>\s*+\w++(?:\s*+,\s*+\w++)*+)?'
_SG_LOOSE = re.compile(_WHERE + _SCALE + _LIMITS + _UNIT)


@dataclasses.dataclass(slots=True)
class SignalLine:
    """A signal as it is written."""

    line: int
    name: str
    mark: str
    start: int
    length: int
    big_endian: bool
    signed: bool
    scale: float
    offset: float
    minimum: float | None
    maximum: float | None
    unit: str


@dataclasses.dataclass(slots=True)
class MessageLine:
    """A message as it is written; `names` also has the signals that were left out."""

    line: int
    number: int
    name: str
    length: int
    signals: list[SignalLine] = dataclasses.field(default_factory=list)
    names: set[str] = dataclasses.field(default_factory=set)


def number_of(text: str) -> float | None:
    """A number, an int where it is written as one; None where it is none or is beyond doubles."""
    if len(text) > _LONGEST_NUMBER or not NUMBER.fullmatch(text):
        return None
    if not _DIGITS.fullmatch(text):
        value = float(text)
        return value if math.isfinite(value) else None
    whole = int(text)
    return whole if _LEAST_WHOLE <= whole <= _MOST_WHOLE else float(whole)


def whole_of(text: str) -> int | None:
    """A whole number however it is written: `8`, `8.0`, `8,0`, `1e1`, `+8`."""
    if _DIGITS.fullmatch(text) and len(text) <= _LONGEST_NUMBER:
        return int(text)
    value = number_of(text.replace(",", "."))
    return int(value) if value is not None and float(value).is_integer() else None


def plain(text: str) -> bool:
    """Whether a number is written so that other programs read it too."""
    return text.lstrip("+-")[:1] != "."


def pair_of(text: str) -> tuple[float, float] | None:
    """Scale and offset, also with decimal commas.

    A number is written without zeros at its end, so `0,5,0` is 0.5 and 0, and `1,0,5` is 1 and 0.5;
    None where that leaves two readings.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 2:
        readings = [(parts[0], parts[1])]
    elif len(parts) == 4:
        readings = [(f"{parts[0]}.{parts[1]}", f"{parts[2]}.{parts[3]}")]
    elif len(parts) == 3:
        first = (f"{parts[0]}.{parts[1]}", parts[2])
        second = (parts[0], f"{parts[1]}.{parts[2]}")
        readings = [r for r in (first, second) if _as_written(r)]
    else:
        return None
    if len(readings) != 1:
        return None
    scale, offset = number_of(readings[0][0]), number_of(readings[0][1])
    return None if scale is None or offset is None else (scale, offset)


def _as_written(pair: tuple[str, str]) -> bool:
    """Whether a program would write a pair so: a scale that is not 0, no needless zeros."""
    if not all(NUMBER.fullmatch(text) for text in pair) or Fraction(pair[0]) == 0:
        return False
    digits = [text.lstrip("+-") for text in pair]
    return not any(
        ("." in d and d.endswith("0")) or (d.startswith("0") and d[1:2].isdigit()) for d in digits
    )


def read_message(statement: Statement, report: Report) -> MessageLine | None:
    """`BO_ id name: length sender`."""
    text, line = statement.text, statement.line
    match = _BO.match(text)
    if match:
        number, length = whole_of(match[1]), whole_of(match[3])
        if number is None or length is None:
            return _no_message(statement, report)
        report_unknown(text[match.end() :], line + text.count("\n", 0, match.end()), report)
        return MessageLine(line, number, match[2], length)
    match = _BO_LOOSE.match(text)
    if match is None:
        return _no_message(statement, report)
    number = _id_of(match["id"])
    if number is None:
        return _no_message(statement, report)
    name = match["name"] or f"Message_{number & 0x1FFFFFFF:X}"
    item = f"message {name}"
    if not match["id"].isdigit():
        report.add("number", line, item, f"the id is written {match['id']}", f"read as {number}")
    if not match["name"]:
        report.add("name", line, item, "has no name", f'is called "{name}"')
    length = whole_of(match["length"] or "")
    if length is None:
        report.add("unclosed", line, item, "has no length", "taken as 8 bytes")
        length = 8
    elif not match["sender"]:
        report.add("unclosed", line, item, "has no sender", "none is needed")
    report_unknown(text[match.end() :], line + text.count("\n", 0, match.end()), report)
    return MessageLine(line, number, name, length)


def _id_of(text: str) -> int | None:
    if text[:2].lower() == "0x":
        try:
            return int(text, 16) if len(text) <= _LONGEST_NUMBER else None
        except ValueError:
            return None
    return whole_of(text)


def _no_message(statement: Statement, report: Report) -> MessageLine | None:
    what = "is no id, name and length"
    report.add(
        "message", statement.line, f'BO_ "{statement.text}"', what, "left out, with its signals"
    )
    return None


def read_signal(statement: Statement, message: MessageLine, report: Report) -> SignalLine | None:
    """`SG_ name mark : start|length@order sign (scale,offset) [minimum|maximum] "unit" receivers`.

    Its name is added to the message's names in any case.
    """
    match = _SG.match(statement.text)
    if match is None:
        return _read_loosely(statement, message, report)
    message.names.add(match[1])
    numbers = [number_of(match[i]) for i in (7, 8, 9, 10)]
    scale, offset, minimum, maximum = numbers
    item = f"{message.name}.{match[1]}"
    if max(len(match[3]), len(match[4])) > 9 or scale is None or offset is None:
        return _no_signal(statement, item, "a number is beyond all bounds", report)
    odd = [match[i] for i in (7, 8, 9, 10) if not plain(match[i])]
    if odd:
        what = f"the number {odd[0]} has no digit before its point"
        report.add("number", statement.line, item, what, "read as it is meant")
    text = statement.text
    below = statement.line + text.count("\n", 0, match.end())
    report_unknown(text[match.end() :], below, report)
    if match[9] == match[10] == "0":  # no limits, as all programs write it
        minimum = maximum = None
    elif minimum is None or maximum is None:
        what = "a limit is beyond all bounds"
        report.add("number", statement.line, item, what, "the limit is left out")
    return SignalLine(
        statement.line,
        match[1],
        match[2] or "",
        int(match[3]),
        int(match[4]),
        match[5] == "0",
        match[6] == "-",
        scale,
        offset,
        minimum,
        maximum,
        match[11].replace('\\"', '"'),
    )


def _no_signal(statement: Statement, item: str, what: str, report: Report) -> SignalLine | None:
    report.add("signal", statement.line, item, what, "the signal is left out")
    return None


def _read_loosely(statement: Statement, message: MessageLine, report: Report) -> SignalLine | None:
    text, line = statement.text, statement.line
    match = _SG_LOOSE.match(text)
    name = match["name"] if match else (text.split() or [""])[0]
    message.names.add(name)
    item = f"{message.name}.{name}"
    if match is None:
        return _no_signal(statement, item, f'"SG_{text}" cannot be read', report)
    start, length = whole_of(match["start"]), whole_of(match["length"])
    if start is None or length is None or not 0 <= start < 10**9 or not -1 < length < 10**9:
        return _no_signal(statement, item, f"bits {match['start']}|{match['length']}", report)
    pair = pair_of(match["scale"])
    if pair is None:
        what = f'the scale and offset "{match["scale"]}" cannot be read'
        return _no_signal(statement, item, what, report)
    if not (match["start"] + match["length"]).isdigit():
        what = f"bits are written {match['start']}|{match['length']}"
        report.add("number", line, item, what, f"read as {start}|{length}")
    if match["scale"].count(",") > 1:
        what = f"({match['scale']}) has decimal commas"
        report.add("number", line, item, what, f"read as {pair[0]} and {pair[1]}")
    minimum, maximum = (_limit(match[k], item, line, report) for k in ("minimum", "maximum"))
    unit = match["unit"] or ""
    if match["unit"] is None:
        report.add("unclosed", line, item, "the line ends too early", "the rest is not needed")
    elif not match["close"]:
        # What should be outside of the string are the receivers, one word.
        unit = unit.rstrip().rpartition(" ")[0].rstrip() or unit.strip()
        report.add("unclosed", line, item, "the unit is not closed", f'read as "{unit}"')
    elif not match["receivers"]:
        report.add("unclosed", line, item, "has no receivers", "none are needed")
    report_unknown(text[match.end() :], line + text.count("\n", 0, match.end()), report)
    if (match["minimum"] or "").strip() == (match["maximum"] or "").strip() == "0":
        minimum = maximum = None
    big, signed = match["order"] == "0", match["sign"] == "-"
    mark = match["mark"] or ""
    return SignalLine(line, name, mark, start, length, big, signed, *pair, minimum, maximum, unit)


def _limit(text: str | None, item: str, line: int, report: Report) -> float | None:
    if text is None or not text.strip():
        return None
    text = text.strip()
    value = number_of(text.replace(",", "."))
    if value is None:
        report.add("number", line, item, f'the limit "{text}" is no number', "left out")
    elif "," in text or not plain(text):
        report.add("number", line, item, f"the limit is written {text}", f"read as {value}")
    return value
