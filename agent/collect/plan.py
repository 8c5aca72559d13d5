"""A collection plan, validated against its database.

What only conditions and sessions need is imported only where a plan has them: it costs much of the
time of a start.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from agent import settings
from agent.blocks import EXTENDED, SignalSchema
from agent.collect.rules import AGGREGATES, Rule
from agent.errors import ConfigError
from agent.settings import Lane
from agent.signals import Database
from agent.signals.database import ANY_BUS, SignalPath
from agent.signals.vss import resolve, with_vss

if TYPE_CHECKING:
    from agent.collect.expression.tree import Condition
    from agent.collect.reports.mapping import CompiledReports

# ruff: noqa: PLC0415 - see above

_MS = 1_000_000
_S = 1_000_000_000
_MAX_CAMPAIGNS = 1000


class FrameFilter(NamedTuple):
    """Raw frames of a bus: those with ids in one of the ranges, or all."""

    bus: str
    ranges: tuple[tuple[int, int], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class CompiledTrigger:
    """When something happens, and what is kept around it; times in ns."""

    when: "Condition"
    text: str = dataclasses.field(compare=False)
    mode: Literal["rising", "level"]
    pre_ns: int
    post_ns: int
    min_interval_ns: int
    per_day: int


@dataclasses.dataclass(frozen=True)
class CompiledCampaign:
    """A campaign whose signals are found and whose uplinks exist.

    Two that are equal keep the same things of the same traffic: where a plan follows another, the
    state of equal campaigns moves over.
    """

    name: str
    lane: Lane
    uplinks: tuple[str, ...]
    signals: frozenset[SignalPath]
    rules: tuple[tuple[Rule, frozenset[SignalPath]], ...]
    """Each signal in one of them."""
    frames: tuple[FrameFilter, ...] = ()
    condition: "Condition | None" = None
    trigger: CompiledTrigger | None = None
    start_ns: int | None = None
    end_ns: int | None = None
    """Wall time since 1970."""
    privacy: str = ""
    schemas: frozenset[tuple[SignalPath, SignalSchema]] = frozenset()
    """What its signals, and those of its conditions, mean."""


@dataclasses.dataclass(frozen=True)
class CompiledSessions:
    """Trips and charging sessions."""

    settings: settings.Sessions
    signals: frozenset[SignalPath]
    uplinks: tuple[str, ...]
    moving: "Condition | None"
    charging: "Condition | None"


@dataclasses.dataclass(frozen=True)
class PlatformReports:
    """What is reported to platforms, and to which."""

    compiled: "CompiledReports"
    platforms: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A plan that can run: its campaigns, and the database that they speak of."""

    name: str
    database: Database
    campaigns: tuple[CompiledCampaign, ...]
    written: settings.Plan
    sessions: CompiledSessions | None = None
    recognise: "Condition | None" = None
    """The condition by which the vehicle is recognised."""
    reports: PlatformReports | None = None
    vss: Mapping[str, SignalPath] = dataclasses.field(default_factory=dict)

    @classmethod
    def build(
        cls,
        plan: settings.Plan,
        database: Database,
        uplinks: Sequence[str],
        platforms: Sequence[str] = (),
    ) -> Self:
        """Find every signal and uplink that the plan names.

        `uplinks` take batches, `platforms` take reports.

        Raises:
            ConfigError: a campaign names a signal or an uplink that does not exist, or says what
                cannot be.
        """
        if len(plan.campaign) > _MAX_CAMPAIGNS:
            raise ConfigError(f"{len(plan.campaign)} campaigns are more than {_MAX_CAMPAIGNS}")
        if not plan.campaign and plan.gbt32960 is None:
            raise ConfigError("it keeps nothing: give it a [[campaign]]")
        database, vss = with_vss(database, plan.vss)
        profiles = {p.name for p in plan.privacy}
        make = _Compiler(database, vss, tuple(uplinks), tuple(platforms), profiles)
        return cls(
            plan.name,
            database,
            tuple(make.campaign(campaign) for campaign in plan.campaign),
            plan,
            make.sessions(plan.sessions) if plan.sessions else None,
            make.condition(plan.recognise.signal, "[recognise] signal") if plan.recognise else None,
            make.reports(plan.gbt32960) if plan.gbt32960 else None,
            vss,
        )

    @property
    def wanted(self) -> set[SignalPath]:
        """Every signal that some campaign, condition or session needs."""
        found = {path for campaign in self.campaigns for path in campaign.signals}
        for condition in self.conditions.values():
            found |= _signals_of(condition)
        if self.sessions is not None:
            found |= self.sessions.signals
        if self.reports is not None:
            found |= self.reports.compiled.wanted
        for patterns in self._of_profiles():
            found |= self.database.select(resolve(patterns, self.vss))
        if self.written.recognise is not None and self.written.recognise.vin_signal:
            found |= self.database.select(resolve([self.written.recognise.vin_signal], self.vss))
        return found

    def _of_profiles(self) -> Iterable[Sequence[str]]:
        """Positions: a fence needs both coordinates, also where a campaign keeps only one."""
        for profile in self.written.privacy:
            yield from (patterns for patterns in (profile.latitude, profile.longitude) if patterns)

    @property
    def conditions(self) -> dict[str, "Condition"]:
        """All conditions, by what they are for."""
        found: dict[str, Condition] = {}
        for campaign in self.campaigns:
            if campaign.condition is not None:
                found[condition_of(campaign.name)] = campaign.condition
            if campaign.trigger is not None:
                found[trigger_of(campaign.name)] = campaign.trigger.when
        if self.sessions is not None:
            for name in ("moving", "charging"):
                if (condition := getattr(self.sessions, name)) is not None:
                    found[f"sessions {name}"] = condition
        if self.recognise is not None:
            found["recognise"] = self.recognise
        if self.reports is not None:
            found |= self.reports.compiled.conditions
        return found

    @property
    def raw_buses(self) -> set[str]:
        """Buses of which some campaign keeps raw frames; `*` stands for all."""
        return {frames.bus for campaign in self.campaigns for frames in campaign.frames}


def condition_of(campaign: str) -> str:
    return f"campaign {campaign} condition"


def trigger_of(campaign: str) -> str:
    return f"campaign {campaign} trigger"


class _Compiler:
    def __init__(
        self,
        database: Database,
        vss: Mapping[str, SignalPath],
        uplinks: tuple[str, ...],
        platforms: tuple[str, ...],
        profiles: set[str],
    ) -> None:
        self._database = database
        self._vss = vss
        self._uplinks = uplinks
        self._platforms = platforms
        self._profiles = profiles
        self._schemas = _schemas(database)

    def campaign(self, campaign: settings.Campaign) -> CompiledCampaign:
        where = f'campaign "{campaign.name}"'
        try:
            return self._campaign(campaign)
        except ConfigError as e:
            raise ConfigError(f"{where}: {e}") from e

    def _campaign(self, campaign: settings.Campaign) -> CompiledCampaign:
        signals = self._signals(campaign)
        rules = self._rules(campaign, signals)
        condition = self.condition(campaign.condition, "condition")
        trigger = self._trigger(campaign.trigger) if campaign.trigger else None
        frames = tuple(FrameFilter(f.bus, _ranges(f.ids)) for f in campaign.frames)
        if campaign.privacy and campaign.privacy not in self._profiles:
            have = ", ".join(sorted(self._profiles)) or "none"
            raise ConfigError(f'no [[privacy]] is called "{campaign.privacy}"; there is: {have}')
        if campaign.privacy and frames:
            raise ConfigError(
                "raw frames cannot be masked: remove privacy, or make a campaign of their own for "
                "the frames"
            )
        start_ns, end_ns = _wall(campaign.start), _wall(campaign.end)
        if start_ns is not None and end_ns is not None and start_ns >= end_ns:
            raise ConfigError("it ends before it starts")
        read = set(signals)
        for each in (condition, trigger.when if trigger else None):
            read |= _signals_of(each) if each is not None else set()
        lane = campaign.lane or ("event" if trigger else "raw" if frames else "telemetry")
        return CompiledCampaign(
            name=campaign.name,
            lane=lane,
            uplinks=self.uplinks(campaign.uplinks),
            signals=frozenset(signals),
            rules=rules,
            frames=frames,
            condition=condition,
            trigger=trigger,
            start_ns=start_ns,
            end_ns=end_ns,
            privacy=campaign.privacy,
            schemas=frozenset((p, s) for p in read for s in self._schemas.get(p, ())),
        )

    def _signals(self, campaign: settings.Campaign) -> set[SignalPath]:
        if not campaign.signals:
            if not campaign.frames:
                raise ConfigError('it keeps nothing: give it "signals" or "frames"')
            if campaign.exclude or campaign.policy:
                raise ConfigError('"exclude" and "policy" are of no use without "signals"')
            return set()
        signals = self._select(campaign.signals) - self._select(campaign.exclude)
        if not signals:
            raise ConfigError("exclude leaves no signal")
        return signals

    def _select(self, patterns: Sequence[str]) -> set[SignalPath]:
        return self._database.select(resolve(patterns, self._vss))

    def _rules(
        self, campaign: settings.Campaign, signals: set[SignalPath]
    ) -> tuple[tuple[Rule, frozenset[SignalPath]], ...]:
        """Each signal below the first policy that names it."""
        left = set(signals)
        found: dict[Rule, set[SignalPath]] = {}
        for policy in campaign.policy:
            named = self._select(policy.signals)
            if not named & signals:
                raise ConfigError(
                    f"policy: {', '.join(policy.signals)}: none of them is a signal of the campaign"
                )
            found.setdefault(_rule(policy), set()).update(named & left)
            left -= named
        if left:
            found.setdefault(_rule(campaign), set()).update(left)
        return tuple((rule, frozenset(paths)) for rule, paths in found.items() if paths)

    def _trigger(self, trigger: settings.Trigger) -> CompiledTrigger:
        when = self.condition(trigger.when, "trigger")
        if when is None:
            raise ConfigError('trigger: "when" is empty: write a condition')
        return CompiledTrigger(
            when=when,
            text=trigger.when,
            mode=trigger.mode,
            pre_ns=round(trigger.pre_s * _S),
            post_ns=round(trigger.post_s * _S),
            min_interval_ns=round(trigger.min_interval_s * _S),
            per_day=trigger.per_day,
        )

    def condition(self, text: str, what: str) -> "Condition | None":
        if not text:
            return None
        from agent.collect.expression import compile_condition

        return compile_condition(text, self._database, vss=self._vss, where=what)

    def sessions(self, sessions: settings.Sessions) -> CompiledSessions:
        from agent.collect.sessions import SessionMaker

        try:
            self._check(sessions)
            return CompiledSessions(
                sessions,
                frozenset(SessionMaker(sessions, self._database, self._vss).wanted),
                self.uplinks(sessions.uplinks),
                self.condition(sessions.moving, "moving"),
                self.condition(sessions.charging, "charging"),
            )
        except ConfigError as e:
            raise ConfigError(f"[sessions]: {e}") from e

    def _check(self, sessions: settings.Sessions) -> None:
        if not sessions.moving and not sessions.charging:
            raise ConfigError('say when a trip is on: "moving", "charging" or both')
        if bool(sessions.voltage) != bool(sessions.current):
            raise ConfigError('"voltage" and "current" belong together')
        if sessions.privacy and sessions.privacy not in self._profiles:
            raise ConfigError(f'no [[privacy]] is called "{sessions.privacy}"')

    def uplinks(self, named: Sequence[str]) -> tuple[str, ...]:
        unknown = [u for u in named if u not in self._uplinks]
        if unknown and unknown[0] in self._platforms:
            raise ConfigError(
                f'the uplink "{unknown[0]}" is a platform, which gets the reports of [gbt32960] '
                "and no campaign"
            )
        if unknown:
            have = ", ".join(self._uplinks) or "none"
            raise ConfigError(f'no uplink is called "{unknown[0]}"; agent.toml has: {have}')
        return tuple(sorted(set(named or self._uplinks)))

    def reports(self, written: settings.Gbt32960Mapping) -> PlatformReports:
        from agent.collect.reports.mapping import Mapping as FieldMapping

        unknown = [name for name in written.uplinks if name not in self._platforms]
        if unknown:
            have = ", ".join(self._platforms) or "none"
            raise ConfigError(
                f'[gbt32960]: no uplink of kind "gbt32960" is called "{unknown[0]}"; '
                f"agent.toml has: {have}"
            )
        return PlatformReports(
            FieldMapping.build(written, self._database, self._vss),
            tuple(sorted(set(written.uplinks or self._platforms))),
        )


def _signals_of(condition: "Condition") -> set[SignalPath]:
    from agent.collect.expression import signals_of

    return signals_of(condition)


def _schemas(database: Database) -> dict[SignalPath, list[SignalSchema]]:
    found: dict[SignalPath, list[SignalSchema]] = {}
    for bus, messages in database.buses.items():
        for message in messages:
            for signal in message.signals:
                path = SignalPath(bus, message.name, signal.name)
                found.setdefault(path, []).append(signal.schema)
    return found


def _rule(policy: settings.Campaign | settings.PolicyOfSignals) -> Rule:
    """One policy as it is written.

    Raises:
        ConfigError: several policies at once, or keys that say nothing here.
    """
    asked = {
        "every_ms": bool(policy.every_ms),
        "on_change": policy.on_change,
        "dead_band": bool(policy.dead_band),
        "dead_band_percent": bool(policy.dead_band_percent),
        "swinging_door": bool(policy.swinging_door),
        "window_ms": bool(policy.window_ms),
    }
    chosen = [name for name, is_set in asked.items() if is_set]
    if len(chosen) > 1:
        raise ConfigError(f"{' and '.join(chosen)}: one signal has one policy")
    kind = chosen[0] if chosen else ""
    if policy.aggregates and kind != "window_ms":
        raise ConfigError('"aggregates" need "window_ms"')
    if policy.at_least_ms and kind in ("", "every_ms", "window_ms"):
        raise ConfigError('"at_least_ms" goes with on_change, dead bands and swinging_door')
    at_least_ns = policy.at_least_ms * _MS
    match kind:
        case "every_ms":
            return Rule("every", interval_ns=policy.every_ms * _MS)
        case "on_change":
            return Rule("on_change", at_least_ns=at_least_ns)
        case "dead_band":
            return Rule("dead_band", bound=policy.dead_band, at_least_ns=at_least_ns)
        case "dead_band_percent":
            return Rule(
                "dead_band_relative", bound=policy.dead_band_percent / 100, at_least_ns=at_least_ns
            )
        case "swinging_door":
            return Rule("door", bound=policy.swinging_door, at_least_ns=at_least_ns)
        case "window_ms":
            names = tuple(n for n in AGGREGATES if n in policy.aggregates) or AGGREGATES
            return Rule("window", interval_ns=policy.window_ms * _MS, aggregates=names)
        case _:
            return Rule()


_ID = r"\s*(0[xX][0-9a-fA-F]{1,8}|\d{1,10})\s*(?:-\s*(0[xX][0-9a-fA-F]{1,8}|\d{1,10})\s*)?\Z"


def _ranges(ids: Sequence[int | str]) -> tuple[tuple[int, int], ...]:
    """Ids with the kernel's flag for 29 bits: as written, above 0x7FF or with 0x and 8 digits.

    Raises:
        ConfigError: an entry is no id and no range.
    """
    found = []
    for item in ids:
        match = re.match(_ID, str(item))
        if match is None:
            raise ConfigError(f'frames: "{item}" is no id; write 256, "0x100" or "0x100-0x1FF"')
        texts = [match[1], match[2] or match[1]]
        first, last = (_id(text) for text in texts)
        if first > last or (first ^ last) & EXTENDED:
            raise ConfigError(f'frames: "{item}" is no range of ids of one length')
        found.append((first, last))
    return tuple(sorted(found))


def _id(text: str) -> int:
    number = int(text, 0) if text[:2] in ("0x", "0X") else int(text)
    if number >> 29:
        raise ConfigError(f'frames: "{text}" has more than 29 bits')
    long = number > 0x7FF or (text[:2] in ("0x", "0X") and len(text) > 5)
    return number | EXTENDED if long else number


def _wall(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    since = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000


def any_bus(path: SignalPath, bus: str) -> bool:
    """Whether a path speaks of a bus."""
    return path.bus in (bus, ANY_BUS)
