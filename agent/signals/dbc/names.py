"""Names: letters, digits and underscores of ASCII, not a digit first, and each one once.

Whatever else a file has for a name is called by an alias made of it: patterns, batches and exports
then need no quoting and no font. The original stands in the note that names the alias.
"""

import re
import unicodedata

from agent.signals.dbc.report import Report

_GOOD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*+")
_LONGEST = 200
_LETTERS = str.maketrans(
    {"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss", "°": "deg"}
    | {"µ": "u", "μ": "u", "Ω": "Ohm", "²": "2", "³": "3", "æ": "ae", "ø": "oe", "å": "aa"}
)


def alias(name: str) -> str:
    """The name itself where it is good, else one made of it: `2ndGear` -> `_2ndGear`.

    Letters lose what ASCII has not; others, as those of Chinese, become their number in Unicode.
    """
    if len(name) <= _LONGEST and _GOOD.fullmatch(name):
        return name
    # Composed, so that a letter and its dots are one again, then taken apart for the rest.
    text = unicodedata.normalize("NFC", name[:_LONGEST]).translate(_LETTERS)
    text = unicodedata.normalize("NFKD", text)
    parts = [
        c if c.isascii() and (c.isalnum() or c == "_") else f"u{ord(c):04X}" if c.isalpha() else "_"
        for c in text
        if not unicodedata.combining(c)
    ]
    made = "".join(parts)[:_LONGEST] or "_"
    return f"_{made}" if made[0].isdigit() else made


class Names:
    """The names that are taken in one place."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._taken

    def give(self, name: str) -> str:
        """A name that nothing else has here: this one, or with a number."""
        made, number = name, self._next.get(name, 2)
        while made in self._taken:
            made = f"{name}_{number}"
            number += 1
        self._next[name] = number
        self._taken.add(made)
        return made


def aliased(name: str, what: str, line: int, report: Report) -> str:
    """The alias of a name, with a note where it is another one."""
    made = alias(name)
    if made != name:
        why = "begins with a digit" if name[:1].isdigit() and name.isascii() else "is not a name"
        report.add("name", line, f"{what} {name}", f'"{name}" {why}', f'is called "{made}"')
    return made
