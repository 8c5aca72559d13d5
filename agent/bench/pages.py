"""What virtual vehicles have in common: frames made in pages, and handed out as they are asked for.

A page is five seconds of a bus: every message of it is sampled, encoded and put in order at once.
What a caller asks for is cut out of pages, so the result cannot depend on the steps in which it is
asked for. Times within a page count from the first moment of the vehicle.
"""

import abc
from collections.abc import Sequence
from typing import Final

import numpy as np

from agent.blocks import FD_BIT_RATE_SWITCH, FD_FRAME, FrameBlock, Int64, UInt8
from agent.clock import MILLISECOND, SECOND, BootNs

PAGE_S: Final = 5
STEP_NS: Final = 10 * MILLISECOND
STEPS_OF_PAGE: Final = PAGE_S * SECOND // STEP_NS
_CLASSIC: Final = 8
_FD: Final = FD_FRAME | FD_BIT_RATE_SWITCH

Part = tuple[Int64, int, int, UInt8]
"""Frames of one id: times int64[n], the id with its flag bits, length, data uint8[n, 8 or 64]. What
is longer than eight bytes is a frame of CAN FD. Times lie within the page."""


class Vehicle(abc.ABC):
    """One bus of a vehicle that is not there.

    Args:
        bus: what the bus is called.
        start: boot time of the vehicle's first moment; frames are dated from there.
        width: bytes a row of data has, 64 on a bus with CAN FD.
    """

    def __init__(self, bus: str, start: BootNs, *, width: int = _CLASSIC) -> None:
        self.bus = bus
        self._start = start
        self._width = width
        self._page_index = -1
        self._page: FrameBlock
        self._reached = 0  # simulated ns that have been handed out

    @abc.abstractmethod
    def _parts(self, index: int) -> Sequence[Part]:
        """The frames of page number `index`; asked for in order, each once."""

    def frames(self, until_s: float) -> FrameBlock:
        """The frames since the last call, before `until_s` seconds of simulated time.

        Sorted by time, data uint8[n, 8 or 64]; empty when `until_s` is not beyond the last call's.
        """
        until = round(until_s * SECOND)
        blocks = []
        while self._reached < until:
            if self._reached == (self._page_index + 1) * PAGE_S * SECOND:
                self._turn()
            page_end = (self._page_index + 1) * PAGE_S * SECOND
            begin, end = np.searchsorted(
                self._page.time, [self._reached + self._start, min(until, page_end) + self._start]
            )
            blocks.append(self._page[begin:end])
            self._reached = min(until, page_end)
        if len(blocks) == 1:
            return blocks[0]
        if not blocks:
            return self._block([])
        return _join(self.bus, blocks)

    def _turn(self) -> None:
        self._page_index += 1
        self._page = self._block([p for p in self._parts(self._page_index) if len(p[0])])

    def _block(self, parts: Sequence[Part]) -> FrameBlock:
        """Parts, none of them empty, in the order of their times."""
        none = np.zeros(0, np.int64)
        time = np.concatenate([none, *(times for times, *_ in parts)])
        order = np.argsort(time, kind="stable")
        counts = [len(times) for times, *_ in parts]
        lengths = np.array([length for *_, length, _ in parts], np.uint16)
        rows = [data for *_, data in parts]
        return FrameBlock.from_arrays(
            bus=self.bus,
            time=time[order] + self._start,
            id=np.repeat(np.array([i for _, i, *_ in parts], np.uint32), counts)[order],
            length=np.repeat(lengths, counts)[order],
            flags=np.repeat(np.where(lengths > _CLASSIC, _FD, 0), counts)[order],
            data=np.concatenate([np.zeros((0, self._width), np.uint8), *rows])[order],
        )


def _join(bus: str, blocks: Sequence[FrameBlock]) -> FrameBlock:
    return FrameBlock.from_arrays(
        bus=bus,
        time=np.concatenate([b.time for b in blocks]),
        id=np.concatenate([b.id for b in blocks]),
        length=np.concatenate([b.length for b in blocks]),
        flags=np.concatenate([b.flags for b in blocks]),
        data=np.concatenate([b.data for b in blocks]),
    )
