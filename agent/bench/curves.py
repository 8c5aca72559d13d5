"""What drives are made of: figures by chance that do not depend on order, and smooth curves.

Everything lies on a grid of 10 ms. Random figures are hashes of (seed, stream, index), not draws
from a generator: they depend neither on the order of calls nor on the version of a library.
"""

import itertools
import zlib
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Float64, Int64, UInt64

STEP_S: Final = 0.01

Columns = dict[str, Float64]
"""Signal name -> physical values float64[steps of a cycle], in the unit of the signal."""


def hashed(seed: int, stream: str, index: Int64) -> UInt64:
    """64 random bits for each index, uint64[n] (the finaliser of splitmix64)."""
    # CRC-32, because hash() of a string differs from process to process.
    start = (seed * 0x9E37_79B9 + zlib.crc32(stream.encode())) & 0xFFFF_FFFF_FFFF
    z = (index.astype(np.uint64) + np.uint64(start)) * np.uint64(0x9E37_79B9_7F4A_7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return z ^ (z >> np.uint64(31))


def uniform(seed: int, stream: str, index: Int64) -> Float64:
    """Evenly spread over [0, 1), float64[n]."""
    return (hashed(seed, stream, index) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(seed: int, stream: str, index: Int64) -> Float64:
    """About normal with deviation 1 and never beyond 3.5: the sum of four 16-bit figures."""
    z = hashed(seed, stream, index)
    total = np.zeros(len(z))
    for part in range(4):
        total += (z >> np.uint64(16 * part)) & np.uint64(0xFFFF)
    spread: Float64 = (total / 65535 - 2) * 3**0.5
    return spread


def during(t: Float64, *spans: tuple[float, float]) -> NDArray[np.bool_]:
    """Where t lies in one of the spans, ends excluded."""
    inside = np.zeros(len(t), np.bool_)
    for begin, end in spans:
        inside |= (t >= begin) & (t < end)
    return inside


def smooth(x: Float64) -> Float64:
    """A smooth step from 0 at x = 0 to 1 at x = 1."""
    x = x.clip(0, 1)
    step: Float64 = x * x * (3 - 2 * x)
    return step


def joined(t: Float64, points: Iterable[tuple[float, float]]) -> Float64:
    """A curve through (t, y), from 0 before the first point, joined by smooth steps."""
    curve = np.zeros(len(t))
    for (begin, low), (end, high) in itertools.pairwise(points):
        curve += (high - low) * smooth((t - begin) / (end - begin))
    return curve


def lag(target: Float64, tau_s: float, start: float) -> Float64:
    """A first-order lag, exact on the grid; in pieces, because the weights grow as e**(t / tau)."""
    keep = float(np.exp(-STEP_S / tau_s))
    piece = max(1, int(25 * tau_s / STEP_S))
    out = np.empty(len(target))
    for begin in range(0, len(target), piece):
        part = target[begin : begin + piece]
        power = keep ** np.arange(1, len(part) + 1)
        out[begin : begin + piece] = (start + (1 - keep) * np.cumsum(part / power)) * power
        start = float(out[begin + len(part) - 1])
    return out
