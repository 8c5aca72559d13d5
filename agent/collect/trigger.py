"""When something happens: from a condition over time to the windows that are kept.

`rising`: a window around each moment at which the condition becomes true. `level`: one from before
it becomes true until after it ends. Between two beginnings lies at least `min_interval_ns`, and in
any 24 hours at most `per_day` begin; what is refused for that is counted as `suppressed`. A
condition that is true when it is first known has become true then.

A request fires a trigger as if the condition had become true for a moment, `level` or not. Somebody
wants to see it now, so neither bound holds for it, and it takes nothing from the events of a day.
"""

import collections
import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any, Final

from agent.collect.plan import CompiledTrigger

if TYPE_CHECKING:
    from agent.collect.conditions import Steps

_DAY_NS = 86_400 * 1_000_000_000
FOREVER = (1 << 63) - 1
_REQUEST_CHARACTERS: Final = 300


@dataclasses.dataclass(slots=True)
class Window:
    """What is kept for one event: all rows from `first` to `last`, both included, ns."""

    id: str
    time: int
    first: int
    last: int = FOREVER
    """FOREVER while a level trigger's condition holds."""
    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What the signals of the condition said."""
    missing: list[list[Any]] = dataclasses.field(default_factory=list)
    """Parts that are not there: from, to, why."""
    told: bool = False
    """Whether it was said that it is complete."""
    request: str = ""
    """The words of the request that it began by; empty where the condition came true."""


class Trigger:
    """The machine of one trigger; pure."""

    def __init__(self, trigger: CompiledTrigger) -> None:
        self._trigger = trigger
        self._begun: collections.deque[int] = collections.deque()
        """When windows of the last 24 hours began."""
        self._open: Window | None = None
        self.windows: list[Window] = []
        """Those that may still want rows, in the order in which they began."""
        self.suppressed = 0

    def take(self, steps: "Steps", name: str) -> list[Window]:
        """The windows that begin with these steps; `name` begins their ids."""
        begun = []
        true = steps.before
        for moment in steps.times.tolist():
            true = not true
            if true and (window := self._begin(moment, name)) is not None:
                begun.append(window)
            elif not true and self._open is not None:
                self._open.last = moment + self._trigger.post_ns
                self._open = None
        return begun

    def _begin(self, moment: int, name: str) -> Window | None:
        trigger = self._trigger
        while self._begun and moment - self._begun[0] >= _DAY_NS:
            self._begun.popleft()
        soon = bool(self._begun) and moment - self._begun[-1] < trigger.min_interval_ns
        if soon or (trigger.per_day and len(self._begun) >= trigger.per_day):
            self.suppressed += 1
            return None
        self._begun.append(moment)
        window = Window(f"{name}{moment}", moment, moment - trigger.pre_ns)
        if trigger.mode == "rising":
            window.last = moment + trigger.post_ns
        else:
            self._open = window
        self.windows.append(window)
        return window

    def fire(self, moment: int, name: str, words: str) -> Window | None:
        """The window of a request; None where the same one began at this moment already."""
        text = words[:_REQUEST_CHARACTERS].encode("utf-8", "replace")
        words = text.decode() or "a request"
        # The condition may come true at this moment too, and others may ask: the words tell apart.
        digest = hashlib.sha256(text).hexdigest()[:8]
        window_id = f"{name}{moment}-request-{digest}"
        if any(window.id == window_id for window in self.windows):
            return None
        trigger = self._trigger
        first, last = moment - trigger.pre_ns, moment + trigger.post_ns
        window = Window(window_id, moment, first, last, request=words)
        self.windows.append(window)
        return window

    def forget(self, before: int) -> None:
        """Rows of earlier times do not come any more."""
        self.windows = [w for w in self.windows if w.last >= before or not w.told]

    def state(self) -> dict[str, Any]:
        return {
            "begun": list(self._begun),
            "suppressed": self.suppressed,
            "windows": [dataclasses.asdict(w) for w in self.windows],
            "open": self._open.id if self._open else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what an earlier run left.

        Raises:
            ValueError: it is nothing that `state` gave.
        """
        try:
            self._begun = collections.deque(int(moment) for moment in state["begun"])
            self.suppressed = int(state["suppressed"])
            self.windows = [_window(w) for w in state["windows"]]
            opened = [w for w in self.windows if w.id == state["open"]]
        except (KeyError, TypeError, AttributeError) as e:
            raise ValueError(f"no state of a trigger: {e}") from e
        self._open = opened[0] if opened else None


def _window(state: dict[str, Any]) -> Window:
    missing = [[int(a), int(b), str(why)] for a, b, why in state["missing"]]
    return Window(
        str(state["id"]),
        int(state["time"]),
        int(state["first"]),
        int(state["last"]),
        dict(state["values"]),
        missing,
        bool(state["told"]),
        str(state.get("request", "")),
    )
