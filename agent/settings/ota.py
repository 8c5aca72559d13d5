"""Configuration over the air: where it comes from, and when it counts as harmful."""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from agent.settings.types import Name, described


class Ota(Struct, kw_only=True, forbid_unknown_fields=True):
    """From where this vehicle takes plans, whom it trusts, and what a trial must not cost."""

    url: Annotated[
        str,
        Meta(
            pattern=r"^https?://[^\s?#@]+\Z",
            description="The repository: {url}/metadata and {url}/targets are below it.",
        ),
    ]
    root_file: Annotated[
        str, described("root.json of the repository's first day: whose word is trusted.")
    ]
    groups: Annotated[list[Name], described("What roll-outs may call vehicles like this one.")] = (
        msgspec.field(default_factory=list)
    )
    poll_s: Annotated[
        float,
        Meta(ge=1, le=604_800, description="How often it is looked at, s; a fifth more or less."),
    ] = 3600.0
    deadline_s: Annotated[
        float, Meta(ge=1, le=86_400, description="A look may take so long, and a download too, s.")
    ] = 900.0
    trial_s: Annotated[
        float, Meta(ge=1, le=86_400, description="A new plan must do well for so long, s.")
    ] = 120.0
    max_cpu_percent: Annotated[
        float, Meta(gt=0, le=10_000, description="Of one core; a trial that takes more has failed.")
    ] = 60.0
    max_memory_mb: Annotated[
        int, Meta(ge=64, le=1_000_000, description="A trial that takes more has failed, MB.")
    ] = 512
    max_events_per_minute: Annotated[
        int, Meta(ge=1, le=1_000_000, description="A trial with more of them has failed.")
    ] = 60
    token_file: Annotated[str, described("A file with a bearer token for the repository.")] = ""
    ca_file: Annotated[str, described("PEM certificates to trust instead of the system's.")] = ""
    client_cert_file: Annotated[str, described("Our certificate (PEM, with its chain).")] = ""
    client_key_file: Annotated[
        str, described("Its private key (PEM). Empty: it is in client_cert_file.")
    ] = ""
