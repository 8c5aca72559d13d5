"""What is said of a load: the figures of a moment, and the verdict at the end."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from agent.bench.fleet import LightVehicle
from agent.ledger import differences

_SHOWN: Final = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figures:
    """How it is at one moment; totals of all vehicles by their own word."""

    seconds: float
    """Since the vehicles began to drive."""
    batches: int
    """Acknowledged."""
    samples: int
    """Acknowledged."""
    bytes: int
    """Of the acknowledged batches."""
    waiting: int
    """Samples that are sealed and not acknowledged."""
    errors: int
    """Attempts that failed and were, or will be, made again."""

    def line(self, vehicles: int, before: "Figures | None" = None) -> str:
        """The moment in a line; rates are those since `before`, or since the beginning."""
        span = self.seconds - (before.seconds if before else 0.0)
        per_s = 1 / span if span > 0 else 0.0
        batches, samples, size = (
            (now - then) * per_s
            for now, then in (
                (self.batches, before.batches if before else 0),
                (self.samples, before.samples if before else 0),
                (self.bytes, before.bytes if before else 0),
            )
        )
        return (
            f"{self.seconds:5.0f} s  {vehicles:,} vehicles  {batches:,.1f} batches/s  "
            f"{samples:,.0f} samples/s  {size / 1e6:.3f} MB/s  {self.waiting:,} samples waiting  "
            f"{self.errors:,} errors"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadVerdict:
    """How it ended. `wrong` is empty when all is well: every ledger closed, all that was kept came.

    Rates are those while the vehicles drove; CPU times are of all of it.
    """

    vehicles: int
    seconds: float
    batches_s: float
    samples_s: float
    mb_s: float
    kept: int
    """Samples that the vehicles kept."""
    acknowledged: int
    """Samples that the cloud acknowledged, by the ledgers of the vehicles."""
    samples: int
    """Samples at the cloud, by its own word."""
    batches: int
    """At the cloud."""
    bytes: int
    complete: int
    """Vehicles of which the cloud says that everything is there, or that kept nothing."""
    errors: int
    answers: Mapping[str, int]
    """What the cloud answered to uploads, or what happened instead -> how often."""
    late_s: float
    """By how much a vehicle was late with a batch, at the most: this machine was too slow."""
    drained_s: float
    """Until nothing waited any more, from the end of the drive."""
    read_s: float
    """Until the cloud had read everything and answered for each vehicle, from then."""
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
        answers = ", ".join(f"{n:,} {what}" for what, n in sorted(self.answers.items()))
        sums = {"kept": self.kept, "acknowledged": self.acknowledged, "at the cloud": self.samples}
        sign = " = " if len(set(sums.values())) == 1 else ", "
        rates = f"{self.batches_s:,.1f} batches/s, {self.samples_s:,.0f} samples/s"
        ends = f"all sent {self.drained_s:.1f} s after the end, read {self.read_s:.1f} s later"
        found = [
            f"{self.vehicles:,} vehicles, {self.seconds:.0f} s: {rates}, {self.mb_s:.3f} MB/s",
            "samples: " + sign.join(f"{what} {n:,}" for what, n in sums.items()),
            f"{self.batches:,} batches, {self.bytes / 1e6:,.1f} MB; answers: {answers or 'none'}",
            f"complete, by the cloud: {self.complete:,} of {self.vehicles:,} vehicles",
            f"a batch was late by {self.late_s:.2f} s at the most; {ends}",
            f"CPU: vehicles {self.cpu_vehicles_s:.1f} s, cloud {self.cpu_cloud_s:.1f} s",
        ]
        found += [f"WRONG: {sentence}" for sentence in self.wrong[:_SHOWN]]
        if len(self.wrong) > _SHOWN:
            found.append(f"WRONG: and {len(self.wrong) - _SHOWN:,} more")
        if self.good:
            found.append("Every ledger closes, and everything that was kept is at the cloud.")
        return found


def judge(vehicle: LightVehicle, found: Mapping[str, Any] | None) -> list[str]:
    """What is wrong with a vehicle whose run has ended, as sentences; none when all is well.

    Args:
        vehicle: with the last counts of its ledger.
        found: its completeness as the cloud tells it; None where the cloud does not know it.
    """
    wrong = [f"{vehicle.name}: {text}" for text in differences(vehicle.ledger.snapshot())]
    counts = vehicle.counts
    wrong += [
        f"{vehicle.name}: {counts[name]:,} samples {what}"
        for name, what in (
            ("memory", "are still in memory"),
            ("waiting", "still wait to be sent"),
            ("lost_disk", "were lost to the disk"),
            ("lost_end", "were lost at the end of the run"),
            ("evicted", "were evicted"),
            ("quarantined", "are in quarantine"),
        )
        if counts[name]
    ]
    if found is None:
        if counts["kept"]:
            wrong.append(f"{vehicle.name}: the cloud does not know it")
        return wrong
    if found["samples"] != counts["kept"]:
        wrong.append(
            f"{vehicle.name}: {counts['kept']:,} samples were kept, and {found['samples']:,} are "
            "at the cloud"
        )
    if not found["complete"]:
        wrong.append(str(found["verdict"]))  # it begins with the name
    return wrong
