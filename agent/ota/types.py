"""The two small types that every part of configuration over the air speaks of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct


class BundleId(Struct, frozen=True):
    """Which bundle: what it calls itself, and the SHA-256 of its archive (64 hex digits)."""

    name: str
    version: int
    sha256: str

    @property
    def title(self) -> str:
        """For a person: `ev 3`."""
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Target:
    """A file of the repository, as its signed metadata state it.

    Attributes:
        path: below the repository's folder of targets.
        length: bytes.
        sha256: of its content, 64 hex digits.
        custom: what the operator's tools say of it; no one has checked its form yet.
    """

    path: str
    length: int
    sha256: str
    custom: Mapping[str, Any] = field(default_factory=dict)
