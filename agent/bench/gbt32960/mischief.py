"""The bytes of a hostile or broken platform, for a vehicle that has just logged in.

garbage    bytes that are no frame, with start marks among them
endless    bytes without end (as many as are asked for)
huge       the begin of a frame of the greatest length that never comes
counts     queries and settings that announce more than they have
unknown    commands and information that the standard does not know
control    upgrade, shut down, reset, factory reset, and another endpoint
unasked    answers that nobody asked for
"""

import random
from collections.abc import Iterator
from typing import Final

from agent.bench.gbt32960.behaviour import Mischief
from agent.clock import WallNs
from agent.gbt32960.codec import Codec, pack_time
from agent.gbt32960.envelope import MAX_BODY, Frame, request
from agent.gbt32960.layout import Item

ENDLESS_BYTES: Final = 4 << 20
_PIECE: Final = 16_384
_CONTROLS: Final = (0x01, 0x02, 0x03, 0x04, 0x05, 0x07, 0x80)


def pieces(
    what: Mischief, codec: Codec, vin: str, now: WallNs, *, seed: int = 1
) -> Iterator[bytes]:
    """The bytes of one kind of mischief, in pieces of at most 64 KiB."""
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    time = pack_time(now)
    match what:
        case Mischief.GARBAGE:
            yield b"##".join(garbage(each, seed) for each in range(1, 80))
        case Mischief.ENDLESS:
            for _ in range(ENDLESS_BYTES // _PIECE):
                yield chance.randbytes(_PIECE)
        case Mischief.HUGE:
            yield request(codec, 0x81, vin, bytes(MAX_BODY)).to_bytes()[:24]
            # Behind the false begin stands something that is right.
            yield bytes(100)
        case Mischief.COUNTS:
            for command in (0x80, 0x81):
                for count in (252, 253, 255):
                    yield request(codec, command, vin, time + bytes((count,))).to_bytes()
            yield request(codec, 0x80, vin, time + bytes((252,)) + bytes(range(252))).to_bytes()
        case Mischief.UNKNOWN:
            for command in (0x00, 0x09, 0x0A, 0x0B, 0x7F, 0x83, 0xBF, 0xC0, 0xFE, 0xFF):
                yield request(codec, command, vin, chance.randbytes(40)).to_bytes()
        case Mischief.CONTROL:
            for control in _CONTROLS:
                yield request(codec, 0x82, vin, time + bytes((control,))).to_bytes()
            yield endpoint(codec, vin, now).to_bytes()
        case Mischief.UNASKED:
            for command in (0x01, 0x02, 0x03, 0x04, 0x07, 0x08, 0x55):
                for ack in (0x01, 0x02, 0x03, 0x44):
                    yield Frame(codec, command, ack, vin, time).to_bytes()


def garbage(size: int, seed: int = 1) -> bytes:
    """Bytes that are no frame, nor look like the begin of one, with halves of start marks."""
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    return bytes((0x23, 0x24, chance.randrange(0x30, 0x100))[n % 3] for n in range(size))


def endpoint(codec: Codec, vin: str, now: WallNs) -> Frame:
    """Sets another domain and port for the vehicle to report to."""
    name = "elsewhere.example"
    items = [
        Item(0x04, {"platform_domain_length": len(name)}),
        Item(0x05, {"platform_domain": name}),
        Item(0x06, {"platform_port": 32960}),
    ]
    body = codec.encode(0x81, {"time": now, "parameters": items})
    return request(codec, 0x81, vin, body)
