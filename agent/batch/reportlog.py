"""Reports to a platform as JSON, one a line, for eyes and scripts.

    time      UTC, ISO 8601 with nanoseconds, of clock wall; null for the other clocks, whose zero
              is not 1970. It is the first key, so that `sort` puts lines of wall time in order
    time_ns   nanoseconds of `clock`
    clock     wall, boot or recorded
    form      standard and edition, such as gbt32960-2016
    body      hexadecimal, as it goes on the wire without time and signature
    items     what it says: a list of `type`, `name` and `values` (in their units; `abnormal`,
              `invalid` or `out of range` where it is no value), of an item of the maker `data`,
              hexadecimal. Null where the form is unknown
    error     why it cannot be decoded, where it cannot; `items` has what stands before that

Lines are in the order of the batches. Rows of one time are the frames of one sample.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from agent.batch.target import whole
from agent.blocks import Reports
from agent.gbt32960.codec import GBT2016, GBT2025, Codec
from agent.gbt32960.layout import Code, GbtError, Item

_REALTIME: Final = 0x02
_TIME: Final = bytes((0, 1, 1, 0, 0, 0))
"""In front of a body, where the platform finds the time of the report: any that is one."""

Decoded = tuple[list[dict[str, Any]], str]
"""Items, and what is wrong with them."""


@dataclasses.dataclass(slots=True)
class Exported:
    """What was written."""

    reports: int = 0
    undecoded: int = 0
    """Those with an error."""
    forms: set[str] = dataclasses.field(default_factory=set)
    clocks: set[str] = dataclasses.field(default_factory=set)


def export_reports(reports: Iterable[Reports], target: Path) -> Exported:
    """Write reports to a file.

    Raises:
        ConfigError: the target cannot be written.
        BatchError: from reading `reports`, when they come from `read_reports`.
    """
    done = Exported()
    with whole(target) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        for each in reports:
            if not len(each):
                continue
            done.forms.add(each.form)
            done.clocks.add(each.clock)
            for line in _lines(each):
                done.reports += 1
                done.undecoded += "error" in line
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return done


def _lines(reports: Reports) -> Iterable[dict[str, Any]]:
    numbers = reports.time.tolist()
    stamps: Sequence[str | None] = [None] * len(numbers)
    if reports.clock == "wall":
        texts = np.datetime_as_string(reports.time.view("datetime64[ns]"), "ns").tolist()
        stamps = [f"{text}Z" for text in texts]
    decode = _DECODERS.get(reports.form)
    for number, stamp, body in zip(numbers, stamps, reports.bodies, strict=True):
        line = {
            "time": stamp,
            "time_ns": number,
            "clock": reports.clock,
            "form": reports.form,
            "body": body.hex(),
            "items": None,
        }
        if decode is not None:
            line["items"], error = decode(body)
            if error:
                line["error"] = error
        yield line


def _gbt32960(codec: Codec) -> Callable[[bytes], Decoded]:
    def decode(body: bytes) -> Decoded:
        error = ""
        try:
            values = codec.decode(_REALTIME, _TIME + body)
        except GbtError as e:
            values, error = e.partial or {}, str(e)
        items = codec.physical(_REALTIME, values).get("items", [])
        return [_item(codec, item) for item in items], error

    return decode


def _item(codec: Codec, item: Item) -> dict[str, Any]:
    known = codec.layout.items.get(item.type)
    if known is None or not isinstance(item.values, Mapping):
        return {"type": item.type, "name": "maker", "data": bytes(item.values).hex()}
    return {"type": item.type, "name": known.name, "values": _plain(item.values)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, Code):
        return value.value
    return value.hex() if isinstance(value, bytes) else value


_DECODERS: Final = {"gbt32960-2016": _gbt32960(GBT2016), "gbt32960-2025": _gbt32960(GBT2025)}
