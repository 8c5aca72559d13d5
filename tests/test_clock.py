"""Boot time, wall time, and the anchors between them."""

import dataclasses
import time
from pathlib import Path

import pytest

from agent.clock import (
    MILLISECOND,
    SECOND,
    Anchor,
    AnchorBook,
    BootNs,
    Quality,
    SystemClock,
    WallNs,
    best_anchor,
)


@dataclasses.dataclass
class Hand:
    """A clock whose hands a test moves."""

    boot_id: str = "now"
    boot_ns: int = 100 * SECOND
    wall_ns: int = 1_000_000 * SECOND
    good: Quality = Quality.UNSYNCHRONISED

    def boot(self) -> BootNs:
        return BootNs(self.boot_ns)

    def wall(self) -> WallNs:
        return WallNs(self.wall_ns)

    def quality(self) -> Quality:
        return self.good

    def pass_time(self, ns: int) -> None:
        """Both clocks go on."""
        self.boot_ns += ns
        self.wall_ns += ns


def anchor(boot_id: str, boot: int, wall: int, quality: Quality) -> Anchor:
    return Anchor(boot_id, BootNs(boot), WallNs(wall), quality)


def test_the_first_look_makes_an_anchor_and_passing_time_makes_no_other() -> None:
    clock = Hand()
    book = AnchorBook(clock)
    first = anchor("now", 100 * SECOND, 1_000_000 * SECOND, Quality.UNSYNCHRONISED)
    assert book.look() == [first]
    for _ in range(10):
        clock.pass_time(3600 * SECOND)
        assert book.look() == []
    assert len(book.all()) == 1


@pytest.mark.parametrize("jump", [20 * MILLISECOND, -20 * MILLISECOND, 10**18, -(10**15)])
def test_a_jump_of_the_wall_clock_makes_an_anchor(jump: int) -> None:
    clock = Hand()
    book = AnchorBook(clock)
    book.look()
    clock.wall_ns += jump
    (made,) = book.look()
    assert made.offset == clock.wall_ns - clock.boot_ns
    assert book.current() == made


def test_what_ntp_slews_between_two_looks_makes_no_anchor() -> None:
    clock = Hand()
    book = AnchorBook(clock)
    book.look()
    clock.wall_ns += 19 * MILLISECOND
    assert book.look() == []


def test_slewing_adds_up_to_an_anchor() -> None:
    clock = Hand()
    book = AnchorBook(clock)
    book.look()
    for _ in range(4):
        clock.wall_ns += 5 * MILLISECOND
        book.look()
    assert len(book.all()) == 2


def test_a_change_of_quality_makes_an_anchor() -> None:
    clock = Hand()
    book = AnchorBook(clock)
    book.look()
    clock.good = Quality.NTP
    (made,) = book.look()
    assert made.quality == Quality.NTP


def test_a_receiver_makes_an_anchor_once_and_again_after_a_jump() -> None:
    clock = Hand()
    book = AnchorBook(clock)
    book.look()
    book.tell(BootNs(clock.boot_ns), WallNs(10**18))
    assert book.look() == [anchor("now", clock.boot_ns, 10**18, Quality.GNSS)]
    book.tell(BootNs(clock.boot_ns), WallNs(10**18 + 400 * MILLISECOND))
    assert book.look() == []
    book.tell(BootNs(clock.boot_ns), WallNs(10**18 + SECOND))
    assert len(book.look()) == 1
    assert book.look() == []


def test_anchors_of_earlier_boots_are_kept_until_they_are_forgotten() -> None:
    old = anchor("old", 5, 50, Quality.GNSS)
    older = anchor("older", 7, 70, Quality.NTP)
    book = AnchorBook(Hand(), (old, older, old))
    assert book.current() is None
    (now,) = book.look()
    assert book.all() == (old, older, now)
    book.forget_boots_except({"older"})
    assert book.all() == (older, now)


def test_the_best_anchor_is_the_newest_of_the_best_quality() -> None:
    anchors = [
        anchor("a", 10, 10, Quality.NTP),
        anchor("a", 20, 20, Quality.GNSS),
        anchor("a", 30, 30, Quality.GNSS),
        anchor("a", 40, 40, Quality.NTP),
        anchor("a", 50, 50, Quality.UNSYNCHRONISED),
        anchor("b", 60, 60, Quality.GNSS),
    ]
    assert best_anchor(anchors, "a") == anchors[2]


def test_a_boot_that_was_never_synchronised_has_no_good_anchor() -> None:
    anchors = (anchor("a", 10, 10, Quality.UNSYNCHRONISED), anchor("b", 1, 1, Quality.NTP))
    assert best_anchor(anchors, "a") is None
    assert best_anchor((), "a") is None


def test_the_system_clock_is_that_of_the_kernel() -> None:
    clock = SystemClock()
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    boot = clock.boot()
    assert before <= boot <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert clock.boot() >= boot
    assert clock.wall() > 0
    assert clock.quality() in (Quality.UNSYNCHRONISED, Quality.NTP)
    known = Path("/proc/sys/kernel/random/boot_id")
    if known.exists():
        assert clock.boot_id == known.read_text("ascii").strip()
    assert clock.boot_id == SystemClock().boot_id
