"""Data flows one way, and imports follow it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import agent

HOUSE = Path(agent.__file__).parent
GROUND = ("errors", "clock", "ledger", "blocks", "settings", "gbt32960")
ROOMS = ("bus", "signals", "collect", "batch", "spool", "uplink", "ota", "observe", "bench")


def imported(path: Path) -> Iterator[str]:
    """The parts of this program that a module imports, such as `batch` for `agent.batch.reader`."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "agent":
            names = [f"agent.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        yield from (name.split(".")[1] for name in names if name.startswith("agent."))


def test_a_room_imports_the_ground_floor_and_the_rooms_before_it() -> None:
    wrong = [
        f"{path.relative_to(HOUSE)} imports {part}"
        for number, room in enumerate(ROOMS)
        for path in sorted((HOUSE / room).rglob("*.py"))
        for part in imported(path)
        if part not in (*GROUND, *ROOMS[: number + 1], "__version__")
    ]
    assert wrong == []


def test_the_ground_floor_imports_no_room() -> None:
    wrong = [
        f"{path.relative_to(HOUSE)} imports {part}"
        for name in GROUND
        for path in [HOUSE / f"{name}.py", *sorted((HOUSE / name).rglob("*.py"))]
        if path.exists()
        for part in imported(path)
        if part not in GROUND
    ]
    assert wrong == []
