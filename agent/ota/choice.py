"""What of a repository is for this vehicle: which bundle it runs next, which requests it answers.

All of it is pure: what the repository offers (agent.ota.listing), who we are and what we run go in,
a decision comes out.

- A roll-out reaches a vehicle by any of its rules: one that names it, and in which its share is
  below the percentage. The share is a hash of bundle and vehicle, so raising the percentage only
  adds vehicles, and other vehicles are the first with the next version.
- A vehicle takes the highest version that reaches it, and stays with what it has where that is
  not higher. Nothing but a withdrawn bundle takes it to a lower one.
- A bundle that is paused is taken by nobody, and kept by who runs it. So is one that is no longer
  listed, or no longer reaches the vehicle.
- What was tried here and taken back is not taken again.
"""

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass

from agent.clock import WallNs
from agent.ota.listing import Listing, Offer, Request, Rollout, parse
from agent.ota.types import BundleId

__all__ = [
    "Choice",
    "Identity",
    "Leave",
    "Listing",
    "Offer",
    "Request",
    "Stay",
    "Take",
    "choose",
    "due",
    "meets",
    "parse",
    "reaches",
    "share",
]


@dataclass(frozen=True)
class Identity:
    """Who we are.

    Attributes:
        vehicle: the vehicle's name.
        groups: what roll-outs may call vehicles like this one.
        agent: the version of this program.
    """

    vehicle: str
    groups: frozenset[str]
    agent: str


@dataclass(frozen=True)
class Take:
    """Fetch this bundle, and try it."""

    offer: Offer
    why: str


@dataclass(frozen=True)
class Stay:
    """Go on as now."""

    why: str


@dataclass(frozen=True)
class Leave:
    """Go back to the plan that `agent.toml` names."""

    why: str


Choice = Take | Stay | Leave


def choose(
    listing: Listing,
    identity: Identity,
    *,
    current: BundleId | None,
    rejected: Collection[str],
    pinned: bool,
) -> Choice:
    """Which bundle this vehicle runs next.

    Args:
        listing: what the repository has.
        identity: who we are.
        current: what runs; None is the plan that `agent.toml` names.
        rejected: the SHA-256 of what was tried here and taken back.
        pinned: someone at the vehicle wants it to stay as it is.
    """
    running = current.title if current else "the plan of agent.toml"
    if pinned:
        return Stay(f"{running} is pinned at this vehicle")
    hindrances = {offer: _hindrance(offer, identity, rejected) for offer in listing.offers}
    open_offers = [offer for offer, hindrance in hindrances.items() if not hindrance]
    best = max(open_offers, key=_rank, default=None)
    if current and any(
        _rank(offer) == _rank(current) and offer.rollout.state == "withdrawn"
        for offer in listing.offers
    ):
        why = f"{current.title} is withdrawn"
        if best:
            return Take(best, f"{why}, and {best.title} is the best that is left")
        return Leave(f"{why}, and nothing else is for this vehicle")
    newer = [o for o in listing.offers if current is None or _rank(o) > _rank(current)]
    if best and best in newer:
        return Take(best, f"{best.title} is the newest for this vehicle")
    why = f"{running} stays: "
    if newer:
        newest = max(newer, key=_rank)
        return Stay(f"{why}{newest.title} {hindrances[newest]}")
    if current and any(
        _rank(o) == _rank(current) and o.sha256 != current.sha256 for o in listing.offers
    ):
        return Stay(
            f"{why}the repository has another bundle of this name and version; publish it "
            "under a higher version"
        )
    return Stay(f"{why}the repository has nothing newer")


def due(listing: Listing, identity: Identity, done: Collection[str], now: WallNs) -> list[Request]:
    """The requests to this vehicle that are neither done nor expired, in the order of their ids."""
    return [
        request
        for request in sorted(listing.requests, key=lambda request: request.id)
        if request.id not in done
        and now < request.expires
        and request.audience.fits(identity.vehicle, identity.groups)
    ]


def share(name: str, version: int, vehicle: str) -> float:
    """Where a vehicle stands in the roll-out of a bundle, from 0 to below 100.

    The first 32 bits of the SHA-256 of `name/version/vehicle`, a part of 2^32. It must never
    change: a fleet would be dealt anew in the midst of a roll-out.
    """
    digest = hashlib.sha256(f"{name}/{version}/{vehicle}".encode()).digest()
    return int.from_bytes(digest[:4], "big") * 100 / 2**32


def reaches(rollout: Rollout, name: str, version: int, identity: Identity) -> bool:
    """Whether a rule of an active roll-out has this vehicle."""
    place = share(name, version, identity.vehicle)
    return rollout.state == "active" and any(
        place < rule.percent and rule.audience.fits(identity.vehicle, identity.groups)
        for rule in rollout.rules
    )


def meets(agent: str, minimum: str) -> bool:
    """Whether an agent's version is at least `minimum`, number by number: 0.10 is above 0.9.

    What follows the numbers, as in 0.2.0rc1 or 0.2.0.dev3, is not looked at.
    """
    return not minimum or _numbers(agent) >= _numbers(minimum)


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"[0-9]+(\.[0-9]+)*", version)
    numbers = [int(number) for number in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _rank(bundle: Offer | BundleId) -> tuple[int, str]:
    return bundle.version, bundle.name


def _hindrance(offer: Offer, identity: Identity, rejected: Collection[str]) -> str:
    """Why this vehicle does not take an offer, as the end of a sentence; empty if it may."""
    if offer.rollout.state != "active":
        return f"is {offer.rollout.state}"
    if offer.sha256 in rejected:
        return "was tried here and taken back"
    if not meets(identity.agent, offer.minimum_agent):
        return f"needs agent {offer.minimum_agent}, and this is {identity.agent}"
    if reaches(offer.rollout, offer.name, offer.version, identity):
        return ""
    if any(r.audience.fits(identity.vehicle, identity.groups) for r in offer.rollout.rules):
        return "has not been rolled out to this vehicle yet"
    return "is for other vehicles"
