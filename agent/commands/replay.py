"""`edge-agent replay`: a recording on a serial adapter or a CAN interface."""

import argparse
import contextlib
import dataclasses
import json
import sys
import threading
from collections.abc import Generator
from typing import TYPE_CHECKING

from agent.errors import ConfigError

if TYPE_CHECKING:
    from agent.blocks import FrameBlock

_LOOP_GAP_NS = 1_000_000  # between the last frame of a round and the first of the next


def add_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = sub.add_parser(
        "replay",
        help="put a recording on a bus",
        description="Put the frames of a recording on a bus, at the pace of their times. Of a "
        "recording with several channels one is played: that of --channel, else the first.",
    )
    parser.add_argument("log", metavar="LOG", help="a recording, in any format that decode reads")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "--slcan",
        metavar="PATH",
        help="make a serial adapter at PATH (a pseudo-terminal) and wait until it is opened",
    )
    target.add_argument("--vcan", metavar="IFACE", help="send on this SocketCAN interface")
    parser.add_argument(
        "--speed", type=float, default=1.0, metavar="X", help="times as fast; 0 is flat out"
    )
    parser.add_argument("--channel", metavar="N", help="the channel, as the recording names it")
    parser.add_argument("--loop", action="store_true", help="begin again at the end")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run until the recording or a signal ends it; 1 where it had no frame to play.

    Raises:
        ConfigError: a negative speed.
        BusError: the recording cannot be read, or the bus not be opened, or it failed.
    """
    from agent.bench.play import (
        AdapterSink,
        Sink,
        SocketCanSink,
        play,
        stopped_by_signals,
        terminal,
    )
    from agent.bus import read_log

    if args.speed < 0:
        raise ConfigError("--speed must not be negative")
    # Before a bus is opened or waited for: is this a recording at all?
    read_log(args.log).close()
    stop = threading.Event()
    recording = _Recording(args.log, args.channel, again=args.loop)
    with stopped_by_signals(stop), contextlib.ExitStack() as stack:
        blocks = stack.enter_context(contextlib.closing(recording.blocks()))
        sink: Sink = SocketCanSink(args.vcan, stop) if args.vcan else AdapterSink(args.slcan, stop)
        stack.callback(sink.close)
        played = play(blocks, [sink], stop, speed=args.speed, progress=terminal())
    for note in recording.notes:
        print(note, file=sys.stderr)
    if recording.skipped:
        print(
            f"{recording.skipped} frames of other channels were left out; --channel chooses",
            file=sys.stderr,
        )
    if args.json:
        print(json.dumps({**played.as_json(), "skipped": recording.skipped}))
    else:
        print(played.as_text())
    return 0 if played.frames or stop.is_set() else 1


class _Recording:
    """One channel of a recording, once or again and again.

    `skipped` counts frames of other channels, `notes` name what was no frame; both of one round.
    """

    def __init__(self, path: str, channel: str | None, *, again: bool) -> None:
        self.skipped = 0
        self.notes: list[str] = []
        self._path = path
        self._channel = channel
        self._again = again

    def blocks(self) -> Generator["FrameBlock", None, None]:
        from agent.bus import read_log

        shift = 0
        while True:
            bus: str | None = None
            first = last = 0
            self.skipped = 0
            with read_log(self._path, channel=self._channel) as log:
                for block in log:
                    if bus is None:
                        bus, first = block.bus, int(block.time[0])
                    if block.bus != bus:
                        self.skipped += len(block)
                        continue
                    last = max(last, int(block.time.max()))
                    yield dataclasses.replace(block, time=block.time + shift)
                self.notes = log.notes
            if bus is None or not self._again:
                return
            shift += last - first + _LOOP_GAP_NS
