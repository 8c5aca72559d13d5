"""The vehicle edge agent: CAN frames in, exact values out, nothing lost in silence.

Data flows one way, and imports follow it: bus -> signals -> collect -> batch -> spool -> uplink;
ota brings the configuration, observe tells how it is, bench is the test bench. A room imports the
ground floor (errors, clock, ledger, blocks, settings) and the rooms before it in this list, never
one after it. `daemon`, `cli` and `commands` stand outside and know them all.
"""

__version__ = "0.1.0"
