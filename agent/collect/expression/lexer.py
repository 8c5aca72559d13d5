"""Text to tokens.

One pass with one regular expression, whose alternatives exclude one another by their first
characters, so it takes time in proportion to the text. What no alternative takes is refused, with a
hint where another language has it.
"""

import dataclasses
import re
import unicodedata
from typing import Final, Literal

from agent.collect.expression.source import Source, short
from agent.errors import ConfigError

MAX_CHARACTERS: Final = 4096
_MAX_DIGITS: Final = 40

UNITS_NS: Final = {"ms": 10**6, "s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9}
KEYWORDS: Final = frozenset({"and", "or", "not", "in", "for", "true", "false"})

PLAIN_NAME: Final = re.compile(r"(?:\*\.)?[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
"""A name that needs no backquotes; `*.Message.Signal` is a message of the bus `*`."""

_TOKEN: Final = re.compile(
    rf"""
      (?P<space>[ \t\r\n]+)
    | (?P<number>0[xX][0-9a-fA-F]+|(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
    | (?P<name>{PLAIN_NAME.pattern})
    | (?P<wrong>===|!==|=<|=>|<>|\*\*|//|&&|\|\||:=|=(?!=)|!(?!=)|<<|>>)
    | (?P<symbol><=|>=|==|!=|[-+*/<>(),])
    | (?P<text>"(?:[^"\x00-\x1f\x7f]|"")*"|'(?:[^'\x00-\x1f\x7f]|'')*')
    | (?P<quoted>`(?:[^`\x00-\x1f\x7f]|``)+`)
    """,
    re.VERBOSE,
)
_GLUED: Final = re.compile(r"[A-Za-z0-9_.]*")

_INSTEAD: Final = {
    "&&": 'write "and"',
    "||": 'write "or"',
    "!": 'write "not"',
    "=": 'write "=="',
    "===": 'write "=="',
    ":=": 'write "=="',
    "!==": 'write "!="',
    "<>": 'write "!="',
    "=<": 'write "<="',
    "=>": 'write ">="',
    "**": "there are no powers",
    "//": "there is no whole division, and there are no comments",
    "#": "there are no comments",
    "&": 'write "and", or bit(signal, 3) for a bit',
    "|": 'write "or"',
    "<<": "bit(signal, 3) looks at a bit",
    ">>": "bit(signal, 3) looks at a bit",
    ";": "there is one condition, and no statements",
    "[": "a list of values stands in parentheses",
    "]": "a list of values stands in parentheses",
    ".": "a dot joins the parts of a name, without spaces and before a letter; other names stand "
    "in backquotes: `can0.Message.2nd signal`",
    "\N{LEFT DOUBLE QUOTATION MARK}": "texts have straight quotes",
    "\N{RIGHT DOUBLE QUOTATION MARK}": "texts have straight quotes",
    "\N{DOUBLE LOW-9 QUOTATION MARK}": "texts have straight quotes",
    "\N{LEFT SINGLE QUOTATION MARK}": "texts have straight quotes",
    "\N{RIGHT SINGLE QUOTATION MARK}": "texts have straight quotes",
    "\N{MINUS SIGN}": 'write "-"',
    "\N{EN DASH}": 'write "-"',
    "\N{LESS-THAN OR EQUAL TO}": 'write "<="',
    "\N{GREATER-THAN OR EQUAL TO}": 'write ">="',
    "\N{NOT EQUAL TO}": 'write "!="',
    "\N{MULTIPLICATION SIGN}": 'write "*"',
    "\N{DIVISION SIGN}": 'write "/"',
    "\N{NO-BREAK SPACE}": "write a plain space",
}

Kind = Literal["number", "name", "symbol", "text", "quoted", "end"]


@dataclasses.dataclass(frozen=True, slots=True)
class Token:
    """`text` is what stands there; of texts and names in backquotes, what is between the quotes."""

    kind: Kind
    text: str
    at: int
    end: int

    @property
    def keyword(self) -> bool:
        return self.kind == "name" and self.text in KEYWORDS

    @property
    def word(self) -> str:
        """A keyword or a symbol, empty for anything else."""
        return self.text if self.kind == "symbol" or self.keyword else ""

    @property
    def unit_ns(self) -> int | None:
        """Where this is a unit of time, its length."""
        return UNITS_NS.get(self.text) if self.kind == "name" else None


def tokens(source: Source) -> list[Token]:
    """All tokens, and one of kind `end` behind the last.

    Raises:
        ConfigError: the text is too long, or something in it belongs to no condition.
    """
    text = source.text
    if len(text) > MAX_CHARACTERS:
        raise source.refuse(
            MAX_CHARACTERS,
            MAX_CHARACTERS + 1,
            f"a condition has at most {MAX_CHARACTERS} characters, and this one {len(text)}",
        )
    found: list[Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _refusal(source, at)
        end = match.end()
        match match.lastgroup:
            case "wrong":
                raise source.refuse(at, end, f'"{match[0]}": {_INSTEAD[match[0]]}')
            case "number":
                _check_number(source, at, end)
                found.append(Token("number", match[0], at, end))
            case "name":
                found.append(Token("name", match[0], at, end))
            case "symbol":
                found.append(Token("symbol", match[0], at, end))
            case "text":
                found.append(Token("text", _between_quotes(match[0]), at, end))
            case "quoted":
                found.append(Token("quoted", _between_quotes(match[0]), at, end))
            case _:
                pass
        at = end
    end = found[-1].end if found else 0
    found.append(Token("end", "", end, end))
    return found


def quoted(text: str, quote: str = '"') -> str:
    """As it is written: quotes in it are doubled."""
    return f"{quote}{text.replace(quote, 2 * quote)}{quote}"


def _between_quotes(text: str) -> str:
    return text[1:-1].replace(2 * text[0], text[0])


def _check_number(source: Source, at: int, end: int) -> None:
    if end - at > _MAX_DIGITS:
        raise source.refuse(
            at, end, f"a number has at most {_MAX_DIGITS} characters, and this one {end - at}"
        )
    glued = _GLUED.match(source.text, end)
    if glued is not None and glued[0] and glued[0] not in UNITS_NS:
        written = short(source.text[at : glued.end()])
        raise source.refuse(
            at,
            glued.end(),
            f'"{written}" is no number; a duration has a unit of ms, s, min or h, and a name that '
            f"begins with a digit stands in backquotes: {quoted(written, '`')}",
        )


def _refusal(source: Source, at: int) -> ConfigError:
    """Why no token begins here."""
    text = source.text
    sign = text[at]
    if sign in "\"'`":
        if text.startswith("``", at):
            return source.refuse(at, at + 2, "between the backquotes is no name")
        bad = re.compile(r"[\x00-\x1f\x7f]").search(text, at)
        if bad is None or bad[0] in "\r\n":
            what = "name" if sign == "`" else "text"
            return source.refuse(at, at + 1, f"the {what} that begins here has no closing {sign}")
        return source.refuse(
            bad.start(), bad.end(), f"{_code_point(bad[0])} cannot stand between quotes"
        )
    hint = _INSTEAD.get(sign, "it has no meaning in a condition")
    if sign.isascii() and sign.isprintable():
        return source.refuse(at, at + 1, f'"{sign}": {hint}')
    if sign not in _INSTEAD and sign.isalpha():
        hint = "names have letters of ASCII; others stand in backquotes"
    shown = f'"{sign}" is {_code_point(sign)}' if sign.isprintable() else _code_point(sign)
    return source.refuse(at, at + 1, f"{shown}: {hint}")


def _code_point(sign: str) -> str:
    return f"U+{ord(sign):04X} {unicodedata.name(sign, '')}".strip()
