"""`edge-agent decode --live BUS`: what a bus says right now, as a table."""

import argparse
import contextlib
import json
import os
import queue
import select
import shutil
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.errors import BusError, ConfigError

if TYPE_CHECKING:
    from agent.blocks import FrameBlock, SignalTable
    from agent.bus.source import Source
    from agent.observe.live import Live
    from agent.signals import Decoder

_PAINT_S: Final = 0.5
_LINE_S: Final = 1.0
_BLOCK_MS: Final = 100
_BLOCKS: Final = 64
_FEWEST_ROWS: Final = 1
_KEYS: Final = {
    b"\x1b[A": "up", b"k": "up", b"\x1b[B": "down", b"j": "down", b"\n": "down",
    b"\x1b[5~": "page up", b"b": "page up", b"\x1b[6~": "page down", b" ": "page down",
    b"\x1b[H": "first", b"\x1b[1~": "first", b"g": "first",
    b"\x1b[F": "last", b"\x1b[4~": "last", b"G": "last", b"q": "quit",
}  # fmt: skip


def run_live(args: argparse.Namespace, decoder: "Decoder") -> int:
    """Show the bus until Ctrl-C, `q`, or `--seconds`; 1 where no frame was decoded.

    Raises:
        ConfigError: `--seconds` or the bit rate cannot be.
        BusError: the source ended by itself.
    """
    from agent.observe.live import Live

    if args.seconds is not None and args.seconds <= 0:
        raise ConfigError("--seconds must be above 0")
    source = _source(args.live, args.bitrate)
    stop = threading.Event()
    waiting: queue.Queue[FrameBlock] = queue.Queue(_BLOCKS)

    def deliver(block: "FrameBlock | SignalTable") -> None:
        from agent.blocks import FrameBlock

        # A source uses its arrays again; a full queue holds it up until the stop.
        while isinstance(block, FrameBlock) and not stop.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(_copied(block), timeout=_PAINT_S)
                return

    reading = threading.Thread(target=source.run, args=(deliver, stop), name="bus", daemon=True)
    live = Live()
    reading.start()
    try:
        _show(args, _Bus(source, reading, waiting), decoder, live)
    finally:
        stop.set()
        reading.join()
    return 0 if live.known else 1


class _Bus:
    """The source that runs, and what it has read."""

    def __init__(
        self, source: "Source", thread: threading.Thread, waiting: "queue.Queue[FrameBlock]"
    ) -> None:
        self.source = source
        self._thread = thread
        self._waiting = waiting

    def blocks(self, until: float) -> "Iterator[FrameBlock]":
        """Those that come until a moment of time.monotonic().

        Raises:
            BusError: no more will come.
        """
        while (left := until - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                yield self._waiting.get(timeout=left)
            if not self._thread.is_alive() and self._waiting.empty():
                raise BusError(f"{self.source.bus}: {self.source.state}")


def _source(name: str, bitrate: int) -> "Source":
    """A serial adapter where the name is a path, else a SocketCAN interface; listens only."""
    if "/" in name:
        from agent.bus.slcan import SlcanSource

        return SlcanSource(name, name, bitrate=bitrate, block_ms=_BLOCK_MS)
    from agent.bus.socketcan import SocketCanSource

    return SocketCanSource(name, name, block_ms=_BLOCK_MS)


def _copied(block: "FrameBlock") -> "FrameBlock":
    import dataclasses

    arrays = ("time", "id", "length", "flags", "data")
    return dataclasses.replace(block, **{name: getattr(block, name).copy() for name in arrays})


def _show(args: argparse.Namespace, bus: _Bus, decoder: "Decoder", live: "Live") -> None:
    from agent.clock import SystemClock

    clock = SystemClock()
    painted = sys.stdout.isatty() and not args.json
    began = time.monotonic()
    end = None if args.seconds is None else began + args.seconds
    view = _View()
    with _keys(view, wanted=painted) as pressed:
        turn = began
        while not view.left and (end is None or turn < end):
            turn += _PAINT_S if painted else _LINE_S
            until = turn if end is None else min(turn, end)
            for block in bus.blocks(until):
                live.note(block, decoder.knows(block))
                for table in decoder.decode(block):
                    live.add(table)
                if pressed.is_set():
                    break
            now = clock.boot()
            if pressed.is_set():
                # A key is obeyed at once, and the turn goes on after that.
                pressed.clear()
                turn = min(turn, time.monotonic())
            live.tick(now)
            head = _head(bus, live)
            if args.json:
                print(json.dumps(_as_json(bus, live, now)), flush=True)
            elif painted:
                columns = shutil.get_terminal_size().columns
                _paint(head, list(live.rows(now, columns)), view)
            else:
                print("\n".join([head, *live.rows(now), ""]), flush=True)


def _head(bus: _Bus, live: "Live") -> str:
    share = f", {100 * live.known / live.frames:.0f} % of them known" if live.frames else ""
    lost = sum(bus.source.counts.get(name, 0) for name in ("dropped", "bad_lines"))
    rest = f", {lost:,} lost" if lost else ""
    unknown = len(live.unknown())
    ids = f", {unknown:,} unknown ids" if unknown else ""
    return (
        f"{Path(bus.source.bus).name}: {bus.source.state}; {live.frame_rate:,.0f} frames/s, "
        f"{live.frames:,} in all{share}{rest}{ids}"
    )


def _as_json(bus: _Bus, live: "Live", now: int) -> dict[str, object]:
    return {
        "bus": bus.source.bus,
        "state": bus.source.state,
        "time": now / 1e9,
        "frames": live.frames,
        "frames_s": round(live.frame_rate, 3),
        "known_frames": live.known,
        "counts": dict(bus.source.counts),
        "signals": {line.name: line.as_json(now) for line in live.lines()},
        "unknown": live.unknown(),
    }


class _View:
    """Which rows are on the screen."""

    def __init__(self) -> None:
        self.top = 0
        self.left = False
        self._page = 1
        self._most = 0
        self._follow = False
        """The end is shown, also when more comes behind it."""

    def press(self, key: str) -> None:
        steps = {"up": -1, "down": 1, "page up": -self._page, "page down": self._page}
        self._follow = key == "last"
        if key == "quit":
            self.left = True
        elif key in steps:
            self.top = min(max(0, self.top + steps[key]), self._most)
        else:
            self.top = 0 if key == "first" else self._most

    def fit(self, rows: int, page: int) -> slice:
        """The rows that are shown of so many."""
        self._page = page
        self._most = max(0, rows - page)
        self.top = self._most if self._follow else min(self.top, self._most)
        return slice(self.top, self.top + page)


def _paint(head: str, rows: list[str], view: _View) -> None:
    """Lines in the place of those before, as far as the terminal goes; nothing flickers."""
    width, height = shutil.get_terminal_size()
    page = max(_FEWEST_ROWS, height - 3)
    shown = view.fit(len(rows), page)
    last = min(shown.stop, len(rows))
    foot = f"{shown.start + 1 if rows else 0} to {last} of {len(rows)}; arrows, space, b; q ends"
    lines = [head, *rows[shown], foot]
    print(
        "\x1b[H" + "".join(f"{line[: width - 1]}\x1b[K\n" for line in lines) + "\x1b[J",
        end="",
        flush=True,
    )


@contextlib.contextmanager
def _keys(view: _View, *, wanted: bool) -> Iterator[threading.Event]:
    """While this lasts keys move the view; gives what is set when one has.

    Keys come one by one and are not shown; Ctrl-C stays what it is.
    """
    pressed = threading.Event()
    if not (wanted and sys.stdin.isatty()):
        yield pressed
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    done_reader, done = os.pipe()

    def read() -> None:
        while done_reader not in (ready := select.select([descriptor, done_reader], [], [])[0]):
            if descriptor in ready:
                data = os.read(descriptor, 64)
                if not data:
                    return
                for key in _split(data):
                    if key in _KEYS:
                        view.press(_KEYS[key])
                        pressed.set()

    reading = threading.Thread(target=read, name="keys", daemon=True)
    # Whatever ends it, the terminal is left as it was.
    ended = signal.signal(signal.SIGTERM, signal.default_int_handler)
    tty.setcbreak(descriptor, termios.TCSANOW)
    reading.start()
    try:
        yield pressed
    finally:
        os.write(done, b"x")
        reading.join()
        os.close(done)
        os.close(done_reader)
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
        signal.signal(signal.SIGTERM, ended)


def _split(data: bytes) -> Iterator[bytes]:
    """Keys of what was read at once: an escape sequence is one."""
    while data:
        size = 1
        if data.startswith((b"\x1b[", b"\x1bO")):
            size = 3
            while size < len(data) and data[size - 1 : size].isdigit():
                size += 1
        yield data[:size].replace(b"\x1bO", b"\x1b[")
        data = data[size:]
