"""Word of batches that will never arrive, until it is durable in a coming batch.

A tombstone names a batch that was given up, its samples, the uplink and the reason. It goes into
the next chunk of any stream of that uplink. Where the batch that carries it is given up itself, it
comes back here, together with the one of its carrier.

Bounded: of more than 256 that wait for an uplink, the older half is put together, one for each
install, lane and kind of reason: `batch_id` is then the first, `last` the last one (in the order of
run and sequence), `batches` how many between them are meant, and `samples` is their sum.
"""

import logging
import threading
from collections.abc import Iterable, Sequence
from typing import Any

from agent.spool.naming import install_of, lane_of, order_of
from agent.spool.parcel import Parcel

log = logging.getLogger("edge_agent.spool")

Tombstone = dict[str, Any]
MOST = 256
"""How many wait for an uplink before the older half is put together."""


class Tombstones:
    """Those that are not durable yet, of all uplinks; thread-safe."""

    def __init__(self, uplinks: Iterable[str]) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Tombstone]] = {uplink: [] for uplink in uplinks}

    def add(
        self, uplink: str, parcel: Parcel, reason: str, carried: Sequence[Tombstone] = ()
    ) -> None:
        """A batch was given up; `carried` are the tombstones that were in it."""
        mine = {
            "batch_id": parcel.batch_id,
            "samples": parcel.samples,
            "uplink": uplink,
            "reason": reason[:200],
        }
        with self._lock:
            waiting = self._waiting[uplink]
            waiting += [*carried, mine]
            if len(waiting) > MOST:
                self._waiting[uplink] = _folded(waiting)

    def of(self, uplinks: Iterable[str]) -> list[Tombstone]:
        """What a batch for these uplinks should say."""
        with self._lock:
            return [stone for uplink in uplinks for stone in self._waiting[uplink]]

    def durable(self, stones: Iterable[Tombstone]) -> None:
        """These are in a batch. One that was put together with others meanwhile is said again."""
        gone = set(map(id, stones))
        with self._lock:
            for uplink, waiting in self._waiting.items():
                self._waiting[uplink] = [stone for stone in waiting if id(stone) not in gone]


def carried(records: Iterable[tuple[str, Any]], uplink: str) -> list[Tombstone]:
    """The tombstones of an uplink among the records of a batch."""
    return [
        dict(value)
        for kind, value in records
        if kind == "tombstone" and value.get("uplink") == uplink and _sound(value)
    ]


def _sound(stone: Tombstone) -> bool:
    numbers = stone.get("samples"), stone.get("batches", 1)
    texts = stone.get("batch_id"), stone.get("reason"), stone.get("last", "")
    return all(isinstance(n, int) for n in numbers) and all(isinstance(t, str) for t in texts)


def _folded(stones: Sequence[Tombstone]) -> list[Tombstone]:
    old, new = stones[: -MOST // 2], stones[-MOST // 2 :]
    groups: dict[tuple[str, str, str], list[Tombstone]] = {}
    for stone in old:
        batch_id, kind = stone["batch_id"], stone["reason"].partition(":")[0]
        groups.setdefault((install_of(batch_id), lane_of(batch_id), kind), []).append(stone)
    folded = [_one(group) for group in groups.values()]
    if len(folded) > MOST // 2:  # installs without end: nothing that a vehicle does
        log.warning("%d tombstones are forgotten", len(folded) - MOST // 2)
        folded = folded[-MOST // 2 :]
    return folded + list(new)


def _one(stones: Sequence[Tombstone]) -> Tombstone:
    if len(stones) == 1:
        return stones[0]
    reasons = {stone["reason"] for stone in stones}
    return {
        "batch_id": min((s["batch_id"] for s in stones), key=order_of),
        "last": max((s.get("last") or s["batch_id"] for s in stones), key=order_of),
        "batches": sum(s.get("batches", 1) for s in stones),
        "samples": sum(s["samples"] for s in stones),
        "uplink": stones[0]["uplink"],
        "reason": reasons.pop() if len(reasons) == 1 else stones[0]["reason"].partition(":")[0],
    }
