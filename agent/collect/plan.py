"""A collection plan, validated against its database."""

import dataclasses
from collections.abc import Sequence
from typing import Self

from agent import settings
from agent.errors import ConfigError
from agent.settings import Lane
from agent.signals import Database
from agent.signals.database import SignalPath


@dataclasses.dataclass(frozen=True)
class CompiledCampaign:
    """A campaign whose signals are found and whose uplinks exist."""

    name: str
    lane: Lane
    uplinks: tuple[str, ...]
    every_ns: int
    signals: frozenset[SignalPath]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A plan that can run: its campaigns, and the database that they speak of."""

    name: str
    database: Database
    campaigns: tuple[CompiledCampaign, ...]

    @classmethod
    def build(cls, plan: settings.Plan, database: Database, uplinks: Sequence[str]) -> Self:
        """Find every signal and uplink that the plan names.

        Raises:
            ConfigError: a campaign names a signal or an uplink that does not exist.
        """
        return cls(
            plan.name,
            database,
            tuple(_compile(campaign, database, uplinks) for campaign in plan.campaign),
        )

    @property
    def wanted(self) -> set[SignalPath]:
        """Every signal that some campaign wants."""
        return {path for campaign in self.campaigns for path in campaign.signals}


def _compile(
    campaign: settings.Campaign, database: Database, uplinks: Sequence[str]
) -> CompiledCampaign:
    unknown = [u for u in campaign.uplinks if u not in uplinks]
    if unknown:
        have = ", ".join(uplinks) or "none"
        raise ConfigError(
            f'campaign "{campaign.name}": no uplink is called "{unknown[0]}"; '
            f"agent.toml has: {have}"
        )
    try:
        signals = database.select(campaign.signals)
        signals -= database.select(campaign.exclude)
    except ConfigError as e:
        raise ConfigError(f'campaign "{campaign.name}": {e}') from e
    if not signals:
        raise ConfigError(f'campaign "{campaign.name}": exclude leaves no signal')
    return CompiledCampaign(
        name=campaign.name,
        lane=campaign.lane,
        uplinks=tuple(sorted(set(campaign.uplinks or uplinks))),
        every_ns=campaign.every_ms * 1_000_000,
        signals=frozenset(signals),
    )
