"""What statements speak of, and whether it is there."""

from agent.signals.dbc.document import Document
from agent.signals.dbc.fields import MessageLine
from agent.signals.dbc.report import Report


def check(document: Document, report: Report) -> None:
    """A note for each value table, type, comment or attribute of something that is not there."""
    numbers: dict[int, list[MessageLine]] = {}
    for message in document.messages:
        numbers.setdefault(message.number, []).append(message)
    for line, keyword, number, name in _all(document):
        messages = numbers.get(number, [])
        if number in document.unassigned or any(not name or name in m.names for m in messages[:8]):
            continue
        what = f"there is no message with the id {number}"
        if messages:
            what = f"message {messages[0].name} has no such signal"
        report.add("reference", line, f"{keyword} {number} {name}", what, "left out")


def _all(document: Document) -> list[tuple[int, str, int, str]]:
    """Line, keyword, message number and signal name."""
    found = [(line, "VAL_", *key) for key, (line, _) in document.choices.items()]
    found += [(line, "SIG_VALTYPE_", *key) for key, (line, _) in document.types.items()]
    found += [
        (line, "SG_MUL_VAL_", number, name)
        for number, multiplexers in document.selected.items()
        for signals in multiplexers.values()
        for name, (line, _) in signals.items()
    ]
    return found + [(line, what, *key) for line, what, key in document.mentions]
