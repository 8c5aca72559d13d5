"""Random valid frames of GB/T 32960.3, byte by byte, for the decoders to read.

Written from the wire facts and apart from both decoders. Raw values lie within their ranges, with
the ends and the codes for "abnormal" and "invalid" more often than chance would give.
"""

from collections.abc import Callable
from random import Random
from typing import Final

COMMANDS: Final = {
    2016: (0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x80, 0x81, 0x82),
    2025: (0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0A, 0x0B, 0x80, 0x81, 0x82),
}
LONGEST: Final = 65531
LETTERS: Final = b"ABCDEFGHJKLMNPRSTUVWXYZ0123456789"


def random_frame(rng: Random, edition: int, command: int, *, answer: bool = False) -> bytes:
    """A valid frame, not encrypted; `answer`: with an ack flag and what may stand behind one.

    Commands that the edition does not define get random bytes for a data unit.
    """
    ack = rng.choice((1, 1, 1, 2, 3) if edition == 2016 else (1, 1, 1, 2, 3, 4, 5, 6, 7))
    body = _answer(rng, edition, command) if answer else _command(rng, edition, command)
    return envelope(edition, command, body, ack=ack if answer else 0xFE, vin=_text(rng, 17))


def envelope(
    edition: int,
    command: int,
    body: bytes,
    *,
    ack: int = 0xFE,
    vin: bytes = b"LTEST000000000001",
    encryption: int = 1,
) -> bytes:
    """The data unit with all that stands around it."""
    inner = bytes([command, ack]) + vin.ljust(17, b"\0") + bytes([encryption])
    inner += len(body).to_bytes(2, "big") + body
    check = 0
    for byte in inner:
        check ^= byte
    return (b"##" if edition == 2016 else b"$$") + inner + bytes([check])


def _number(rng: Random, size: int, low: int, high: int) -> bytes:
    """An integer without codes."""
    return rng.choice((low, high, *[rng.randint(low, high)] * 6)).to_bytes(size, "big")


def _value(rng: Random, size: int, low: int, high: int) -> bytes:
    """As `_number`, or one of the codes FE and FF of its size."""
    code = rng.randrange(10)
    if code < 2:
        return ((1 << 8 * size) - 1 - code).to_bytes(size, "big")
    return _number(rng, size, low, high)


def _values(rng: Random, count: int, size: int, low: int, high: int) -> bytes:
    return b"".join(_value(rng, size, low, high) for _ in range(count))


def _count(rng: Random, low: int, high: int) -> int:
    """Few, as a rule; sometimes the most that there can be."""
    return high if rng.randrange(20) == 0 else rng.randint(low, min(high, low + 5))


def _text(rng: Random, size: int) -> bytes:
    """Letters and digits, now and then short, padded with zero bytes."""
    used = size if rng.random() < 0.7 else rng.randint(0, size)
    return bytes(rng.choices(LETTERS, k=used)).ljust(size, b"\0")


def _time(rng: Random) -> bytes:
    spans = ((0, 99), (1, 12), (1, 28), (0, 23), (0, 59), (0, 59))
    return bytes(rng.randint(low, high) for low, high in spans)


def _block(rng: Random) -> bytes:
    size = rng.choice((32, 32, 0, 71, 256))
    part = size.to_bytes(2, "big") + rng.randbytes(size)
    return bytes([rng.randint(1, 3)]) + part + b"\x00\x20" + rng.randbytes(32)


def _command(rng: Random, edition: int, command: int) -> bytes:
    time, serial = _time(rng), _number(rng, 2, 1, 65531)
    match command:
        case 0x01:
            return time + serial + _text(rng, 20) + _codes(rng, edition)
        case 0x02 | 0x03:
            return time + _items(rng, edition)
        case 0x04 | 0x06:
            return time + serial
        case 0x05:
            encryption = bytes([rng.choice((1, 2, 3) if edition == 2016 else (1, 2, 3, 4, 5))])
            return time + serial + _text(rng, 12) + _text(rng, 20) + encryption
        case 0x07 | 0x08:
            return b""
        case 0x80:
            ids = bytes(rng.sample(range(1, 17), rng.randint(1, 16)))
            return time + bytes([len(ids)]) + ids
        case 0x81:
            return time + _parameters(rng, edition, read_only=False)
        case 0x82:
            return time + _control(rng)
    if edition == 2025 and command == 0x09:
        chip, key = bytes(rng.choices(LETTERS, k=rng.randint(1, 16))).ljust(16), rng.randbytes(64)
        return time + chip + b"\x00\x40" + key + _text(rng, 17) + _block(rng)
    if edition == 2025 and command == 0x0A:
        return bytes([rng.randint(1, 2), rng.randint(0, 2)])
    if edition == 2025 and command == 0x0B:
        key = rng.randbytes(rng.choice((16, 32, 64)))
        kind = bytes([rng.randint(1, 5)])
        return kind + len(key).to_bytes(2, "big") + key + _time(rng) + _time(rng)
    return rng.randbytes(rng.randint(0, 60))


def _answer(rng: Random, edition: int, command: int) -> bytes:
    """Nothing, the time alone, or all of the command again; values after a query."""
    if command == 0x80 and rng.random() < 0.7:
        return _time(rng) + _parameters(rng, edition, read_only=True)
    if command == 0x08:
        return _time(rng)
    if command in (0x07, 0x80):
        return rng.choice((b"", _time(rng)))
    if command == 0x0A:
        return _command(rng, edition, command)
    short = b"" if edition == 2025 and command == 0x0B else _time(rng)  # it begins with no time
    return rng.choice((b"", short, _command(rng, edition, command)))


def _codes(rng: Random, edition: int) -> bytes:
    if edition == 2016:
        count, length = _count(rng, 0, 250), rng.choice((0, 24, rng.randint(0, 50)))
        return bytes([count, length]) + b"".join(_text(rng, length) for _ in range(count))
    packs = [_count(rng, 0, 50) for _ in range(_count(rng, 0, 20))]
    codes = b"".join(_text(rng, 24) for _ in range(sum(packs)))
    return bytes([len(packs), *packs]) + codes


def _parameters(rng: Random, edition: int, *, read_only: bool) -> bytes:
    period = (2, 1, 600) if edition == 2016 else (1, 1, 30)
    alarm_period = (2, 0, 60000) if edition == 2016 else (1, 0, 1)
    plain = {
        0x01: (2, 0, 60000),
        0x02: period,
        0x03: alarm_period,
        0x06: (2, 1, 65535),
        0x09: (1, 1, 240),
        0x0A: (2, 1, 600),
        0x0B: (2, 1, 600),
        0x0C: (1, 1, 240),
        0x0F: (2, 1, 65535),
        0x10: (1, 1, 2),
    }
    entries = [(1, bytes([key]) + _number(rng, *span)) for key, span in plain.items()]
    for key in (0x04, 0x0D):  # the length of a domain, and the domain behind it
        domain = bytes(rng.choices(b"abcdefgh.-", k=rng.randint(1, 40)))
        entries.append((2, bytes([key, len(domain), key + 1]) + domain))
    if read_only:
        entries += [(1, bytes([key]) + _text(rng, 5)) for key in (0x07, 0x08)]
    chosen = rng.sample(entries, rng.randint(1, len(entries)))
    count = sum(number for number, _ in chosen)
    return bytes([count]) + b"".join(entry for _, entry in chosen)


def _control(rng: Random) -> bytes:
    control = rng.randint(1, 7)
    if control == 1:
        return b"\x01ftp://example.org/a;apn;user;word;" + _text(rng, 8).rstrip(b"\0") + b";21"
    if control == 6:
        text = rng.choice(("stop at once", "电池温度过高", "")).encode("gb18030")
        return bytes([6, rng.randint(0, 3)]) + text
    return bytes([control])


def _items(rng: Random, edition: int) -> bytes:
    """A random set of types in a random order, maker's items among them, a signature last."""
    makers = ITEMS_2016 if edition == 2016 else ITEMS_2025
    bodies = [bytes([kind]) + makers[kind](rng) for kind in rng.sample(sorted(makers), k=5)]
    for _ in range(rng.choice((0, 0, 1, 2))):
        content = rng.randbytes(rng.choice((1, 151, rng.randint(1, 2000))))
        bodies.append(bytes([rng.randint(0x80, 0xFE)]) + len(content).to_bytes(2, "big") + content)
    rng.shuffle(bodies)
    signature = b"\xff" + _block(rng) if edition == 2025 and rng.random() < 0.5 else b""
    result = b""
    for body in bodies[: rng.randint(0, len(bodies))]:
        if 6 + len(result) + len(body) + len(signature) <= LONGEST:
            result += body
    return result + signature


def _vehicle(rng: Random, edition: int) -> bytes:
    old = edition == 2016
    states = _value(rng, 1, 1, 3) + _value(rng, 1, 1, 4) + _value(rng, 1, 1, 3)
    electric = _value(rng, 2, 0, 10000 if old else 60000) + _value(
        rng, 2, 0, 20000 if old else 60000
    )
    gear = rng.choice((0, 1, 2, 3, 4, 5, 6, 13, 14, 15)) | rng.choice((0, 16, 32, 48))
    if not old:
        gear |= rng.choice((0, 0, 128))
    insulation = _number(rng, 2, 0, 60000) if old else _value(rng, 2, 0, 60000)
    pedals = _value(rng, 1, 0, 100) + _value(rng, 1, 0, 101) if old else b""
    return (
        states
        + _value(rng, 2, 0, 2200 if old else 5000)
        + _value(rng, 4, 0, 9999999)
        + electric
        + _value(rng, 1, 0, 100)
        + _value(rng, 1, 1, 2)
        + bytes([gear])
        + insulation
        + pedals
    )


def _motors(rng: Random, edition: int) -> bytes:
    count = _count(rng, 1, 253)
    body = bytes([count])
    for number in range(1, count + 1):
        body += bytes([number]) + _value(rng, 1, 1, 4) + _value(rng, 1, 0, 250)
        if edition == 2016:
            body += _values(rng, 2, 2, 0, 65531) + _value(rng, 1, 0, 250)
            body += _value(rng, 2, 0, 60000) + _value(rng, 2, 0, 20000)
        else:
            body += _value(rng, 2, 0, 65531) + _value(rng, 4, 0, 400000) + _value(rng, 1, 0, 250)
    return body


def _fuel_cell(rng: Random) -> bytes:
    body = _values(rng, 2, 2, 0, 20000) + _value(rng, 2, 0, 60000) + _bytes_list(rng, 0, 400, 240)
    body += _value(rng, 2, 0, 2400) + _value(rng, 1, 1, 252)
    body += _value(rng, 2, 0, 50000) + _value(rng, 1, 1, 252)
    return body + _value(rng, 2, 0, 1000) + _value(rng, 1, 1, 252) + _value(rng, 1, 1, 2)


def _hydrogen(rng: Random) -> bytes:
    body = _value(rng, 2, 0, 240) + _value(rng, 1, 1, 252)
    body += _value(rng, 2, 0, 60000) + _value(rng, 1, 1, 252)
    body += _value(rng, 2, 0, 1000) + _value(rng, 1, 1, 252) + _value(rng, 1, 1, 2)
    return body + _value(rng, 1, 0, 100) + _value(rng, 1, 0, 250)


def _position(rng: Random, edition: int) -> bytes:
    datum = b"" if edition == 2016 else _number(rng, 1, 1, 3)
    degrees = _number(rng, 4, 0, 180_000_000) + _number(rng, 4, 0, 90_000_000)
    return _number(rng, 1, 0, 7) + datum + degrees


def _extremes(rng: Random) -> bytes:
    voltages = [_values(rng, 2, 1, 1, 250) + _value(rng, 2, 0, 15000) for _ in range(2)]
    temperatures = [_values(rng, 2, 1, 1, 250) + _value(rng, 1, 0, 250) for _ in range(2)]
    return b"".join(voltages + temperatures)


def _supercapacitor_extremes(rng: Random) -> bytes:
    places = [_value(rng, 1, 1, 250) + _value(rng, 2, 1, 65531) for _ in range(4)]
    voltages = [place + _value(rng, 2, 0, 60000) for place in places[:2]]
    temperatures = [place + _value(rng, 1, 0, 250) for place in places[2:]]
    return b"".join(voltages + temperatures)


def _alarms(rng: Random, edition: int) -> bytes:
    level, bits = (3, 19) if edition == 2016 else (4, 28)
    body = _value(rng, 1, 0, level) + rng.getrandbits(bits).to_bytes(4, "big")
    for _ in range(4):
        if rng.randrange(10) == 0:
            body += rng.choice((b"\xfe", b"\xff"))  # no list behind these
        else:
            count = _count(rng, 0, 252)
            body += bytes([count]) + rng.randbytes(4 * count)
    if edition == 2025:
        count = rng.randint(0, 28)
        body += bytes([count])
        for bit in rng.sample(range(28), count):
            body += bytes([bit, rng.randint(1, 4)])
    return body


def _words_list(rng: Random, high: int) -> bytes:
    count = _count(rng, 1, 400)
    return count.to_bytes(2, "big") + _values(rng, count, 2, 0, high)


def _bytes_list(rng: Random, low: int, most: int, high: int) -> bytes:
    count = _count(rng, low, most)
    return count.to_bytes(2, "big") + _values(rng, count, 1, 0, high)


def _cell_voltages(rng: Random, edition: int) -> bytes:
    count = _count(rng, 1, 250) if edition == 2016 else _count(rng, 0, 50)
    body = bytes([count])
    for number in range(1, count + 1):
        body += bytes([number])
        if edition == 2025:
            body += _values(rng, 2, 2, 0, 60000) + _words_list(rng, 60000)
            continue
        here, before, behind = _count(rng, 1, 200), _count(rng, 0, 400), _count(rng, 0, 400)
        body += _value(rng, 2, 0, 10000) + _value(rng, 2, 0, 20000)
        body += (before + here + behind).to_bytes(2, "big") + (before + 1).to_bytes(2, "big")
        body += bytes([here]) + _values(rng, here, 2, 0, 60000)
    return body


def _temperatures(rng: Random, edition: int) -> bytes:
    count = _count(rng, 1, 250) if edition == 2016 else _count(rng, 0, 50)
    packs = (bytes([number + 1]) + _bytes_list(rng, 1, 300, 250) for number in range(count))
    return bytes([count]) + b"".join(packs)


def _stacks(rng: Random) -> bytes:
    count = _count(rng, 1, 20)
    body = bytes([count])
    for number in range(1, count + 1):
        body += bytes([number]) + _values(rng, 4, 2, 0, 20000)
        body += _value(rng, 1, 0, 240) + _bytes_list(rng, 1, 300, 240)
    return body


def _supercapacitor(rng: Random) -> bytes:
    head = _number(rng, 1, 1, 253) + _values(rng, 2, 2, 0, 60000)
    return head + _words_list(rng, 60000) + _bytes_list(rng, 1, 300, 250)


ITEMS_2016: Final[dict[int, Callable[[Random], bytes]]] = {
    0x01: lambda rng: _vehicle(rng, 2016),
    0x02: lambda rng: _motors(rng, 2016),
    0x03: _fuel_cell,
    0x04: lambda rng: _value(rng, 1, 1, 2) + _values(rng, 2, 2, 0, 60000),
    0x05: lambda rng: _position(rng, 2016),
    0x06: _extremes,
    0x07: lambda rng: _alarms(rng, 2016),
    0x08: lambda rng: _cell_voltages(rng, 2016),
    0x09: lambda rng: _temperatures(rng, 2016),
}
ITEMS_2025: Final[dict[int, Callable[[Random], bytes]]] = {
    0x01: lambda rng: _vehicle(rng, 2025),
    0x02: lambda rng: _motors(rng, 2025),
    0x03: _hydrogen,
    0x04: lambda rng: _value(rng, 2, 0, 60000),
    0x05: lambda rng: _position(rng, 2025),
    0x06: lambda rng: _alarms(rng, 2025),
    0x07: lambda rng: _cell_voltages(rng, 2025),
    0x08: lambda rng: _temperatures(rng, 2025),
    0x30: _stacks,
    0x31: _supercapacitor,
    0x32: _supercapacitor_extremes,
}
