"""Scenarios: what happens to a vehicle, what must come of it, and the verdict.

A scenario is a TOML file (docs/scenarios.md): a vehicle, steps (`[[step]]`: a fault or another
action at a time) and expectations (`[[expect]]`). It runs on the bench: a virtual vehicle, the
agent as a process of its own, the reference cloud.

    model.py     the file as typed structs
    loading.py   the file to the model; errors name file, line and key
    actions.py   what a step can do, and how long that lasts
    figures.py   "uplink.cloud.evicted": a number of the ledger, the status or the bench by its name
    seen.py      what was seen of a run: all that a judge needs, and nothing that moves
    judge.py     pure: an expectation and what was seen in, a finding out
    arrived.py   what the cloud has: batches, each read once
    recording.py a recording decoded directly, and compared
    recorded.py  a bench whose agent reads a recording in place of a bus
    steps.py     the steps, each at its time or condition
    runner.py    the run: start, steps, looks, rest, end
    verdict.py   the findings as text, as JSON, and as an exit status
    telling.py   what is shown while it runs

How a run ends
    When the vehicle has driven, every fault that is still on is taken back. The agent then has
    time to bring everything to the cloud, and is stopped in order. Only then is the cloud asked
    what is complete, and judged what is to be judged at the end. A step that could not be taken, or
    whose condition never came, makes the verdict wrong as an expectation does.

Several processes, one ledger
    A ledger is that of one process. A power cut ends one without a word, so its counts are those of
    the last look, a quarter of a second before at most. Counters are summed over processes; levels
    (`waiting`, `queued`, `memory`, `held`) are those of the newest one.
"""

from agent.bench.scenario.loading import find_scenario, load_scenario
from agent.bench.scenario.model import Scenario
from agent.bench.scenario.verdict import Verdict

__all__ = ["Scenario", "Verdict", "find_scenario", "load_scenario"]
