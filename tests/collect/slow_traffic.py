"""Signals that move a little, jump now and then, and conditions that seldom change with them."""

import random
from typing import Any, Final, Literal

from hypothesis import strategies as st

from agent.collect.expression import tree as t
from tests.collect.condition_reference import Row
from tests.collect.condition_traffic import (
    ANGLE,
    ANY_LEVEL,
    LEVEL,
    OTHER_LEVEL,
    REAL,
    Traffic,
    number,
    signal,
)

DOWN, LONG = signal("can0", "Group", "down"), signal("can1", "Sender", "long")
_MIDDLE: Final[dict[str, Any]] = {
    "level": 100,
    "angle": 20,
    "down": -2,
    "long": 2**55,
    "real": 4.0,
    "page": 0,
}
_Operator = Literal["<", "<=", ">", ">=", "==", "!="]
_Name = Literal["min", "max", "mean", "count", "delta"]
_CODES: Final = {"level": (254, 255), "long": (8,)}
_STEPS: Final = {"level": 2, "angle": 3, "down": 1, "long": 5, "real": 0.25, "page": 0}
_DURATIONS: Final = [1, 4, 15, 60]
# Physical, about where the walks begin.
_NEAR: Final[dict[t.Signal, list[float]]] = {
    LEVEL: [97.0, 100.0, 104.0, 130.0, 10.0],
    ANY_LEVEL: [96.0, 103.0, 10.0],
    OTHER_LEVEL: [98.0, 100.5, 130.0],
    ANGLE: [-4.0, 0.0, 2.5, 100.0],
    DOWN: [3.0, 5.0, 9.0, -100.0],
    LONG: [2.0**53, 2.0**53 + 2, 0.0],
    REAL: [6.0, 7.0, 8.5, -50.0],
}


def slow_traffic(seed: int) -> Traffic:
    draw = random.Random(seed)
    held: dict[tuple[str, str], Any] = {}
    busy = draw.choice([0.0, 0.02, 0.1])

    def raws(bus: str, *names: str) -> dict[str, Any]:
        for name in names:
            now = held.setdefault((bus, name), _MIDDLE[name])
            if draw.random() < busy:
                codes = _CODES.get(name, ())
                now = draw.choice([_MIDDLE[name], _MIDDLE[name] + 7 * _STEPS[name], *codes])
            elif draw.random() < 0.5:
                now += draw.choice([-1, 1]) * _STEPS[name] * draw.random()
                now = now if name == "real" else round(now)
            held[bus, name] = max(now, 0) if name == "level" else now
        return {name: held[bus, name] for name in names}

    def row(bus: str, time: int) -> Row:
        if draw.random() < 0.6:
            return Row(bus, "Engine", time, raws(bus, "level", "angle"))
        if bus == "can1":
            return Row(bus, "Sender", time, raws(bus, "long", "real"), 1)
        return Row(bus, "Group", time, raws(bus, "page", "down"), branch="page=0")

    every, rows = draw.choice([1, 2, 5]), {}
    for bus in ("can0", "can1"):
        time = 0
        rows[bus] = [Row(bus, "Engine", 0, raws(bus, "level", "angle"))]
        for _ in range(draw.choice([60, 140])):
            # Sometimes nothing comes for a while, and sometimes two rows at once.
            time += 80 if draw.random() < 0.01 else draw.randint(0 if busy else 1, 2 * every)
            rows[bus].append(row(bus, time))
    size = draw.choice([2, 8, 30])
    blocks = [(draw.choice(["can0", "can1"]), draw.randint(1, size)) for _ in range(60)]
    return Traffic(rows, [("can0", 1), ("can1", 1), *blocks])


@st.composite
def _comparisons(draw: st.DrawFn) -> t.Compare:
    of = draw(st.sampled_from(list(_NEAR)))
    left: t.Numeric = of
    match draw(st.integers(0, 7)):
        case 0:
            names: list[_Name] = ["min", "max", "mean", "mean", "count", "delta"]
            name = draw(st.sampled_from(names))
            left = t.Window(0, name, of, draw(st.sampled_from(_DURATIONS)))
        case 1:
            others: list[t.Numeric] = [number(1), OTHER_LEVEL]
            left = t.Arithmetic(0, "-", of, draw(st.sampled_from(others)))
    right = number(draw(st.sampled_from(_NEAR[of])))
    operators: list[_Operator] = ["<", "<=", ">", ">=", "==", "!="]
    return t.Compare(0, draw(st.sampled_from(operators)), left, right)


@st.composite
def _others(draw: st.DrawFn) -> t.Condition:
    of = draw(st.sampled_from([LEVEL, ANGLE, OTHER_LEVEL, LONG]))
    match draw(st.integers(0, 3)):
        case 0:
            near = _MIDDLE[of.path.signal]
            raws = st.frozensets(st.integers(near - 3, near + 3), min_size=1, max_size=3)
            return t.RawIs(0, of, draw(raws))
        case 1:
            return t.Valid(0, of, draw(st.sampled_from(["valid", "error"])))
        case 2:
            return t.Missing(0, of, draw(st.sampled_from([10, 70])))
    return t.Changed(0, signal("can0", "Group", "page"))


def slow_trees() -> st.SearchStrategy[t.Condition]:
    zero = st.just(0)
    compare = _comparisons()
    return st.recursive(
        compare | compare | compare | _others(),
        lambda inner: (
            st.builds(t.Both, zero, inner, inner)
            | st.builds(t.Either, zero, inner, inner)
            | st.builds(t.Not, zero, inner)
            | st.builds(t.For, zero, inner, st.sampled_from(_DURATIONS))
            | st.builds(t.Edge, zero, st.just("rises"), inner)
        ),
        max_leaves=4,
    )
