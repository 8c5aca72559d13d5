"""The table of metrics in docs/operations.md is the one that the program has."""

from pathlib import Path

from agent.observe.metrics import METRICS

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
HEADING = "## Metrics"


def test_the_page_describes_every_metric_as_it_is() -> None:
    _, heading, rest = PAGE.read_text("utf-8").partition(f"\n{HEADING}\n")
    assert heading, f"{PAGE} has no section {HEADING}"
    section = rest.partition("\n## ")[0]
    shown = [line for line in section.splitlines() if line.startswith("| `edge_agent_")]
    expected = [
        f"| `{metric.name}` | {metric.type} | {', '.join(metric.labels)} | {metric.help} |"
        for metric in METRICS
    ]
    assert shown == expected
