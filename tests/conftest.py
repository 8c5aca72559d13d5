"""What holds for every test, and what every test run says at its end."""

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes, or its making, depends on what else the machine does.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name each test that was not run, and why: a skip must not hide."""
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        terminalreporter.write_line(
            f"not run: {report.nodeid}: {str(reason).removeprefix('Skipped: ')}"
        )
