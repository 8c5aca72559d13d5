"""Light vehicles that report to a platform: the real spool, session and codec, and a simple drive.

Each makes a report after every interval, on a whole second: 2016 with motor, position,
extremes, alarms, 96 cells and 24 probes, or the same of 2025. A report is in the spool before
it is offered to the sender as a live one, as the agent does it.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from agent.bench.fleet import LightAgent, LightFleet
from agent.blocks import Kept, Reports
from agent.clock import SECOND, Anchor, BootNs, Clock, Quality, SystemClock, WallNs
from agent.collect.reports.tuning import Tuning
from agent.gbt32960.codec import GBT2016, GBT2025, Codec
from agent.gbt32960.layout import Edition, Item
from agent.settings import Gbt32960, Uplink
from agent.spool.outbox import FolderOutbox
from agent.uplink.gbt32960.link import PlatformSender

_CELLS: Final = 96
_PROBES: Final = 24
_REALTIME: Final = 0x02
HEARTBEAT_S: Final = 20
_LOGIN_RETRY_S: Final = 5
_TIME_BYTES: Final = 6
_REPORTS_A_BATCH: Final = 6
"""Sealed sooner when the sender asks for it."""


def vin_of(number: int) -> str:
    return f"LFLEET{number:011}"


class ReportingVehicle(LightAgent[PlatformSender]):
    """One that reports; see `LightAgent`.

    Args:
        root: its folder.
        name: the VIN.
        url: of the platform.
        edition: of its reports.
        report_s: between two of them.
        clock: the seam to time.
        seed: of its drive.
        heartbeat_s: between two heartbeats; what was sent before one is confirmed by its answer.
        answer_timeout_s: how long an answer may take.

    Attributes:
        made: reports so far.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        url: str,
        *,
        edition: Edition = 2016,
        report_s: int = 10,
        clock: Clock | None = None,
        seed: int = 0,
        heartbeat_s: int = HEARTBEAT_S,
        answer_timeout_s: int = 60,
    ) -> None:
        clock = clock or SystemClock()
        boot, wall = clock.boot(), clock.wall()
        # The bench believes this computer's clock.
        self._anchor = Anchor(clock.boot_id, boot, wall, Quality.NTP)
        self._codec: Codec = GBT2016 if edition == 2016 else GBT2025
        self._edition: Edition = edition
        self._report_ns = report_s * SECOND
        self._speed, self._way, self._charge = 0.0, 10_000.0, 90.0
        self._wanted = threading.Event()
        """The sender needs what is open."""
        self._open = 0
        self._next: WallNs | None = None
        self._newest: Reports | None = None
        self.made = 0
        uplink = Uplink(
            name="platform",
            kind="gbt32960",
            url=url,
            gbt32960=Gbt32960(
                edition=edition,
                vin=name,
                iccid="89860000000000000000",
                report_s=min(report_s, 30),
                heartbeat_s=heartbeat_s,
                answer_timeout_s=answer_timeout_s,
                # Nobody waits for minutes at a bench; a link that is cut is a login in vain.
                login_retry_s=_LOGIN_RETRY_S,
                login_pause_min=1,
            ),
        )
        super().__init__(root, name, uplink, lane="report", clock=clock, seed=seed)

    def _make_sender(self, uplink: Uplink, outbox: FolderOutbox) -> PlatformSender:
        return PlatformSender(
            uplink,
            outbox,
            self.ledger,
            self._clock,
            tuning=Tuning(edition=self._edition, report_s=self._report_ns / SECOND),
            state_dir=self._root,
            seal=self._wanted.set,
            anchor=lambda: self._anchor,
        )

    def collect(self, seconds: float | None = None) -> None:
        """As of every light vehicle; the newest report is offered as a live one after that."""
        before = self._newest
        super().collect(seconds)
        if self._newest is not None and self._newest is not before:
            self.sender.offer(self._newest)

    def _is_full(self) -> bool:
        full = self._open >= _REPORTS_A_BATCH or self._wanted.is_set()
        if full:
            self._wanted.clear()
            self._open = 0
        return full

    def _happened(self, now: BootNs) -> Sequence[Kept]:
        offset, step = self._anchor.offset, self._report_ns
        if self._next is None:
            # A second ago, so that no turn of a busy computer is too early for a report.
            self._next = WallNs((now + offset) // SECOND * SECOND - SECOND)
        walls = range(self._next, now + offset + 1, step)
        found: list[Kept] = []
        for wall in walls:
            body = self._codec.encode(
                _REALTIME, {"time": WallNs(wall), "items": self._items(step / SECOND)}
            )
            self._newest = Reports(
                f"gbt32960-{self._edition}",
                np.array([wall - offset], np.int64),
                (body[_TIME_BYTES:],),
                live=True,
            )
            found.append(self._newest)
            self._next = WallNs(wall + step)
        self.made += len(found)
        self._open += len(found)
        return found

    def sleep(self) -> None:
        """The vehicle is off: the sender logs out when everything is confirmed."""
        self.sender.offer(
            Reports(f"gbt32960-{self._edition}", np.array([], np.int64), (), live=True, awake=False)
        )

    # -- the drive ---------------------------------------------------------------------------

    def _items(self, seconds: float) -> list[Item]:
        chance = self._random
        self._speed = float(np.clip(self._speed + chance.normal(0, 3 * seconds**0.5), 0, 130))
        self._way += self._speed * seconds / 3600
        self._charge = max(5.0, self._charge - self._speed * seconds / 36_000)
        old = self._codec is GBT2016
        cells = (3600 + self._charge * 4 + chance.normal(0, 5, _CELLS)).astype(int).tolist()
        probes = (65 + chance.normal(0, 1, _PROBES)).astype(int).tolist()
        volts = sum(cells) // 100
        amps = round(self._speed * 2)
        vehicle: dict[str, Any] = {
            "vehicle_state": 1,
            "charge_state": 3,
            "run_mode": 1,
            "speed": round(self._speed * 10),
            "odometer": round(self._way * 10),
            "total_voltage": volts,
            "total_current": (1000 if old else 3000) * 10 + amps * 10,
            "soc": round(self._charge),
            "dc_dc": 1,
            "gear_byte": 0x2E,
            "insulation_resistance": 2000,
        }
        motor: dict[str, Any] = {
            "number": 1,
            "state": 1,
            "controller_temperature": 85,
            "speed": (20_000 if old else 32_000) + round(self._speed * 80),
            "torque": (20_000 if old else 200_000) + round(self._speed * 5),
            "motor_temperature": 95,
        }
        position: dict[str, Any] = {
            "status": 0,
            "longitude": 121_473_700 + round(self._way * 10),
            "latitude": 31_230_400,
        }
        alarms: dict[str, Any] = {"level": 0, "flags": 0}
        alarms |= {f"{what}_faults": [] for what in ("battery", "motor", "engine", "other")}
        pack = {"number": 1, "voltage": volts, "current": vehicle["total_current"]}
        if old:
            vehicle |= {"accelerator_pedal": 20, "brake_pedal": 0}
            motor |= {"controller_voltage": volts, "controller_current": 10_000 + amps * 10}
            pack |= {"total_cells": _CELLS, "first_cell": 1}
        else:
            position["datum"] = 1
            alarms["alarm_levels"] = []
        pack["cells"] = cells
        items = [
            Item(0x01, vehicle),
            Item(0x02, {"motors": [motor]}),
            Item(0x05, position),
        ]
        if old:
            items.append(Item(0x06, _extremes(cells, probes)))
        last = 0x07 if old else 0x06
        return [
            *items,
            Item(last, alarms),
            Item(last + 1, {"packs": [pack]}),
            Item(last + 2, {"packs": [{"number": 1, "probes": probes}]}),
        ]


def _extremes(cells: list[int], probes: list[int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for what, values, where in (("voltage", cells, "cell"), ("temperature", probes, "probe")):
        for name, value in (("max", max(values)), ("min", min(values))):
            found[f"{what}_{name}_subsystem"] = 1
            found[f"{what}_{name}_{where}"] = values.index(value) + 1
            found[f"{what}_{name}"] = value
    return found


class ReportingFleet(LightFleet[ReportingVehicle]):
    """Light vehicles that report to one platform; every second one by the other edition.

    Args:
        root: a folder below which each vehicle has its own.
        count: how many.
        url: of the platform.
        edition: of all of them; None: they take turns.
        report_s: each reports so often.
        heartbeat_s: between two heartbeats.
        seed: of the drives.

    Raises:
        SpoolError: the folder of a vehicle is in use or cannot be written.
        ConfigError: the address cannot be one.
    """

    def __init__(
        self,
        root: Path,
        count: int,
        url: str,
        *,
        edition: Edition | None = None,
        report_s: int = 10,
        heartbeat_s: int = HEARTBEAT_S,
        seed: int = 0,
    ) -> None:
        editions: tuple[Edition, ...] = (2016, 2025) if edition is None else (edition,)

        def make(folder: Path, name: str, number: int) -> ReportingVehicle:
            return ReportingVehicle(
                folder,
                name,
                url,
                edition=editions[number % len(editions)],
                report_s=report_s,
                heartbeat_s=heartbeat_s,
                seed=seed + number,
            )

        super().__init__(root, [*map(vin_of, range(count))], make, interval_s=report_s)

    def sleep(self) -> None:
        """All vehicles are switched off."""
        for vehicle in self.vehicles:
            vehicle.sleep()
