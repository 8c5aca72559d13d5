"""What happened on board: the events of a vehicle, each as it was told last.

Nothing in an event is believed: what JSON cannot say is made text, and what is nested deep is cut.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from agent.batch.dated import dated_event
from agent.bench.cloud.summary import Moment, ToldEvent
from agent.clock import Anchor, best_anchor

MOST: Final = 1_000
"""Events of one vehicle that are kept in memory, the newest; the files have all of them."""
_DEPTH: Final = 8


@dataclasses.dataclass(frozen=True, slots=True)
class _Known:
    order: tuple[int, int, int]
    """Installation, run, and time on board."""
    batch_id: str
    told: ToldEvent


class Events:
    """The events of one vehicle; not thread-safe."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], _Known] = {}

    def add(self, rank: int, run: int, batch_id: str, told: Iterable[ToldEvent]) -> None:
        """Take in those of one batch, of the run of an installation."""
        for each in told:
            value = each.value
            key = (
                batch_id.partition("-")[0],
                str(value.get("name")),
                str(value.get("id", f"{run} {value['time']}")),
            )
            known = self._known.get(key)
            # Batches may come in any order: what is complete is never made incomplete again.
            if known is None or known.told.value.get("complete") is not True:
                self._known[key] = _Known((rank, run, value["time"]), batch_id, each)
        if len(self._known) > 2 * MOST:
            newest = sorted(self._known.items(), key=lambda item: item[1].order)[-MOST:]
            self._known = dict(newest)

    def answer(self, anchors: tuple[Anchor, ...], limit: int = MOST) -> list[dict[str, Any]]:
        """The newest first, in wall time where an anchor dates their boot."""
        newest = sorted(self._known.values(), key=lambda known: known.order, reverse=True)
        return [_json(known, anchors) for known in newest[:limit]]


def _json(known: _Known, anchors: tuple[Anchor, ...]) -> dict[str, Any]:
    told = known.told
    event = dated_event(told.value, best_anchor(anchors, told.boot_id))
    event = event if event is not None else dict(told.value)
    moment = Moment(event["time"], event["clock"], told.boot_id)
    return {"batch_id": known.batch_id, **moment.json(), "event": plain(event)}


def plain(value: Any, depth: int = _DEPTH) -> Any:
    """A value from outside as JSON can say it."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return value.hex()
    if depth == 0:
        return "..."
    if isinstance(value, Mapping):
        return {str(key): plain(each, depth - 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, depth - 1) for each in value]
    return str(value)
