"""Many light vehicles that report to one platform: how much it takes in, and whether all arrives.

As `agent.bench.load`, with vehicles of `fleet.py` here and a platform, `edge-agent cloud
--gbt32960`, which is a process of its own. The verdict holds what the platform has of each vehicle
against the ledger of that vehicle: every report that was kept has arrived, once or more, and none
is missing between two others.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import aiohttp

from agent.bench.gbt32960.fleet import HEARTBEAT_S, ReportingFleet, ReportingVehicle
from agent.bench.load import AnyLoad, LoadOptions
from agent.bench.loadverdict import Figures
from agent.errors import ConfigError
from agent.gbt32960.layout import Edition
from agent.ledger import differences

_LEAVE_S: Final = 60.0
_LOOK_S: Final = 0.5
_SHOWN: Final = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportLoadOptions(LoadOptions):
    """As of every load; `interval_s` is between two reports, in whole seconds up to 30."""

    edition: Edition | None = None
    """Of all vehicles; None: they take turns."""
    heartbeat_s: int = HEARTBEAT_S

    def check(self) -> None:
        super().check()
        if not (self.interval_s == round(self.interval_s) and 1 <= self.interval_s <= 30):
            raise ConfigError("vehicles report every 1 to 30 s")


@dataclasses.dataclass(frozen=True, slots=True)
class ReportFigures(Figures):
    """`samples` are reports."""

    def line(self, vehicles: int, before: Figures | None = None) -> str:
        span = self.seconds - (before.seconds if before else 0.0)
        reports = self.samples - (before.samples if before else 0)
        return (
            f"{self.seconds:5.0f} s  {vehicles:,} vehicles  "
            f"{reports / span if span > 0 else 0:,.1f} reports/s confirmed  "
            f"{self.waiting:,} not confirmed  {self.errors:,} connections lost"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportVerdict:
    """How it ended. `wrong` is empty when every report that was kept is at the platform."""

    vehicles: int
    seconds: float
    reports_s: float
    """Confirmed, while the vehicles drove."""
    made: int
    kept: int
    """Reports that the vehicles kept."""
    acknowledged: int
    """Confirmed by the platform, by the ledgers of the vehicles."""
    reports: int
    """Different ones at the platform."""
    live: int
    reissued: int
    copies: int
    gaps: int
    missing: int
    disorder: int
    malformed: int
    lost_links: int
    answers: Mapping[str, int]
    late_s: float
    """By how much a vehicle was late with a report, at the most: this machine was too slow."""
    drained_s: float
    """Until everything was confirmed, from the end of the drive."""
    cpu_vehicles_s: float
    cpu_cloud_s: float
    wrong: tuple[str, ...]
    """Sentences."""

    @property
    def good(self) -> bool:
        return not self.wrong

    def as_json(self) -> dict[str, Any]:
        """For programs; the same names."""
        return dataclasses.asdict(self) | {"good": self.good}

    def lines(self) -> list[str]:
        """For people."""
        sums = {
            "kept": self.kept,
            "confirmed": self.acknowledged,
            "different ones at the platform": self.reports,
        }
        sign = " = " if len(set(sums.values())) == 1 else ", "
        ends = f"all confirmed {self.drained_s:.1f} s after the end"
        found = [
            f"{self.vehicles:,} vehicles, {self.seconds:.0f} s: {self.reports_s:,.1f} reports/s",
            "reports: " + sign.join(f"{what} {n:,}" for what, n in sums.items()),
            f"{self.live:,} live, {self.reissued:,} reissued, {self.copies:,} of them copies",
            f"gaps {self.gaps:,}, out of order {self.disorder:,}, malformed {self.malformed:,}",
            f"{self.lost_links:,} connections were lost",
            f"a report was late by {self.late_s:.2f} s at the most; {ends}",
            f"CPU: vehicles {self.cpu_vehicles_s:.1f} s, platform {self.cpu_cloud_s:.1f} s",
        ]
        found += [f"WRONG: {sentence}" for sentence in self.wrong[:_SHOWN]]
        if len(self.wrong) > _SHOWN:
            found.append(f"WRONG: and {len(self.wrong) - _SHOWN:,} more")
        if self.good:
            found.append("Every ledger closes, and every report is at the platform.")
        return found


class ReportLoad(AnyLoad[ReportLoadOptions, ReportingFleet]):
    """Vehicles that report, while `open` lasts."""

    unit: ClassVar[str] = "report"
    words: ClassVar[tuple[str, ...]] = ("--gbt32960", "0")
    platform = ""
    """Its address."""

    @property
    def receiver(self) -> str:
        return self.platform

    async def _start_cloud(self) -> str:
        url = await super()._start_cloud()
        assert self._cloud is not None  # noqa: S101  it has just been started
        self.platform = await self._address_told(self._cloud.stdout, self._root / "cloud.log")
        return url

    def _make_fleet(self, folder: Path, url: str) -> ReportingFleet:
        options = self.options
        return ReportingFleet(
            folder,
            options.vehicles,
            url,
            edition=options.edition,
            report_s=round(options.interval_s),
            heartbeat_s=options.heartbeat_s,
            seed=options.seed,
        )

    def figures(self) -> ReportFigures:
        """How it is right now."""
        states = [v.sender.state["platform"] for v in self.fleet.vehicles]
        plain = super().figures()
        # The ledger knows of a report when all of its batch are confirmed.
        confirmed = sum(state["confirmed"] for state in states)
        return ReportFigures(
            seconds=plain.seconds,
            batches=plain.batches,
            samples=confirmed,
            bytes=plain.bytes,
            waiting=sum(vehicle.made for vehicle in self.fleet.vehicles) - confirmed,
            errors=sum(state["reconnects"] for state in states),
        )

    async def finish(self, tell: Callable[[str], None] = lambda _: None) -> ReportVerdict:
        """See `AnyLoad.finish`; the vehicles log out in order."""
        loop = asyncio.get_running_loop()
        driven = self.figures()
        wrong: list[str] = []
        await self.fleet.finish()
        began = loop.time()
        await self._drained(tell, wrong)
        drained = loop.time()
        self.fleet.sleep()
        found = await self._found(tell)
        last = self.figures()
        cpu_vehicles_s, cpu_cloud_s = await self._left()
        for vehicle in self.fleet.vehicles:
            wrong += judge(vehicle, found.get(vehicle.name))
        counts = self.fleet.counts

        def total(what: str) -> int:
            return sum(each[what] for each in found.values())

        return ReportVerdict(
            vehicles=len(self.fleet.vehicles),
            seconds=driven.seconds,
            reports_s=driven.samples / (driven.seconds or 1.0),
            made=sum(vehicle.made for vehicle in self.fleet.vehicles),
            kept=counts["kept"],
            acknowledged=counts["acknowledged"],
            reports=total("reports"),
            live=total("live"),
            reissued=total("reissued"),
            copies=total("copies"),
            gaps=total("gaps"),
            missing=total("missing"),
            disorder=total("disorder"),
            malformed=total("malformed") + total("bad_frames"),
            lost_links=last.errors,
            answers=self._answers(),
            late_s=self.fleet.late_s,
            drained_s=drained - began,
            cpu_vehicles_s=cpu_vehicles_s,
            cpu_cloud_s=cpu_cloud_s,
            wrong=tuple(wrong),
        )

    async def _found(self, tell: Callable[[str], None]) -> dict[str, dict[str, Any]]:
        """What the platform has of each vehicle, when they have logged out."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _LEAVE_S
        address = f"/v1/gbt32960?period_s={self.options.interval_s:g}"
        found: dict[str, dict[str, Any]] = {}
        async with aiohttp.ClientSession(self.url) as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(address) as answer:
                        found = {each["vin"]: each for each in (await answer.json())["vehicles"]}
                online = sum(each["online"] for each in found.values())
                if not online or loop.time() >= until:
                    return found
                tell(f"the vehicles are off; {online:,} have not logged out yet")
                await asyncio.sleep(_LOOK_S)


def judge(vehicle: ReportingVehicle, found: Mapping[str, Any] | None) -> list[str]:
    """What is wrong with a vehicle whose run has ended, as sentences; none when all is well.

    Args:
        vehicle: with the last counts of its ledger.
        found: what the platform tells of it; None where it does not know it.
    """
    wrong = list(differences(vehicle.ledger.snapshot()))
    counts = vehicle.counts
    wrong += [
        f"{counts[name]:,} reports {what}"
        for name, what in (
            ("memory", "are still in memory"),
            ("waiting", "were not confirmed"),
            ("lost_disk", "were lost to the disk"),
            ("lost_end", "were lost at the end of the run"),
            ("evicted", "were evicted"),
            ("quarantined", "are in quarantine"),
        )
        if counts[name]
    ]
    if counts["kept"] != vehicle.made:
        wrong.append(f"{vehicle.made:,} reports were made, and {counts['kept']:,} kept")
    if found is None:
        if counts["kept"]:
            wrong.append("the platform does not know it")
    else:
        if found["reports"] != counts["kept"]:
            wrong.append(
                f"{counts['kept']:,} reports were kept, and {found['reports']:,} different ones "
                "are at the platform"
            )
        if found["verdict"]:
            wrong.append(found["verdict"])
        if found["online"]:
            wrong.append("it has not logged out")
    return [f"{vehicle.name}: {sentence}" for sentence in wrong]
