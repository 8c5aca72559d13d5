"""What was found wrong in a file, within bounds."""

import dataclasses

MOST_OF_A_KIND = 200
"""A file with one fault on every line is described well enough by the first of them."""
_LONGEST = 80


@dataclasses.dataclass(frozen=True, slots=True)
class Note:
    """Something wrong at a line (0: in the file as a whole), and what was done about it."""

    line: int
    item: str
    what: str
    done: str


class Report:
    """Collects notes; of one kind only the first are kept and the others counted."""

    def __init__(self) -> None:
        self._notes: list[Note] = []
        self._counts: dict[str, int] = {}

    def add(self, kind: str, line: int, item: str, what: str, done: str) -> None:
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        if count <= MOST_OF_A_KIND:
            self._notes.append(Note(line, shown(item), what, done))

    def add_more(self, kind: str, count: int) -> None:
        """Count what is not worth a look of its own."""
        self._counts[kind] = self._counts.get(kind, 0) + count

    def full(self, kind: str) -> bool:
        """Whether another note of this kind would only be counted."""
        return self._counts.get(kind, 0) >= MOST_OF_A_KIND

    def notes(self) -> tuple[Note, ...]:
        """In the order of the lines; the last ones say what is not shown."""
        more = [
            Note(0, kind, f"{count - MOST_OF_A_KIND:,} more of this kind", "treated the same way")
            for kind, count in self._counts.items()
            if count > MOST_OF_A_KIND
        ]
        return (*sorted(self._notes, key=lambda note: note.line), *more)


def shown(text: str) -> str:
    """Text out of a file so that it fits into a line and does nothing to a terminal."""
    text = " ".join(text[: 4 * _LONGEST].split())
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
