"""What to keep: tables of samples in, the same tables with fewer rows and signals out.

A plan (`plan`) is compiled once against its database: which signals each campaign wants, how well,
while which condition is true, around which events. Then, for each block, in the decode thread:

    expression   conditions as they are written, to trees
    conditions   trees over columns: when each is true (`evaluate` has how)
    campaign     one campaign: select, mask, gate, thin, keep around triggers
      selection    which columns and frames it wants
      privacy      positions and the VIN masked
      gate         while its condition is true
      policies     rates, dead bands, swinging door; windows make aggregates
      trigger      from moments to windows of time; ring holds the rows before them
      budget       fewer rows while a day's bytes run short
    sessions     trips and charging sessions
    collector    all campaigns of a plan, and what passes from one plan to the next

What is kept depends on samples and their times, and not on where blocks end. Every sample that a
campaign wants is offered to it, and the ledger says what became of it.
"""

from agent.collect.collector import Collector
from agent.collect.plan import CompiledCampaign, Plan

__all__ = ["Collector", "CompiledCampaign", "Plan"]
