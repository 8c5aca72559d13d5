"""A long signal in few points, of which none of the extremes is missing."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.batch.envelope import Envelope

SAMPLE = st.tuples(st.integers(0, 10**12), st.floats(-1e6, 1e6))


@given(st.lists(st.lists(SAMPLE, max_size=40), max_size=8), st.integers(2, 16))
def test_first_last_and_extremes_are_always_there(
    parts: list[list[tuple[int, float]]], intervals: int
) -> None:
    envelope = Envelope(intervals)
    for part in parts:
        time = np.array([t for t, _ in part], np.int64)
        envelope.add(time, np.array([v for _, v in part], np.float64))
    samples = [sample for part in parts for sample in part]
    time, value = envelope.points()
    drawn = list(zip(time.tolist(), value.tolist(), strict=True))
    assert envelope.samples == len(samples)
    assert len(drawn) <= 4 * intervals
    assert set(drawn) <= set(samples)
    assert time.tolist() == sorted(time.tolist())
    if samples:
        times, values = [t for t, _ in samples], [v for _, v in samples]
        assert (time[0], time[-1]) == (min(times), max(times))
        assert (value.min(), value.max()) == (min(values), max(values))


def test_few_samples_are_all_kept() -> None:
    envelope = Envelope(2048)
    time = np.arange(500, dtype=np.int64) * 1_000_000_000
    for begin in range(0, 500, 50):
        envelope.add(time[begin : begin + 50], np.sin(time[begin : begin + 50]))
    kept, value = envelope.points()
    assert kept.tolist() == time.tolist()
    assert value.tolist() == np.sin(time).tolist()


def test_one_peak_among_millions_is_kept() -> None:
    envelope = Envelope(100)
    for block in range(40):
        time = (block * 50_000 + np.arange(50_000, dtype=np.int64)) * 1_000_000
        value = np.zeros(len(time))
        if block == 17:
            value[12_345] = 99.0
        envelope.add(time, value)
    time, value = envelope.points()
    assert time[value == 99.0].tolist() == [(17 * 50_000 + 12_345) * 1_000_000]
    assert len(time) <= 400


def test_what_is_not_finite_is_left_out() -> None:
    envelope = Envelope(4)
    envelope.add(np.arange(3, dtype=np.int64), np.array([1.0, np.nan, np.inf]))
    assert envelope.samples == 1
    assert envelope.points()[1].tolist() == [1.0]
