"""What of a repository is for a vehicle, against a slow and obvious reference."""

import hashlib
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.clock import SECOND, WallNs
from agent.ota.archive import MOST_PACKED
from agent.ota.bundle import Audience
from agent.ota.choice import (
    Choice,
    Identity,
    Leave,
    Listing,
    Offer,
    Request,
    Stay,
    Take,
    choose,
    due,
    meets,
    parse,
    reaches,
    share,
)
from agent.ota.listing import BundleEntry, FireEntry, ResendEntry, Rollout, Rule
from agent.ota.types import BundleId, Target

CAR: Final = Identity("car-1", frozenset({"ev", "north"}), "0.2.0")
EVERYONE: Final = Rollout(state="active", rules=(Rule(percent=100),))
DAY: Final = 86_400 * SECOND


def digest(name: str, version: int) -> str:
    return hashlib.sha256(f"{name} {version}".encode()).hexdigest()


def bundle(name: str, version: int) -> BundleId:
    return BundleId(name, version, digest(name, version))


def offer(
    name: str,
    version: int,
    rollout: Rollout = EVERYONE,
    minimum_agent: str = "",
) -> Offer:
    return Offer(
        path=f"bundles/{name}-{version}.bundle",
        length=1000,
        sha256=digest(name, version),
        name=name,
        version=version,
        minimum_agent=minimum_agent,
        rollout=rollout,
    )


def active(*rules: Rule) -> Rollout:
    return Rollout(state="active", rules=rules)


def chosen(
    *offers: Offer,
    identity: Identity = CAR,
    current: BundleId | None = None,
    rejected: Collection[str] = (),
    pinned: bool = False,
) -> Choice:
    return choose(
        Listing(offers=offers), identity, current=current, rejected=rejected, pinned=pinned
    )


def taken(choice: Choice) -> str:
    return choice.offer.title if isinstance(choice, Take) else type(choice).__name__


def test_a_vehicle_with_the_factory_plan_takes_the_newest() -> None:
    assert taken(chosen(offer("ev", 1), offer("ev", 3), offer("ev", 2))) == "ev 3"


def test_of_two_with_the_same_version_the_last_name_is_taken() -> None:
    assert taken(chosen(offer("a", 3), offer("b", 3))) == "b 3"
    assert taken(chosen(offer("a", 3), offer("b", 3), current=bundle("a", 3))) == "b 3"
    assert taken(chosen(offer("a", 3), offer("b", 3), current=bundle("b", 3))) == "Stay"


def test_a_vehicle_goes_to_a_higher_version() -> None:
    assert taken(chosen(offer("ev", 2), offer("ev", 10), current=bundle("ev", 9))) == "ev 10"


def test_a_vehicle_never_goes_to_a_lower_version_by_itself() -> None:
    choice = chosen(offer("ev", 2), current=bundle("ev", 3))

    assert choice == Stay("ev 3 stays: the repository has nothing newer")


@pytest.mark.parametrize("state", ["paused", "active"])
def test_what_runs_is_kept_when_it_is_paused_or_reaches_others_only(state: Any) -> None:
    now = offer("ev", 3, Rollout(state=state))

    assert taken(chosen(now, offer("ev", 2), current=bundle("ev", 3))) == "Stay"


def test_what_runs_is_kept_when_it_is_no_longer_listed() -> None:
    assert taken(chosen(current=bundle("ev", 3))) == "Stay"


def test_nobody_takes_what_is_paused() -> None:
    choice = chosen(offer("ev", 3, Rollout(state="paused", rules=EVERYONE.rules)))

    assert choice == Stay("the plan of agent.toml stays: ev 3 is paused")


def test_who_runs_what_is_withdrawn_goes_to_the_best_that_is_left() -> None:
    withdrawn = offer("ev", 3, Rollout(state="withdrawn", rules=EVERYONE.rules))

    choice = chosen(withdrawn, offer("ev", 1), offer("ev", 2), current=bundle("ev", 3))

    assert choice == Take(offer("ev", 2), "ev 3 is withdrawn, and ev 2 is the best that is left")


def test_who_runs_what_is_withdrawn_goes_back_to_the_factory_plan_where_nothing_is_left() -> None:
    withdrawn = offer("ev", 3, Rollout(state="withdrawn"))
    others = (
        offer("ev", 1, Rollout(state="paused", rules=EVERYONE.rules)),
        offer("ev", 2),
        offer("truck", 9, active(Rule(groups=("truck",), percent=100))),
    )

    choice = chosen(withdrawn, *others, current=bundle("ev", 3), rejected=[bundle("ev", 2).sha256])

    assert choice == Leave("ev 3 is withdrawn, and nothing else is for this vehicle")


def test_a_bundle_is_withdrawn_by_its_name_and_version() -> None:
    mine = BundleId("ev", 3, "0" * 64)

    assert taken(chosen(offer("ev", 3, Rollout(state="withdrawn")), current=mine)) == "Leave"


def test_who_does_not_run_it_does_not_mind_what_is_withdrawn() -> None:
    withdrawn = offer("ev", 3, Rollout(state="withdrawn", rules=EVERYONE.rules))

    assert taken(chosen(withdrawn, current=bundle("ev", 2))) == "Stay"
    assert taken(chosen(withdrawn)) == "Stay"


@pytest.mark.parametrize("state", ["active", "paused", "withdrawn"])
def test_a_pinned_vehicle_stays(state: Any) -> None:
    offers = (offer("ev", 3, Rollout(state=state)), offer("ev", 4))

    assert chosen(*offers, current=bundle("ev", 3), pinned=True) == Stay(
        "ev 3 is pinned at this vehicle"
    )
    assert taken(chosen(*offers, pinned=True)) == "Stay"


def test_what_was_taken_back_is_not_taken_again() -> None:
    rejected = [bundle("ev", 4).sha256]

    choice = chosen(offer("ev", 4), current=bundle("ev", 3), rejected=rejected)
    assert choice == Stay("ev 3 stays: ev 4 was tried here and taken back")
    assert taken(chosen(offer("ev", 4), offer("ev", 5), rejected=rejected)) == "ev 5"


def test_a_bundle_for_a_newer_agent_waits_for_it() -> None:
    choice = chosen(offer("ev", 4, minimum_agent="0.10.0"), offer("ev", 3, minimum_agent="0.2"))
    assert taken(choice) == "ev 3"

    choice = chosen(offer("ev", 4, minimum_agent="0.10.0"), current=bundle("ev", 3))
    assert choice == Stay("ev 3 stays: ev 4 needs agent 0.10.0, and this is 0.2.0")


def test_another_bundle_of_the_same_name_and_version_is_told_and_not_taken() -> None:
    choice = chosen(offer("ev", 3), current=BundleId("ev", 3, "0" * 64))

    assert isinstance(choice, Stay)
    assert "publish it under a higher version" in choice.why


@pytest.mark.parametrize(
    ("agent", "minimum", "enough"),
    [
        ("0.1.0", "", True),
        ("0.1.0", "0.1.0", True),
        ("0.1.0", "0.1", True),
        ("0.1", "0.1.0", True),
        ("0.10.0", "0.9.0", True),
        ("0.9.0", "0.10.0", False),
        ("1.0", "0.99.99", True),
        ("0.1.0", "0.1.1", False),
        ("0.1.0", "0.1.0.1", False),
        ("2", "10", False),
        ("0.2.0rc1", "0.2.0", True),
        ("0.2.0.dev3+g1a2b", "0.2.0", True),
        ("0.1.9.dev3", "0.2.0", False),
        ("01.2", "1.2", True),
        ("unknown", "0.0.1", False),
        ("unknown", "0", True),
    ],
)
def test_versions_of_the_agent_compare_number_by_number(
    agent: str, minimum: str, enough: bool
) -> None:
    assert meets(agent, minimum) is enough


@pytest.mark.parametrize(
    ("groups", "vehicles", "fits"),
    [
        ((), (), True),
        (("ev",), (), True),
        (("truck", "north"), (), True),
        (("truck",), (), False),
        (("e*",), (), False),
        ((), ("car-1",), True),
        ((), ("car-?",), True),
        ((), ("*",), True),
        ((), ("car-[0-4]",), True),
        ((), ("car-[!0-4]", "bus-*"), False),
        ((), ("CAR-1", "car", "ar-1", "car-10"), False),
        ((), ("[", "car-[", "[z-a]*", "***"), True),
        ((), ("[", "car-[", "[z-a]*", "(car-1)", "car.1"), False),
        (("truck",), ("car-*",), True),
        (("ev",), ("bus-*",), True),
        (("truck",), ("bus-*",), False),
    ],
)
def test_an_audience(groups: tuple[str, ...], vehicles: tuple[str, ...], fits: bool) -> None:
    assert Audience(groups, vehicles).fits(CAR.vehicle, CAR.groups) is fits


@pytest.mark.parametrize(
    ("name", "version", "vehicle", "expected"),
    [
        ("ev", 3, "car-1", 72.38873580936342),
        ("ev", 4, "car-1", 12.413959740661085),
        ("ev", 3, "car-2", 14.521914534270763),
        ("truck-2024.a", 1, "WDB123", 5.295649962499738),
        ("ev", 999_999_999, "x", 8.065664931200445),
    ],
)
def test_the_share_of_a_vehicle_never_changes(
    name: str, version: int, vehicle: str, expected: float
) -> None:
    assert share(name, version, vehicle) == expected


@pytest.mark.parametrize("percent", [0.0, 0.5, 1.0, 10.0, 25.0, 50.0, 99.0, 100.0])
def test_a_percentage_reaches_its_part_of_10_000_vehicles(percent: float) -> None:
    rollout = active(Rule(percent=percent))
    fleet = [Identity(f"vehicle-{i:05}", frozenset(), "1") for i in range(10_000)]

    reached = sum(reaches(rollout, "ev", 7, vehicle) for vehicle in fleet)

    # Five standard deviations of the binomial distribution; nothing at its two ends.
    assert abs(reached - 100 * percent) <= 5 * (percent * (100 - percent)) ** 0.5


def test_another_version_begins_with_other_vehicles() -> None:
    fleet = [f"vehicle-{i}" for i in range(1000)]
    first, second = ({v for v in fleet if share("ev", n, v) < 10} for n in (1, 2))

    assert len(first & second) < 30


identities = st.builds(
    Identity,
    vehicle=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,5}", fullmatch=True),
    groups=st.frozensets(st.sampled_from(["ev", "truck", "north"])),
    agent=st.sampled_from(["0.1.0", "0.2.0", "0.10.0"]),
)
rules = st.builds(
    Rule,
    groups=st.lists(st.sampled_from(["ev", "truck", "north"]), max_size=2).map(tuple),
    vehicles=st.lists(st.sampled_from(["*", "car-*", "a*", "A?", "x"]), max_size=2).map(tuple),
    percent=st.one_of(st.sampled_from([0.0, 100.0]), st.floats(0, 100)),
)
rollouts = st.builds(
    Rollout,
    state=st.sampled_from(["active", "active", "paused", "withdrawn"]),
    rules=st.lists(rules, max_size=3).map(tuple),
)
listings = st.dictionaries(
    st.tuples(st.sampled_from(["ev", "truck"]), st.integers(1, 4)),
    st.tuples(rollouts, st.sampled_from(["", "0.2.0", "0.9"])),
    max_size=6,
).map(lambda found: [offer(*key, *more) for key, more in found.items()])
bundles = st.builds(bundle, st.sampled_from(["ev", "truck"]), st.integers(1, 4))


@settings(deadline=None)
@given(identities, rules, st.floats(0, 100))
def test_raising_a_percentage_only_adds_vehicles(
    identity: Identity, rule: Rule, percent: float
) -> None:
    more = msgspec.structs.replace(rule, percent=max(rule.percent, percent))

    before = reaches(active(rule), "ev", 3, identity)
    after = reaches(active(more), "ev", 3, identity)

    assert after or not before


def reference(
    offers: list[Offer],
    identity: Identity,
    current: BundleId | None,
    rejected: Collection[str],
    pinned: bool,
) -> str:
    """What is to be taken, `Stay` or `Leave`: the rules one by one, in the order of the words."""
    if pinned:
        return "Stay"
    good = []
    for one in offers:
        reached = False
        for rule in one.rollout.rules:
            named = not rule.groups and not rule.vehicles
            named = named or bool(set(rule.groups) & identity.groups)
            for pattern in rule.vehicles:
                named = (
                    named
                    or {
                        "*": True,
                        "car-*": identity.vehicle.startswith("car-"),
                        "a*": identity.vehicle.startswith("a"),
                        "A?": identity.vehicle.startswith("A") and len(identity.vehicle) == 2,
                        "x": identity.vehicle == "x",
                    }[pattern]
                )
            text = f"{one.name}/{one.version}/{identity.vehicle}"
            first = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)
            reached = reached or (named and first * 100 / 2**32 < rule.percent)
        new_enough = {
            "": ["0.1.0", "0.2.0", "0.10.0"],
            "0.2.0": ["0.2.0", "0.10.0"],
            "0.9": ["0.10.0"],
        }[one.minimum_agent]
        if (
            reached
            and one.rollout.state == "active"
            and one.sha256 not in rejected
            and identity.agent in new_enough
        ):
            good.append((one.version, one.name))
    good.sort()
    best = f"{good[-1][1]} {good[-1][0]}" if good else ""
    if current is None:
        return best or "Stay"
    for one in offers:
        if one.title == current.title and one.rollout.state == "withdrawn":
            return best or "Leave"
    return best if good and good[-1] > (current.version, current.name) else "Stay"


@settings(max_examples=500, deadline=None)
@given(
    listings,
    identities,
    st.one_of(st.none(), bundles),
    st.lists(bundles.map(lambda one: one.sha256), max_size=2),
    st.sampled_from([False, False, False, True]),
)
def test_the_choice_is_that_of_the_reference(
    offers: list[Offer],
    identity: Identity,
    current: BundleId | None,
    rejected: list[str],
    pinned: bool,
) -> None:
    choice = chosen(*offers, identity=identity, current=current, rejected=rejected, pinned=pinned)

    assert taken(choice) == reference(offers, identity, current, rejected, pinned)
    assert choice.why
    backwards = chosen(
        *offers[::-1], identity=identity, current=current, rejected=rejected, pinned=pinned
    )
    assert backwards == choice


@settings(max_examples=300, deadline=None)
@given(listings, identities, st.one_of(st.none(), bundles))
def test_a_choice_is_final_as_long_as_nothing_changes(
    offers: list[Offer], identity: Identity, current: BundleId | None
) -> None:
    choice = chosen(*offers, identity=identity, current=current)
    if isinstance(choice, Stay):
        return
    now = choice.offer.id if isinstance(choice, Take) else None

    assert taken(chosen(*offers, identity=identity, current=now)) == "Stay"


# What the repository says.

BUNDLE: Final[Mapping[str, Any]] = {
    "kind": "bundle",
    "name": "ev",
    "version": 3,
    "minimum_agent": "0.1.0",
    "rollout": {
        "state": "active",
        "rules": [{"groups": ["ev"], "vehicles": ["car-*"], "percent": 25.0}],
    },
}
FIRE: Final[Mapping[str, Any]] = {
    "kind": "request",
    "id": "r-20261123-1",
    "groups": [],
    "vehicles": ["car-1"],
    "expires": "2026-12-01T00:00:00Z",
    "do": "fire",
    "campaign": "limp",
}
RESEND: Final[Mapping[str, Any]] = {
    "kind": "request",
    "id": "r-2",
    "groups": ["ev"],
    "vehicles": [],
    "expires": "2026-12-01T02:00:00+02:00",
    "do": "resend",
    "uplink": "cloud",
    "first": "ab-1-telemetry-3",
    "last": "ab-1-telemetry-9",
}
PATHS: Final = {
    "bundles/ev-3.bundle": BUNDLE,
    "requests/r-20261123-1.json": FIRE,
    "requests/r-2.json": RESEND,
}
FIRST_OF_DECEMBER: Final = WallNs(1_796_083_200 * SECOND)


def target(path: str, entry: Any, length: int = 1000, sha256: str = "a" * 64) -> Target:
    return Target(path, length, sha256, {"edge-agent": entry})


def listed(*targets: Target) -> Listing:
    return parse({one.path: one for one in targets})


def test_what_targets_say_is_read() -> None:
    listing = listed(*(target(path, entry) for path, entry in PATHS.items()))

    rule = Rule(groups=("ev",), vehicles=("car-*",), percent=25)
    assert listing.findings == ()
    assert listing.offers == (
        Offer("bundles/ev-3.bundle", 1000, "a" * 64, "ev", 3, "0.1.0", active(rule)),
    )
    assert listing.requests == (
        Request(
            "r-2",
            Audience(groups=("ev",)),
            FIRST_OF_DECEMBER,
            "resend",
            uplink="cloud",
            first="ab-1-telemetry-3",
            last="ab-1-telemetry-9",
        ),
        Request(
            "r-20261123-1",
            Audience(vehicles=("car-1",)),
            FIRST_OF_DECEMBER,
            "fire",
            campaign="limp",
        ),
    )


def test_keys_that_may_be_left_out() -> None:
    bundle = {"kind": "bundle", "name": "ev", "version": 3, "rollout": {"state": "paused"}}
    fire = {"kind": "request", "id": "r-1", "expires": "2026-12-01T00:00:00Z", "do": "fire"}

    listing = listed(target("bundles/ev-3.bundle", bundle), target("requests/r-1.json", fire))

    assert listing.findings == ()
    assert listing.offers[0].rollout == Rollout(state="paused")
    assert listing.requests[0].audience == Audience()


def test_unknown_keys_are_left_alone() -> None:
    rule = {"percent": 5, "colour": "red"}
    more = {**BUNDLE, "rollout": {"state": "active", "rules": [rule], "speed": 1}, "notes": []}

    listing = listed(target("bundles/ev-3.bundle", more))

    assert listing.findings == ()
    assert listing.offers[0].rollout == active(Rule(percent=5))


@pytest.mark.parametrize("custom", [{}, {"other": {"kind": "bundle"}}, [], None, "edge-agent", 7])
def test_a_target_of_someone_else_is_left_alone(custom: Any) -> None:
    assert listed(Target("x", 1, "a" * 64, custom)) == Listing()


def with_rule(**keys: Any) -> Mapping[str, Any]:
    return {**BUNDLE, "rollout": {"state": "active", "rules": [{"percent": 1, **keys}]}}


def without(entry: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return {name: value for name, value in entry.items() if name != key}


NO_ENTRIES: Final[tuple[Any, ...]] = (None, [], "bundle", 3, {}, {"kind": "new"}, {"kind": []})


@pytest.mark.parametrize(
    ("path", "entry"),
    [
        *(("bundles/ev-3.bundle", what) for what in NO_ENTRIES),
        *(("bundles/ev-3.bundle", without(BUNDLE, key)) for key in ("name", "version", "rollout")),
        *(
            ("bundles/ev-3.bundle", {**BUNDLE, key: value})
            for key, value in {
                "name": "e v",
                "version": "3",
                "minimum_agent": "new",
                "rollout": {"rules": []},
            }.items()
        ),
        ("bundles/ev-0.bundle", {**BUNDLE, "version": 0}),
        ("bundles/-3.bundle", {**BUNDLE, "name": ""}),
        ("bundles/ev-True.bundle", {**BUNDLE, "version": True}),
        ("bundles/ev-3.bundle", {**BUNDLE, "version": 10**40}),
        ("bundles/ev-3.bundle", {**BUNDLE, "name": "\ud800"}),
        ("bundles/ev-3.bundle", {**BUNDLE, "rollout": {"state": "gone"}}),
        ("bundles/ev-3.bundle", {**BUNDLE, "rollout": {"state": "\ud800"}}),
        ("bundles/ev-3.bundle", {**BUNDLE, "rollout": "active"}),
        ("bundles/ev-3.bundle", {**BUNDLE, "rollout": {"state": "active", "rules": [{}]}}),
        ("bundles/ev-3.bundle", with_rule(percent=101)),
        ("bundles/ev-3.bundle", with_rule(percent=-1)),
        ("bundles/ev-3.bundle", with_rule(percent=float("nan"))),
        ("bundles/ev-3.bundle", with_rule(percent=10**400)),
        ("bundles/ev-3.bundle", with_rule(percent="10")),
        ("bundles/ev-3.bundle", with_rule(groups="ev")),
        ("bundles/ev-3.bundle", with_rule(vehicles=[1])),
        ("bundles/ev-3.bundle", with_rule(vehicles=["*a" * 100])),
        ("bundles/ev-4.bundle", BUNDLE),
        ("ev-3.bundle", BUNDLE),
        ("bundles/../bundles/ev-3.bundle", BUNDLE),
        ("requests/r-1.json", FIRE),
        *(("requests/r-2.json", without(RESEND, key)) for key in ("do", "first", "last", "uplink")),
        *(("requests/r-2.json", without(RESEND, key)) for key in ("id", "expires")),
        ("requests/r-2.json", {**RESEND, "first": ""}),
        ("requests/r-2.json", {**RESEND, "do": "reboot"}),
        ("requests/r-2.json", {**RESEND, "expires": "2026-12-01T00:00:00"}),
        ("requests/r-2.json", {**RESEND, "expires": "soon"}),
        ("requests/../../r.json", {**RESEND, "id": "../../r"}),
        ("requests/r\n2.json", {**RESEND, "id": "r\n2"}),
    ],
)
def test_a_malformed_entry_is_skipped_and_told_and_the_rest_goes_on(path: str, entry: Any) -> None:
    good = target("bundles/good-1.bundle", {**BUNDLE, "name": "good", "version": 1})

    listing = listed(target(path, entry), good)

    assert [one.title for one in listing.offers] == ["good 1"]
    assert listing.requests == ()
    assert len(listing.findings) == 1
    assert listing.findings[0].isprintable()
    assert "is skipped: " in listing.findings[0]


@pytest.mark.parametrize(
    ("length", "sha256"),
    [(0, "a" * 64), (MOST_PACKED + 1, "a" * 64), (1, ""), (1, "A" * 64), (1, "a" * 63), (1, "../")],
)
def test_a_bundle_that_cannot_be_one_is_skipped(length: int, sha256: str) -> None:
    listing = listed(target("bundles/ev-3.bundle", BUNDLE, length, sha256))

    assert listing.offers == ()
    assert len(listing.findings) == 1


def test_a_very_deep_entry_is_skipped() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]

    listing = listed(
        target("bundles/a-1.bundle", {"kind": deep}),
        target("bundles/b-1.bundle", {**BUNDLE, "rollout": deep}),
        target("bundles/ev-3.bundle", {**BUNDLE, "unknown": deep}),
    )

    assert len(listing.findings) == 2
    assert len(listing.offers) == 1


json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(PATHS)),
    st.dictionaries(
        st.sampled_from(["kind", "name", "version", "rollout", "do", "id", "expires", "groups"]),
        st.one_of(json, st.sampled_from(["bundle", "request", "fire", "resend"])),
        max_size=3,
    ),
)
@example("requests/r-2.json", {"expires": "0001-01-01T00:00:00+23:59"})
@example("requests/r-2.json", {"expires": "9999-12-31T23:59:59-23:59"})
@example("requests/r-2.json", {"expires": float("inf")})
def test_whatever_an_entry_says_it_is_read_or_told(path: str, changes: Mapping[str, Any]) -> None:
    listing = listed(target(path, {**PATHS[path], **changes}))

    assert len(listing.offers) + len(listing.requests) + len(listing.findings) == 1
    assert isinstance(chosen(*listing.offers), Take | Stay)
    assert len(due(listing, CAR, (), WallNs(0))) <= 1


def test_what_is_written_is_what_is_read() -> None:
    until = datetime(2026, 12, 1, tzinfo=UTC)
    entries: tuple[BundleEntry | FireEntry | ResendEntry, ...] = (
        BundleEntry(name="ev", version=3, minimum_agent="0.1.0", rollout=EVERYONE),
        FireEntry(id="r-1", vehicles=("car-1",), expires=until),
        ResendEntry(id="r-2", expires=until, uplink="cloud", first="a", last="b"),
    )

    listing = listed(*(target(entry.path, msgspec.to_builtins(entry)) for entry in entries))

    assert listing.findings == ()
    assert listing.offers[0].rollout == EVERYONE
    assert [request.do for request in listing.requests] == ["fire", "resend"]


def request(name: str, audience: Audience = Audience(), *, days: int = 1) -> Request:  # noqa: B008
    return Request(name, audience, WallNs(days * DAY), "fire")


def test_requests_to_this_vehicle_are_due_once_and_until_they_expire() -> None:
    listing = Listing(
        requests=(
            request("r-3", Audience(vehicles=("car-*",))),
            request("r-1"),
            request("r-2", Audience(groups=("north",))),
            request("r-4", Audience(groups=("truck",), vehicles=("bus-1",))),
            request("r-5", days=0),
        )
    )

    def ids(done: Collection[str], now: int) -> list[str]:
        return [one.id for one in due(listing, CAR, done, WallNs(now))]

    assert ids((), 0) == ["r-1", "r-2", "r-3"]
    assert ids(["r-2"], DAY - 1) == ["r-1", "r-3"]
    assert ids((), DAY) == []


def test_the_end_of_a_request_is_exact() -> None:
    entry = {**FIRE, "expires": "2026-12-01T00:00:00.000001Z"}

    found = listed(target("requests/r-20261123-1.json", entry)).requests[0]

    begin = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=found.expires // 1000)
    assert begin == datetime(2026, 12, 1, microsecond=1, tzinfo=UTC)
