"""The signature at the end of a report of 2025.

A report is encoded without it, `covered` gives the bytes to be signed, a signer outside of this
program gives R and S, and `append` adds the block. In the other direction `split` finds it.

What is signed runs from the first byte of the time up to the block. Sources leave open whether the
type byte 0xFF of the block belongs to it: the one receiver that is known leaves it out, and so does
this; `marker` puts it in.
"""

from typing import Final

from agent.gbt32960.codec import GBT2025
from agent.gbt32960.layout import GbtError, Item
from agent.gbt32960.layout2025 import SIGNATURE_TYPE

_MARKER: Final = bytes((SIGNATURE_TYPE,))
_REALTIME: Final = 0x02


def covered(unsigned: bytes, *, marker: bool = False) -> bytes:
    """What is signed of a data unit that has no signature yet."""
    return unsigned + _MARKER if marker else unsigned


def append(unsigned: bytes, kind: int, r: bytes, s: bytes) -> bytes:
    """The data unit with its signature.

    Args:
        unsigned: a report as it was encoded, without a signature.
        kind: 1 SM2, 2 RSA, 3 ECC.
        r: the first half of the signature, or all of it.
        s: the second half.

    Raises:
        GbtError: not a readable report, one that has a signature, or a kind or length that does
            not fit.
    """
    values = GBT2025.decode(_REALTIME, unsigned)
    block = {"signature_kind": kind, "signature_r": r, "signature_s": s}
    signed = {"time": values["time"], "items": [Item(SIGNATURE_TYPE, block)]}
    if any(item.type == SIGNATURE_TYPE for item in values["items"]):
        raise GbtError("this report has a signature already")
    return unsigned + GBT2025.encode(_REALTIME, signed)[6:]


def split(body: bytes, *, marker: bool = False) -> tuple[bytes, Item | None]:
    """What the signature of a report covers, and its item: None where it has none.

    Raises:
        GbtError: the report is malformed.
    """
    items = GBT2025.decode(_REALTIME, body)["items"]
    if not items or items[-1].type != SIGNATURE_TYPE:
        return body, None
    last: Item = items[-1]
    # Type, kind and two lengths of two bytes.
    size = 1 + 1 + 2 + len(last.values["signature_r"]) + 2 + len(last.values["signature_s"])
    return covered(body[: len(body) - size], marker=marker), last
