"""What several files of settings use."""

from typing import Annotated, Literal

from msgspec import Meta

Name = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z", description="letters, digits, . _ -")
]
Lane = Literal["event", "report", "telemetry", "raw"]
LANES: tuple[Lane, ...] = ("event", "report", "telemetry", "raw")
"""Most important first."""


def described(text: str) -> Meta:
    return Meta(description=text)
