"""The text of a condition, and how its refusal is told."""

import dataclasses
from typing import Final

from agent.errors import ConfigError

_SHOWN: Final = 100
"""Characters of a line that are shown around the place."""


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """A text, and the words that say where it stands, such as `campaign "hot": trigger`."""

    text: str
    where: str = ""

    def refuse(self, at: int, end: int, reason: str) -> ConfigError:
        """What is wrong with `text[at:end]`, with the line and a caret below each character.

        Columns count from 1. What is missing at the end is one column behind the last character.
        What cannot be printed, or could deceive a terminal, is shown as U+FFFD.
        """
        begin = self.text.rfind("\n", 0, at) + 1
        stop = self.text.find("\n", at)
        line = self.text[begin : stop if stop >= 0 else len(self.text)]
        column = at - begin
        marked = max(1, min(end - at, len(line) - column))
        first = max(0, min(column - _SHOWN // 2, len(line) - _SHOWN))
        shown = _printable(line[first : first + _SHOWN])
        indent = column - first
        carets = "^" * max(1, min(marked, _SHOWN - indent))
        number = f"line {self.text.count(chr(10), 0, at) + 1}, " if "\n" in self.text else ""
        prefix = f"{self.where}: " if self.where else ""
        return ConfigError(
            f"{prefix}{number}column {column + 1}: {_printable(reason)}\n"
            f"  {shown}\n  {' ' * indent}{carets}"
        )

    def excerpt(self, at: int, end: int, most: int = 40) -> str:
        """`text[at:end]` on one line, cut where it is long."""
        words = " ".join(self.text[at:end].split())
        return short(words, most)


def short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _printable(text: str) -> str:
    return "".join(
        c if c.isprintable() else " " if c in "\t\r" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
