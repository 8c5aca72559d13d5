"""The counters that close.

Every place where data can be lost or left out counts it here, and the sums of a run must agree
(frames of a bus, samples of a campaign and of an uplink; a sample is one value of one signal at one
time):

    bus       received = read + dropped
              read     = queued + decoded + transport + remote + error + unknown + undecodable
    campaign  offered + made = kept + thinned + folded + outside + masked + held
    uplink    kept     = memory + spooled + lost_disk + lost_end
              found + spooled + resent = acknowledged + waiting + evicted + quarantined
    report    sampled  = reported + thinned + held

`made` are the aggregates into which samples were `folded`; `outside` came while a campaign did not
collect (its condition, its days), `masked` what its privacy profile leaves out. `dropped` is what
the kernel had or should have had: what did not fit into the socket's buffer, and what the interface
says it lost before. What the kernel's filters hid is `filtered`, beside the sum: with `received` it
is about what was on the bus. `queued` (read and not yet decoded), `held` (not decided, or before a
trigger), `memory` (kept and not yet durable) and `waiting` are levels; at the end of a run `queued`
and `memory` are 0. `found` is what earlier runs left in the spool, `resent` what was acknowledged
and waits again, because a receiver asked for it. `report` counts the moments at which the vehicle
was sampled for a platform, with `held` in the ring before an alarm, and beside them `invalid` and
`abnormal`: fields without a value, and with one that the standard does not allow. All other names
only grow.

One call of `add` changes all its counters at once, so a snapshot taken at any moment closes too.
"""

import threading
from collections.abc import Mapping
from typing import Final

Counts = dict[str, dict[str, dict[str, int]]]

_SUMS: Final[Mapping[str, tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]]] = {
    "bus": (
        (("received",), ("read", "dropped")),
        (
            ("read",),
            ("queued", "decoded", "transport", "remote", "error", "unknown", "undecodable"),
        ),
    ),
    "campaign": (
        (("offered", "made"), ("kept", "thinned", "folded", "outside", "masked", "held")),
    ),
    "uplink": (
        (("kept",), ("memory", "spooled", "lost_disk", "lost_end")),
        (("found", "spooled", "resent"), ("acknowledged", "waiting", "evicted", "quarantined")),
    ),
    "report": ((("sampled",), ("reported", "thinned", "held")),),
}
_IF_ANY: Final = frozenset({"report"})
"""Accounts that few vehicles have, so that the others do not tell that they have none."""

# Beside the sums: what explains them.
_ASIDE: Final[Mapping[str, tuple[str, ...]]] = {
    "bus": (
        "filtered",
        "no_branch",
        "short",
        "reassembled",
        "transport_lost",
        "bad_lines",
        "clamped",
    ),
    "campaign": ("events",),
    "uplink": ("batches", "bytes"),
    "report": ("invalid", "abnormal", "skipped"),
}


class Ledger:
    """Counts of one run, by account (`bus`, `campaign`, `uplink`) and name. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counts = {account: {} for account in _SUMS}

    def open(self, account: str, name: str) -> None:
        """Make an account known, so that it is shown with zeros before anything happens."""
        with self._lock:
            self._row(account, name)

    def add(self, account: str, name: str, /, **changes: int) -> None:
        """Add to several counters of one account at once, so that every snapshot closes."""
        with self._lock:
            row = self._row(account, name)
            row.update({counter: row[counter] + change for counter, change in changes.items()})

    def _row(self, account: str, name: str) -> dict[str, int]:
        rows = self._counts[account]
        row = rows.get(name)
        if row is None:
            names = {n for sums in _SUMS[account] for side in sums for n in side}
            row = rows[name] = dict.fromkeys([*sorted(names), *_ASIDE[account]], 0)
        return row

    def snapshot(self) -> Counts:
        """A copy of all counters: account -> name -> counter -> count."""
        with self._lock:
            return {
                account: {name: dict(row) for name, row in rows.items()}
                for account, rows in self._counts.items()
                if rows or account not in _IF_ANY
            }


def differences(counts: Counts) -> list[str]:
    """The sums that do not close, each as a sentence; empty when all is well."""
    found = []
    for account, rows in counts.items():
        for name, row in rows.items():
            for left, right in _SUMS.get(account, ()):
                a, b = (sum(row.get(counter, 0) for counter in side) for side in (left, right))
                if a != b:
                    found.append(
                        f"{account} {name}: {' + '.join(left)} = {a:,}, "
                        f"but {' + '.join(right)} = {b:,}"
                    )
    return found
