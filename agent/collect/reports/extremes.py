"""The highest and the lowest of cells and probes: what is computed where nothing maps it."""

from collections.abc import Iterable, Sequence

import numpy as np

from agent.blocks import Float64

Group = tuple[float, Float64]
"""The number of a pack, and the values of its cells in their order."""


def extremes(cells: Sequence[Group], probes: Sequence[Group]) -> dict[str, float]:
    """The fields of 2016's type 0x06, and of 2025's 0x32; those of what there is.

    Numbers count from 1. Of equal values the first one is named. Where no value is known, all of
    its fields are NaN.
    """
    found: dict[str, float] = {}
    for name, one, all_groups in (("voltage", "cell", cells), ("temperature", "probe", probes)):
        if groups := [group for group in all_groups if len(group[1])]:
            highest, lowest = _places(groups)
            for which, (number, place, value) in (("max", highest), ("min", lowest)):
                found[f"{name}_{which}_subsystem"] = number
                found[f"{name}_{which}_{one}"] = place
                found[f"{name}_{which}"] = value
    return found


def _places(groups: Iterable[Group]) -> tuple[tuple[float, float, float], ...]:
    """Pack, cell and value of the highest and of the lowest."""
    parts = list(groups)
    values = np.concatenate([values for _, values in parts])
    numbers = np.concatenate([np.full(len(values), number) for number, values in parts])
    places = np.concatenate([np.arange(1, len(values) + 1) for _, values in parts])
    if np.isnan(values).all():
        unknown = (np.nan, np.nan, np.nan)
        return unknown, unknown
    return tuple(
        (float(numbers[n]), float(places[n]), float(values[n]))
        for n in (np.nanargmax(values), np.nanargmin(values))
    )
