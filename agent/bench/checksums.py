"""Checksums of which a DBC file says in words how they are made.

No attribute in common use says it, but comments do: "XOR of bytes 0 to 6", "Sum of all other
nibbles in the message". That is what is understood: `XOR` or `sum`, of `bytes` or `nibbles`, all
of them or those from one to another, counted from 0. The checksum's own bits are 0 in it, and the
result is cut to the bits that it has. Anything else (a CRC with a secret of its own) is not.
"""

import dataclasses
import re
from typing import Final

import numpy as np

from agent.blocks import Int64, UInt8
from agent.signals.model import Signal

_RULE: Final = re.compile(
    r"(?i)\b(?P<how>xor|sum)\s+(?:of|over)\s+(?:all\s+)?(?:the\s+)?(?:other\s+)?"
    r"(?P<what>bytes|nibbles)\b(?:\s+(?P<first>\d{1,2})\s*(?:to|-|\.\.)\s*(?P<last>\d{1,2})\b)?"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """How a checksum is made; `first` to `last` are bytes or nibbles, all without `last`."""

    xor: bool
    nibbles: bool
    first: int = 0
    last: int | None = None

    def raw(self, signal: Signal, payload: UInt8) -> Int64:
        """The checksum of n payloads, int64[n].

        Args:
            signal: the checksum, of at most 32 bits.
            payload: uint8[n, length of the message], its own bits 0.
        """
        parts = payload
        if self.nibbles:
            # Within a byte the lower one comes first.
            parts = np.stack([payload & 15, payload >> 4], axis=2).reshape(len(payload), -1)
        chosen = parts[:, self.first : None if self.last is None else self.last + 1]
        wide = chosen.astype(np.int64)
        total = np.bitwise_xor.reduce(wide, axis=1) if self.xor else wide.sum(axis=1)
        result: Int64 = total & ((1 << signal.length) - 1)
        return result


def rule_of(comment: str) -> Rule | None:
    """The rule that a comment states, if it states one that is understood."""
    match = _RULE.search(comment)
    if match is None:
        return None
    last = None if match["last"] is None else int(match["last"])
    return Rule(
        match["how"].lower() == "xor",
        match["what"].lower() == "nibbles",
        int(match["first"] or 0),
        last,
    )
