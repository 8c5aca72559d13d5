r"""Text to statements, without trusting it.

A statement begins with a keyword at the start of a line, or with one after another statement on the
same line. It ends at its semicolon, or where the next statement begins: a missing semicolon or an
open string costs one statement and not the rest of the file. Strings are skipped as wholes, so a
keyword in one means nothing; a string of `CM_` may hold lines that look like statements, as long as
it is closed by the first quote after them.

Every position is passed a bounded number of times: searches go forward only, the next line that
begins with a keyword is remembered, and the patterns do not back up (possessive quantifiers).
"""

import dataclasses
import re
from collections.abc import Iterator

from agent.signals.dbc.report import Report, shown

_ANY = (
    "BA_DEF_DEF_REL_|BA_DEF_SGTYPE_|SIGTYPE_VALTYPE_|BA_DEF_DEF_|BA_DEF_REL_|BA_SGTYPE_|BU_BO_REL_|"
    "BU_EV_REL_|BU_SG_REL_|ENVVAR_DATA_|SGTYPE_VAL_|SG_MUL_VAL_|SIG_TYPE_REF_|SIG_VALTYPE_|"
    "SIG_GROUP_|VAL_TABLE_|BO_TX_BU_|CAT_DEF_|EV_DATA_|NS_DESC_|BA_DEF_|BA_REL_|SGTYPE_|VERSION|"
    "FILTER|BA_|BO_|BS_|BU_|CAT_|CM_|EV_|NS_|SG_|VAL_"
)
# The last two take a keyword that is glued to what follows it, where that leaves no doubt.
_BEGIN = (
    rf"(?:(?P<plain>{_ANY})(?!\w)|(?P<glued>BO_|VAL_|SIG_VALTYPE_|SG_MUL_VAL_)(?=[0-9]++\s)"
    r"|(?P<signal>SG_)(?=[^\s:]++\s*+(?:\w++\s*+)?+:\s*+[0-9]++\s*+\|))"
)
_LINE = re.compile(rf"^[^\S\n]*+{_BEGIN}", re.MULTILINE)
_HERE = re.compile(rf"[^\S\n]*+{_BEGIN}")
# Within a line a keyword may be a name; only with what must follow it does it begin a statement.
_INSIDE = (
    r"(?<!\w)(?:BO_(?=\s++[0-9]++\s++\S)"
    r"|SG_(?=\s++[^\s:]++\s*+(?:\w++\s*+)?+:\s*+[0-9]++\s*+\|)"
    r'|VAL_(?=\s++[0-9]++\s++\w++\s++[-0-9])|BA_(?=\s*+")|CM_(?=\s++(?:[SB][GOU]_\s|"))'
    r"|(?:SIG_VALTYPE_|SG_MUL_VAL_)(?=\s++[0-9])|(?:BU_|BS_|NS_)(?=\s*+:))"
)
_STRING = r'"[^"\\]*+(?:\\"?+[^"\\]*+)*+"'
_PIECE = re.compile(rf'{_STRING}|//[^\n]*+|(?P<end>;)|(?P<open>")|(?P<inside>{_INSIDE})', re.DOTALL)
_ENTRY = re.compile(r"[^\S\n]*+\w++[^\S\n]*+(?:\n|\Z)")
_COMMENT = re.compile(r'[^"\n;]*+"')
_TEXT = re.compile(r"^[^\S\n]*+(?!//|;\s*$)(\S[^\n]*+)", re.MULTILINE)

_OWN_LINE = frozenset({"BO_", "SG_", "BU_", "BS_", "VERSION"})
"""Statements without a semicolon."""
_HOLDS_KEYWORDS = frozenset(
    k for k in _ANY.split("|") if k.startswith(("BA_", "BU_")) and k != "BU_"
)

_PATIENCE = 10_000
"""So many quotes of a file are looked at that may end a comment, and do not."""


@dataclasses.dataclass(frozen=True, slots=True)
class Statement:
    """A keyword and the text after it, without the semicolon; of a `CM_` without the string."""

    keyword: str
    text: str
    line: int


def split(text: str, report: Report) -> Iterator[Statement]:
    """The statements of a file, in order; a note for each that is not closed, or unknown."""
    return _Splitter(text, report).statements()


class _Splitter:
    def __init__(self, text: str, report: Report) -> None:
        self._text = text
        self._report = report
        self._next: re.Match[str] | None = None
        self._searched = -1
        self._counted = 0
        self._line = 1
        self._patience = _PATIENCE

    def statements(self) -> Iterator[Statement]:
        at = 0
        while True:
            match = _HERE.match(self._text, at) if at else None
            if match is None:
                match = self._start(at)
                end = match.start() if match else len(self._text)
                self._unknown(at, end)
                if match is None:
                    return
            keyword = match["plain"] or match["glued"] or match["signal"]
            body = match.end()
            line = self._line_at(body)
            if keyword == "NS_":
                at = self._past_list(body)
                yield Statement(keyword, "", line)
            elif keyword == "CM_":
                begin, at = self._comment(body, line)
                yield Statement(keyword, self._text[body:begin], line)
            else:
                end, at = self._plain(keyword, body, line)
                yield Statement(keyword, self._text[body:end], line)

    def _start(self, at: int) -> re.Match[str] | None:
        """The first line from here on that begins with a keyword."""
        known = self._next
        if self._searched < 0 or (known is not None and known.start() < at):
            # Not in the middle of a line: `^` would take that for a line's start.
            self._next = known = _LINE.search(self._text, at)
            self._searched = at
        return known

    def _line_at(self, at: int) -> int:
        self._line += self._text.count("\n", self._counted, at)
        self._counted = at
        return self._line

    def _unknown(self, begin: int, end: int) -> None:
        """Text that belongs to no statement."""
        if begin < end:
            report_unknown(self._text[begin:end], self._line_at(begin), self._report)

    def _past_list(self, at: int) -> int:
        """After `NS_`: the rest of its line, and the lines that are one word each."""
        end = self._text.find("\n", at) + 1 or len(self._text)
        inside = re.compile(_INSIDE).search(self._text, at, end)
        if inside:
            return inside.start()
        while (entry := _ENTRY.match(self._text, end)) and entry.end() > end:
            end = entry.end()
        return end

    def _plain(self, keyword: str, body: int, line: int) -> tuple[int, int]:
        """Where a statement's text ends, and where to go on."""
        start = self._start(body)
        stop = start.start() if start else len(self._text)
        at, forgiven = body, False
        while piece := _PIECE.search(self._text, at, stop):
            at = piece.end()
            if piece["end"]:
                return piece.start(), at
            if piece["inside"] and keyword not in _HOLDS_KEYWORDS:
                self._not_closed(keyword, line)
                return piece.start(), piece.start()
            if piece["open"]:
                # A string that ends in a backslash looks as if its quote were escaped.
                close = -1 if forgiven else self._text.find('"', at, stop)
                if close < 0:
                    break
                forgiven, at = True, close + 1
        self._not_closed(keyword, line)
        return stop, stop

    def _not_closed(self, keyword: str, line: int) -> None:
        if keyword not in _OWN_LINE:
            self._report.add(
                "not closed", line, keyword, "has no semicolon", "ended before the next statement"
            )

    def _comment(self, body: int, line: int) -> tuple[int, int]:
        """Where a comment's string begins, and where to go on."""
        text = self._text
        opened = _COMMENT.match(text, body)
        if opened is None:
            return self._plain("CM_", body, line)
        begin = at = opened.end()
        start = self._start(at)
        stop = start.start() if start else len(text)
        first = True
        while (quote := text.find('"', at)) >= 0:
            self._patience -= not first
            if self._patience < 0:
                break
            at = quote + 1
            after = re.compile(r"\s*+(;)?").match(text, at)
            end = after.end() if after else at
            closed = bool(after and after[1])
            at_start = end == len(text) or (bool(_HERE.match(text, end)) and "\n" in text[at:end])
            if text[quote - 1] == "\\" and not (closed and self._goes_on(end)):
                self._patience -= 1
                continue
            if closed and (first or quote < stop):
                if not first:
                    what = "has quotes inside its text"
                    self._report.add("quotes", line, "CM_", what, "the comment is not used")
                return begin - 1, end
            if quote > stop:
                break
            if at_start:
                self._not_closed("CM_", line)
                return begin - 1, at
            first = False
        what = "the string is not closed"
        self._report.add("not closed", line, "CM_", what, "ended before the next statement")
        return begin - 1, stop

    def _goes_on(self, at: int) -> bool:
        """Whether a statement, or nothing, follows on the next line."""
        rest = re.compile(r"\s*+").match(self._text, at)
        end = rest.end() if rest else at
        return end == len(self._text) or bool(_HERE.match(self._text, end))


def report_unknown(text: str, line: int, report: Report) -> None:
    """A note for each line of text that belongs to no statement."""
    if not text or text.isspace():
        return
    at = 0
    for match in _TEXT.finditer(text):
        if report.full("unknown"):
            report.add_more("unknown", text.count("\n", at))
            return
        line += text.count("\n", at, match.start(1))
        at = match.start(1)
        what = "is no statement that is known"
        report.add("unknown", line, f'"{shown(match[1])}"', what, "left out")
