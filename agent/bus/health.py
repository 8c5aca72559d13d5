"""How a CAN bus is: its controller, its load, what was dropped; told as tables and to people.

A row of `BusState` (see `agent.bus.errorframes`) at each change of the controller's state, at the
begin and the end of a gap, and once a second; a row of `BusError` for each error frame. The log
gets one line when trouble begins and one when it has been quiet for ten seconds.
"""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any, Final

from agent.blocks import FrameBlock, SignalTable
from agent.bus import errorframes
from agent.bus.errorframes import NOT_TOLD, Controller, State
from agent.bus.linkmessage import LinkInfo
from agent.bus.load import LoadMeter
from agent.bus.tally import DropCounter, LossCounter, Spell

log = logging.getLogger("edge_agent")

_STATES: Final = {
    "active": State.ACTIVE,
    "warning": State.WARNING,
    "passive": State.PASSIVE,
    "off": State.OFF,
}
_TROUBLE: Final = (State.WARNING, State.PASSIVE, State.OFF)


class BusHealth:
    """What is known of one bus. Of one thread; its attributes may be read from any.

    Args:
        bus: name of the bus.
        bitrate: in bit/s, for an interface that does not tell it.
    """

    def __init__(self, bus: str, bitrate: int | None) -> None:
        self.controller = Controller()
        self.drops = DropCounter()
        """Frames that did not fit into the sockets' buffers."""
        self.losses = LossCounter()
        """Frames that the interface had and lost before the sockets."""
        self.bad = 0
        """Messages of the kernel that were no frame."""
        self.deliver: Callable[[SignalTable], None] = _nowhere
        self._bus = bus
        self._bitrate = bitrate
        self._meter = LoadMeter(bitrate)
        self._load = NOT_TOLD
        self._state_schema, self._error_schema = errorframes.schemas(bus)
        self._row_at = 0
        self._dropping = Spell()
        self._losing = Spell()
        self._spoiling = Spell()
        self._troubled = Spell()

    @property
    def load_percent(self) -> float | None:
        """Of the last whole second; None where it is not known."""
        return None if self._load == NOT_TOLD else self._load / 10

    @property
    def dropped(self) -> int:
        """Frames that the kernel had and did not give."""
        return self.drops.total + self.losses.total

    def status(self) -> dict[str, Any]:
        """What the status tells of it."""
        known = self.controller
        told = {"transmit_errors": known.transmit_errors, "receive_errors": known.receive_errors}
        return {
            "controller": known.state.name.lower(),
            **{name: count for name, count in told.items() if count != NOT_TOLD},
            "load_percent": self.load_percent,
            "error_frames": known.error_frames,
            "last_error": known.last_error,
        }

    def take(self, block: FrameBlock) -> None:
        """Count the bits of a block, and follow its error frames."""
        self._meter.add(block)
        if (errors := errorframes.error_frames(block)) is None:
            return
        self.deliver(errorframes.error_table(self._error_schema, errors))
        self.controller, changes = errorframes.advance(self.controller, errors)
        if len(changes.time):
            self._tell(
                errorframes.change_table(
                    self._state_schema, changes, dropped=self.dropped, load=self._load
                )
            )

    def link(self, info: LinkInfo) -> None:
        """What the kernel says of the interface's bit rates."""
        self._meter.bitrate = info.bitrate or self._bitrate
        self._meter.data_bitrate = info.data_bitrate

    def begins(self, now: int, info: LinkInfo | None) -> None:
        """Frames can come from now on; `info` is what the kernel says of the controller."""
        said = info.state if info is not None else None
        transmit = info.tx_errors if info is not None else None
        receive = info.rx_errors if info is not None else None
        self.controller = dataclasses.replace(
            self.controller,
            # A virtual bus has no controller, and one of which nothing is said begins active.
            state=State.ACTIVE if said is None else _STATES.get(said, State.UNKNOWN),
            transmit_errors=NOT_TOLD if transmit is None else transmit,
            receive_errors=NOT_TOLD if receive is None else receive,
        )
        self.tell(now)

    def ends(self, now: int) -> None:
        """The interface is down or gone."""
        self.controller = dataclasses.replace(
            self.controller,
            state=State.UNKNOWN,
            transmit_errors=NOT_TOLD,
            receive_errors=NOT_TOLD,
        )
        self._load = NOT_TOLD
        self.tell(now)

    def tick(self, now: int, seconds: float, *, whole: bool) -> None:
        """A second is over. `whole`: all frames of the bus were seen in it."""
        load = self._meter.read(seconds)
        self._load = NOT_TOLD if load is None or not whole else round(load * 1000)
        self.tell(now)
        self._tell_people(now)

    def tell(self, now: int) -> None:
        """A row of `BusState`."""
        self._tell(
            errorframes.state_table(
                self._state_schema,
                now,
                self.controller,
                dropped=self.dropped,
                load=self._load,
            )
        )

    def _tell(self, table: SignalTable) -> None:
        # A change is dated by its frame, which may have come before the row of this second.
        table.time = table.time.clip(min=self._row_at)
        self._row_at = int(table.time[-1])
        self.deliver(table)

    def _tell_people(self, now: int) -> None:
        bus, state = self._bus, self.controller.state
        if self._dropping.see(now, self.drops.total):
            log.warning("bus %s: the kernel drops frames, its buffer is full", bus)
        elif (more := self._dropping.over(now)) is not None:
            log.info("bus %s: the kernel has dropped %d frames", bus, more)
        if self._losing.see(now, self.losses.total):
            log.warning(
                "bus %s: the controller or the kernel's queue before the socket overflows", bus
            )
        elif (more := self._losing.over(now)) is not None:
            log.info("bus %s: %d frames were lost before the socket", bus, more)
        if self._spoiling.see(now, self.bad):
            log.warning("bus %s: the kernel gives messages that are no frames", bus)
        elif (more := self._spoiling.over(now)) is not None:
            log.info("bus %s: %d messages were no frames", bus, more)
        if self._troubled.see(now, self._troubled.total + (state in _TROUBLE)):
            log.warning(
                "bus %s: the controller is %s (last error: %s)",
                bus,
                state.words,
                self.controller.last_error or "not told",
            )
        elif self._troubled.over(now) is not None:
            log.info("bus %s: the controller is %s again", bus, state.words)


def _nowhere(_table: SignalTable) -> None:
    """Before the first run."""
