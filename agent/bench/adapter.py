"""The adapter's side of the serial protocol, on a pseudo-terminal.

What a LAWICEL adapter does between a bus and a serial line, without either: a program opens the
path as it would open /dev/ttyACM0, sends commands, and gets lines. Like an adapter, it answers
commands that fit its state with a carriage return and all others with BELL, and what comes from the
bus while the channel is closed is lost. Unlike one, it waits for a reader that is slow.
"""

import collections
import contextlib
import fcntl
import os
import pty
import select
import struct
import termios
import threading
import tty
from pathlib import Path
from typing import Final, Self

import numpy as np

from agent.blocks import (
    ERROR,
    EXTENDED,
    FD_BIT_RATE_SWITCH,
    FD_FRAME,
    ID_BITS,
    REMOTE,
    FrameBlock,
    Int64,
)
from agent.clock import MILLISECOND
from agent.errors import BusError

_HEX: Final = np.frombuffer(b"0123456789ABCDEF", np.uint8)
_FD_LENGTHS: Final = np.array([*range(9), 12, 16, 20, 24, 32, 48, 64])
_POLL_S: Final = 0.05
_WRITE_BYTES: Final = 4096
_CR: Final = 13


def format_lines(block: FrameBlock, *, stamps: bool = False) -> tuple[bytes, Int64]:
    """Lines of a block, and at which byte each ends, int64[n]. Error frames have no line: empty.

    All lines are laid out at full width in one matrix, and what a line does not have is left out.
    """
    n, width = block.data.shape
    fd = block.flags & FD_FRAME != 0
    remote = block.id & REMOTE != 0
    extended = block.id & EXTENDED != 0
    kind = np.where(remote, ord("r"), ord("t")).astype(np.uint8)
    kind[fd] = ord("d")
    kind[fd & (block.flags & FD_BIT_RATE_SWITCH != 0)] = ord("b")
    kind[extended] -= 32  # capitals
    text = np.empty((n, 10 + 2 * width + 5), np.uint8)
    keep = np.ones(text.shape, np.bool_)
    text[:, 0] = kind
    identifier = (block.id & np.uint32(ID_BITS)).astype(">u4").reshape(n, 1).view(np.uint8)
    text[:, 1:9:2], text[:, 2:9:2] = _HEX[identifier >> 4], _HEX[identifier & 15]
    keep[:, 1:6] = extended[:, np.newaxis]
    text[:, 9] = _HEX[np.searchsorted(_FD_LENGTHS, block.length)]
    data = text[:, 10 : 10 + 2 * width]
    data[:, 0::2], data[:, 1::2] = _HEX[block.data >> 4], _HEX[block.data & 15]
    digits = np.where(remote, 0, 2 * block.length.astype(np.int64))
    keep[:, 10 : 10 + 2 * width] = np.arange(2 * width) < digits[:, np.newaxis]
    stamp = (block.time // MILLISECOND % 60_000).astype(np.int64)
    text[:, -5:-1] = _HEX[stamp[:, np.newaxis] >> np.array([12, 8, 4, 0]) & 15]
    keep[:, -5:-1] = stamps
    text[:, -1] = _CR
    keep[block.id & ERROR != 0] = False
    return text[keep].tobytes(), np.cumsum(keep.sum(axis=1))


class VirtualAdapter:
    """A pseudo-terminal at `path` (a symbolic link) that behaves like a serial adapter.

    `opened` is set while a program has opened the channel (`O` or `L`), and `silent` tells whether
        it then acknowledges no frames. `sent` counts frames whose line was written as a whole,
    `refused` frames that a program wanted to put on the bus, and `commands` are the last ones that
    came. A thread answers them; `send` belongs to one other.

    Args:
        path: where the symbolic link to the pseudo-terminal is put; a link there is replaced.
        stop: ends every wait of `send`.
        refuses: letters of commands that this adapter does not know.
        mute: what `V` answers, of an adapter that answers nothing else: as the stock firmware of
            CANable does, it opens with `O` only, and is `silent` after `M1`. None for an adapter
            that answers.

    Raises:
        BusError: the pseudo-terminal or the link cannot be made.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        stop: threading.Event | None = None,
        *,
        refuses: bytes = b"",
        mute: bytes | None = None,
    ) -> None:
        self.path = Path(path)
        self.opened = threading.Event()
        self.sent = 0
        self.refused = 0
        self.silent = False
        self.commands: collections.deque[bytes] = collections.deque(maxlen=64)
        self._refuses = refuses
        self._mute = mute
        self._stop = stop or threading.Event()
        self._closing = threading.Event()
        self._stamps = False
        self._writing = threading.Lock()
        try:
            self._master, slave = pty.openpty()
            # Set before anyone opens it: a terminal that echoes would send frames back as commands.
            tty.setraw(slave)
            self._terminal = os.ttyname(slave)
            os.set_blocking(self._master, False)
            os.close(slave)
            if self.path.is_symlink():
                self.path.unlink()
            self.path.symlink_to(self._terminal)
        except OSError as error:
            raise BusError(f"cannot make a virtual adapter at {self.path} ({error})") from error
        self._thread = threading.Thread(target=self._serve, name="adapter", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Unplug: the reader gets a hang-up, what it has not read is lost, the link goes."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._thread.join()
        self.opened.clear()
        with self._writing:
            os.close(self._master)
        with contextlib.suppress(OSError):
            if self.path.readlink() == Path(self._terminal):
                self.path.unlink()

    def wait_opened(self) -> bool:
        """Wait until a program has opened the channel; False when stopped before."""
        while not self.opened.wait(_POLL_S):
            if self._ending():
                return False
        return True

    def send(self, block: FrameBlock) -> int:
        """Send the frames of a block; how many lines were written as a whole.

        Blocks while the reader is slow. Returns early when the channel is closed, or at the stop.
        """
        lines, ends = format_lines(block, stamps=self._stamps)
        # Pieces end where a line ends, so that an answer never lands inside a line.
        done = 0
        while done < len(lines) and self.opened.is_set() and not self._ending():
            most = int(np.searchsorted(ends, done + _WRITE_BYTES, "right"))
            piece_end = int(ends[most - 1])
            with self._writing:
                written = self._write(lines[done:piece_end])
            done += written
            if done < piece_end:
                break
        written_ends = ends[: np.searchsorted(ends, done, "right")]
        whole = int(np.count_nonzero(np.diff(written_ends, prepend=0)))
        self.sent += whole
        return whole

    def send_bytes(self, data: bytes) -> int:
        """Send bytes as they are, for what a broken adapter does; how many went out."""
        with self._writing:
            return self._write(data)

    def drain(self) -> bool:
        """Wait until the reader has read everything; False when it goes away or at the stop.

        To be called before `close`: a pseudo-terminal forgets what is in it when it is closed.
        """
        quiet = 0
        # Bytes pass through two buffers, of which one can be asked: so ask repeatedly.
        while quiet < 4 and self.opened.is_set() and not self._ending():
            quiet = 0 if self._unread() else quiet + 1
            self._closing.wait(_POLL_S / 5)
        return quiet == 4

    def _unread(self) -> int:
        # Opened for a moment only: while it is open here, a reader that goes away is not noticed.
        slave = os.open(self._terminal, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            return int(struct.unpack("i", fcntl.ioctl(slave, termios.FIONREAD, bytes(4)))[0])
        finally:
            os.close(slave)

    def _ending(self) -> bool:
        return self._stop.is_set() or self._closing.is_set()

    def _write(self, data: bytes) -> int:
        done = 0
        while done < len(data) and self.opened.is_set() and not self._ending():
            with contextlib.suppress(BlockingIOError):
                done += os.write(self._master, data[done:])
                continue
            select.select([], [self._master], [], _POLL_S)
        return done

    def _serve(self) -> None:
        """Answer commands; notice when the program that had the terminal open is gone."""
        poll = select.poll()
        poll.register(self._master, select.POLLIN)
        line = b""
        while not self._closing.is_set():
            events = poll.poll(1000 * _POLL_S)
            if not events:
                continue
            if events[0][1] & select.POLLIN:
                with contextlib.suppress(OSError):
                    *commands, line = (line + os.read(self._master, 4096)).split(b"\r")
                    for command in commands:
                        self._answer(command)
                    line = line[-256:]
                    continue
            # Nobody has the terminal open: closed as an adapter is that loses its program.
            self.opened.clear()
            line = b""
            self._closing.wait(_POLL_S)

    def _answer(self, command: bytes) -> None:
        name, is_open = command[:1], self.opened.is_set()
        reply = b"\x07"
        self.commands.append(command)
        if self._mute is not None:
            self._obey(command, self._mute)
            return
        if name and name in self._refuses:
            pass
        elif name in b"SsYZXMm" and name and not is_open:
            self._stamps = command == b"Z1" if name == b"Z" else self._stamps
            reply = b"\r"
        elif name and name in b"VNF":
            reply = {b"V": b"V1013\r", b"N": b"N0001\r", b"F": b"F00\r"}[name]
        elif not command:
            reply = b"\r"
        elif name == b"C" and is_open:
            self.opened.clear()
            reply = b"\r"
        elif command in (b"O", b"L") and not is_open:
            # The answer goes first: frames follow as soon as the channel is open.
            self._reply(b"\r")
            self.silent = command == b"L"
            self.opened.set()
            return
        elif name and name in b"tTrRdDbB":
            self.refused += 1
        self._reply(reply)

    def _obey(self, command: bytes, firmware: bytes) -> None:
        if command == b"C":
            self.opened.clear()
        elif command == b"O":
            self.opened.set()
        elif command in (b"M0", b"M1"):
            self.silent = command == b"M1"
        elif command == b"V" and firmware:
            self._reply(firmware + b"\r")
        elif command[:1] in (b"t", b"T", b"r", b"R", b"d", b"D", b"b", b"B"):
            self.refused += 1

    def _reply(self, reply: bytes) -> None:
        with self._writing, contextlib.suppress(OSError):
            os.write(self._master, reply)
