"""What to keep: tables of samples in, the same tables with fewer rows and signals out.

A plan's campaigns are compiled once against its database: which signals of which message each one
wants. For each table that the decoder makes, a campaign takes its signals (columns) and, with
`every_ms`, the first row of each interval. Intervals lie on a fixed grid of the sample's own time,
so what is kept does not depend on where blocks end.

Every sample that a campaign wants is offered to it, and offered = kept + thinned.
"""

from agent.collect.collector import Collector
from agent.collect.plan import CompiledCampaign, Plan

__all__ = ["Collector", "CompiledCampaign", "Plan"]
