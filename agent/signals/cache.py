"""Compiled databases, kept between two starts.

A file of the cache is named by its key: a SHA-256 of everything that the result depends on (the
content and name of each file, the options, the version of the agent and of this format). So it
never has to be found out whether it is still true: another input is another file. The oldest files
go when there are many.

    8 bytes   magic, with the number of this format
    32 bytes  SHA-256 of what follows
    msgpack   the key; tables of value names; buses with their messages; findings

The cache is a convenience and is never trusted: a file that is cut, torn, foreign or forged is
taken for none at all. The digest finds damage; then every type and bound is checked as the file is
decoded, and the messages are checked as the decoder needs them. Nothing in it is executable.
Failing to write is no error: the next start takes as long as this one.
"""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from agent import __version__
from agent.blocks import Kind, SignalSchema
from agent.signals.finding import Finding
from agent.signals.model import Message, Signal
from agent.signals.sound import fault

FORMAT = 1
_MAGIC = b"EADBC\0\0" + bytes([FORMAT])
_DIGEST = 32
_MAX_BYTES = 64 << 20
_KEPT = 8
_SUFFIX = ".database"

Buses = dict[str, tuple[Message, ...]]
_Natural = Annotated[int, Meta(ge=0)]


class _Signal(Struct, array_like=True, frozen=True, gc=False):
    name: str
    kind: Kind
    scale: int | float
    offset: int | float
    unit: str
    table: Annotated[int, Meta(ge=-1)]
    minimum: float | None
    maximum: float | None
    start: _Natural
    length: _Natural
    big_endian: bool
    multiplexer: bool
    parent: str
    selected_by: tuple[_Natural, ...]


class _Message(Struct, array_like=True, frozen=True):
    name: str
    id: _Natural
    extended: bool
    length: _Natural
    j1939: bool
    cycle_ms: int | None
    signals: list[_Signal]


class _Finding(Struct, array_like=True, frozen=True):
    file: str
    item: str
    what: str
    done: str
    line: _Natural


class _Stored(Struct, array_like=True, frozen=True):
    key: str
    tables: list[tuple[tuple[int, str], ...]]
    buses: dict[str, list[_Message]]
    findings: list[_Finding]


def key_of(
    by_bus: Mapping[str, Sequence[Path]], contents: Mapping[Path, bytes], j1939: Iterable[str]
) -> str:
    """What a compiled database depends on, as 64 hexadecimal digits."""
    digests = {str(path): hashlib.sha256(data).hexdigest() for path, data in contents.items()}
    files = [(bus, [(str(p), digests[str(p)]) for p in paths]) for bus, paths in by_bus.items()]
    whole = msgspec.msgpack.encode((FORMAT, __version__, files, sorted(j1939)))
    return hashlib.sha256(whole).hexdigest()


def load(folder: Path, key: str) -> tuple[Buses, tuple[Finding, ...]] | None:
    """What was kept under this key; None where there is nothing, or nothing that is sound."""
    path = folder / f"{key}{_SUFFIX}"
    try:
        if path.stat().st_size > _MAX_BYTES:
            return None
        data = path.read_bytes()
    except OSError:
        return None
    payload = memoryview(data)[len(_MAGIC) + _DIGEST :]
    digest = data[len(_MAGIC) : len(_MAGIC) + _DIGEST]
    if not data.startswith(_MAGIC) or hashlib.sha256(payload).digest() != digest:
        return None
    try:
        stored = msgspec.msgpack.decode(payload, type=_Stored)
        if stored.key != key:
            return None
        buses = {
            bus: tuple(_message(m, stored.tables) for m in messages)
            for bus, messages in stored.buses.items()
        }
    except (msgspec.MsgspecError, ValueError, IndexError, RecursionError):
        return None
    findings = (Finding(f.file, f.item, f.what, f.done, f.line) for f in stored.findings)
    return buses, tuple(findings)


def store(folder: Path, key: str, buses: Buses, findings: Iterable[Finding]) -> None:
    """Keep a database, whole or not at all; where that fails, nothing is kept."""
    tables: dict[tuple[tuple[int, str], ...], int] = {}
    stored = _Stored(
        key,
        [],
        {bus: [_stored(m, tables) for m in messages] for bus, messages in buses.items()},
        [_Finding(f.file, f.item, f.what, f.done, f.line) for f in findings],
    )
    stored.tables.extend(tables)
    temporary = folder / f".{key[:16]}.{secrets.token_hex(4)}"
    with contextlib.suppress(OSError, OverflowError, ValueError):
        payload = msgspec.msgpack.encode(stored)
        # Who only looks (root, with `check`) must not leave files that the service cannot replace.
        if len(payload) > _MAX_BYTES or folder.parent.stat().st_uid != os.geteuid():
            return
        try:
            folder.mkdir(exist_ok=True)
            # No fsync: what a power cut tears has another digest, and is made again.
            temporary.write_bytes(_MAGIC + hashlib.sha256(payload).digest() + payload)
            temporary.replace(folder / f"{key}{_SUFFIX}")
        finally:
            temporary.unlink(missing_ok=True)
        _tidy(folder)


def _tidy(folder: Path) -> None:
    """Leave the newest files, and none that a power cut left half written."""
    for path in folder.glob(".*"):
        path.unlink(missing_ok=True)
    files = [(p.stat().st_mtime_ns, p) for p in folder.glob(f"*{_SUFFIX}")]
    for _, path in sorted(files, reverse=True)[_KEPT:]:
        path.unlink(missing_ok=True)


def _stored(message: Message, tables: dict[tuple[tuple[int, str], ...], int]) -> _Message:
    return _Message(
        message.name,
        message.id,
        message.extended,
        message.length,
        message.j1939,
        message.cycle_ms,
        [
            _Signal(
                s.name,
                s.schema.kind,
                s.schema.scale,
                s.schema.offset,
                s.schema.unit,
                tables.setdefault(s.schema.choices, len(tables)) if s.schema.choices else -1,
                s.schema.minimum,
                s.schema.maximum,
                s.start,
                s.length,
                s.big_endian,
                s.multiplexer,
                s.parent,
                tuple(s.selected_by),
            )
            for s in message.signals
        ],
    )


def _message(stored: _Message, tables: Sequence[tuple[tuple[int, str], ...]]) -> Message:
    message = Message(
        stored.name,
        stored.id,
        stored.extended,
        stored.length,
        tuple(
            Signal(
                SignalSchema(
                    s.name,
                    s.kind,
                    s.length,
                    s.scale,
                    s.offset,
                    s.unit,
                    tables[s.table] if s.table >= 0 else (),
                    s.minimum,
                    s.maximum,
                ),
                s.start,
                s.length,
                s.big_endian,
                s.multiplexer,
                s.parent,
                frozenset(s.selected_by),
            )
            for s in stored.signals
        ),
        stored.j1939,
        stored.cycle_ms,
    )
    why = fault(message)
    if why:
        raise ValueError(why)
    return message
