"""How a bench with a platform ended: is every report that the agent made at the platform?"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from agent.bench.gbt32960.vehicle import VehicleRecord
from agent.bench.gbt32960.view import troubles
from agent.bench.verdict import Run
from agent.ledger import Counts


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlatformVerdict:
    """What a platform has of one vehicle, against the ledgers of its agent."""

    edition: str
    made: int
    """Reports that the agent kept, by the ledgers of all of its processes."""
    reports: int
    """Different ones at the platform."""
    live: int
    reissued: int
    copies: int
    gaps: tuple[str, ...]
    alarms: tuple[str, ...]
    wrong: tuple[str, ...]
    """Sentences; empty when every report is there, in order, and nothing is missing."""

    @property
    def good(self) -> bool:
        return not self.wrong

    def as_json(self) -> dict[str, Any]:
        """For programs; the same names."""
        return dataclasses.asdict(self) | {"good": self.good}


def judge(
    vehicle: VehicleRecord | None,
    ledgers: Mapping[Run, Counts],
    clean: Collection[Run],
    *,
    uplink: str,
    period_s: float,
    whole: bool,
) -> PlatformVerdict:
    """Compare what a platform has with what the ledgers say.

    Args:
        vehicle: at the platform; None where it has never logged in.
        ledgers: of each process of the agent, the newest that is known.
        clean: processes that ended in order: their ledger is the last word.
        uplink: name of the platform at the agent.
        period_s: between two reports.
        whole: the agent ran all the time and heard all of the bus: then nothing may be missing
            between two reports, nor around an alarm.
    """
    rows = {run: counts["uplink"].get(uplink, {}) for run, counts in ledgers.items()}
    made = sum(row.get("kept" if run in clean else "spooled", 0) for run, row in rows.items())
    lost = sum(
        row.get(what, 0) for row in rows.values() for what in ("lost_disk", "lost_end", "evicted")
    )
    waiting = list(rows.values())[-1].get("waiting", 0) if rows else 0
    reports = vehicle.reports if vehicle else 0
    # What a bench before has left in the same folder comes, too.
    most = made + (next(iter(rows.values())).get("found", 0) if rows else 0)
    wrong: list[str] = []
    if reports < made - lost or (reports > most and set(ledgers) <= set(clean)):
        wrong.append(f"the agent made {made:,} reports, {reports:,} are at the platform")
    if lost:
        wrong.append(f"{lost:,} reports were lost or given up, and counted")
    if waiting:
        wrong.append(f"{waiting:,} reports were not confirmed")
    if not reports:
        wrong.append("the platform has no report")
    gaps = vehicle.gaps(period_s) if vehicle else []
    alarms = vehicle.alarms() if vehicle else []
    counts = vehicle.counts if vehicle else {}
    if vehicle is not None:
        said = troubles(vehicle, period_s)
        holes = {gap.name for gap in gaps} | {f"alarm {alarm.name}" for alarm in alarms}
        wrong += [
            f"the platform: {text}"
            for text in said
            if whole or not (text in holes or text.endswith("more gaps"))
        ]
    return PlatformVerdict(
        edition=vehicle.codec.layout.name if vehicle else "",
        made=made,
        reports=reports,
        live=counts.get("live", 0),
        reissued=counts.get("reissued", 0),
        copies=counts.get("copies", 0),
        gaps=tuple(gap.name for gap in gaps),
        alarms=tuple(alarm.name for alarm in alarms),
        wrong=tuple(wrong),
    )
