"""What to ask a vehicle for once more. Pure: an answer about completeness in, a header out.

A batch that was acknowledged and is not here any more (a disk that failed, a backup that is older)
shows up as a gap in the chain of its stream. An agent that keeps acknowledged batches for a while
can send them again. A gap may also be one of batches that still wait on board: asking for those
costs the agent a look and nothing else.
"""

from collections.abc import Mapping
from typing import Any, Final

_MOST: Final = 8


def wanted(completeness: Mapping[str, Any]) -> str:
    """The value of the header for the newest gaps; empty where nothing is missing."""
    ranges: dict[str, None] = {}
    for run in reversed(completeness["runs"]):
        for gap in run["gaps"]:
            if gap["kind"] != "missing":
                continue
            begin = f"{run['install']}-{run['run']}-{gap['lane']}-"
            for first, last in gap["sequences"]:
                ranges[f"{begin}{first}..{begin}{last}"] = None
    return ", ".join(list(ranges)[:_MOST])
