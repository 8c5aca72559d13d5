"""What a bus must carry for the wanted signals, as filters of the kernel.

A filter is (id, mask) with the kernel's flag bits (linux/can.h): a frame passes where
`frame_id & mask == id & mask` for one of them. Remote frames carry no signals and do not pass.
"""

from collections.abc import Iterable

from agent.blocks import EXTENDED, ID_BITS, REMOTE
from agent.signals.database import ANY_BUS, Database, SignalPath
from agent.signals.model import Message

MOST = 512
"""The kernel takes no more for one socket (linux/can/raw.h: CAN_RAW_FILTER_MAX)."""

_FLAGS = EXTENDED | REMOTE
_PDU1 = 0x03FF_0000  # SAE J1939-21: data page and PDU format; the next byte is a destination
_PDU2 = 0x03FF_FF00
_TRANSPORT = (0x00EC_0000, 0x00EB_0000)  # TP.CM, TP.DT


def kernel_filters(
    database: Database, bus: str, wanted: Iterable[SignalPath]
) -> list[tuple[int, int]] | None:
    """Filters that let everything pass which the wanted signals of a bus are made from.

    None where there would be more than the kernel takes: then everything must pass.
    """
    names = {path.message for path in wanted if path.bus in (bus, ANY_BUS)}
    lists = {e.pgn for e in database.lists(bus) if e.name in names}
    messages = [
        m for m in database.messages(bus) if m.name in names or (m.j1939 and m.pgn in lists)
    ]
    found = {_filter(message) for message in messages}
    if any(m.j1939 for m in messages):
        found |= {(group | EXTENDED, _PDU1 | _FLAGS) for group in _TRANSPORT}
    return sorted(found) if len(found) <= MOST else None


def union(
    a: list[tuple[int, int]] | None, b: list[tuple[int, int]] | None
) -> list[tuple[int, int]] | None:
    """What passes one of two lists of filters; None lets everything pass."""
    if a is None or b is None:
        return None
    both = sorted({*a, *b})
    return both if len(both) <= MOST else None


def _filter(message: Message) -> tuple[int, int]:
    if message.j1939:
        mask = _PDU1 if message.pgn >> 8 & 0xFF < 240 else _PDU2
        return (message.pgn << 8 & mask) | EXTENDED, mask | _FLAGS
    if message.extended:
        return message.id & ID_BITS | EXTENDED, ID_BITS | _FLAGS
    return message.id, 0x7FF | _FLAGS
