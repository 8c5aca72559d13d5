"""Key-off, and what follows from it."""

from hypothesis import given
from hypothesis import strategies as st

from agent.clock import SECOND, BootNs
from agent.keyoff import Action, KeyOff, State
from agent.settings import Ignition


def at(seconds: float) -> BootNs:
    return BootNs(round(seconds * SECOND))


def machine() -> KeyOff:
    return KeyOff(Ignition(off_after_s=2, deadline_s=30))


def test_a_key_that_is_off_long_enough_seals_and_is_done_when_all_is_sent() -> None:
    key = machine()
    assert key.key(at(0), on=True) is None
    assert key.key(at(10), on=False) is None
    assert key.tick(at(11.9), drained=True) is None
    assert key.tick(at(12), drained=False) == "seal"
    assert key.tick(at(20), drained=False) is None
    assert key.tick(at(21), drained=True) == "done"
    assert key.state is State.ASLEEP
    assert key.tick(at(1000), drained=True) is None


def test_after_the_deadline_it_is_done_whatever_waits() -> None:
    key = machine()
    key.key(at(0), on=False)
    assert key.tick(at(2), drained=False) == "seal"
    assert key.tick(at(31.9), drained=False) is None
    assert key.tick(at(32), drained=False) == "done"


def test_a_key_that_bounces_does_nothing() -> None:
    key = machine()
    for second in range(20):
        assert key.key(at(second), on=second % 2 == 0) is None
        assert key.tick(at(second), drained=True) is None
    assert key.state is State.AWAKE


def test_a_key_on_wakes_at_any_time() -> None:
    key = machine()
    key.key(at(0), on=False)
    assert key.tick(at(2), drained=False) == "seal"
    assert key.key(at(3), on=True) == "wake"
    assert key.tick(at(100), drained=True) is None
    key.key(at(101), on=False)
    key.tick(at(103), drained=False)
    assert key.tick(at(104), drained=True) == "done"
    assert key.key(at(500), on=True) == "wake"
    assert key.state is State.AWAKE


def test_a_command_counts_at_once_and_until_the_input_changes() -> None:
    key = machine()
    key.key(at(0), on=True)
    assert key.sleep(at(1)) == "seal"
    assert key.sleep(at(2)) is None
    assert key.key(at(3), on=True) is None
    assert key.state is State.SEALING
    assert key.wake() == "wake"
    assert key.wake() is None
    key.sleep(at(4))
    key.key(at(5), on=False)
    assert key.key(at(6), on=True) == "wake"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["on", "off", "sleep", "wake", "drained", "tick"]), st.floats(0, 9)
        )
    )
)
def test_seal_comes_before_done_and_done_before_wake(steps: list[tuple[str, float]]) -> None:
    """Whatever happens: each seal ends in done or wake, and sleep is never reached without one."""
    key, now, said = machine(), 0.0, ["wake"]
    for what, after in steps:
        now += after
        action = _step(key, what, at(now))
        if action is not None:
            assert (said[-1], action) in {
                ("wake", "seal"),
                ("seal", "done"),
                ("seal", "wake"),
                ("done", "wake"),
            }
            said.append(action)


def _step(key: KeyOff, what: str, now: BootNs) -> Action | None:
    match what:
        case "on" | "off":
            return key.key(now, on=what == "on")
        case "sleep":
            return key.sleep(now)
        case "wake":
            return key.wake()
    return key.tick(now, drained=what == "drained")
