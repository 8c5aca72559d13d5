"""Frames in: what a bus, an adapter or a recording carries, as `FrameBlock`s.

Everything below hands on arrays: a block holds the frames of one bus in the order in which they
were received, with times of one clock. Inside, nothing is done per frame in Python.

Recordings (`read_log`, see `agent.bus.logs`):

- A block's clock is `recorded`: nanoseconds exactly as the recording has them, whatever zero it
  counts from. Text is parsed as digits, never through a float.
- The file is cut into windows of 16,384 frames, and a window gives one block for each channel in
  it. So blocks are the same at every reading, which lets a reader resume by counting frames, and
  buses stay together in time.
- A line or object that is no whole frame costs itself: it is counted in `LogReader.bad`, the first
  ten are named in `LogReader.notes`, and reading goes on. Only a file that cannot be read at all is
  a `BusError`.
- A recording is foreign input. Files are read in pieces of about a megabyte whatever they unpack
  to, sizes in a file are compared and never allocated, and no content raises anything but
  `BusError` (`agent.bus.logs.mf4` says where asammdf limits this).
- Channels are named as the file names them ("vcan0", "1"); numbers are not shifted.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.blocks import FrameBlock
    from agent.bus.logs import LogReader, read_log

__all__ = ["FrameBlock", "LogReader", "read_log"]


def __getattr__(name: str) -> Any:
    """Import them when they are first asked for: sockets are opened before NumPy is imported."""
    if name == "FrameBlock":
        from agent.blocks import FrameBlock  # noqa: PLC0415 - as said

        return FrameBlock
    if name in __all__:
        from agent.bus import logs  # noqa: PLC0415 - as said

        return getattr(logs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
