"""Which multiplexer selects a signal, and with which values.

Where a message has one multiplexer (`M`), a signal's `m<n>` is its value. Where it has several,
only `SG_MUL_VAL_` says which of them selects a signal; `m<n>` alone then means nothing, and the
signal is decoded in every frame, as cantools does.
"""

from collections.abc import Mapping, Sequence

from agent.signals.dbc.document import Document
from agent.signals.dbc.fields import MessageLine, SignalLine
from agent.signals.dbc.report import Report

_LAST_VALUE = (1 << 64) - 1
_LONGEST = 64


class Multiplexing:
    """The multiplexers of one message; notes what does not add up."""

    def __init__(
        self,
        message: MessageLine,
        signals: Sequence[SignalLine],
        document: Document,
        report: Report,
    ) -> None:
        self._message = message
        self._report = report
        self._ranges: Mapping[str, Mapping[str, tuple[int, set[int]]]] = document.selected.get(
            message.number, {}
        )
        marked = [s for s in signals if s.mark.endswith("M")]
        self._multiplexers = {s.name: s for s in marked if s.length <= _LONGEST}
        for signal in marked:
            if signal.length > _LONGEST:
                what = f"is a multiplexer of {signal.length} bits"
                self._note(signal.line, signal.name, what, "its signals are decoded in every frame")
        self._only = marked[0].name if len(marked) == 1 else None
        self._parents: dict[str, str] = {}
        for multiplexer, selected in self._ranges.items():
            if multiplexer not in self._multiplexers:
                line = next(iter(selected.values()))[0]
                item = f"SG_MUL_VAL_ {message.number}"
                what = f"{message.name} has no multiplexer {multiplexer}"
                report.add("multiplexer", line, item, what, "left out")
                continue
            for name in selected:
                self._parents[name] = multiplexer
        self._check(marked, signals)

    def _note(self, line: int, name: str, what: str, done: str) -> None:
        self._report.add("multiplexer", line, f"{self._message.name}.{name}", what, done)

    def _check(self, marked: Sequence[SignalLine], signals: Sequence[SignalLine]) -> None:
        selected = [s for s in signals if s.mark.startswith("m") and s.mark not in {"m", "mM"}]
        if len(marked) > 1:
            selected = [s for s in selected if s.name not in self._parents]
        if self._only is not None or not (selected or len(marked) > 1):
            return
        done = "decoded in every frame"
        if marked and (selected or not self._parents):
            names = ", ".join(s.name for s in marked[:5])
            what = f"has {len(marked)} multiplexers ({names}) without SG_MUL_VAL_ for all signals"
            done = f"{len(selected)} signals are {done}"
            self._report.add("multiplexer", self._message.line, self._message.name, what, done)
        if not marked:
            for signal in selected:
                what = f"is multiplexed ({signal.mark}), but the message has no multiplexer"
                self._note(signal.line, signal.name, what, done)

    def selects(self, signal: SignalLine) -> bool:
        return signal.mark.endswith("M") and signal.length <= _LONGEST

    def of(self, signal: SignalLine) -> tuple[str, frozenset[int]]:
        """The multiplexer of a signal ("": none) and the values that select it."""
        if not signal.mark:
            return "", frozenset()
        if self._only is None:
            parent = self._parents.get(signal.name, "")
            values = self._listed(parent, signal.name)
            return (parent, frozenset(values)) if values else ("", frozenset())
        if signal.name == self._only or self._only not in self._multiplexers:
            return "", frozenset()
        number = signal.mark[1:]
        if signal.mark[0] != "m" or not number.isascii() or not number.isdigit():
            what = f'the mark "{signal.mark}" is no m and number'
            self._note(signal.line, signal.name, what, "decoded in every frame")
            return "", frozenset()
        # A multiplexer has 64 bits at most, so that a longer number stands for "never".
        own = min(int(number[:24]), _LAST_VALUE)
        values = {own, *self._listed(self._only, signal.name)}
        if own >> self._multiplexers[self._only].length:
            what = f"the multiplexer {self._only} is too short to become {number[:24]}"
            self._note(signal.line, signal.name, what, "kept, though never selected by it")
        return self._only, frozenset(values)

    def _listed(self, multiplexer: str, name: str) -> set[int]:
        return self._ranges.get(multiplexer, {}).get(name, (0, set()))[1]
