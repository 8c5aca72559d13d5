"""What was wrong in a database file."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """Something in a database file that is wrong, and what was done about it.

    `line` is 0 where it is about the file as a whole, or a file without lines.
    """

    file: str
    item: str
    what: str
    done: str
    line: int = 0

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.item}: {self.what}; {self.done}"
