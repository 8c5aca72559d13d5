"""The door between the reference cloud's page and the bench that it runs on."""

from collections.abc import Mapping
from typing import Any, Protocol


class BenchDoor(Protocol):
    """What a page may ask of a bench. All of it is called in the event loop."""

    def state(self) -> dict[str, Any]:
        """`{"vehicle", "agent": {"state", "pid", "status"}, "faults": [...], "scenario"}`.

        `agent.state` is "starting", "running", "killed" or "ended"; `status` is what the agent
        says of itself, None while it does not. A fault is `{"name", "title", "about", "active",
        "parameters": [{"name", "kind": "number" | "text" | "choice", "default", "choices"}]}`.
        `scenario` is None where none runs.
        """
        ...

    async def press(self, name: str, on: bool, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Switch a fault; gives its state.

        Raises:
            ConfigError: no such fault, or a parameter that cannot be.
        """
        ...
