"""Totals of drops from counts of 32 bits, and what to say of a total that grows."""

from hypothesis import example, given
from hypothesis import strategies as st

from agent.bus.tally import DropCounter, LossCounter, Spell

SECOND = 1_000_000_000


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=6), max_size=5))
@example([[2**31 - 1, 2**31 - 1, 2**31 - 1], [5]])
def test_counts_that_wrap_and_begin_anew_add_up(sockets: list[list[int]]) -> None:
    drops = DropCounter()
    for steps in sockets:
        drops.begin()
        count = 0
        for step in steps:
            count += step
            drops.tell(count % 2**32)

    assert drops.total == sum(map(sum, sockets))


@given(st.permutations(range(0, 1000, 100)))
def test_a_count_that_comes_late_changes_nothing(counts: list[int]) -> None:
    drops = DropCounter()
    told = []
    for count in counts:
        drops.tell(count)
        told.append(drops.total)

    assert told == sorted(told)
    assert drops.total == 900


def test_a_late_count_from_before_a_wrap_changes_nothing() -> None:
    drops = DropCounter()
    drops.tell(2**31 - 1)
    drops.tell(2**32 - 2)
    drops.tell(3)
    drops.tell(2**32 - 1)

    assert drops.total == 2**32 + 3


def test_losses_count_from_where_an_interface_was_found() -> None:
    losses = LossCounter()
    for interface in ([500, 500, 507], [3, 5], [0, 1]):
        losses.begin()
        for count in interface:
            losses.tell(count)

    assert losses.total == 7 + 2 + 1


def test_statistics_that_a_driver_has_reset_lose_nothing_and_add_nothing() -> None:
    losses = LossCounter()
    for count in (10, 14, 0, 1):
        losses.tell(count)

    assert losses.total == 5


def test_a_spell_begins_with_the_first_and_ends_after_ten_quiet_seconds() -> None:
    spell = Spell()

    seen = [spell.see(second * SECOND, total) for second, total in ((0, 0), (1, 5), (2, 5), (3, 9))]
    ends = [spell.over(second * SECOND) for second in (3, 12, 13, 14)]

    assert seen == [False, True, False, False]
    assert ends == [None, None, 9, None]
    assert spell.see(20 * SECOND, 10)
    assert spell.over(30 * SECOND) == 1
