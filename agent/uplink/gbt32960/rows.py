"""Reports as the sender handles them, one by one."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Final
from zlib import crc32

from agent.blocks import Reports
from agent.clock import WallNs
from agent.gbt32960.codec import GBT2016, GBT2025, Codec, pack_time
from agent.gbt32960.envelope import MAX_BODY
from agent.uplink.gbt32960.dates import wall_of

FORMS: Final = {"gbt32960-2016": GBT2016, "gbt32960-2025": GBT2025}

_NEWEST: Final = 1 << 30


@dataclasses.dataclass(slots=True)
class Row:
    """One report with its time: the data unit of a frame."""

    key: int
    wall: WallNs
    codec: Codec
    body: bytes
    signed: bytes = b""
    """The same with a signature, once it has one."""

    @property
    def data(self) -> bytes:
        return self.signed or self.body


class Keys:
    """Numbers by which a report is known again, live and from the store.

    They rise with boots in the order in which those are met (this one is the last), with the time,
    and with the place among the reports of one time. The content belongs to the key, so that
    nothing is taken for confirmed that is not the same to the byte.
    """

    def __init__(self, boot_id: str) -> None:
        self._ranks = {boot_id: _NEWEST}

    def key(self, origin: str, time: int, place: int, body: bytes) -> int:
        rank = self._ranks.setdefault(origin, len(self._ranks))
        moment = (((rank << 64) + time) << 12) + min(place, 0xFFF)
        return (moment << 32) + crc32(body)

    def of(self, reports: Reports, boot_id: str, places: Counter[int]) -> Iterator[int]:
        """The keys of some reports; `places` counts those of each time."""
        origin = boot_id if reports.clock == "boot" else f"a {reports.clock}"
        for time, body in zip(reports.time.tolist(), reports.bodies, strict=True):
            yield self.key(origin, time, places[time], body)
            places[time] += 1


def row_of(key: int, time: int, body: bytes, reports: Reports, offset: int | None) -> Row | None:
    """A report with its time; None where it has none, or no frame takes it."""
    codec = FORMS.get(reports.form)
    wall = wall_of(time, reports.clock, offset)
    if codec is None or wall is None or len(body) + 6 > MAX_BODY:
        return None
    return Row(key, wall, codec, pack_time(wall) + body)
