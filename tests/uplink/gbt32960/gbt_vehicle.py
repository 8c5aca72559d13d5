"""The spool of one vehicle, and reports that are told apart by a number in them."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from agent.blocks import Reports
from agent.clock import SECOND, Clock
from agent.ledger import Ledger, differences
from agent.settings import Batch, Spool
from agent.spool.store import SpoolStore, StreamKey

UPLINK = "platform"
_ITEM = 0x80


def body(number: int) -> bytes:
    """One maker item that holds a number."""
    return bytes((_ITEM, 0, 4)) + number.to_bytes(4, "big")


def number_of(data_unit: bytes) -> int:
    """The number in a report, which begins with a time and `body`."""
    assert data_unit[6:9] == bytes((_ITEM, 0, 4))
    return int.from_bytes(data_unit[9:13], "big")


class Vehicle:
    """Folder, spool and ledger; `drop` and a new one in the same folder are a power cut.

    Attributes:
        made: the boot time of each report, by its number.
    """

    def __init__(self, folder: Path, clock: Clock, uplink: str = UPLINK) -> None:
        self.clock = clock
        self.uplink = uplink
        self.ledger = Ledger()
        self.made: dict[int, int] = {}
        self.sealed: Callable[[], None] = lambda: None
        self.store = SpoolStore(
            folder / "spool",
            vehicle="car-1",
            uplinks=[uplink],
            spool=Spool(quota_mb=16, free_floor_mb=0),
            batch=Batch(),
            ledger=self.ledger,
            clock=clock,
            sealed=lambda _: self.sealed(),
        )
        self._key = StreamKey("report", (uplink,))
        self.store.start([self._key], thread=False)
        self.outbox = self.store.outboxes[uplink]

    def reports(
        self,
        numbers: Iterable[int],
        *,
        first: int | None = None,
        step_s: float = 1.0,
        form: str = "gbt32960-2016",
        live: bool = False,
    ) -> Reports:
        """Reports of these numbers, from `first` (else now) on."""
        every = list(numbers)
        begin = self.clock.boot() if first is None else first
        time = np.array([begin + round(i * step_s * SECOND) for i in range(len(every))], np.int64)
        self.made.update(zip(every, time.tolist(), strict=True))
        return Reports(form, time, tuple(map(body, every)), live=live)

    def keep(self, *reports: Reports, seal: bool = True) -> None:
        self.store.add({self._key: list(reports)})
        if seal:
            self.seal()

    def seal(self) -> None:
        """At once, which the spool's thread would do a little later."""
        self.store.seal_now()
        self.store.commit()

    @property
    def counts(self) -> dict[str, int]:
        return self.ledger.snapshot()["uplink"][self.uplink]

    def check(self) -> None:
        assert differences(self.ledger.snapshot()) == []

    def finish(self) -> None:
        self.store.stop()
        self.store.close()
        self.check()

    def drop(self) -> None:
        """The power is cut: nothing is written any more."""
        self.store.commit()  # what a commit has not reached is lost, and nobody counts on it
        self.store.close()
