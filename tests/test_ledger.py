"""The counters that close."""

import threading

import pytest

from agent.ledger import Ledger, differences

CHANGES = [
    ("bus", {"received": 5, "read": 5, "queued": 5}),
    ("bus", {"queued": -5, "decoded": 2, "remote": 1, "error": 1, "unknown": 1}),
    ("bus", {"received": 3, "dropped": 3}),
    ("bus", {"no_branch": 1, "short": 1, "bad_lines": 4, "filtered": 9, "clamped": 1}),
    ("campaign", {"offered": 10, "kept": 4, "thinned": 6}),
    ("uplink", {"kept": 10, "memory": 10}),
    ("uplink", {"memory": -10, "spooled": 7, "lost_disk": 2, "lost_end": 1, "waiting": 7}),
    ("uplink", {"waiting": -7, "acknowledged": 4, "evicted": 2, "quarantined": 1}),
    ("uplink", {"found": 3, "waiting": 3, "batches": 2, "bytes": 700}),
]


def test_a_new_ledger_closes_and_shows_opened_accounts_with_zeros() -> None:
    ledger = Ledger()
    ledger.open("bus", "can0")
    ledger.open("uplink", "cloud")
    counts = ledger.snapshot()
    assert set(counts) == {"bus", "campaign", "uplink"}
    assert set(counts["bus"]["can0"].values()) == {0}
    assert differences(counts) == []


def test_a_ledger_closes_after_each_whole_step() -> None:
    ledger = Ledger()
    for account, changes in CHANGES:
        ledger.add(account, "x", **changes)
        assert differences(ledger.snapshot()) == []


@pytest.mark.parametrize(
    ("account", "changes", "sentence"),
    [
        ("bus", {"received": 5}, "bus x: received = 5, but read + dropped = 0"),
        ("bus", {"received": 1, "read": 1}, "bus x: read = 1, but queued + decoded + transport"),
        ("campaign", {"kept": 1}, "campaign x: offered + made = 0, but kept + thinned"),
        ("uplink", {"kept": 2000}, "uplink x: kept = 2,000, but memory + spooled + lost_disk"),
        ("uplink", {"waiting": 2}, "uplink x: found + spooled + resent = 0, but"),
    ],
)
def test_a_sum_that_does_not_close_is_a_sentence(
    account: str, changes: dict[str, int], sentence: str
) -> None:
    ledger = Ledger()
    ledger.add(account, "x", **changes)
    ledger.add("bus", "good", received=1, dropped=1)
    (found,) = differences(ledger.snapshot())
    assert found.startswith(sentence)


def test_a_snapshot_is_a_copy() -> None:
    ledger = Ledger()
    ledger.add("bus", "x", received=1, dropped=1)
    counts = ledger.snapshot()
    counts["bus"]["x"]["received"] = 99
    assert ledger.snapshot()["bus"]["x"]["received"] == 1


@pytest.mark.parametrize(("account", "counter"), [("bus", "decodet"), ("nowhere", "read")])
def test_a_counter_that_does_not_exist_is_a_mistake_of_the_program(
    account: str, counter: str
) -> None:
    with pytest.raises(KeyError):
        Ledger().add(account, "x", **{counter: 1})


def test_a_mistaken_counter_changes_nothing() -> None:
    ledger = Ledger()
    with pytest.raises(KeyError):
        ledger.add("bus", "x", received=1, wrong=1)
    assert differences(ledger.snapshot()) == []


def test_every_snapshot_closes_while_threads_count() -> None:
    ledger = Ledger()
    done = threading.Event()
    found: list[str] = []

    def watch() -> None:
        while not done.is_set():
            found.extend(differences(ledger.snapshot()))

    def count() -> None:
        for _ in range(500):
            ledger.add("bus", "x", received=3, read=2, queued=2, dropped=1)
            ledger.add("bus", "x", queued=-2, decoded=2)

    watcher = threading.Thread(target=watch)
    counters = [threading.Thread(target=count) for _ in range(3)]
    for thread in (watcher, *counters):
        thread.start()
    for thread in counters:
        thread.join()
    done.set()
    watcher.join()
    assert found == []
    assert ledger.snapshot()["bus"]["x"]["decoded"] == 3000
