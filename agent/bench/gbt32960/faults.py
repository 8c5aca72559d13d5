"""Faults of the platform that can be pressed at a bench; `agent.bench.faults` describes them."""

from collections.abc import Mapping
from typing import Any, Final

from agent.bench.faults import Action
from agent.bench.gbt32960.behaviour import (
    HEARTBEAT,
    LOGIN,
    LOGOUT,
    REPORTS,
    TIME_SYNC,
    Answer,
    Mischief,
)
from agent.bench.gbt32960.platform import Platform

_COMMANDS: Final[Mapping[str, tuple[int, ...]]] = {
    "reports": REPORTS,
    "login": (LOGIN,),
    "heartbeat": (HEARTBEAT,),
    "everything": (*REPORTS, LOGIN, LOGOUT, HEARTBEAT, TIME_SYNC),
}


def actions(platform: Platform) -> Mapping[str, Action]:
    """What the faults do to a platform, by their names."""
    behaviour = platform.behaviour

    async def answers(on: bool, parameters: Mapping[str, Any]) -> None:
        behaviour.commands = {}
        if on:
            style = Answer(parameters["style"])
            behaviour.commands = dict.fromkeys(_COMMANDS[parameters["to"]], style)

    async def pieces(on: bool, parameters: Mapping[str, Any]) -> None:
        behaviour.piece_bytes = int(parameters["bytes"]) if on else 0
        behaviour.merge = int(parameters["together"]) if on else 0
        behaviour.delay_s = parameters["late_ms"] / 1000 if on else 0.0
        behaviour.garbage_bytes = int(parameters["garbage"]) if on else 0

    async def drops(on: bool, parameters: Mapping[str, Any]) -> None:
        behaviour.drop_after_frames = int(parameters["frames"]) if on else 0
        behaviour.drop_every_s = parameters["seconds"] if on else 0.0
        # Those that are there were not told when they logged in.
        platform.drop()

    async def mischief(on: bool, parameters: Mapping[str, Any]) -> None:
        behaviour.mischief = (Mischief(parameters["kind"]),) if on else ()
        for what in behaviour.mischief:
            for vin in list(platform.online):
                platform.harass(vin, what)

    return {
        "platform-answers": answers,
        "platform-pieces": pieces,
        "platform-drops": drops,
        "platform-mischief": mischief,
    }
