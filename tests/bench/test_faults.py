"""The catalogue of faults, what can be said of one, and the switchboard that presses them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from agent.bench.faults import CATALOGUE, NAMES, Switchboard, parse
from agent.errors import BusError, ConfigError


class Part:
    """A part of a bench that faults are done to: it remembers how it is."""

    def __init__(self) -> None:
        self.state: dict[str, Mapping[str, Any]] = {}
        self.undone: list[str] = []
        self.broken = False

    def actions(self) -> dict[str, Any]:
        return {name: self._action(name) for name in NAMES}

    def _action(self, name: str) -> Callable[[bool, Mapping[str, Any]], Awaitable[None]]:
        async def act(on: bool, parameters: Mapping[str, Any]) -> None:
            if self.broken:
                raise BusError("the bus is gone")
            if on:
                self.state[name] = dict(parameters)
            else:
                del self.state[name]
                self.undone.append(name)

        return act


def test_the_faults_that_scenarios_and_the_page_rely_on_are_there() -> None:
    assert set(NAMES) == {
        *("link-down", "link-slow", "link-lossy", "cloud-status", "lost-ack", "disk-full"),
        *("ecu-silent", "bit-flips", "stuck-counter", "bus-off", "overload", "clock-jump"),
        *("false-value", "power-cut", "hostile-update", "update"),
        *("platform-answers", "platform-pieces", "platform-drops", "platform-mischief"),
    }
    assert all(fault.title and fault.about.endswith(".") for fault in CATALOGUE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("link-down", ("link-down", {})),
        ("link-slow", ("link-slow", {"kbit_s": 64, "latency_ms": 0})),
        ("link-slow:kbit_s=9.5", ("link-slow", {"kbit_s": 9.5, "latency_ms": 0})),
        ("cloud-status:code=403", ("cloud-status", {"code": 403})),
        ("clock-jump:seconds=-3600", ("clock-jump", {"seconds": -3600})),
        ("ecu-silent:node=BMS,message=", ("ecu-silent", {"message": "", "node": "BMS"})),
        ("hostile-update:kind=harmful", ("hostile-update", {"kind": "harmful"})),
    ],
)
def test_a_fault_is_named_with_its_parameters(text: str, expected: tuple[str, Any]) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "there is no fault ; there are: link-down, link-slow"),
        ("link_down", "there is no fault link_down; there are: link-down"),
        ("link-down:s=1", "fault link-down has no parameter s; it has none"),
        ("link-slow:kbit=1", "has no parameter kbit; it has: kbit_s, latency_ms"),
        ("link-slow:kbit_s", "kbit_s is not KEY=VALUE"),
        ("link-slow:kbit_s=0", "kbit_s = 0 is no number from 1 to 1e"),
        ("link-slow:kbit_s=fast", "kbit_s = fast is no number"),
        ("link-lossy:percent=101", "percent = 101 is no number from 0 to 100"),
        ("clock-jump:seconds=nan", "seconds = nan is no number"),
        ("power-cut:off_s=1e999", "off_s = 1e999 is no number"),
        ("hostile-update:kind=odd", "kind = odd is not one of tampered, harmful"),
    ],
)
def test_what_cannot_be_is_said_with_what_can(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert says in str(caught.value)


@pytest.mark.parametrize("value", [True, None, [], {}, "", " ", 10**400, float("inf")])
def test_a_page_may_send_anything_for_a_number(value: object) -> None:
    (fault,) = (f for f in CATALOGUE if f.name == "power-cut")

    with pytest.raises(ConfigError, match="off_s"):
        fault.checked({"off_s": value})


class TestSwitchboard:
    def test_a_fault_is_on_until_it_is_taken_back(self) -> None:
        async def bench() -> None:
            part = Part()
            board = Switchboard(part.actions())

            pressed = await board.press("link-slow", {"kbit_s": "8"}, on=True)

            assert part.state == {"link-slow": {"kbit_s": 8, "latency_ms": 0}}
            assert pressed["active"]
            assert pressed["parameters"][0] == {
                "name": "kbit_s",
                "kind": "number",
                "default": 64,
                "choices": [],
                "least": 1,
                "most": 1_000_000,
                "value": 8,
            }
            again = await board.press("link-slow", {"kbit_s": 16}, on=True)
            assert again["parameters"][0]["value"] == 16
            assert not (await board.press("link-slow", {}, on=False))["active"]
            assert part.state == {}
            assert [state["name"] for state in board.states()] == list(NAMES)

        asyncio.run(bench())

    def test_what_is_not_on_need_not_be_taken_back(self) -> None:
        async def bench() -> None:
            part = Part()
            board = Switchboard(part.actions())

            await board.press("bus-off", {}, on=False)
            with pytest.raises(ConfigError, match="no fault nonsense"):
                await board.press("nonsense", {}, on=False)

            assert part.undone == []

        asyncio.run(bench())

    def test_what_could_not_be_done_is_not_on(self) -> None:
        async def bench() -> None:
            part = Part()
            board = Switchboard(part.actions())
            part.broken = True

            with pytest.raises(BusError):
                await board.press("bus-off", {}, on=True)

            assert not board.active

        asyncio.run(bench())

    def test_one_that_ends_by_itself_is_over(self) -> None:
        async def bench() -> None:
            board = Switchboard(Part().actions())
            await board.press("power-cut", {}, on=True)

            board.over("power-cut")

            assert not board.state_of("power-cut")["active"]

        asyncio.run(bench())

    def test_all_are_lifted_the_last_one_first(self) -> None:
        async def bench() -> None:
            part = Part()
            board = Switchboard(part.actions())
            for name in ("link-down", "disk-full", "power-cut"):
                await board.press(name, {}, on=True)

            await board.lift()

            assert part.undone == ["power-cut", "disk-full", "link-down"]
            assert not board.active

        asyncio.run(bench())

    def test_a_vehicle_has_defaults_of_its_own(self) -> None:
        async def bench() -> None:
            part = Part()
            board = Switchboard(part.actions(), {"ecu-silent": {"message": "MotorState"}})

            await board.press("ecu-silent", {}, on=True)

            assert part.state["ecu-silent"] == {"message": "MotorState", "node": ""}

        asyncio.run(bench())
