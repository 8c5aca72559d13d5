"""The messages and signals of each bus, and how they are named."""

import dataclasses
import difflib
import fnmatch
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

from agent.blocks import Codes, TableSchema
from agent.errors import ConfigError
from agent.settings import CodesOfSignals
from agent.signals import codes as coding
from agent.signals.expand import Expander, find
from agent.signals.files import read_buses
from agent.signals.finding import Finding
from agent.signals.model import Message

__all__ = ["ANY_BUS", "Database", "Finding", "SignalPath"]

ANY_BUS = "*"


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
    expanders: Mapping[str, tuple[Expander, ...]] = dataclasses.field(default_factory=dict)
    """The lists of each bus, which no file can describe."""
    tables: tuple[TableSchema, ...] = ()
    """What sources make themselves (bus state, position, answers to diagnostic requests)."""
    telling: tuple[TableSchema, ...] = ()
    """What the agent tells of its own work (health, budget): named by more than `*` alone."""

    @classmethod
    def load(
        cls,
        files: Sequence[str | os.PathLike[str]] | Mapping[str, Sequence[str | os.PathLike[str]]],
        *,
        j1939: bool | Iterable[str] = False,
        expand: Iterable[str] | Mapping[str, Iterable[str]] = (),
        cache: Path | None = None,
    ) -> Self:
        """Read database files: a list for every bus, or a list for each bus.

        `j1939` matches all 29-bit ids by PGN, also where a file does not say that they are J1939:
        on every bus, or on the named ones. `expand` names lists to expand (agent.signals.expand):
        on every bus, or on each. `cache` is a folder in which the result is kept for the next time.

        Raises:
            DatabaseError: a file cannot be read, or nothing in it can be used.
            ConfigError: `expand` names what does not exist, or what a file has by that name.
        """
        by_bus = files if isinstance(files, Mapping) else {ANY_BUS: files}
        j1939_buses = set(by_bus) if j1939 is True else set() if j1939 is False else set(j1939)
        expanders = {
            bus: find(expand.get(bus, ()) if isinstance(expand, Mapping) else expand)
            for bus in by_bus
        }
        paths = {bus: [Path(name) for name in names] for bus, names in by_bus.items()}
        read, findings = read_buses(paths, frozenset(j1939_buses), cache)
        buses = {
            bus: tuple(map(coding.with_j1939, _with_lists(messages, expanders[bus])))
            for bus, messages in read.items()
        }
        return cls(buses, findings, expanders)

    def with_codes(self, bus: str, entries: Iterable[CodesOfSignals]) -> "Database":
        """The same with the codes that a plan lists for a bus (agent.signals.codes).

        Raises:
            ConfigError: an entry names no signal or what is no number, or gives a number twice.
        """
        messages, lists = self.messages(bus), self.lists(bus)
        mine = Database({bus: messages}, (), {bus: lists})
        schemas = {SignalPath(bus, m.name, s.name): s.schema for m in messages for s in m.signals}
        schemas |= {
            SignalPath(bus, e.name, f.schema.name): f.schema for e in lists for f in e.fields
        }
        changed: dict[SignalPath, Codes] = {}
        for entry in entries:
            wanted = coding.of_plan(entry)
            paths = sorted(mine.select(entry.signals), key=str)
            fitting = [p for p in paths if p in schemas and coding.fits(schemas[p], wanted)]
            if not fitting:
                raise coding.refusal([str(p) for p in paths], wanted)
            for path in fitting:
                changed[path] = coding.merged(changed.get(path, ()), wanted, str(path))
        return dataclasses.replace(
            self,
            buses={**self.buses, bus: tuple(_coded(m, bus, changed) for m in messages)},
            expanders={**self.expanders, bus: tuple(_coded_list(e, bus, changed) for e in lists)},
        )

    def messages(self, bus: str) -> tuple[Message, ...]:
        return self.buses.get(bus, self.buses.get(ANY_BUS, ()))

    def lists(self, bus: str) -> tuple[Expander, ...]:
        return self.expanders.get(bus, self.expanders.get(ANY_BUS, ()))

    def paths(self) -> list[SignalPath]:
        """Every signal."""
        return (
            [
                SignalPath(bus, message.name, signal.name)
                for bus, messages in self.buses.items()
                for message in messages
                for signal in message.signals
            ]
            + [
                SignalPath(bus, expander.name, signal.name)
                for bus, expanders in self.expanders.items()
                for expander in expanders
                for signal in expander.signals
            ]
            + [
                SignalPath(table.bus, table.message, name)
                for table in (*self.tables, *self.telling)
                for name in table.names
            ]
        )

    def select(self, patterns: Iterable[str]) -> set[SignalPath]:
        """The signals that patterns name.

        A pattern is `Message.Signal`, `bus.Message.Signal` or a `Signal` that is unique, each with
        `*` and `?`. `*` alone is every signal, but not what the agent tells of its own work.

        Raises:
            ConfigError: a pattern names nothing, or a plain name names several signals.
        """
        paths = self.paths()
        telling = {SignalPath(t.bus, t.message, name) for t in self.telling for name in t.names}
        chosen: set[SignalPath] = set()
        for pattern in patterns:
            found = _match(pattern, paths)
            if pattern == "*":
                found -= telling
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


def _coded(message: Message, bus: str, changed: Mapping[SignalPath, Codes]) -> Message:
    signals = tuple(
        s
        if (codes := changed.get(SignalPath(bus, message.name, s.name))) is None
        else dataclasses.replace(s, schema=dataclasses.replace(s.schema, codes=codes))
        for s in message.signals
    )
    return dataclasses.replace(message, signals=signals)


def _coded_list(expander: Expander, bus: str, changed: Mapping[SignalPath, Codes]) -> Expander:
    fields = tuple(
        f
        if (codes := changed.get(SignalPath(bus, expander.name, f.schema.name))) is None
        else dataclasses.replace(f, schema=dataclasses.replace(f.schema, codes=codes))
        for f in expander.fields
    )
    return dataclasses.replace(expander, fields=fields)


def _match(pattern: str, paths: Iterable[SignalPath]) -> set[SignalPath]:
    match = re.compile(fnmatch.translate(pattern)).match
    return {
        p
        for p in paths
        if match(str(p)) or match(p.signal) or match(f"{p.bus}.{p.message}.{p.signal}")
    }


def _with_lists(messages: Iterable[Message], expanders: Sequence[Expander]) -> tuple[Message, ...]:
    """Messages, and those whose lists are to be expanded and which no file describes."""
    groups = {expander.pgn for expander in expanders}
    # Who names the list of a PGN says that it is one.
    found = [
        dataclasses.replace(m, j1939=True) if m.extended and m.pgn in groups else m
        for m in messages
    ]
    described = {m.pgn for m in found if m.j1939}
    found += [e.message for e in expanders if e.pgn not in described]
    names = [m.name for m in found]
    for name in (n for e in expanders for n in (e.message.name, e.name)):
        if names.count(name) + sum(e.name == name for e in expanders) > 1:
            raise ConfigError(
                f"expand: a database file has another message {name}; rename that, or do not expand"
            )
    return tuple(found)
