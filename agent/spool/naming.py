"""The name of a batch, `install-run-lane-sequence`, taken apart."""

import re

from agent.settings import LANES

_BATCH_ID = re.compile(rf"([0-9a-f]{{16}})-(\d{{1,15}})-({'|'.join(LANES)})-(\d{{1,15}})")


def order_of(batch_id: str) -> tuple[int, int]:
    """(run, sequence) of a batch: the order in which batches of a lane were made."""
    try:
        _, run, _, sequence = batch_id.split("-")
        return int(run), int(sequence)
    except ValueError:
        return 0, 0


def install_of(batch_id: str) -> str:
    return batch_id.split("-", maxsplit=1)[0]


def lane_of(batch_id: str) -> str:
    parts = batch_id.split("-")
    return parts[2] if len(parts) == 4 else ""


def sequences(first: str, last: str) -> tuple[str, range] | None:
    """`install-run-lane-` and the sequences of a range of batches; None where it is none."""
    a, b = _BATCH_ID.fullmatch(first), _BATCH_ID.fullmatch(last)
    if a is None or b is None or a.groups()[:3] != b.groups()[:3]:
        return None
    return first.rpartition("-")[0] + "-", range(int(a[4]), int(b[4]) + 1)
