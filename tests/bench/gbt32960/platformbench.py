"""A vehicle for tests of the platform: a client over real TCP that speaks with the codec."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from agent.bench.gbt32960.platform import Platform
from agent.clock import SECOND, WallNs
from agent.gbt32960.codec import GBT2016, GBT2025, Codec
from agent.gbt32960.envelope import Frame, Stream, request
from agent.gbt32960.layout import Item
from agent.gbt32960.packs import Pack, split_packs

VIN = "LTEST000000000001"
BEGIN = WallNs(1_767_232_800 * SECOND)
"""2026-01-01 10:00:00 in Beijing."""
CODECS = (GBT2016, GBT2025)


def at(seconds: int) -> WallNs:
    return WallNs(BEGIN + seconds * SECOND)


def vehicle_item(codec: Codec, *, off: bool = False, speed: int = 500) -> Item:
    values = {
        "vehicle_state": 2 if off else 1,
        "charge_state": 3,
        "run_mode": 1,
        "speed": speed,
        "odometer": 12345,
        "total_voltage": 3500,
        "total_current": 10100,
        "soc": 80,
        "dc_dc": 1,
        "gear_byte": 0x0E,
        "insulation_resistance": 1000,
    }
    if codec is GBT2016:
        values |= {"accelerator_pedal": 10, "brake_pedal": 0}
    return Item(0x01, values)


def alarm_item(codec: Codec, level: int, flags: Sequence[str] = ()) -> Item:
    kind = codec.layout.items[0x07 if codec is GBT2016 else 0x06]
    number = next(f for f in kind.fields if f.name == "flags")  # type: ignore[union-attr]
    values: dict[str, Any] = {
        "level": level,
        "flags": number.join(dict.fromkeys(flags, 1)),  # type: ignore[union-attr]
        "battery_faults": [],
        "motor_faults": [],
        "engine_faults": [],
        "other_faults": [],
    }
    if codec is GBT2025:
        values["alarm_levels"] = []
    return Item(0x07 if codec is GBT2016 else 0x06, values)


def cell_items(cells: int) -> list[Item]:
    """The 0x08 items of one pack of 2016, a frame each."""
    pack = Pack(1, 3500, 10000, {n: 3000 + n for n in range(1, cells + 1)}, cells)
    return [Item(0x08, values) for values in split_packs([pack])]


def login(codec: Codec, vin: str = VIN, serial: int = 1, time: WallNs = BEGIN) -> Frame:
    values: dict[str, Any] = {"time": time, "serial": serial, "iccid": "8986000000000000000A"}
    if codec is GBT2016:
        values |= {"subsystems": 1, "code_length": 0, "codes": []}
    else:
        values |= {"pack_counts": [], "codes": []}
    return request(codec, 0x01, vin, codec.encode(0x01, values))


def logout(codec: Codec, vin: str = VIN, serial: int = 1, time: WallNs = BEGIN) -> Frame:
    return request(codec, 0x04, vin, codec.encode(0x04, {"time": time, "serial": serial}))


def report(
    codec: Codec,
    seconds: int,
    *items: Item,
    vin: str = VIN,
    stored: bool = False,
) -> Frame:
    """A report of a time after `BEGIN`; of the whole vehicle if no items are given."""
    values = {"time": at(seconds), "items": list(items) or [vehicle_item(codec)]}
    command = 0x03 if stored else 0x02
    return request(codec, command, vin, codec.encode(command, values))


def heartbeat(codec: Codec, vin: str = VIN) -> Frame:
    return request(codec, 0x07, vin)


class Terminal:
    """The vehicle's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.stream = Stream()
        self.found: list[Frame] = []
        self.received = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, port: int) -> AsyncIterator["Terminal"]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def send(self, *frames: Frame) -> None:
        self.writer.write(b"".join(frame.to_bytes() for frame in frames))

    async def read(self) -> Frame:
        """The next frame.

        Raises:
            EOFError: the platform has closed the connection.
        """
        while not self.found:
            data = await self.reader.read(65_536)
            if not data:
                raise EOFError
            self.received += len(data)
            self.found += self.stream.feed(data)
        return self.found.pop(0)

    async def asks(self, frame: Frame) -> Frame:
        self.send(frame)
        return await self.read()

    async def ended(self) -> bool:
        """Read to the end of the connection."""
        with contextlib.suppress(OSError):
            while await self.reader.read(65_536):
                pass
        return True


def run(test: Callable[[Platform], Awaitable[None]], **options: Any) -> None:
    """Run a test against a platform of its own."""

    async def bench() -> None:
        async with Platform(**options) as platform:
            await asyncio.wait_for(test(platform), 60)

    asyncio.run(bench())
