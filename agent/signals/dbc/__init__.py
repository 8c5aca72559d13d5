"""DBC files as they are: read whole, with a note for everything that had to be mended.

Real DBC files are written by hand, by scripts and by dozens of programs, and many break the grammar
somewhere. One wrong line must cost that line and not the vehicle's data, and nobody must have to
guess what became of it. So this reader does not parse by one grammar that fails as a whole:

    bytes -> text            text.py         encoding by evidence
          -> statements      statements.py   where each begins and ends, whatever is in it
          -> document        document.py     what each says (fields.py: numbers, BO_, SG_)
          -> messages        build.py        ids, names, duplicates (signals.py, multiplexing.py,
                                             attributes.py, names.py, layout.py, references.py)

Invariants:

- A file that cantools (strict=False) reads gives the same messages, signals, scales, value tables
  and multiplexers here. What cantools refuses costs at most the item that is wrong. Where a file
  has something twice, which cantools keeps twice, both can be decoded here, under names of their
  own: of two messages with one id the first has the signals of both.
- What leaves no doubt is repaired, and what leaves a doubt is left out: no value is better than a
  wrong one. Either way a note says so, with the line. What says nothing about values (overlaps,
  limits, missing sections) is noted and kept.
- Nothing is raised for what a file contains, and no input costs more than time and memory in
  proportion to its size: every step goes forward only, numbers have bounds, and of a thousand
  notes of one kind two hundred are kept.
- The model needs no comments, nodes, environment variables or most attributes: these are found,
  checked for what they refer to, and passed over.
"""

import dataclasses

from agent.signals.dbc.build import build
from agent.signals.dbc.document import read as read_document
from agent.signals.dbc.references import check
from agent.signals.dbc.report import Note, Report
from agent.signals.dbc.statements import split
from agent.signals.dbc.text import decode
from agent.signals.model import Message

__all__ = ["Note", "Reading", "read"]


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """What a file holds; `notes` are in the order of its lines."""

    messages: tuple[Message, ...]
    notes: tuple[Note, ...]
    encoding: str


def read(data: bytes) -> Reading:
    """Read a DBC file; anything can be read, though maybe to no message."""
    report = Report()
    text, encoding = decode(data, report)
    document = read_document(split(text, report), report)
    check(document, report)
    messages = build(document, report)
    return Reading(messages, report.notes(), encoding)
