"""What a virtual vehicle wants of a DBC file and decoding does not: who sends, when, and checksums.

The agent's reader passes these by. They are taken from its statements here, so that a file is
understood, and its encoding guessed, in one way only. Other kinds of files tell nothing here.
"""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from agent.bench.checksums import Rule, rule_of
from agent.errors import DatabaseError
from agent.signals.dbc.report import Report
from agent.signals.dbc.statements import split
from agent.signals.dbc.text import decode

Key = tuple[bool, int]
"""Of a message: whether its id has 29 bits, and the id."""

_NOBODY: Final = "Vector__XXX"
_MESSAGE: Final = re.compile(r"\s*(\d{1,10})\s+[^\s:]+\s*:\s*\d+\s+(\w+)")
_DEFINED: Final = re.compile(r'\s*BO_\s+"GenMsgSendType"\s+(\w+)([^;]*)')
_DEFAULT: Final = re.compile(r'\s*"GenMsgSendType"\s+"?([^";]*)"?')
_GIVEN: Final = re.compile(r'\s*"GenMsgSendType"\s+BO_\s+(\d{1,10})\s+"?([^";]*)"?')
_COMMENT: Final = re.compile(r'^\s*CM_\s+SG_\s+(\d{1,10})\s+(\w+)\s+"([^"]*)"', re.MULTILINE)
_LABELS: Final = re.compile(r'"([^"]*)"')
_CYCLIC: Final = re.compile("cyclic|periodic", re.IGNORECASE)
_SELDOM: Final = re.compile("event|change|spontan|trigger|request|ifactive|write", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True)
class Nodes:
    """What files say of their messages.

    `senders`: the node of each; `on_event`: those that `GenMsgSendType` says are sent on events,
    and not cyclic as well; `checksums`: rules, by message and signal.
    """

    senders: Mapping[Key, str]
    on_event: frozenset[Key]
    checksums: Mapping[Key, Mapping[str, Rule]]


def read_nodes(files: Iterable[str | os.PathLike[str]]) -> Nodes:
    """Read the DBC files among `files`; of two messages with one id the first counts.

    Raises:
        DatabaseError: a file cannot be read.
    """
    senders: dict[Key, str] = {}
    on_event: set[Key] = set()
    checksums: dict[Key, dict[str, Rule]] = {}
    for path in map(Path, files):
        if path.suffix.lower() != ".dbc":
            continue
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DatabaseError(f"{path}: cannot be read: {error.strerror}") from error
        text, _ = decode(data, Report())
        _read(text, senders, on_event)
        for number, name, comment in _COMMENT.findall(text):
            rule = rule_of(comment)
            if rule is not None:
                checksums.setdefault(_key(number), {}).setdefault(name, rule)
    return Nodes(senders, frozenset(on_event), checksums)


def _read(text: str, senders: dict[Key, str], on_event: set[Key]) -> None:
    labels: list[str] = []
    default = ""
    given: dict[Key, str] = {}
    mine: list[Key] = []
    for statement in split(text, Report()):
        keyword, body = statement.keyword, statement.text
        if keyword == "BO_" and (match := _MESSAGE.match(body)):
            mine.append(_key(match[1]))
            if match[2] != _NOBODY:
                senders.setdefault(mine[-1], match[2])
        elif keyword == "BA_DEF_" and (match := _DEFINED.match(body)):
            labels = _LABELS.findall(match[2])
        elif keyword == "BA_DEF_DEF_" and (match := _DEFAULT.match(body)):
            default = match[1]
        elif keyword == "BA_" and (match := _GIVEN.match(body)):
            given[_key(match[1])] = match[2].strip()
    for key in mine:
        kind = given.get(key, default)
        if kind.isdigit() and int(kind) < len(labels):
            kind = labels[int(kind)]
        if _SELDOM.search(kind) and not _CYCLIC.search(kind):
            on_event.add(key)


def _key(number: str) -> Key:
    whole = int(number)
    return whole > 0x7FF, whole & 0x1FFF_FFFF
