"""The text of metrics, as a Prometheus reads it: text exposition format, version 0.0.4.

    # HELP name words              backslash and line feed escaped
    # TYPE name counter|gauge
    name{label="value"} 12.5       backslash, line feed and double quote escaped in values

A metric is one line of a table: its name, its type, its labels, a sentence, and where its figures
stand in a status. Figures that a status does not have give no line, and a metric without figures is
left out. A series is given once, the first figure of it, whatever names the status holds.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from agent.observe.values import at, first_word, listed, mapped, number

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_PREFIX: Final = "edge_agent_"

Status = Mapping[str, Any]
Figures = Iterable[tuple[tuple[object, ...], object]]
"""Values of the labels, and the figure: a number, a bool, or None where it is not known."""


class Metric(NamedTuple):
    """One metric, as the table in docs/operations.md has it."""

    name: str
    type: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    help: str
    figures: Callable[[Status], Figures]


def gauge(name: str, labels: str, words: str, figures: Callable[[Status], Figures]) -> Metric:
    """What goes up and down; `labels` with blanks between them."""
    return Metric(f"{_PREFIX}{name}", "gauge", tuple(labels.split()), words, figures)


def counter(name: str, labels: str, words: str, figures: Callable[[Status], Figures]) -> Metric:
    """What only grows, until the process ends; its name goes on with `_total`."""
    return Metric(f"{_PREFIX}{name}_total", "counter", tuple(labels.split()), words, figures)


def text_of(metrics: Sequence[Metric], status: Status) -> str:
    """All metrics of a status, ended by a line feed."""
    return "".join(line for metric in metrics for line in _lines(metric, status))


def _lines(metric: Metric, status: Status) -> Iterator[str]:
    series: dict[tuple[str, ...], float] = {}
    for labels, figure in metric.figures(status):
        if (value := number(figure)) is not None:
            series.setdefault(tuple(_text(label) for label in labels), value)
    if not series:
        return
    yield f"# HELP {metric.name} {_escaped(metric.help)}\n"
    yield f"# TYPE {metric.name} {metric.type}\n"
    for values, value in series.items():
        pairs = zip(metric.labels, values, strict=True)
        told = ",".join(f'{name}="{_quoted(label)}"' for name, label in pairs)
        yield f"{metric.name}{{{told}}} {value}\n" if told else f"{metric.name} {value}\n"


def _text(label: object) -> str:
    return "" if label is None else str(label).encode("utf-8", "replace").decode()


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', r"\"")


# -- where figures stand ---------------------------------------------------------------------------


def one(*place: str, scale: float = 1) -> Callable[[Status], Figures]:
    """A single figure."""
    return lambda status: [((), _scaled(at(status, *place), scale))]


def trouble(*place: str) -> Callable[[Status], Figures]:
    """1 where there is a sentence, 0 where it is empty."""

    def figures(status: Status) -> Figures:
        sentence = at(status, *place)
        return [((), None if sentence is None else bool(sentence))]

    return figures


def length(*place: str) -> Callable[[Status], Figures]:
    """How long a list is."""

    def figures(status: Status) -> Figures:
        found = at(status, *place)
        return [((), len(found) if isinstance(found, list | tuple) else None)]

    return figures


def rows(
    where: tuple[str, ...], by: str, *place: str, scale: float = 1
) -> Callable[[Status], Figures]:
    """A figure of each map of a list, labelled with the value of its key `by`."""
    return lambda status: [
        ((row.get(by),), _scaled(at(row, *place), scale)) for row in listed(at(status, *where))
    ]


def each(where: tuple[str, ...], *place: str) -> Callable[[Status], Figures]:
    """A figure of each map of a map, labelled with its key."""
    return lambda status: [
        ((name,), at(row, *place)) for name, row in mapped(at(status, *where)).items()
    ]


def one_of(states: Sequence[str], *place: str) -> Callable[[Status], Figures]:
    """A state: 1 for the one that it is, and 0 for the others."""
    return lambda status: [
        ((state,), is_so) for state, is_so in _states(at(status, *place), states)
    ]


def one_of_each(
    states: Sequence[str], where: tuple[str, ...], by: tuple[str, ...], key: str
) -> Callable[[Status], Figures]:
    """The same of each map of a list, labelled with the values of its keys `by`."""
    return lambda status: [
        ((*(row.get(name) for name in by), state), is_so)
        for row in listed(at(status, *where))
        for state, is_so in _states(row.get(key), states)
    ]


def _states(value: object, states: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Nothing where no state is told."""
    if value is not None:
        yield from ((state, first_word(value) == state) for state in states)


def _scaled(value: object, scale: float) -> float | None:
    known = number(value)
    return known if known is None or scale == 1 else round(known * scale, 9)
