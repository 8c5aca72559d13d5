"""The files of each bus, read into messages: DBC by our own reader, others by cantools."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from agent.errors import DatabaseError
from agent.signals import cache as caching
from agent.signals import dbc
from agent.signals.finding import Finding
from agent.signals.model import Message

_MAX_BYTES = 64 << 20
_OF_CANTOOLS = {".kcd": "kcd", ".sym": "sym", ".arxml": "arxml"}


@dataclasses.dataclass(frozen=True, slots=True)
class FileReading:
    """What one file holds; `encoding` is "" where cantools read it."""

    messages: tuple[Message, ...]
    findings: tuple[Finding, ...]
    encoding: str


def read_buses(
    by_bus: Mapping[str, Sequence[Path]], j1939: frozenset[str], cache: Path | None
) -> tuple[dict[str, tuple[Message, ...]], tuple[Finding, ...]]:
    """The messages of each bus, and what was wrong in its files.

    `j1939` names the buses whose 29-bit ids are all matched by PGN; `cache` is a folder in which
    the result is kept.

    Raises:
        DatabaseError: a file cannot be read, or nothing in it can be used.
    """
    # A file is read before it is looked for in the cache: the content decides, not a date.
    contents = {path: _bytes(path) for paths in by_bus.values() for path in paths}
    key = caching.key_of(by_bus, contents, j1939)
    if cache is not None:
        known = caching.load(cache, key)
        if known is not None:
            return known
    findings: dict[Finding, None] = {}
    readings = {path: read_file(path, data) for path, data in contents.items()}
    buses: dict[str, tuple[Message, ...]] = {}
    for bus, paths in by_bus.items():
        for path in paths:
            findings.update(dict.fromkeys(readings[path].findings))
        messages = _without_doubles([(path, readings[path].messages) for path in paths], findings)
        if bus in j1939:
            messages = [dataclasses.replace(m, j1939=True) if m.extended else m for m in messages]
        buses[bus] = tuple(messages)
    if cache is not None:
        caching.store(cache, key, buses, tuple(findings))
    return buses, tuple(findings)


def read_file(path: Path, data: bytes | None = None) -> FileReading:
    """Read one file.

    Raises:
        DatabaseError: it cannot be read, or nothing in it can be used.
    """
    data = _bytes(path) if data is None else data
    kind = _OF_CANTOOLS.get(path.suffix.lower())
    if kind:
        # cantools takes 150 ms to import, and a DBC file does without it.
        from agent.signals import foreign  # noqa: PLC0415

        found, told = foreign.read(path, data, kind)
        messages, findings, encoding = tuple(found), tuple(told), ""
    else:
        reading = dbc.read(data)
        messages, encoding = reading.messages, reading.encoding
        findings = tuple(Finding(str(path), n.item, n.what, n.done, n.line) for n in reading.notes)
    lost = [f for f in findings if "left out" in f.done]
    if not messages and not lost and data.strip():
        # A sound file without a message, such as one of value tables.
        findings += (Finding(str(path), "file", "has no messages", "nothing is decoded by it"),)
        return FileReading(messages, findings, encoding)
    if not messages:
        raise DatabaseError(f"{path}: has no messages{_why(lost)}")
    if lost and not any(message.signals for message in messages):
        raise DatabaseError(f"{path}: has no messages with signals{_why(lost)}")
    return FileReading(messages, findings, encoding)


def _why(findings: Sequence[Finding]) -> str:
    """The first thing that was wrong: it may be the reason."""
    if not findings:
        return ""
    first = findings[0]
    more = f", and {len(findings) - 1} more findings" if len(findings) > 1 else ""
    line = f"line {first.line}: " if first.line else ""
    return f" that can be used ({line}{first.item}: {first.what}{more})"


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DatabaseError(f"{path}: has more than {_MAX_BYTES >> 20} MB; is it a database?")
        return path.read_bytes()
    except OSError as e:
        raise DatabaseError(f"{path}: cannot be read: {e.strerror}") from e


def _without_doubles(
    files: Iterable[tuple[Path, Sequence[Message]]], findings: dict[Finding, None]
) -> list[Message]:
    """Messages of several files in order; of two with one name or one id, the first."""
    names: set[str] = set()
    ids: set[tuple[bool, int]] = set()
    kept = []
    for path, messages in files:
        for message in messages:
            key = (message.extended, message.id)
            if message.name in names or key in ids:
                item = f"message {message.name} (id {message.id:#x})"
                what = "the name or the id was there before"
                findings[Finding(str(path), item, what, "left out")] = None
                continue
            names.add(message.name)
            ids.add(key)
            kept.append(message)
    return kept
