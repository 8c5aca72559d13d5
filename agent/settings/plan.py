"""The collection plan, as it is written."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from agent.settings.gbt32960_mapping import Gbt32960Mapping
from agent.settings.types import Lane, Name, described

RawValues = Annotated[
    list[int | str],
    described('Raw values: whole numbers, "0xFF" or ranges such as "0xFF00-0xFFFF".'),
]
Patterns = Annotated[
    list[str],
    Meta(
        description="Message.Signal, bus.Message.Signal, a unique Signal or a VSS path; "
        "with * and ?",
    ),
]
Expression = Annotated[
    str,
    Meta(max_length=4096, description="A condition over signals (docs/plans.md)."),
]
OneSignal = Annotated[str, described("One signal, as in a campaign, without * and ?.")]

Aggregate = Literal["min", "max", "mean", "last", "count"]

_WEEK_S = 604_800
_DAY_MS = 86_400_000


class CodesOfSignals(Struct, kw_only=True, forbid_unknown_fields=True):
    """Which raw values of signals are no measurements; in place of what J1939 says of them."""

    signals: Annotated[
        list[str],
        Meta(min_length=1, description="Message.Signal or a unique Signal; with * and ?"),
    ]
    not_available: RawValues = msgspec.field(default_factory=list)
    error: RawValues = msgspec.field(default_factory=list)
    reserved: RawValues = msgspec.field(default_factory=list)


class DatabaseOfBus(Struct, kw_only=True, forbid_unknown_fields=True):
    """The database files of one bus."""

    bus: Annotated[str, described("The bus, or * for every bus without one of its own.")]
    files: Annotated[list[str], Meta(min_length=1, description="DBC files.")]
    j1939: Annotated[
        bool,
        described("Match 29-bit ids by PGN, also where the file does not say that they are J1939."),
    ] = False
    expand: Annotated[
        list[str],
        described("Lists to make rows of, which no file can describe: DM1, DM2, BMV, BMT."),
    ] = msgspec.field(default_factory=list)
    codes: Annotated[
        list[CodesOfSignals], described("Raw values that say that there is no measurement.")
    ] = msgspec.field(default_factory=list)


class VssOfSignal(Struct, kw_only=True, forbid_unknown_fields=True):
    """The COVESA VSS path of a signal."""

    path: Annotated[str, Meta(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$", description="VSS path.")]
    signal: OneSignal
    unit: Annotated[
        str, described("Unit of VSS in which values are given; empty keeps that of the database.")
    ] = ""


class _Policy(Struct, kw_only=True, forbid_unknown_fields=True):
    """How well signals are kept: at most one of every_ms, on_change, dead bands, door, window."""

    every_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=_DAY_MS,
            description="At most one sample in each such interval; 0 keeps all.",
        ),
    ] = 0
    on_change: Annotated[bool, described("Only what differs from the sample before.")] = False
    dead_band: Annotated[
        float, Meta(ge=0, description="Only what differs by more than this from what was kept.")
    ] = 0
    dead_band_percent: Annotated[
        float,
        Meta(
            ge=0, le=1000, description="Only what differs by more than this part of what was kept."
        ),
    ] = 0
    swinging_door: Annotated[
        float,
        Meta(
            ge=0, description="Only what straight lines need to be nowhere further off than this."
        ),
    ] = 0
    at_least_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=_DAY_MS,
            description="on_change, dead bands, door: keep one at least so often; 0 is never.",
        ),
    ] = 0
    window_ms: Annotated[
        int, Meta(ge=0, le=_DAY_MS, description="Aggregates over windows of this length.")
    ] = 0
    aggregates: Annotated[
        list[Aggregate], described("Which: min, max, mean, last, count; empty means all.")
    ] = msgspec.field(default_factory=list)


class PolicyOfSignals(_Policy, kw_only=True, forbid_unknown_fields=True):
    """How well some of a campaign's signals are kept; the first that names a signal holds."""

    signals: Annotated[Patterns, Meta(min_length=1)]


class Trigger(Struct, kw_only=True, forbid_unknown_fields=True):
    """Keep only what lies around the moments at which something happens."""

    when: Expression
    mode: Annotated[
        Literal["rising", "level"],
        described("rising: when it becomes true; level: as long as it is true."),
    ] = "rising"
    pre_s: Annotated[float, Meta(ge=0, le=3600, description="Kept before the moment, s.")] = 0
    post_s: Annotated[float, Meta(ge=0, le=86_400, description="Kept after the moment, s.")] = 0
    min_interval_s: Annotated[
        float, Meta(ge=0, le=_WEEK_S, description="Not again for this time, s.")
    ] = 0
    per_day: Annotated[
        int, Meta(ge=0, le=100_000, description="Events in any 24 hours; 0 is no limit.")
    ] = 0


class FramesOfBus(Struct, kw_only=True, forbid_unknown_fields=True):
    """Raw frames to keep."""

    bus: Annotated[str, described("The bus, or * for every one.")]
    ids: Annotated[
        list[int | str],
        described('Ids: whole numbers, "0x100" or ranges such as "0x100-0x1FF"; empty means all.'),
    ] = msgspec.field(default_factory=list)


class Campaign(_Policy, kw_only=True, forbid_unknown_fields=True):
    """What to keep, how well, and for whom."""

    name: Annotated[Name, described("What the ledger and the batches call this campaign.")]
    signals: Patterns = msgspec.field(default_factory=list)
    exclude: Annotated[Patterns, described("Signals to leave out of those.")] = msgspec.field(
        default_factory=list
    )
    frames: Annotated[list[FramesOfBus], described("Raw frames to keep.")] = msgspec.field(
        default_factory=list
    )
    policy: Annotated[
        list[PolicyOfSignals], described("Other policies for some of the signals.")
    ] = msgspec.field(default_factory=list)
    condition: Annotated[Expression, described("Keep only while this is true.")] = ""
    trigger: Trigger | None = None
    start: Annotated[datetime, Meta(tz=True, description="Not before this time.")] | None = None
    end: Annotated[datetime, Meta(tz=True, description="Not from this time on.")] | None = None
    lane: Annotated[
        Lane | None,
        described(
            "How important: event, report, telemetry, raw. Without it: event with a trigger, raw "
            "with frames, else telemetry."
        ),
    ] = None
    uplinks: Annotated[
        list[str], described("For whom; empty means every uplink of the device.")
    ] = msgspec.field(default_factory=list)
    privacy: Annotated[str, described("The [[privacy]] profile; empty is none.")] = ""


class Geofence(Struct, kw_only=True, forbid_unknown_fields=True):
    """A circle in which positions are masked."""

    latitude: Annotated[float, Meta(ge=-90, le=90, description="Of its centre, degrees.")]
    longitude: Annotated[float, Meta(ge=-180, le=180, description="Of its centre, degrees.")]
    radius_m: Annotated[float, Meta(gt=0, le=1_000_000, description="Radius, m.")]


class Privacy(Struct, kw_only=True, forbid_unknown_fields=True):
    """A privacy profile: what of a vehicle and its ways a batch must not tell."""

    name: Annotated[Name, described("What campaigns call it, and batches state.")]
    purpose: Annotated[
        str,
        described("With a purpose, the vehicle's name is replaced by a pseudonym for it."),
    ] = ""
    vin: Annotated[
        Patterns, described("Signals that tell the VIN: replaced by the pseudonym, or left out.")
    ] = msgspec.field(default_factory=list)
    latitude: Annotated[Patterns, described("Signals that tell the latitude, degrees.")] = (
        msgspec.field(default_factory=list)
    )
    longitude: Annotated[Patterns, described("Signals that tell the longitude, degrees.")] = (
        msgspec.field(default_factory=list)
    )
    round_m: Annotated[
        float,
        Meta(ge=0, le=100_000, description="Positions are rounded to this grid, m; 0 is not."),
    ] = 0
    geofence: Annotated[list[Geofence], described("Where positions are masked: not available.")] = (
        msgspec.field(default_factory=list)
    )


class Budget(Struct, kw_only=True, forbid_unknown_fields=True):
    """How much may be sent in a day."""

    link: Annotated[
        Literal["any", "metered"], described("Over which links: all, or metered ones.")
    ] = "metered"
    mb_per_day: Annotated[float, Meta(gt=0, le=10_000_000, description="MB in a day.")]


class Recognise(Struct, kw_only=True, forbid_unknown_fields=True):
    """How the vehicle that this plan is for is recognised."""

    bus: Annotated[str, described("Where its ids are seen; * is any bus.")] = "*"
    ids: Annotated[list[int | str], described("Ids that must all be seen.")] = msgspec.field(
        default_factory=list
    )
    vin: Annotated[str, described("The VIN must begin like this; it is read from vin_signal.")] = ""
    vin_signal: Annotated[str, described("The signal that tells the VIN.")] = ""
    signal: Annotated[Expression, described("A condition that must come true.")] = ""


class Sessions(Struct, kw_only=True, forbid_unknown_fields=True):
    """From which signals trips and charging sessions of an electric vehicle are made."""

    moving: Annotated[Expression, described("True on a trip, such as a key that is on.")] = ""
    charging: Annotated[Expression, described("True while charging.")] = ""
    end_after_s: Annotated[
        float, Meta(ge=0, le=3600, description="A trip or session ends when it is false so long.")
    ] = 30
    voltage: Annotated[str, described("Pack voltage, V.")] = ""
    current: Annotated[str, described("Pack current, A; out of the pack is positive.")] = ""
    charging_current_is_positive: Annotated[
        bool, described("The current into the pack is positive instead.")
    ] = False
    power: Annotated[str, described("Pack power in kW, in place of voltage and current.")] = ""
    soc: Annotated[str, described("State of charge, %.")] = ""
    odometer: Annotated[str, described("Odometer, km.")] = ""
    cell_voltages: Annotated[Patterns, described("Voltages of the cells, V, in their order.")] = (
        msgspec.field(default_factory=list)
    )
    temperatures: Annotated[Patterns, described("Temperatures in the pack.")] = msgspec.field(
        default_factory=list
    )
    lane: Annotated[Lane, described("How important.")] = "event"
    uplinks: Annotated[
        list[str], described("For whom; empty means every uplink of the device.")
    ] = msgspec.field(default_factory=list)
    privacy: Annotated[str, described("The [[privacy]] profile; empty is none.")] = ""


class Health(Struct, kw_only=True, forbid_unknown_fields=True):
    """How the buses and the databases are watched; the signals are BusHealth and MessageHealth."""

    interval_s: Annotated[
        float, Meta(ge=1, le=86_400, description="How often the signals are made, s.")
    ] = 10
    counters: Annotated[
        Patterns, described("Counters of messages, which must not stand still.")
    ] = msgspec.field(default_factory=list)
    silent_after: Annotated[
        float, Meta(ge=2, le=1000, description="Cycles without a frame until a message is silent.")
    ] = 5


class Plan(Struct, kw_only=True, forbid_unknown_fields=True):
    """A collection plan, as it is written."""

    version: Annotated[Literal[1], described("The version of this kind of file.")]
    name: Annotated[Name, described("The plan's name; every batch carries it.")]
    database: Annotated[list[DatabaseOfBus], described("Which files describe which bus.")]
    campaign: Annotated[list[Campaign], described("What to keep.")] = msgspec.field(
        default_factory=list
    )
    vss: Annotated[list[VssOfSignal], described("VSS paths of signals.")] = msgspec.field(
        default_factory=list
    )
    privacy: Annotated[list[Privacy], described("Privacy profiles.")] = msgspec.field(
        default_factory=list
    )
    budget: Annotated[list[Budget], described("How much may be sent.")] = msgspec.field(
        default_factory=list
    )
    recognise: Annotated[
        Recognise | None, described("How the vehicle is recognised that this plan is for.")
    ] = None
    sessions: Annotated[Sessions | None, described("Trips and charging sessions.")] = None
    gbt32960: Annotated[
        Gbt32960Mapping | None, described("What is reported to platforms by GB/T 32960.")
    ] = None
    health: Annotated[Health, described("How buses and databases are watched.")] = msgspec.field(
        default_factory=Health
    )
