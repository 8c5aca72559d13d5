"""Recordings as frame blocks: `read_log("drive.blf")` and what it gives, a `LogReader`.

One module a format (`candump`, `asc`, `blf`, `trc`, `mf4`, `gvret`), each a generator of `Frames`
from a `Source`. Shared: `source` (files, compression), `text` (lines, tokens and numbers by
array), `frames` (channels, blocks, and the tally of what was bad).
"""

import os
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Self

from agent.blocks import FrameBlock
from agent.bus.logs import asc, blf, candump, gvret, mf4, trc
from agent.bus.logs.frames import Frames, Tally, blocks, chooser
from agent.bus.logs.source import Source
from agent.errors import BusError

_READ: dict[str, Callable[[Source, Tally], Iterator[Frames]]] = {
    "candump": candump.read,
    "asc": asc.read,
    "blf": blf.read,
    "trc": trc.read,
    "mf4": mf4.read,
    "gvret": gvret.read,
}
_BY_NAME = {
    ".log": "candump",
    ".asc": "asc",
    ".blf": "blf",
    ".trc": "trc",
    ".mf4": "mf4",
    ".csv": "gvret",
}
_COMPRESSED = (".gz", ".xz", ".zst")
# Formats that nothing but their own beginning can be: a name alone does not make one.
_STRICT = ("blf", "mf4", "gvret")
SUPPORTED = (
    "candump (.log), Vector (.asc, .blf), PEAK (.trc), ASAM MDF 4 (.mf4) and SavvyCAN GVRET (.csv) "
    "recordings can be read, also compressed (.gz, .xz, .zst)"
)


class LogReader(Iterator[FrameBlock]):
    """The blocks of a recording, in the order of the file; also a context manager.

    Each block holds frames of one channel, at most 16,384, `clock="recorded"`, data uint8[n, 8], or
    uint8[n, 64] where a frame is longer. Blocks of a given file and `channel` are always the same.

    Attributes:
        format: "candump", "asc", "blf", "trc", "mf4" or "gvret".
    """

    def __init__(
        self, source: Source, log_format: str, *, channel: str | None, bus: str | None
    ) -> None:
        self.format = log_format
        self._source = source
        self._tally = Tally(source.name)
        self._names = names = self._tally.names
        self._ended = False
        self._channel = channel
        self._blocks = blocks(
            self._watch(_READ[log_format](source, self._tally)),
            None if channel is None else chooser(names, channel),
            names.name if bus is None else lambda _: bus,
        )

    @property
    def bad(self) -> int:
        """Lines, records or objects that were skipped so far because they are no whole frame."""
        return self._tally.bad

    @property
    def notes(self) -> list[str]:
        """The first ten of them for a person, as `drive.log:4711: cut in mid-line, skipped`."""
        return self._tally.notes

    @property
    def progress(self) -> float:
        """How much of the file has been read, 0 to 1; of a compressed one, of its packed bytes."""
        return 1.0 if self._ended else self._source.progress

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> FrameBlock:
        """The next block.

        Raises:
            BusError: the disk fails, or the file turns out to be no recording of its format.
        """
        try:
            block = next(self._blocks)
        except StopIteration:
            self._ended = True
            self.close()
            raise
        except OSError as error:
            self.close()
            raise BusError(f"{self._source.path} cannot be read: {error}.") from error
        except BaseException:
            self.close()
            raise
        return block

    def close(self) -> None:
        self._blocks.close()
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _watch(self, parts: Iterator[Frames]) -> Iterator[Frames]:
        """Remember the channels, for a person who asks for one that the file does not have."""
        seen: set[int] = set()
        for part in parts:
            if self._channel is not None and len(seen) < 10:
                seen.update(set(part.channel.tolist()))
            yield part
        if self._channel is not None and seen:
            choose = chooser(self._names, self._channel)
            if not any(choose(key) for key in seen):
                there = ", ".join(sorted(self._names.name(key) for key in seen)[:10])
                self._tally.note(f"no frame is of channel {self._channel}; there are {there}")


def read_log(
    path: str | os.PathLike[str], *, channel: str | None = None, bus: str | None = None
) -> LogReader:
    """Read a recording of any supported format as blocks of frames.

    Args:
        path: the recording. The name tells the format, the content where the name does not or is
            wrong; compression is told by the content.
        channel: only frames of this channel, by its name, or by the number that the name ends in:
            "0" is also "vcan0".
        bus: the name of the blocks' bus; the channel as the file has it where none is given.

    Raises:
        BusError: the file cannot be read or is no supported recording.
    """
    source = Source(path)
    try:
        return LogReader(source, _format_of(source), channel=channel, bus=bus)
    except BaseException:
        source.close()
        raise


def _format_of(source: Source) -> str:
    name = PurePath(source.name.lower())
    if name.suffix in _COMPRESSED:
        name = name.with_suffix("")
    named = _BY_NAME.get(name.suffix)
    seen = _format_of_content(source.head)
    if named is not None and (seen == named or (seen is None and named not in _STRICT)):
        return named
    if seen is not None:
        return seen
    if named is not None:
        raise BusError(
            f"{source.path} does not begin as a {name.suffix} recording does; {SUPPORTED}."
        )
    raise BusError(f"{source.path} is no recording of a known format; {SUPPORTED}.")


def _format_of_content(head: bytes) -> str | None:
    if head.startswith(blf.MAGIC):
        return "blf"
    if head.startswith(mf4.MAGIC):
        return "mf4"
    if gvret.LOOKS.match(head):
        return "gvret"
    for name, module in (("candump", candump), ("asc", asc), ("trc", trc)):
        if module.LOOKS.search(head):
            return name
    return None
