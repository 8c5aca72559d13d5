"""The counters of the ledger as metrics: each counter of each account is one.

What adds up to what stands in `agent.ledger`. Its levels (`queued`, `held`, `memory`, `waiting`)
are gauges, all others only grow.
"""

from collections.abc import Mapping
from typing import Final

from agent.observe.exposition import Metric, counter, each, gauge

_LEVELS: Final = frozenset({"queued", "held", "memory", "waiting"})

_COUNTERS: Final[Mapping[str, tuple[tuple[str, str, str], ...]]] = {
    # account: (counter, what it is called, what it says)
    "bus": (
        ("received", "received_frames", "Frames that the kernel or an adapter had: read + dropped"),
        ("read", "read_frames", "Frames that were read"),
        ("dropped", "dropped_frames", "Frames that the kernel or an adapter lost"),
        ("queued", "queued_frames", "Frames that were read and are not yet decoded"),
        ("decoded", "decoded_frames", "Frames that were decoded"),
        ("transport", "transport_frames", "Frames that are parts of longer messages"),
        ("remote", "remote_frames", "Remote frames"),
        ("error", "error_records", "Error frames that were read as frames"),
        ("unknown", "unknown_frames", "Frames that are not in the database"),
        ("undecodable", "undecodable_frames", "Frames that the database does not fit"),
        ("filtered", "filtered_frames", "Frames that the kernel's filters kept back"),
        ("no_branch", "no_branch_frames", "Decoded frames with a multiplexer that nobody defined"),
        ("short", "short_frames", "Decoded frames that were too short for some of their signals"),
        ("reassembled", "reassembled_messages", "Longer messages that were put together"),
        ("transport_lost", "transport_lost_messages", "Longer messages that were not complete"),
        ("bad_lines", "bad_lines", "Lines or messages of an adapter that were no frame"),
        ("clamped", "clamped_times", "Frames whose time could not be, and was moved"),
    ),
    "campaign": (
        ("offered", "offered_samples", "Samples that a campaign was offered"),
        ("made", "made_samples", "Aggregates that it made"),
        ("kept", "kept_samples", "Samples that it kept"),
        ("thinned", "thinned_samples", "Samples that its policy left out"),
        ("folded", "folded_samples", "Samples that went into aggregates"),
        ("outside", "outside_samples", "Samples that came while it did not collect"),
        ("masked", "masked_samples", "Samples that its privacy profile left out"),
        ("held", "held_samples", "Samples that are not decided yet, or wait for a trigger"),
        ("events", "events", "Events"),
    ),
    "uplink": (
        ("kept", "kept_samples", "Samples that campaigns kept for an uplink"),
        ("memory", "memory_samples", "Samples that are kept and not yet on disk"),
        ("spooled", "spooled_samples", "Samples that are on disk"),
        ("lost_disk", "lost_disk_samples", "Samples that were given up because the disk failed"),
        ("lost_end", "lost_end_samples", "Samples that were given up at the end of the run"),
        ("found", "found_samples", "Samples that earlier runs had left in the spool"),
        ("resent", "resent_samples", "Acknowledged samples that wait again"),
        ("acknowledged", "acknowledged_samples", "Samples that have arrived"),
        ("waiting", "waiting_samples", "Samples on disk that have not arrived"),
        ("evicted", "evicted_samples", "Samples that were given up for room, or were too old"),
        ("quarantined", "quarantined_samples", "Samples of batches that were refused for good"),
        ("batches", "sealed_batches", "Batches that were sealed"),
        ("bytes", "sealed_bytes", "Bytes of those"),
    ),
    "report": (
        ("sampled", "sampled_moments", "Moments at which the vehicle was sampled for a platform"),
        ("reported", "reported_moments", "Moments that were reported"),
        ("thinned", "thinned_moments", "Moments between two reports"),
        ("held", "held_moments", "Moments that wait for an alarm"),
        ("skipped", "skipped_moments", "Moments at which nothing was heard"),
        ("invalid", "invalid_fields", "Fields that had no value"),
        ("abnormal", "abnormal_fields", "Fields with a value that the standard does not allow"),
    ),
}


def _metric(account: str, name: str, called: str, words: str) -> Metric:
    make = gauge if name in _LEVELS else counter
    return make(f"{account}_{called}", account, words, each(("ledger", account), name))


LEDGER: Final[Mapping[str, tuple[Metric, ...]]] = {
    account: tuple(_metric(account, *told) for told in counters)
    for account, counters in _COUNTERS.items()
}
"""Account -> its metrics."""
