"""What is probably wrong: facts to causes, the likeliest first. Pure: nothing is looked up here.

A rule is a function of the facts that gives the causes it sees; the rules are in `causes_machine`
(the service, the computer, its interfaces) and `causes_agent` (what the agent says of itself).
Weights put causes into one order, whatever rule they come from:

    90 and more   nothing can work before this is mended: no use to look further
    70 to 89      no data of a bus, or none for an uplink, until somebody acts
    50 to 69      data is lost, or wrong, or will be soon
    30 to 49      something is given up, late or unusual, as it was set up to be
    below 30      good to know

A cause may be what another one comes from: a full disk, say, stops the agent. Where both are seen
the consequence counts half. So do causes that are only known from the status of the last stop.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from agent.observe import causes_agent, causes_machine
from agent.observe.facts import Cause, Facts

Rule = Callable[[Facts], Iterator[Cause]]

_OF_NOW: Final[tuple[Rule, ...]] = causes_machine.RULES
_OF_STATUS: Final[tuple[Rule, ...]] = causes_agent.RULES
_CONSEQUENCES: Final[Mapping[str, frozenset[str]]] = {
    "config": frozenset({"stopped"}),
    "permission": frozenset({"stopped"}),
    "memory": frozenset({"stopped", "restarts", "cpu"}),
    "disk": frozenset({"stopped", "lost", "update"}),
    "clock": frozenset({"tls", "credential"}),
    "heat": frozenset({"cpu", "drops"}),
    "cpu": frozenset({"drops"}),
    "update": frozenset({"database"}),
}


def diagnose(facts: Facts) -> list[Cause]:
    """What is wrong, the likeliest cause first; empty when nothing is."""
    found = [cause for rule in _OF_NOW for cause in rule(facts)]
    for rule in _OF_STATUS:
        found += [cause if facts.live else _halved(cause) for cause in rule(facts)]
    keys = {cause.key for cause in found}
    follows = {key for cause in keys for key in _CONSEQUENCES.get(cause, ())}
    weighed = [_halved(cause) if cause.key in follows else cause for cause in found]
    weighed.sort(key=lambda cause: -cause.weight)
    first: dict[tuple[str, str], Cause] = {}
    for cause in weighed:
        first.setdefault((cause.key, cause.subject), cause)
    return list(first.values())


def _halved(cause: Cause) -> Cause:
    return dataclasses.replace(cause, weight=max(1, cause.weight // 2))
