"""The texts of value tables: which raw values a label names."""

import difflib
from typing import Final

from agent.blocks import SignalSchema
from agent.collect.expression.lexer import quoted
from agent.collect.expression.source import short

_MOST: Final = 8


def raws_of(schema: SignalSchema, label: str) -> frozenset[int]:
    """The raw values with exactly this text, else those whose text differs in case or spaces."""
    exact = frozenset(raw for raw, text in schema.choices if text == label)
    if exact:
        return exact
    folded = fold(label)
    return frozenset(raw for raw, text in schema.choices if fold(text) == folded)


def labels_of(schema: SignalSchema, raws: frozenset[int]) -> list[str] | None:
    """Labels that together name exactly these raw values; None where there are no such ones."""
    found: dict[str, frozenset[int]] = {}
    for raw, text in schema.choices:
        # Line breaks cannot be written; without them the text is found all the same.
        label = text if text.isprintable() else " ".join(text.split())
        if raw in raws and label not in found and (named := raws_of(schema, label)) <= raws:
            found[label] = named
    return list(found) if raws and frozenset().union(*found.values()) == raws else None


def fold(text: str) -> str:
    return " ".join(text.split()).casefold()


def shown(schema: SignalSchema, wanted: str) -> str:
    """Some of the labels that there are, those near to what was wanted first."""
    texts = list(dict.fromkeys(text for _, text in schema.choices))
    near = difflib.get_close_matches(wanted[:100], texts, 3, 0.5)
    ordered = [*near, *(text for text in texts if text not in near)]
    more = len(ordered) - _MOST
    words = [quoted(short(text, 40)) for text in ordered[:_MOST]]
    return ", ".join(words) + (f" and {more} more" if more > 0 else "")
