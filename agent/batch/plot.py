"""Signals over time as a picture: one below the other, with one time axis.

A signal whose values all have names in its value table is drawn as states, with the names beside
them; any other as a line. What its codes call no measurement ("not available", "error") is left
out. Buses and J1939 sources of one signal are lines of one picture, each with its name. A line is
broken where the signal was not on the bus for long.

Signals of long recordings are thinned to the extremes of intervals shorter than a pixel, while they
are read (`agent.batch.envelope`).
"""

import importlib
import os
import warnings
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from agent.batch.envelope import Envelope
from agent.batch.target import whole
from agent.blocks import Float64, Int64, SignalSchema, SignalTable
from agent.clock import SECOND
from agent.errors import ConfigError

MOST_SIGNALS: Final = 24
_MOST_LINES: Final = 12
"""Of one signal, by bus and source."""
_MOST_STATES: Final = 24
_WIDTH_IN, _HEIGHT_IN, _DPI = 12.0, 1.8, 120
_INTERVALS: Final = 2048
"""More than there are pixels beside each other."""
_CALENDAR_NS: Final = 946_684_800 * SECOND
"""Times after 1 January 2000 count from 1970; before it from some zero of the recorder."""
_GAP_STEPS, _GAP_SHARE = 10, 0.01


class Plot:
    """What is to be drawn. Tables are added as they come, then `save` draws."""

    def __init__(self) -> None:
        self._figure = _figure()
        self._panels: dict[tuple[str, str], _Panel] = {}

    def add(self, tables: Iterable[SignalTable]) -> None:
        """Take all signals of tables.

        Raises:
            ConfigError: there are more signals than fit below each other.
        """
        for table in tables:
            for signal in table.schema.signals:
                if signal.kind == "bytes" or not len(table):
                    continue
                name = table.message, signal.name
                panel = self._panels.get(name)
                if panel is None:
                    if len(self._panels) == MOST_SIGNALS:
                        raise ConfigError(
                            f"--plot names more than {MOST_SIGNALS} signals: name fewer, or make "
                            "several pictures"
                        )
                    panel = self._panels[name] = _Panel(".".join(name), signal)
                panel.add(table, signal)

    @property
    def samples(self) -> int:
        """That are drawn."""
        return sum(panel.samples for panel in self._panels.values())

    @property
    def signals(self) -> list[str]:
        """That are drawn, from top to bottom."""
        return [panel.name for _, panel in sorted(self._panels.items()) if panel.samples]

    def save(self, target: str | os.PathLike[str], title: str = "") -> None:
        """Draw a PNG.

        Raises:
            ConfigError: it cannot be written, or no sample was added.
        """
        panels = [panel for _, panel in sorted(self._panels.items()) if panel.samples]
        if not panels:
            raise ConfigError(f"{target}: there is nothing to be drawn")
        matplotlib = importlib.import_module("matplotlib")
        begin = min(panel.first for panel in panels)
        # Names are foreign: a dollar sign must not begin a formula.
        with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # letters that the font does not have
            height = _HEIGHT_IN * len(panels) + 0.8
            figure = self._figure(figsize=(_WIDTH_IN, height), dpi=_DPI, layout="constrained")
            axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
            for axis, panel in zip(axes, panels, strict=True):
                panel.draw(axis, begin)
            axes[-1].set_xlabel(_time_label(begin))
            if title:
                figure.suptitle(title, fontsize="medium")
            with whole(Path(target)) as part:
                figure.savefig(part, format="png")


class _Panel:
    def __init__(self, name: str, signal: SignalSchema) -> None:
        self.name = name
        self._signal = signal
        self._words = dict(signal.choices)
        self._lines: dict[str, Envelope] = {}
        self._seen: set[int] = set()
        self._states = bool(signal.choices)

    def add(self, table: SignalTable, signal: SignalSchema) -> None:
        raw = table.raw[signal.name]
        if self._states:
            self._seen.update(np.unique(raw).tolist())
            self._states = self._seen <= self._words.keys() and len(self._seen) <= _MOST_STATES
        place = table.bus if table.source is None else f"{table.bus} {table.source:#04x}".lstrip()
        line = self._lines.get(place)
        if line is None:
            if len(self._lines) == _MOST_LINES:
                return
            line = self._lines[place] = Envelope(_INTERVALS)
        valid = signal.validity(raw) == 0
        with np.errstate(all="ignore"):
            line.add(table.time[valid], signal.physical(raw)[valid])

    @property
    def samples(self) -> int:
        return sum(line.samples for line in self._lines.values())

    @property
    def first(self) -> int:
        """Of the earliest sample, nanoseconds."""
        return min(int(line.points()[0][0]) for line in self._lines.values() if line.samples)

    def draw(self, axis: Any, begin: int) -> None:
        for place, line in self._lines.items():
            time, value = line.points()
            if not self._states:
                time, value = _broken(time, value)
            axis.plot(
                (time - begin) / SECOND,
                value,
                linewidth=1,
                drawstyle="steps-post" if self._states else "default",
                marker="." if len(time) == 1 else "",
                label=place or "bus",
            )
        axis.set_title(self.name, loc="left", fontsize="small")
        axis.set_ylabel(self._signal.unit)
        axis.grid(visible=True, alpha=0.3)
        axis.margins(x=0.01)
        if self._states:
            numbers = np.array(sorted(self._seen), dtype=np.int64 if _signed(self._seen) else None)
            ticks = self._signal.physical(numbers)
            axis.set_yticks(ticks, [self._words[n][:24] for n in sorted(self._seen)])
        if len(self._lines) > 1:
            axis.legend(loc="upper right", fontsize="x-small")


def _signed(numbers: Iterable[int]) -> bool:
    return all(-(1 << 63) <= n < 1 << 63 for n in numbers)


def _broken(time: Int64, value: Float64) -> tuple[Int64, Float64]:
    """With a point that is none in each gap."""
    steps = np.diff(time)
    if len(steps) < _GAP_STEPS:
        return time, value
    limit = max(_GAP_STEPS * float(np.median(steps)), _GAP_SHARE * float(time[-1] - time[0]))
    gaps = np.flatnonzero(steps > limit) + 1
    return np.insert(time, gaps, time[gaps]), np.insert(value, gaps, np.nan)


def _time_label(begin: int) -> str:
    if begin < _CALENDAR_NS:
        return f"seconds since {begin / SECOND:.3f} s of the recording's clock"
    date = datetime.fromtimestamp(begin // SECOND, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"seconds since {date}.{begin % SECOND // 1_000_000:03d} UTC"


def _figure() -> Any:
    """Figures draw themselves by Agg when they are saved: no screen is needed, and none is used."""
    try:
        return importlib.import_module("matplotlib.figure").Figure
    except ImportError as e:
        raise ConfigError(
            "--plot needs matplotlib, which is not installed: "
            "pip install 'vehicle-edge-agent[plot]', or export to CSV"
        ) from e
