"""A device that comes and goes: its state, and what the log says of it."""

import dataclasses
import threading
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from agent.blocks import FrameBlock, SignalTable
from agent.bus.session import DeviceSource
from agent.bus.source import Deliver
from agent.clock import SECOND, BootNs, Quality, WallNs
from agent.errors import BusError

Session = Callable[["Plug"], None]


@dataclasses.dataclass
class Hand:
    """A clock whose hand a test moves."""

    boot_id: str = "now"
    boot_s: int = 0

    def boot(self) -> BootNs:
        return BootNs(self.boot_s * SECOND)

    def wall(self) -> WallNs:
        return WallNs(self.boot_s * SECOND)

    def quality(self) -> Quality:
        return Quality.UNSYNCHRONISED


class Plug(DeviceSource):
    """A device whose sessions are written down; it ends after the last one."""

    def __init__(self, *sessions: Session, clock: Hand | None = None) -> None:
        self.hand = clock or Hand()
        super().__init__("powertrain", retry_s=0, clock=self.hand)
        self.states: list[str] = []
        self._sessions = list(sessions)

    @property
    def counts(self) -> Mapping[str, int]:
        return {}

    def _session(self, deliver: Deliver, stop: threading.Event) -> None:
        self.states.append(self.state)
        if not self._sessions:
            stop.set()
            return
        self._sessions.pop(0)(self)
        deliver(
            FrameBlock.from_arrays(
                bus=self.bus, time=[0], id=[1], length=[0], data=np.zeros((1, 8))
            )
        )
        raise BusError("the adapter is gone")

    def works(self) -> None:
        self._reads()


def missing(_: Plug) -> None:
    raise BusError("the adapter is not there")


def works(plug: Plug) -> None:
    plug.works()


def after(seconds: int, session: Session) -> Session:
    def later(plug: Plug) -> None:
        plug.hand.boot_s += seconds
        session(plug)

    return later


def run(plug: Plug, caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines in the log."""
    blocks: list[FrameBlock | SignalTable] = []
    with caplog.at_level("INFO", "edge_agent"):
        plug.run(blocks.append, threading.Event())
    assert plug.state == "ended"
    return [record.getMessage() for record in caplog.records]


MISSING = "bus powertrain: the adapter is not there"
GONE = "bus powertrain: the adapter is gone"
AGAIN = "bus powertrain: reading again"


def test_a_failure_has_one_line_when_it_begins_and_one_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plug = Plug(missing, missing, missing, after(100, works), after(1, missing), missing, works)

    assert run(plug, caplog) == [MISSING, AGAIN, GONE, AGAIN]


def test_a_device_that_works_from_the_beginning_says_nothing_until_it_is_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert run(Plug(works), caplog) == [GONE]


def test_a_loose_contact_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    plug = Plug(*[after(1, works)] * 130)

    assert run(plug, caplog) == [GONE, AGAIN] * 3  # one pair a minute


def test_a_failure_that_stays_is_told_though_it_began_soon_after_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plug = Plug(missing, works, *[after(10, missing)] * 8)

    assert run(plug, caplog) == [MISSING, AGAIN, MISSING]


def test_the_state_always_says_why(caplog: pytest.LogCaptureFixture) -> None:
    plug = Plug(missing, works, missing)

    run(plug, caplog)

    assert plug.states == [
        "starting",
        "waiting: the adapter is not there",
        "waiting: the adapter is gone",
        "waiting: the adapter is not there",
    ]
