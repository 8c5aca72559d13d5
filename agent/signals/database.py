"""Database files, read once through cantools into this program's own model."""

import dataclasses
import difflib
import fnmatch
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import cantools
from cantools.database import Message as CanMessage
from cantools.database import Signal as CanSignal

from agent.blocks import SignalSchema
from agent.errors import ConfigError, DatabaseError
from agent.signals.model import Message, Signal, kind_of

ANY_BUS = "*"
_MAX_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """Something in a database file that is wrong, and what was done about it."""

    file: str
    item: str
    what: str
    done: str

    def __str__(self) -> str:
        return f"{self.file}: {self.item}: {self.what}; {self.done}"


@dataclasses.dataclass(frozen=True, slots=True)
class SignalPath:
    """A signal's full address."""

    bus: str
    message: str
    signal: str

    def __str__(self) -> str:
        return f"{self.message}.{self.signal}"


@dataclasses.dataclass(frozen=True)
class Database:
    """The messages of each bus. `ANY_BUS` stands for buses without files of their own."""

    buses: Mapping[str, tuple[Message, ...]]
    findings: tuple[Finding, ...] = ()

    @classmethod
    def load(
        cls,
        files: Sequence[str | os.PathLike[str]] | Mapping[str, Sequence[str | os.PathLike[str]]],
        *,
        j1939: bool | Iterable[str] = False,
    ) -> Self:
        """Read database files: a list for every bus, or a list for each bus.

        `j1939` matches all 29-bit ids by PGN, also where a file does not say that they are J1939:
        on every bus, or on the named ones.

        Raises:
            DatabaseError: a file cannot be read, or nothing in it can be used.
        """
        by_bus = files if isinstance(files, Mapping) else {ANY_BUS: files}
        j1939_buses = set(by_bus) if j1939 is True else set() if j1939 is False else set(j1939)
        findings: list[Finding] = []
        buses = {}
        for bus, names in by_bus.items():
            messages: list[Message] = []
            for name in names:
                messages += _load_file(Path(name), bus in j1939_buses, findings)
            buses[bus] = tuple(_without_doubles(messages, findings))
        return cls(buses, tuple(findings))

    def messages(self, bus: str) -> tuple[Message, ...]:
        return self.buses.get(bus, self.buses.get(ANY_BUS, ()))

    def paths(self) -> list[SignalPath]:
        """Every signal."""
        return [
            SignalPath(bus, message.name, signal.name)
            for bus, messages in self.buses.items()
            for message in messages
            for signal in message.signals
        ]

    def select(self, patterns: Iterable[str]) -> set[SignalPath]:
        """The signals that patterns name.

        A pattern is `Message.Signal`, `bus.Message.Signal` or a `Signal` that is unique, each with
        `*` and `?`.

        Raises:
            ConfigError: a pattern names nothing, or a plain name names several signals.
        """
        paths = self.paths()
        chosen: set[SignalPath] = set()
        for pattern in patterns:
            found = _match(pattern, paths)
            if not found:
                near = difflib.get_close_matches(
                    pattern, {n for p in paths for n in (p.signal, str(p))}, 3, 0.5
                )
                hint = f"; near it: {', '.join(near)}" if near else ""
                raise ConfigError(f'no signal is called "{pattern}"{hint}')
            plain = not set("*?[") & set(pattern)
            if plain and len(found) > 1:
                names = sorted({f"{p.bus}.{p}" if p.bus != ANY_BUS else str(p) for p in found})
                if len(names) > 1:
                    raise ConfigError(
                        f'"{pattern}" names {len(names)} signals: {", ".join(names[:5])}'
                        f"{', ...' if len(names) > 5 else ''}; write one of these"
                    )
            chosen |= found
        return chosen


def _match(pattern: str, paths: Iterable[SignalPath]) -> set[SignalPath]:
    match = re.compile(fnmatch.translate(pattern)).match
    return {
        p
        for p in paths
        if match(str(p)) or match(p.signal) or match(f"{p.bus}.{p.message}.{p.signal}")
    }


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DatabaseError(f"{path}: has more than {_MAX_BYTES >> 20} MB; is it a database?")
        data = path.read_bytes()
    except OSError as e:
        raise DatabaseError(f"{path}: cannot be read: {e.strerror}") from e
    for encoding in ("utf-8-sig", "cp1252", "latin-1"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise AssertionError  # latin-1 takes every byte


_FORMATS = {".dbc": "dbc", ".kcd": "kcd", ".sym": "sym", ".arxml": "arxml"}


def _load_file(path: Path, j1939: bool, findings: list[Finding]) -> list[Message]:
    text = _read_text(path)
    kind = _FORMATS.get(path.suffix.lower(), "dbc")
    try:
        database: Any = cantools.database.load_string(text, kind, strict=False, sort_signals=None)
    except Exception as e:  # cantools lets whatever its parser meets through
        raise DatabaseError(f"{path}: cannot be used: {_first_line(e)}") from e
    messages = [_message(message, j1939) for message in getattr(database, "messages", ())]
    if not messages:
        raise DatabaseError(f"{path}: has no messages")
    findings += [
        Finding(
            str(path),
            f"{message.name}.{signal.name}",
            f"ends in byte {signal.end_byte} of a message of {message.length}",
            "decoded where a frame is long enough",
        )
        for message in messages
        for signal in message.signals
        if signal.end_byte > message.length > 0
    ]
    return messages


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _message(message: CanMessage, j1939: bool) -> Message:
    extended = bool(message.is_extended_frame)
    return Message(
        name=message.name,
        id=message.frame_id,
        extended=extended,
        length=message.length,
        signals=tuple(_signal(s) for s in message.signals),
        j1939=extended and (j1939 or message.protocol == "j1939"),
        cycle_ms=message.cycle_time,
    )


def _signal(signal: CanSignal) -> Signal:
    choices = {int(value): str(label) for value, label in (signal.conversion.choices or {}).items()}
    return Signal(
        schema=SignalSchema(
            name=signal.name,
            kind=kind_of(
                length=signal.length, signed=signal.is_signed, is_float=signal.conversion.is_float
            ),
            bits=signal.length,
            scale=signal.conversion.scale,
            offset=signal.conversion.offset,
            unit=signal.unit or "",
            choices=tuple(choices.items()),
            minimum=_plain(signal.minimum),
            maximum=_plain(signal.maximum),
        ),
        start=signal.start,
        length=signal.length,
        big_endian=signal.byte_order == "big_endian",
        multiplexer=signal.is_multiplexer,
        parent=signal.multiplexer_signal or "" if signal.multiplexer_ids else "",
        selected_by=frozenset(signal.multiplexer_ids or ()),
    )


def _plain(value: Any) -> float | None:
    return None if value is None else float(value)


def _without_doubles(messages: list[Message], findings: list[Finding]) -> Iterable[Message]:
    """Messages in order; of two with one name or one id, the first."""
    names: set[str] = set()
    ids: set[tuple[bool, int]] = set()
    for message in messages:
        key = (message.extended, message.id)
        if message.name in names or key in ids:
            findings.append(
                Finding(
                    "",
                    f"message {message.name} (id {message.id:#x})",
                    "the name or the id was there before",
                    "left out",
                )
            )
            continue
        names.add(message.name)
        ids.add(key)
        yield message
