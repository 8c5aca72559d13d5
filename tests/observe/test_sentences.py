"""The sentence that says why something waits."""

import datetime as dt
from typing import Any

import pytest

from agent.observe.report import uplink_sentence

NOW = dt.datetime(2031, 5, 10, 14, 32, tzinfo=dt.UTC)
SPOOL = {"lanes": {"cloud": {"telemetry": {"batches": 412, "bytes": 96_000_000}}}}


def uplink(**keys: Any) -> dict[str, Any]:
    return {
        "name": "cloud",
        "url": "https://cloud.example",
        "state": "held",
        "why": "",
        "until_s": None,
        "answered_s_ago": 1800,
        "credential": "",
        "sent_batches": 3,
        "sent_bytes": 1000,
        **keys,
    }


@pytest.mark.parametrize(
    ("why", "ago", "words"),
    [
        (
            "answered 401 Unauthorized; a new credential is needed",
            1800,
            "https://cloud.example answered 401 Unauthorized at 14:02; a new credential is needed",
        ),
        (
            "answered 503 Service Unavailable (at noon)",
            86_400,
            "https://cloud.example answered 503 Service Unavailable (at noon) at 2031-05-09 14:32",
        ),
        ("the receiver cannot be reached: no route", 5, "the receiver cannot be reached: no route"),
    ],
)
def test_who_answered_what_and_when(why: str, ago: float, words: str) -> None:
    told = uplink_sentence(uplink(why=why, answered_s_ago=ago, until_s=900), SPOOL, NOW)
    assert told == (
        f"held; 412 batches, 96 MB wait: {words} (next try in 15 min); 3 batches, 1.0 kB sent"
    )


def test_a_certificate_that_ends_is_said_also_where_nothing_waits() -> None:
    state = uplink(state="idle", why="nothing waits", credential="the client certificate expires")
    assert uplink_sentence(state, {"lanes": {}}, NOW) == (
        "idle; nothing waits; 3 batches, 1.0 kB sent; the client certificate expires"
    )
