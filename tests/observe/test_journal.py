"""Entries of the journal: the encoder against a decoder, and a real socket in its place."""

import array
import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.observe.journal import (
    MOST_BYTES,
    JournalHandler,
    encode,
    field_name,
    is_journal,
    journal_handler,
    priority,
)


def decode(data: bytes) -> list[tuple[str, bytes]]:
    """The fields of an entry, as the description of the protocol has them."""
    fields = []
    while data:
        line, mark, rest = data.partition(b"\n")
        assert mark, "a line has an end"
        name, equals, value = line.partition(b"=")
        if equals:
            data = rest
        else:
            size = int.from_bytes(rest[:8], "little")
            value, end, data = rest[8 : 8 + size], rest[8 + size : 9 + size], rest[9 + size :]
            assert len(value) == size
            assert end == b"\n"
        fields.append((name.decode("ascii"), value))
    return fields


names = st.from_regex(r"[A-Z][A-Z0-9_]{0,63}", fullmatch=True)
values = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=40).map(str.encode),
    st.lists(st.sampled_from([b"\n", b"=", b"\0", b"A=b\n", b"x"]), max_size=8).map(b"".join),
)


@given(st.dictionaries(names, values, max_size=8))
def test_any_values_come_back_in_order(fields: dict[str, bytes]) -> None:
    assert decode(encode(fields)) == list(fields.items())


@given(st.text(max_size=80))
def test_any_name_becomes_one_that_the_journal_takes_or_none(text: str) -> None:
    name = field_name(text)
    assert len(name) <= 64
    assert not name or (name[0].isalpha() and name.isascii() and name == name.upper())
    assert set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
    assert field_name(name) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [("BUS", "BUS"), ("bus-name", "BUS_NAME"), ("_PID", "PID"), ("1st", "ST"), ("", ""), ("_", "")],
)
def test_names(text: str, name: str) -> None:
    assert field_name(text) == name


@pytest.mark.parametrize(
    ("level", "number"),
    [
        (logging.DEBUG, 7),
        (logging.INFO, 6),
        (logging.WARNING, 4),
        (logging.ERROR, 3),
        (logging.CRITICAL, 2),
        (35, 4),
        (99, 2),
        (0, 7),
    ],
)
def test_levels_are_those_of_syslog(level: int, number: int) -> None:
    assert priority(level) == number


class Journal:
    """What listens at the journal's socket, and reads entries as it does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.by_file = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(5)

    def entry(self) -> dict[str, bytes]:
        data, ancillary, flags, _ = self._socket.recvmsg(1 << 22, socket.CMSG_SPACE(64))
        assert not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        descriptors = array.array("i")
        for level, kind, payload in ancillary:
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            descriptors.frombytes(payload)
        if not descriptors:
            return dict(decode(data))
        assert data == b"", "bytes or a file, never both"
        (descriptor,) = descriptors
        self.by_file += 1
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        wanted = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        assert seals & wanted == wanted, "nobody can change it while it is read"
        with os.fdopen(descriptor, "rb") as file:
            file.seek(0)
            return dict(decode(file.read()))

    def waiting(self) -> bool:
        self._socket.setblocking(False)
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        finally:
            self._socket.settimeout(5)
        return True

    def close(self) -> None:
        self._socket.close()
        self.path.unlink(missing_ok=True)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    listening = Journal(tmp_path / "socket")
    yield listening
    listening.close()


@contextlib.contextmanager
def logger_of(handler: logging.Handler) -> Iterator[logging.Logger]:
    logger = logging.Logger("edge_agent.test")  # noqa: LOG001 - nothing of it outlives the test
    logger.addHandler(handler)
    yield logger
    handler.close()


@pytest.fixture
def log(journal: Journal) -> Iterator[logging.Logger]:
    with logger_of(JournalHandler(journal.path)) as logger:
        yield logger


def test_a_line_arrives_with_its_fields(journal: Journal, log: logging.Logger) -> None:
    log.warning("bus %s: %s", "can0", "down", extra={"fields": {"frames": 12}})
    entry = journal.entry()
    assert entry["MESSAGE"] == b"bus can0: down"
    assert entry["PRIORITY"] == b"4"
    assert entry["SYSLOG_IDENTIFIER"] == b"edge-agent"
    assert entry["LOGGER"] == b"edge_agent.test"
    assert entry["CODE_FILE"].endswith(b"test_journal.py")
    assert entry["CODE_FUNC"] == b"test_a_line_arrives_with_its_fields"
    assert int(entry["CODE_LINE"]) > 0
    assert (entry["BUS"], entry["FRAMES"]) == (b"can0", b"12")


@pytest.mark.parametrize("what", ["uplink", "bundle"])
def test_a_line_has_the_name_of_what_it_is_about(
    journal: Journal, log: logging.Logger, what: str
) -> None:
    line = f"{what} %s: %s"
    log.info(line, "cloud", "all is well")
    assert journal.entry()[what.upper()] == b"cloud"


def test_a_traceback_is_one_entry(journal: Journal, log: logging.Logger) -> None:
    try:
        int("first\nsecond")
    except ValueError:
        log.exception("reading failed")
    entry = journal.entry()
    lines = entry["MESSAGE"].decode().splitlines()
    assert lines[0] == "reading failed"
    assert lines[-1].startswith("ValueError: invalid literal")
    assert not journal.waiting()


def test_fields_of_a_caller_replace_none_of_ours_and_forge_none(
    journal: Journal, log: logging.Logger
) -> None:
    fields = {"MESSAGE": "other", "x": "a\nPRIORITY=0", "a=b": "1", "": "2", "_pid": "1"}
    log.info("text\nPRIORITY=0", extra={"fields": fields})
    entry = journal.entry()
    assert entry["MESSAGE"] == b"text\nPRIORITY=0"
    assert entry["PRIORITY"] == b"6"
    assert entry["X"] == b"a\nPRIORITY=0"
    assert entry["A_B"] == b"1"


@pytest.mark.parametrize("fields", [None, "BUS", 7, ["BUS"]])
def test_fields_that_are_none_cost_nothing_else(
    journal: Journal, log: logging.Logger, fields: object
) -> None:
    log.info("text", extra={"fields": fields})
    assert journal.entry()["MESSAGE"] == b"text"


def test_what_is_too_long_for_a_datagram_goes_as_a_sealed_file(journal: Journal) -> None:
    text = "é\n" * 100_000
    with logger_of(JournalHandler(journal.path, send_buffer_bytes=8192)) as log:
        log.error("%s", text)
    entry = journal.entry()
    assert entry["MESSAGE"].decode() == text
    assert entry["PRIORITY"] == b"3"
    assert journal.by_file == 1


def test_a_message_without_end_is_cut_at_a_letter(journal: Journal, log: logging.Logger) -> None:
    log.info("%s", "x" + "é" * MOST_BYTES)
    message = journal.entry()["MESSAGE"].decode()
    assert MOST_BYTES <= len(message.encode()) < MOST_BYTES + 64
    assert message.endswith("é ... (1,048,578 more bytes)")


def test_without_files_of_memory_a_long_message_is_cut(journal: Journal) -> None:
    def refused() -> int:
        raise PermissionError(1, "refused")

    handler = JournalHandler(journal.path, send_buffer_bytes=65_536, memory_file=refused)
    with logger_of(handler) as log:
        log.info("%s", "x" * 900_000, extra={"fields": {"BUS": "can0"}})
    entry = journal.entry()
    assert entry["MESSAGE"].startswith(b"xxxx")
    assert entry["MESSAGE"].endswith(b"more bytes)")
    assert len(entry["MESSAGE"]) < 20_000
    assert entry["BUS"] == b"can0"


def test_while_the_journal_is_away_lines_are_counted_and_then_it_is_told(
    journal: Journal, log: logging.Logger
) -> None:
    journal.close()
    log.info("one")
    log.info("two")
    again = Journal(journal.path)
    log.info("three")
    assert again.entry()["MESSAGE"] == b"2 lines were lost here"
    assert again.entry()["MESSAGE"] == b"three"
    log.info("four")
    assert again.entry()["MESSAGE"] == b"four"
    again.close()


def test_a_journal_that_reads_nothing_blocks_nobody(journal: Journal, log: logging.Logger) -> None:
    handler = log.handlers[0]
    assert isinstance(handler, JournalHandler)
    for number in range(10_000):
        log.info("line %d", number)
        if handler.lost:
            break
    assert handler.lost == 1
    assert journal.entry()["MESSAGE"] == b"line 0"


class _Broken:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_a_line_that_cannot_be_made_is_told_as_it_was_meant(
    journal: Journal, log: logging.Logger
) -> None:
    log.info("value %s", _Broken())
    assert journal.entry()["MESSAGE"] == b"value %s (RuntimeError in its arguments: no text)"
    log.info("%d %d", 1)  # noqa: PLE1206 - that is the mistake
    assert journal.entry()["MESSAGE"].startswith(b"%d %d (TypeError in its arguments")
    log.info(_Broken(), extra={"fields": {"BUS": _Broken()}})
    entry = journal.entry()
    assert entry["MESSAGE"].startswith(b"(RuntimeError in _Broken)")
    assert entry["BUS"] == b"(RuntimeError in _Broken)"


def test_letters_that_are_none_arrive_readable(journal: Journal, log: logging.Logger) -> None:
    log.info("name %s", "a\udcff")
    assert journal.entry()["MESSAGE"] == b"name a\\udcff"


def stream_of(descriptor: int) -> dict[str, str]:
    stat = os.fstat(descriptor)
    return {"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"}


def test_only_the_very_stream_of_the_journal_counts() -> None:
    ours, other = socket.socketpair()
    with ours, other:
        assert is_journal(ours.fileno(), stream_of(ours.fileno()))
        assert not is_journal(other.fileno(), stream_of(ours.fileno()))


@pytest.mark.parametrize("value", ["", "1", "1:", ":", "a:b", "1:2:3", "-"])
def test_nonsense_in_the_variable_is_no_journal(value: str) -> None:
    assert not is_journal(2, {"JOURNAL_STREAM": value})


def test_a_closed_standard_error_is_no_journal() -> None:
    assert not is_journal(-1, {"JOURNAL_STREAM": "1:2"})


def test_a_handler_is_made_only_below_systemd(journal: Journal, tmp_path: Path) -> None:
    ours, other = socket.socketpair()
    with ours, other:
        descriptor = ours.fileno()
        assert journal_handler({}, descriptor, journal.path) is None
        assert journal_handler(stream_of(other.fileno()), descriptor, journal.path) is None
        assert journal_handler(stream_of(descriptor), descriptor, tmp_path / "none") is None
        handler = journal_handler(stream_of(descriptor), descriptor, journal.path)
        assert handler is not None
        handler.close()
