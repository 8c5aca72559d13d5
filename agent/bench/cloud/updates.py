"""What vehicles made of configuration over the air, as their reports tell it.

A report is an event of no campaign that is called `update`. It says `what` became of a bundle or a
request (`accepted`, `refused`, `applied`, `committed`, `rolled back`, `request`), which `bundle`,
and `why`. Nothing in it is believed: what is no text is left out, and what is long is cut.
"""

from collections.abc import Mapping
from typing import Any, Final

from agent.batch.dated import is_time
from agent.bench.cloud.summary import Moment

_MOST_CHARACTERS: Final = 1_000


def is_update(event: Mapping[str, Any]) -> bool:
    """Whether an event tells of an update; a campaign may be called `update` too."""
    return event.get("name") == "update" and not event.get("campaign")


def update(told: Mapping[str, Any]) -> dict[str, Any]:
    """An answer about an event of `Events`, for JSON, with only what updates have.

    A report may be told long after it was made. Its time is that of the vehicle's clock then, where
    it could be trusted, and else the time at which it was told.
    """
    event = told["event"]
    when = {key: told[key] for key in ("time_ns", "clock", "time")}
    if is_time(event.get("wall")) and event["wall"] > 0:
        when = Moment(event["wall"], "wall", "").json()
    words = {key: _text(event.get(key)) for key in ("id", "what", "bundle", "why")}
    return {"batch_id": told["batch_id"], **when, **words}


def _text(value: object) -> str:
    return value[:_MOST_CHARACTERS] if isinstance(value, str) else ""
