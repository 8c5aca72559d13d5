"""What the agent may take from the vehicle's computer."""

from typing import Annotated

from msgspec import Meta, Struct


class Limits(Struct, kw_only=True, forbid_unknown_fields=True):
    """Near one of them the agent collects less, step by step, and says so. 0 is no limit."""

    cpu_percent: Annotated[
        float,
        Meta(ge=0, le=100_000, description="CPU, % of one core, the mean of ten seconds. 0: any."),
    ] = 0.0
    memory_mb: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="Resident memory, MB; below the unit's MemoryHigh. 0: any.",
        ),
    ] = 512
    written_mb_day: Annotated[
        float,
        Meta(ge=0, le=10_000_000, description="Given to the disk a day (UTC), MB. 0: any."),
    ] = 0.0
