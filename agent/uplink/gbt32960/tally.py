"""What a sender to a platform counts and shows."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import TypedDict

from agent.clock import SECOND, BootNs
from agent.uplink.sender import State, Status


class PlatformState(TypedDict):
    """The part of the status that only a platform has."""

    session: str
    serial: int
    """Of the last login; 0: there was none."""
    live: int
    reissued: int
    confirmed: int
    refused: int
    expired: int
    undated: int
    """Live reports without a time, or that no frame takes. The spool has them, too."""
    unsigned: int
    """Times that the signing command failed; what it failed at waits in the spool."""
    overtaken: int
    """Live reports that came faster than they were looked at; they went to the spool only."""
    commands_refused: int
    bad_frames: int
    skipped_bytes: int
    reconnects: int
    last_answer: str
    trouble: str
    """What a person should know; empty when all is well."""


class PlatformStatus(Status):
    """As of every uplink, and more."""

    platform: PlatformState


@dataclasses.dataclass(slots=True)
class Tally:
    """Counts of one run of the agent. Belongs to the event loop."""

    live: int = 0
    reissued: int = 0
    undated: int = 0
    overtaken: int = 0
    commands_refused: int = 0
    bad_frames: int = 0
    skipped_bytes: int = 0
    connections: int = 0
    sent_bytes: int = 0
    last_answer: str = ""
    answers: Counter[str] = dataclasses.field(default_factory=Counter)
    answered: BootNs | None = None
    success: BootNs | None = None

    def platform(
        self,
        session: str,
        serial: int,
        fates: Mapping[str, int],
        *,
        unsigned: int,
        spoilt: tuple[int, int],
        trouble: str,
    ) -> PlatformState:
        """`spoilt` are bad frames and skipped bytes that are not counted here yet."""
        return {
            "session": session,
            "serial": serial,
            "live": self.live,
            "reissued": self.reissued,
            "confirmed": fates.get("confirmed", 0),
            "refused": fates.get("refused", 0),
            "expired": fates.get("expired", 0),
            "undated": self.undated,
            "unsigned": unsigned,
            "overtaken": self.overtaken,
            "commands_refused": self.commands_refused,
            "bad_frames": self.bad_frames + spoilt[0],
            "skipped_bytes": self.skipped_bytes + spoilt[1],
            "reconnects": max(0, self.connections - 1),
            "last_answer": self.last_answer,
            "trouble": trouble,
        }

    def status(
        self,
        name: str,
        url: str,
        shown: tuple[State, str, BootNs | None],
        *,
        credential: str,
        batches: Mapping[str, int],
        platform: PlatformState,
        now: BootNs,
    ) -> PlatformStatus:
        state, why, until = shown
        quarantined = batches.get("quarantined_batches", 0)
        return {
            "name": name,
            "url": url,
            "state": state,
            "why": why,
            "until_s": None if until is None else max(0, until - now) / SECOND,
            "answered_s_ago": None if self.answered is None else (now - self.answered) / SECOND,
            "last_success_s_ago": None if self.success is None else (now - self.success) / SECOND,
            "credential": credential,
            "sent_batches": batches.get("batches", 0) - quarantined,
            "sent_bytes": self.sent_bytes,
            "quarantined_batches": quarantined,
            "resent_batches": 0,
            "attempts": batches.get("batches", 0),
            "retries": 0,
            "answers": dict(self.answers),
            "platform": platform,
        }
