"""Bytes to text: the encoding by evidence, since a DBC file does not name it.

- A byte order mark decides, for UTF-8 and UTF-16.
- Text of another encoding is next to never valid UTF-8, so valid UTF-8 is UTF-8.
- Where most lines beyond ASCII are UTF-8 and some are not (files that were put together from
  several), each line is read by itself.
- Else it is GB18030 or cp1252, by what the characters would be. Chinese text is runs of pairs of
  high bytes, mostly of the 3,755 common characters that GB 2312 puts first; western text is single
  high bytes among letters (`Größe`, `°C`). cp1252 leaves five bytes open; latin-1 takes them.

The text comes back with a newline as its only line end.
"""

import codecs
import re

from agent.signals.dbc.report import Report

_RUN = re.compile(rb"[\x80-\xff]+")
_PAIRS = re.compile(rb"(?:[\xa1-\xa9\xb0-\xf7][\xa1-\xfe])+")
_RARE = 0xD8
"""Lead bytes from here on begin the rarer characters of GB 2312, and western small letters."""
_EVIDENCE = 1 << 16
"""So many runs of high bytes decide; more would say the same."""


def decode(data: bytes, report: Report) -> tuple[str, str]:
    """The text and the name of its encoding; a note says so where it is not ASCII or UTF-8."""
    text, encoding, why = _decoded(data)
    if why:
        report.add("encoding", 0, f"encoding {encoding}", why, f"read as {encoding}")
    if "\ufffd" in text and b"\xef\xbf\xbd" not in data:
        line = text.count("\n", 0, text.index("\ufffd")) + 1
        report.add("encoding", line, "bytes", f"are no {encoding}", "shown as \ufffd")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        what = f"{text.count(chr(0)):,} in what should be text"
        report.add("NUL bytes", line, "NUL bytes", what, "left out")
        text = text.replace("\0", "")
    # A mark in the middle is where two files were joined; 0x1a ended a file under DOS.
    text = text.replace("\ufeff", "").rstrip("\x1a")
    return text.replace("\r\n", "\n").replace("\r", "\n"), encoding


def _decoded(data: bytes) -> tuple[str, str, str]:
    """Text, encoding, and why it is not plainly UTF-8."""
    if data.isascii():
        return data.decode("ascii"), "ascii", ""
    for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        if data.startswith(mark):
            return data.decode("utf-16", "replace"), "utf-16", "the file begins with its mark"
    try:
        return data.decode("utf-8-sig"), "utf-8", ""
    except UnicodeDecodeError:
        pass
    other = _other(data)
    whole, broken = _lines(data)
    if whole and whole >= broken:
        what = f"{whole:,} lines are UTF-8 and {broken:,} are not"
        return _by_line(data, other), f"utf-8 and {other}", what
    return data.decode(other), other, "the file is not UTF-8"


def _other(data: bytes) -> str:
    """GB18030, cp1252 or latin-1."""
    western = "cp1252"
    try:
        data.decode(western)
    except UnicodeDecodeError:
        western = "latin-1"
    try:
        data.decode("gb18030")
    except UnicodeDecodeError:
        return western
    chinese = latin = 0.0
    for number, match in enumerate(_RUN.finditer(data)):
        if number == _EVIDENCE:
            break
        run = match[0]
        if not _PAIRS.fullmatch(run):
            latin += len(run)
        elif len(run) == 2 and run[0] >= _RARE and _in_word(data, match.start(), match.end()):
            latin += 2
        else:
            chinese += sum(1.0 if lead < _RARE else 0.5 for lead in run[::2])
    return "gb18030" if chinese > latin else western


def _in_word(data: bytes, begin: int, end: int) -> bool:
    """Whether ASCII letters stand on either side, as around `öß` in `Größe`."""
    return data[begin - 1 : begin].isalpha() or data[end : end + 1].isalpha()


def _lines(data: bytes) -> tuple[int, int]:
    """How many lines beyond ASCII are UTF-8, and how many are not."""
    whole = broken = 0
    for line in data.split(b"\n"):
        if not line.isascii():
            try:
                line.decode()
                whole += 1
            except UnicodeDecodeError:
                broken += 1
    return whole, broken


def _by_line(data: bytes, other: str) -> str:
    lines = []
    for line in data.removeprefix(codecs.BOM_UTF8).split(b"\n"):
        try:
            lines.append(line.decode())
        except UnicodeDecodeError:
            lines.append(line.decode(other, "replace"))
    return "\n".join(lines)
