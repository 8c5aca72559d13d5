"""The source that polls ECUs."""

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from agent.bus.diagnostics.requests import Request, address_of, check
from agent.bus.session import DeviceSource
from agent.bus.source import Deliver
from agent.clock import MILLISECOND, SECOND, Clock
from agent.errors import BusError, ConfigError

if TYPE_CHECKING:
    from agent.bus.diagnostics.sending import Link, OpenLink, Poller

log = logging.getLogger("edge_agent")

TOTALS: Final = (
    "requests",
    "answered",
    "negative",
    "timeouts",
    "cut_short",
    "pending",
    "unsupported",
    "unexpected",
    "bad",
)


class DiagnosticsSource(DeviceSource):
    """Polls the ECUs of one bus.

    Args:
        bus: name of the bus, also in the tables.
        interface: name of the SocketCAN interface.
        requests: what to ask.
        transmit: what the device file says of this bus; without it this source is refused.
        pause_ms: least time between the end of one request and the next.
        answer_ms: how long an ECU may take until its answer begins.
        quiet_s: after so long without a frame of anybody else the vehicle sleeps.
        needs_traffic: ask only while others send on this bus. A bus behind a gateway may carry
            nothing but diagnostics; then `awake` alone decides.
        awake: whether the vehicle is awake, as something else knows it; asked before each request.
        fd: send CAN FD frames.
        padding: the byte that fills frames up to 8, as ISO 15765-4 wants; None sends short frames.
        retry_s: time between two tries to open the interface.
        clock: the seam to time.
        open_link: the seam to the bus; by default a socket on `interface`.

    Raises:
        ConfigError: no `transmit`, a missing library, requests or settings that cannot be.
    """

    def __init__(
        self,
        bus: str,
        interface: str,
        requests: Sequence[Request],
        *,
        transmit: bool,
        pause_ms: int = 50,
        answer_ms: int = 500,
        quiet_s: float = 5.0,
        needs_traffic: bool = True,
        awake: Callable[[], bool] | None = None,
        fd: bool = False,
        padding: int | None = 0xCC,
        retry_s: float = 1.0,
        clock: Clock | None = None,
        open_link: "OpenLink | None" = None,
    ) -> None:
        if transmit is not True:
            raise ConfigError(
                f"bus {bus}: diagnostic requests are sent on the bus, and this one may not be sent "
                "on; set transmit = true for it in the device file, or remove the requests"
            )
        check(requests)
        if not needs_traffic and awake is None:
            raise ConfigError(
                f"bus {bus}: diagnostics without looking for traffic need another sign that the "
                "vehicle is awake"
            )
        if pause_ms < 0 or answer_ms < 10 or quiet_s <= 0:
            raise ConfigError(
                f"bus {bus}: diagnostics need pause_ms of at least 0, answer_ms of at least 10 and "
                "quiet_s above 0"
            )
        if padding is not None and not 0 <= padding <= 0xFF:
            raise ConfigError(f"bus {bus}: padding is one byte, not {padding}")
        # Not before this: without `transmit` the code that sends is never loaded.
        try:
            from agent.bus.diagnostics import schedule, sending  # noqa: PLC0415
        except ImportError as error:
            if (error.name or "").split(".")[0] not in ("isotp", "udsoncan"):
                raise
            raise ConfigError(
                f"bus {bus}: diagnostics need {error.name}; "
                "pip install 'vehicle-edge-agent[diagnostics]'"
            ) from error
        super().__init__(bus, retry_s=retry_s, clock=clock)
        self._addresses = tuple(dict.fromkeys(address_of(request) for request in requests))
        self._schedule = schedule.Schedule(bus, requests, pause_ms * MILLISECOND)
        self._open_link: OpenLink = open_link or (
            lambda addresses: sending.SocketLink(interface, addresses, self._clock, fd=fd)
        )
        self._poller: Callable[[Link], Poller] = lambda link: sending.Poller(
            link,
            self._schedule,
            self._clock,
            fd=fd,
            padding=padding,
            answer_ns=answer_ms * MILLISECOND,
            quiet_ns=round(quiet_s * SECOND),
            awake=awake,
            needs_traffic=needs_traffic,
        )

    @property
    def counts(self) -> Mapping[str, int]:
        """As `Source.counts`: answers and frames that made no sense."""
        return {"bad_lines": self._schedule.report.totals["bad"]}

    @property
    def totals(self) -> Mapping[str, int]:
        """What became of the requests of this run; may be read from any thread.

        `requests` sent; `answered`, `negative`: answers; `timeouts`: answers that were expected and
        did not come; `cut_short`: requests that were outstanding at the end; `pending`: "response
        pending", which is no answer yet; `unsupported`: items that are not asked for any more;
        `unexpected`: frames and messages that answer nothing; `bad`: those that are broken.

        Of requests to one ECU: requests = answered + negative + timeouts + cut_short, but for
        those that want no answer (tester present).
        """
        totals = self._schedule.report.totals
        return {name: totals[name] for name in TOTALS}

    def status(self) -> dict[str, Any]:
        """What the status tells of it."""
        return {"diagnostics": dict(self.totals)}

    def _session(self, deliver: Deliver, stop: threading.Event) -> None:
        """Open the bus and poll until `stop`.

        Raises:
            BusError: the bus cannot be opened, or is gone.
        """
        link = self._open_link(self._addresses)
        try:
            poller = self._poller(link)
            while not stop.is_set():
                tables = poller.step(stop)
                self._tell(poller.why_silent)
                for table in tables:
                    deliver(table)
        finally:
            with contextlib.suppress(BusError):
                link.close()

    def _tell(self, why_silent: str) -> None:
        if not why_silent and self._schedule.unanswered:
            why_silent = "no ECU answers"
        if why_silent:
            self.state = f"waiting: {why_silent}"  # no failure: nothing to log
        else:
            self._reads()
        notes = self._schedule.report.notes
        for note in notes:
            log.warning("bus %s: %s", self.bus, note)
        notes.clear()
