"""docs/scenarios.md says of the file what the program does."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from agent.bench.faults import CATALOGUE
from agent.bench.scenario import find_scenario, load_scenario
from agent.bench.scenario.figures import BENCH
from agent.bench.scenario.loading import scenario_names
from agent.bench.scenario.model import EXPECTS, Agent, Header, Step, Vehicle
from agent.settings import packaged

PAGE = (Path(__file__).parents[2] / "docs" / "scenarios.md").read_text("utf-8")


def described(model: type[Struct], *left_out: str) -> list[tuple[str, str]]:
    """Each key of a table with what is said of it."""
    schema: dict[str, Any] = msgspec.json.schema(model)
    found = schema["$defs"][model.__name__]["properties"]
    return [
        (name, text_of(entry)) for name, entry in found.items() if name not in ("that", *left_out)
    ]


def text_of(entry: dict[str, Any]) -> str:
    return str(entry.get("description") or entry["allOf"][0].get("description"))


def rows(model: type[Struct], *left_out: str) -> str:
    return "\n".join(f"| `{name}` | {text} |" for name, text in described(model, *left_out))


def vehicle_table() -> str:
    return f"| key | what it says |\n|---|---|\n{rows(Vehicle)}\n"


def agent_table() -> str:
    return f"| key | what it says |\n|---|---|\n{rows(Agent)}\n"


def step_table() -> str:
    return f"| key | what it says |\n|---|---|\n{rows(Step)}\n"


def faults_table() -> str:
    lines = [
        f"| `{fault.name}` | {fault.about} | {', '.join(f'`{p.name}`' for p in fault.parameters)} |"
        for fault in CATALOGUE
    ]
    return "| `do` | what it does | parameters |\n|---|---|---|\n" + "\n".join(lines) + "\n"


def expects_table() -> str:
    lines = []
    for kind in EXPECTS:
        keys = " ".join(f"`{name}`: {text}" for name, text in described(kind, "note"))
        about = " ".join(str(kind.__doc__).split())
        lines.append(f"| `{kind.__struct_config__.tag}` | {about} | {keys} |")
    return "| `that` | what it expects | keys |\n|---|---|---|\n" + "\n".join(lines) + "\n"


def bench_list() -> str:
    return "".join(f"- `bench.{name}`: {text}.\n" for name, text in BENCH.items())


@pytest.mark.parametrize(
    "table", [vehicle_table, agent_table, step_table, faults_table, expects_table, bench_list]
)
def test_a_table_of_the_page_is_as_the_program_has_it(table: Any) -> None:
    assert table() in PAGE, table()


def test_the_top_of_the_file_is_described() -> None:
    assert rows(Header, "vehicle", "agent", "step", "expect") in PAGE


def test_every_scenario_of_the_program_is_on_the_page(tmp_path: Path) -> None:
    log = tmp_path / "drive.log"
    log.touch()
    mine = {"vehicle": {"log": str(log), "dbc": [str(packaged("dbc/ev.dbc"))]}}
    for name in scenario_names():
        scenario = load_scenario(find_scenario(name), mine if name == "recording" else {})
        assert f"| `{name}` | {scenario.head.about} |" in PAGE


def test_the_example_of_the_page_is_a_scenario(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert example
    path = tmp_path / "tunnel.toml"
    path.write_text(example[1].replace('plan = "my-plan.toml"', 'plan = "plan-ev.toml"'), "utf-8")

    assert load_scenario(path).name == "tunnel"
