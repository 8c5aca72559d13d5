"""`edge-agent bench --gbt32960`: vehicles that report to a platform on this machine."""

import argparse
from typing import TYPE_CHECKING

from agent.bench.gbt32960.load import ReportLoad, ReportLoadOptions
from agent.commands.bench_load import given_options, run_any

if TYPE_CHECKING:
    from agent.commands.bench_load import Told
    from agent.gbt32960.layout import Edition


def edition_of(args: argparse.Namespace) -> "Edition | None":
    """The edition that was asked for; None where there was none."""
    editions: dict[str, Edition] = {"2016": 2016, "2025": 2025}
    return editions.get(args.gbt32960 or "")


async def run_light(args: argparse.Namespace, address: tuple[str, int], told: "Told") -> int:
    """Many light vehicles against one platform, to the end.

    Raises:
        AgentError: options that cannot be, or a part does not start or ends by itself.
    """
    options = ReportLoadOptions(**given_options(args, address), edition=edition_of(args))
    options.check()
    return await run_any(args, ReportLoad, options, told)
