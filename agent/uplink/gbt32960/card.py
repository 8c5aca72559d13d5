"""The number of the SIM card, read from a file at each login: cards are exchanged."""

from pathlib import Path
from typing import Final

from agent.settings.gbt32960 import Gbt32960

_FILE_BYTES: Final = 256
_DIGITS: Final = 20


class Card:
    """Of one vehicle. `trouble` says why the number is not that of the file."""

    def __init__(self, settings: Gbt32960) -> None:
        self._settings = settings
        self.trouble = ""

    def read(self) -> str:
        """The ICCID; that of the device file where there is no better one. Touches the disk."""
        name, self.trouble = self._settings.iccid_file, ""
        if not name:
            return self._settings.iccid
        try:
            with Path(name).open("rb") as file:
                words = file.read(_FILE_BYTES).decode("ascii", "replace").split()
        except OSError as e:
            self.trouble = f"{name}: {e.strerror}"
            return self._settings.iccid
        word = words[0] if words else ""
        if 0 < len(word) <= _DIGITS and word.isascii() and word.isalnum():
            return word
        self.trouble = f"{name}: its first word is no ICCID"
        return self._settings.iccid
