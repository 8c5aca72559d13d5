"""The file of a scenario, typed; docs/scenarios.md describes every key.

`[[step]]` has keys beside those of `Step`: the parameters of the fault that it names. They are
taken out by the loader, which knows what each fault takes.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from agent.settings.types import Name, described

Seconds = Annotated[float, Meta(ge=0, le=86_400)]
Count = Annotated[int, Meta(ge=0)]
Text = Annotated[str, Meta(min_length=1, max_length=1000)]
Kind = Literal["ev", "truck", "charging", "dbc", "log"]


DEFAULT_S: Final = 20.0
"""How long a vehicle drives where nothing else is said."""


class Vehicle(Struct, kw_only=True, forbid_unknown_fields=True):
    """What drives, and for how long."""

    kind: Annotated[
        Kind,
        described(
            'A vehicle of the bench: "ev", "truck" or "charging"; "dbc": one made from `dbc`; '
            '"log": the recording `log`.'
        ),
    ] = "ev"
    dbc: Annotated[list[Text], described('Database files; for "dbc" and "log".')] = msgspec.field(
        default_factory=list
    )
    log: Annotated[str, described('A recording; for "log".')] = ""
    channel: Annotated[str, described("Only this channel of the recording.")] = ""
    j1939: Annotated[bool, described("29-bit ids are matched by PGN.")] = False
    loop: Annotated[bool, described("The recording begins again at its end.")] = False
    seconds: Annotated[
        Annotated[float, Meta(gt=0, le=86_400)] | None,
        described(
            "How long it drives, by its own clock, s; without it 20, or to the end of a recording."
        ),
    ] = None
    speed: Annotated[
        float, Meta(ge=1, le=1000, description="Times as fast as real; above 1 from a recording.")
    ] = 1.0
    takes_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="In place of `speed`, from a recording: so fast that it takes no longer "
            "than this, s.",
        ),
    ] = 0.0
    seed: Annotated[int, Meta(ge=0, description="Which drive; the same seed, the same drive.")] = 1


class Agent(Struct, kw_only=True, forbid_unknown_fields=True):
    """The agent in it, as far as a scenario decides."""

    seal_after_s: Annotated[
        float, Meta(ge=1, le=3600, description="A batch is sealed when it is so old, s.")
    ] = 2.0
    trial_s: Annotated[
        float,
        Meta(ge=1, le=86_400, description="A plan that came over the air is on trial so long, s."),
    ] = 5.0
    bus: Annotated[
        Literal["auto", "vcan", "slcan", "memory", "recording"],
        described(
            "A virtual CAN interface, a serial adapter on a pseudo-terminal, or a server that "
            "python-can reads; `auto` takes the first of them that this computer has. "
            "`recording`: the agent reads a recording, with the times and all frames that are in "
            "it; that is so whenever it is played faster than real."
        ),
    ] = "auto"
    gbt32960: Annotated[
        Literal[2016, 2025] | None,
        described("It reports to a GB/T 32960 platform, too, by this edition."),
    ] = None


class Step(Struct, kw_only=True, forbid_unknown_fields=True):
    """Something that is done; what it needs to know stands beside as further keys."""

    do: Annotated[Text, described("A fault by its name, or another action; see the tables below.")]
    at: Annotated[Seconds, described("When, s since the vehicle drives.")] = 0.0
    when: Annotated[
        str,
        described(
            'And not before this is so: a figure, a comparison and a number, such as "uplink.cloud.'
            'waiting > 1000".'
        ),
    ] = ""
    within: Annotated[
        Seconds, described("For so long `when` is waited for, s; then the step has failed.")
    ] = 30.0
    lasts: Annotated[Seconds | None, described("The fault is taken back after so long, s.")] = (
        msgspec.field(default=None, name="for")
    )
    until: Annotated[Seconds | None, described("The fault is taken back at this time, s.")] = None


class _Expect(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="that"):
    note: Annotated[str, described("Why it must be so; shown in the verdict.")] = ""


class LedgerCloses(_Expect, tag="ledger-closes"):
    """The sums of the ledger agree, in every look and at the end."""


class Complete(_Expect, tag="complete"):
    """The cloud has every sample that was kept, by the chain of batches and by the ledger."""

    allow: Annotated[
        list[Literal["evicted", "lost"]],
        described(
            "Gaps that are no fault: what the vehicle gave up and named (`evicted`), or counted as "
            "lost before it was durable (`lost`)."
        ),
    ] = msgspec.field(default_factory=list)


class Frames(_Expect, tag="frames"):
    """The agent read the frames that the vehicle sent."""

    lost_at_most: Annotated[Count, described("So many may be missing.")] = 0


class EventArrives(_Expect, tag="event"):
    """An event is at the cloud, with its end."""

    name: Annotated[Text, described("Of its trigger; or its kind, such as `trip`.")]
    at_least: Annotated[Count, described("How many of them, at least.")] = 1
    at_most: Annotated[Count | None, described("How many of them, at most.")] = None
    by: Annotated[Seconds | None, described("It is there by this time, s.")] = None


class CountIs(_Expect, tag="count"):
    """A figure lies within bounds."""

    of: Annotated[Text, described("Its name; see below.")]
    at_least: Annotated[float | None, described("Not less than this.")] = None
    at_most: Annotated[float | None, described("Not more than this.")] = None
    equals: Annotated[float | None, described("Exactly this.")] = None
    by: Annotated[
        Seconds | None, described("`at_least` is reached by this time, s; else judged at the end.")
    ] = None


class UpdateEnds(_Expect, tag="update"):
    """What the vehicle made of a bundle, as it told the cloud."""

    what: Annotated[
        Literal["accepted", "applied", "committed", "refused", "rolled back"],
        described("Accepted, applied, committed, refused or rolled back."),
    ]
    bundle: Annotated[
        str, described("Only of bundles whose title fits, such as `bench 2`, with * and ?.")
    ] = ""
    why: Annotated[str, described("A part of the reason that it tells.")] = ""
    at_least: Annotated[Count, described("How many of them, at least.")] = 1
    at_most: Annotated[Count | None, described("How many of them, at most.")] = None
    by: Annotated[Seconds | None, described("It is told by this time, s.")] = None


class SamplesAre(_Expect, tag="samples"):
    """Samples of a signal at the cloud, by their number and by their values."""

    signal: Annotated[
        Text, described("`Message.Signal`, with * and ?: all that fit are taken together.")
    ]
    min: Annotated[float | None, described("No value is below this, in the signal's unit.")] = None
    max: Annotated[float | None, described("No value is above this.")] = None
    at_least: Annotated[Count | None, described("How many samples, at least.")] = None
    at_most: Annotated[Count | None, described("How many samples, at most.")] = None
    equals: Annotated[Count | None, described("How many samples, exactly.")] = None
    by: Annotated[
        Seconds | None, described("`at_least` is reached by this time, s; else judged at the end.")
    ] = None


class SameAsDecoded(_Expect, tag="same-as-decoded"):
    """Each signal has as many samples, and the same sum, as the recording decoded directly.

    Only for a recording (`kind = "log"`) whose plan keeps everything.
    """


class Recovered(_Expect, tag="recovered"):
    """After a fault is over, frames are read and batches arrive again."""

    after: Annotated[Text, described("The fault (`do` of a step); every step of that name counts.")]
    within: Annotated[Seconds, described("So long after it was taken back, s.")]


class PlatformHas(_Expect, tag="platform"):
    """The platform has every report that the agent made, in order, and no gap between them."""

    alarms: Annotated[Count, described("It was told of so many alarms, at least.")] = 0
    live: Annotated[Count, described("So many reports came at once, at least.")] = 0
    reissued: Annotated[Count, described("So many came later, at least.")] = 0


Expect = (
    LedgerCloses
    | Complete
    | Frames
    | EventArrives
    | CountIs
    | UpdateEnds
    | SamplesAre
    | SameAsDecoded
    | Recovered
    | PlatformHas
)
EXPECTS: Final[tuple[type[Struct], ...]] = (
    LedgerCloses,
    Complete,
    Frames,
    EventArrives,
    CountIs,
    UpdateEnds,
    SamplesAre,
    SameAsDecoded,
    Recovered,
    PlatformHas,
)


class Header(Struct, kw_only=True, forbid_unknown_fields=True):
    """The file; steps and expectations are converted one by one, so that each error has a line."""

    version: Annotated[Literal[1], described("Of this format: 1.")]
    name: Annotated[Name, described("Of the scenario.")]
    about: Annotated[str, described("One sentence: what it shows.")] = ""
    plan: Annotated[
        str,
        described(
            "The collection plan, beside this file or one that comes with the program; without one "
            "everything is kept, or what the vehicle's own plan says."
        ),
    ] = ""
    settle_s: Annotated[
        float, Meta(gt=0, le=3600, description="At the end all is at the cloud within this, s.")
    ] = 60.0
    vehicle: Annotated[Vehicle, described("What drives.")] = msgspec.field(default_factory=Vehicle)
    agent: Annotated[Agent, described("The agent in it.")] = msgspec.field(default_factory=Agent)
    step: Annotated[list[Any], described("What is done.")] = msgspec.field(default_factory=list)
    expect: Annotated[list[Any], described("What must be so.")] = msgspec.field(
        default_factory=list
    )


class PlacedStep(Struct, frozen=True):
    """A step, its parameters, and its line in the file."""

    line: int
    step: Step
    parameters: dict[str, Any]


class PlacedExpect(Struct, frozen=True):
    """An expectation and its line in the file."""

    line: int
    expect: Expect


class Scenario(Struct, frozen=True):
    """A scenario that was checked; paths in it are absolute."""

    path: str
    head: Header
    steps: tuple[PlacedStep, ...]
    expects: tuple[PlacedExpect, ...]

    @property
    def name(self) -> str:
        return self.head.name

    @property
    def recorded(self) -> bool:
        """Whether the agent reads a recording, and not a live bus."""
        vehicle = self.head.vehicle
        return self.head.agent.bus == "recording" or vehicle.speed > 1 or vehicle.takes_s > 0

    def where(self, line: int) -> str:
        return f"{self.path}:{line}"
