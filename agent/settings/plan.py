"""The collection plan, as it is written."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from agent.settings.types import Lane, Name, described

RawValues = Annotated[
    list[int | str],
    described('Raw values: whole numbers, "0xFF" or ranges such as "0xFF00-0xFFFF".'),
]


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


class Campaign(Struct, kw_only=True, forbid_unknown_fields=True):
    """What to keep, how well, and for whom."""

    name: Annotated[Name, described("What the ledger and the batches call this campaign.")]
    signals: Annotated[
        list[str],
        Meta(
            min_length=1,
            description="Message.Signal, bus.Message.Signal or a unique Signal; with * and ?",
        ),
    ]
    exclude: Annotated[list[str], described("Signals to leave out of those.")] = msgspec.field(
        default_factory=list
    )
    every_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=86_400_000,
            description="At most one sample in each such interval; 0 keeps all.",
        ),
    ] = 0
    lane: Annotated[Lane, described("How important: event, report, telemetry, raw.")] = "telemetry"
    uplinks: Annotated[
        list[str], described("For whom; empty means every uplink of the device.")
    ] = msgspec.field(default_factory=list)


class Plan(Struct, kw_only=True, forbid_unknown_fields=True):
    """A collection plan, as it is written."""

    version: Annotated[Literal[1], described("The version of this kind of file.")]
    name: Annotated[Name, described("The plan's name; every batch carries it.")]
    database: Annotated[list[DatabaseOfBus], described("Which files describe which bus.")]
    campaign: Annotated[list[Campaign], Meta(min_length=1, description="What to keep.")]
