"""Decoded tables as ASAM MDF 4, for tools that draw measurements.

A channel group for each kind of table (bus, message, J1939 source, multiplexer branch and signals
that are present), named after its message: all its signals share one time channel. A channel is
named `Message.Signal`, with `@0x17` behind it where frames have a J1939 source address. It holds
raw values, and a conversion makes physical ones of them:

    linear               scale and offset
    value to text        for value tables, with the linear conversion as the default: a tool shows
                         texts where all values have one, and numbers otherwise
    none                 for bytes, an array of them a sample

Time is in seconds since the start of the measurement, which is the whole second of the first
sample, in UTC where the recording counts since 1970. So float64 keeps less than a microsecond for
many years. Memory is bounded by a stretch of samples; asammdf puts what it gets into a file.
"""

import importlib
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from agent.batch.export import stretches
from agent.batch.target import whole
from agent.blocks import SignalSchema, SignalTable, TableSchema
from agent.clock import SECOND
from agent.errors import ConfigError


def export_mdf(tables: Iterable[SignalTable], target: str | os.PathLike[str]) -> int:
    """Write tables to a file and give the number of samples in it.

    Raises:
        ConfigError: the target cannot be written, or asammdf is missing.
    """
    count = 0
    with whole(Path(target)) as part, part.open("w+b") as file:
        writer = _Writer()
        try:
            for stretch in stretches(tables):
                for table in stretch:
                    count += table.samples
                    writer.write(table)
            writer.save(file)
        finally:
            writer.close()
    return count


class _Writer:
    def __init__(self) -> None:
        self._asammdf = _asammdf()
        self._mdf = self._asammdf.MDF(version="4.10")
        self._groups: dict[TableSchema, int] = {}
        self._begin = 0

    def write(self, table: SignalTable) -> None:
        if not self._groups:
            self._begin = int(table.time.min()) // SECOND * SECOND
            self._mdf.header.start_time = datetime.fromtimestamp(self._begin // SECOND, UTC)
        seconds = (table.time - self._begin) / SECOND
        columns = [(signal, _column(signal, table)) for signal in table.schema.signals]
        group = self._groups.get(table.schema)
        if group is not None:
            samples = [(column, None) for _, column in columns]
            self._mdf.extend(group, [(seconds, None), *samples])
            return
        behind = "" if table.source is None else f"@{table.source:#04x}"
        signals = [
            self._asammdf.Signal(
                samples=column,
                timestamps=seconds,
                name=f"{table.message}.{signal.name}{behind}",
                unit=signal.unit,
                conversion=_conversion(signal),
            )
            for signal, column in columns
        ]
        acquired = " ".join(filter(None, (table.message + behind, table.branch)))
        group = self._mdf.append(signals, acq_name=acquired, common_timebase=True)
        self._mdf.groups[group].channel_group.comment = f"bus {table.bus}" if table.bus else ""
        self._groups[table.schema] = group

    def save(self, file: Any) -> None:
        self._mdf.save(file, compression=2)

    def close(self) -> None:
        self._mdf.close()


def _column(signal: SignalSchema, table: SignalTable) -> Any:
    # asammdf wants arrays that it may keep, each on its own.
    return np.ascontiguousarray(table.raw[signal.name])


def _conversion(signal: SignalSchema) -> dict[str, Any] | None:
    if signal.kind == "bytes":
        return None
    linear = {"a": float(signal.scale), "b": float(signal.offset)}
    if not signal.choices:
        return None if (signal.scale, signal.offset) == (1, 0) else linear
    found: dict[str, Any] = {"default_addr": linear}
    for place, (number, text) in enumerate(signal.choices):
        found[f"val_{place}"], found[f"text_{place}"] = number, text
    return found


def _asammdf() -> Any:
    try:
        return importlib.import_module("asammdf")
    except ImportError as e:
        raise ConfigError(
            "MDF 4 needs asammdf, which is not installed: pip install 'vehicle-edge-agent[mdf]', "
            "or export to CSV"
        ) from e
