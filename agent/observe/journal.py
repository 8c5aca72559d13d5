"""Log lines as entries of systemd's journal, with fields to search by.

A service's standard error is a stream to the journal, one entry a line: no fields, and a traceback
falls apart into lines. Where that is so (`JOURNAL_STREAM` names the very file that standard error
is, systemd.exec(5)), entries go to the journal's own socket instead, in its native protocol
(systemd.io/JOURNAL_NATIVE_PROTOCOL):

    NAME=value LF                                       where the value is one line
    NAME LF, 64-bit little-endian length, value LF      where it is not

An entry is a datagram. What is too long for one goes as a sealed file of memory (memfd) whose
descriptor the datagram carries; where that cannot be made, the message is cut.

    journalctl -u edge-agent BUS=powertrain             logged as "bus %s: ..."
    journalctl -u edge-agent LOGGER=edge_agent.signals

Logging never waits and never raises: an entry that the journal does not take at once is lost, and
the first one that it takes again says how many were.
"""

import contextlib
import errno
import fcntl
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

SOCKET: Final = Path("/run/systemd/journal/socket")
IDENTIFIER: Final = "edge-agent"
MOST_BYTES: Final = 1 << 20
"""Of a message; what is longer is cut."""
_CUT_BYTES: Final = 16 << 10
"""Of each value, where an entry is too long for a datagram and there is no file of memory."""
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_PRIORITIES: Final = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_NO_LETTER: Final = re.compile(r"[^A-Z0-9_]")

Fields = Mapping[str, bytes]
"""Names and values of an entry, in the order in which they are sent."""


def field_name(text: str) -> str:
    """A name as the journal takes it: capitals, digits, _, at most 64; empty where none is left.

    Names that begin with _ are the journal's own, and it drops them.
    """
    name = _NO_LETTER.sub("_", text.upper()).lstrip("_0123456789")[:64]
    return name if _NAME.fullmatch(name) else ""


_ABOUT: Final = re.compile(r"(bus|uplink|bundle) %s\b")
"""How lines begin that are about one of these: its name is a field of that name."""


def encode(fields: Fields) -> bytes:
    """An entry in the native protocol; names have to be such as `field_name` gives."""
    parts: list[bytes] = []
    for name, value in fields.items():
        if b"\n" in value:
            parts += (name.encode("ascii"), b"\n", len(value).to_bytes(8, "little"), value, b"\n")
        else:
            parts += (name.encode("ascii"), b"=", value, b"\n")
    return b"".join(parts)


def fields_of(record: logging.LogRecord, message: str) -> dict[str, bytes]:
    """The fields of a log record; what was given as `fields` cannot replace one of ours."""
    own: dict[str, object] = {
        "MESSAGE": message,
        "PRIORITY": priority(record.levelno),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "LOGGER": record.name,
        "CODE_FILE": record.pathname,
        "CODE_LINE": record.lineno,
        "CODE_FUNC": record.funcName or "",
        "THREAD_NAME": record.threadName or "",
    }
    if (
        (about := _ABOUT.match(_text(record.msg)))
        and isinstance(record.args, tuple)
        and record.args
    ):
        own[about[1].upper()] = record.args[0]
    more = getattr(record, "fields", None)
    if isinstance(more, Mapping):
        for name, value in more.items():
            if known := field_name(str(name)):
                own.setdefault(known, value)
    return {name: _bytes(value, MOST_BYTES) for name, value in own.items()}


def priority(level: int) -> int:
    """That of syslog(3) for a level of logging."""
    return next((number for least, number in _PRIORITIES if level >= least), 7)


def _bytes(value: object, most: int) -> bytes:
    data = value if isinstance(value, bytes) else _text(value).encode("utf-8", "backslashreplace")
    if len(data) <= most:
        return data
    whole = (
        data[:most].decode("utf-8", "ignore").encode() if isinstance(value, str) else data[:most]
    )
    return whole + f" ... ({len(data) - len(whole):,} more bytes)".encode()


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception as e:  # noqa: BLE001 - a line that cannot be made must not end a thread
        return f"({type(e).__name__} in {type(value).__name__})"


def is_journal(stream_fd: int, environment: Mapping[str, str]) -> bool:
    """Whether a file is the stream to the journal that systemd gave this process.

    A child that was given another standard error inherits the variable, so it is compared.
    """
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    try:
        stat = os.fstat(stream_fd)
        return (int(device), int(inode)) == (stat.st_dev, stat.st_ino)
    except (OSError, ValueError):
        return False


class JournalHandler(logging.Handler):
    """Sends records to the journal's socket; nothing that happens there reaches the caller.

    Args:
        address: the journal's socket; looked for anew with each record, as the journal may be
            restarted.
        send_buffer_bytes: bounds what a datagram can be, and what waits for the journal.
        memory_file: gives the descriptor of an empty file that can be sealed, or an OSError.
    """

    def __init__(
        self,
        address: Path = SOCKET,
        *,
        send_buffer_bytes: int = 8 << 20,
        memory_file: Callable[[], int] | None = None,
    ) -> None:
        super().__init__()
        self.lost = 0
        """Records that the journal has not taken since it took one."""
        self._address = os.fspath(address)
        self._memory_file = memory_file or _memory_file
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)

    def emit(self, record: logging.LogRecord) -> None:
        """As `logging.Handler.emit`, which is called with this handler's lock."""
        try:
            message = self.format(record)
        except Exception as e:  # noqa: BLE001 - a line that cannot be made must not end a thread
            message = f"{_text(record.msg)} ({type(e).__name__} in its arguments: {_text(e)})"
        try:
            if self.lost:
                self._send({**_LOST, "MESSAGE": f"{self.lost} lines were lost here".encode()})
                self.lost = 0
            self._send(fields_of(record, message))
        except OSError:
            self.lost += 1

    def close(self) -> None:
        self._socket.close()
        super().close()

    def _send(self, fields: Fields) -> None:
        data = encode(fields)
        try:
            self._datagram(data)
        except OSError as e:
            if e.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
        else:
            return
        try:
            self._memory(data)
        except OSError:
            cut = {name: _bytes(value, _CUT_BYTES) for name, value in fields.items()}
            self._datagram(encode(cut))

    def _datagram(self, data: bytes, ancillary: Iterable[tuple[int, int, bytes]] = ()) -> None:
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        self._socket.sendmsg([data] if data else [], ancillary, flags, self._address)

    def _memory(self, data: bytes) -> None:
        """Only a sealed file is read by the journal: its sender cannot change it meanwhile."""
        descriptor = self._memory_file()
        with open(descriptor, "wb", buffering=0) as file:  # noqa: PTH123 - it has no path
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            rights = descriptor.to_bytes(4, sys.byteorder)
            self._datagram(b"", [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


def _memory_file() -> int:
    return os.memfd_create("journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


_LOST: Final = {"MESSAGE": b"", "PRIORITY": b"4", "SYSLOG_IDENTIFIER": IDENTIFIER.encode()}


def journal_handler(
    environment: Mapping[str, str] | None = None,
    stream_fd: int = 2,
    address: Path = SOCKET,
) -> JournalHandler | None:
    """A handler where `stream_fd`, standard error, is the journal's and its socket is there."""
    known = os.environ if environment is None else environment
    if not is_journal(stream_fd, known) or not address.is_socket():
        return None
    return JournalHandler(address)
