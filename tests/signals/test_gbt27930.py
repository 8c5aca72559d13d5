"""A charging session of GB/T 27930, packed by hand, against `dbc/gbt27930.dbc`."""

import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import cantools
import pytest

from agent.blocks import EXTENDED, SignalTable
from agent.settings import packaged
from agent.signals import Database, Decoder
from tests.signals import transfers
from tests.signals.transfers import MS, Frame, block_of

CHARGER, BMS = 0x56, 0xF4
FILE = packaged("dbc/gbt27930.dbc")


class F(NamedTuple):
    """A field as tables of the protocol have it: bytes from 1, bits of the first byte from 0."""

    name: str
    byte: int
    end: int
    scale: str = "1"
    offset: int = 0
    unit: str = ""
    bit: int = 0
    bits: int = 0


def volts(name: str, byte: int, scale: str = "0.1") -> F:
    return F(name, byte, byte + 1, scale, unit="V")


def amps(name: str, byte: int) -> F:
    return F(name, byte, byte + 1, "0.1", -400, "A")


def degrees(name: str, byte: int) -> F:
    return F(name, byte, byte, "1", -50, "degC")


def flags(byte: int, *names: str) -> list[F]:
    return [F(n, byte + i // 4, 0, bit=2 * (i % 4), bits=2) for i, n in enumerate(names)]


VERSION = [F("VersionMajor", 1, 1), F("VersionMinor", 2, 3)]
TABLE: dict[str, tuple[int, int, int, int, Sequence[F]]] = {
    # message: id, length, milliseconds, PGN, fields
    "CHM": (0x1826F456, 3, 250, 0x2600, VERSION),
    "BHM": (0x182756F4, 2, 250, 0x2700, [volts("MaxTotalVoltage", 1)]),
    "CRM": (
        0x1801F456,
        8,
        250,
        0x0100,
        [F("Recognised", 1, 1), F("ChargerNumber", 2, 5), F("AreaCode", 6, 8)],
    ),
    "BRM": (
        0x1C0256F4,
        49,
        250,
        0x0200,
        [
            *VERSION,
            F("BatteryType", 4, 4),
            F("RatedCapacity", 5, 6, "0.1", unit="Ah"),
            volts("RatedVoltage", 7),
            F("PackSerial", 13, 16),
            F("ProductionYear", 17, 17, "1", 1985),
            F("ProductionMonth", 18, 18),
            F("ProductionDay", 19, 19),
            F("ChargeCount", 20, 22),
            F("Ownership", 23, 23),
        ],
    ),
    "BCP": (
        0x1C0656F4,
        13,
        500,
        0x0600,
        [
            volts("MaxCellVoltage", 1, "0.01"),
            amps("MaxCurrent", 3),
            F("NominalEnergy", 5, 6, "0.1", unit="kWh"),
            volts("MaxTotalVoltage", 7),
            degrees("MaxTemperature", 9),
            F("SOC", 10, 11, "0.1", unit="%"),
            volts("BatteryVoltage", 12),
        ],
    ),
    "CTS": (
        0x1807F456,
        7,
        500,
        0x0700,
        [
            *(F(n, i, i) for i, n in enumerate(("Second", "Minute", "Hour", "Day", "Month"), 1)),
            F("Year", 6, 7),
        ],
    ),
    "CML": (
        0x1808F456,
        8,
        250,
        0x0800,
        [
            volts("MaxVoltage", 1),
            volts("MinVoltage", 3),
            amps("MaxCurrent", 5),
            amps("MinCurrent", 7),
        ],
    ),
    "BRO": (0x100956F4, 1, 250, 0x0900, [F("Ready", 1, 1)]),
    "CRO": (0x100AF456, 1, 250, 0x0A00, [F("Ready", 1, 1)]),
    "BCL": (
        0x181056F4,
        5,
        50,
        0x1000,
        [volts("VoltageDemand", 1), amps("CurrentDemand", 3), F("Mode", 5, 5)],
    ),
    "BCS": (
        0x1C1156F4,
        9,
        250,
        0x1100,
        [
            volts("MeasuredVoltage", 1),
            amps("MeasuredCurrent", 3),
            F("MaxCellVoltage", 5, 0, "0.01", unit="V", bits=12),
            F("MaxCellGroup", 6, 0, bit=4, bits=4),
            F("SOC", 7, 7, unit="%"),
            F("MinutesLeft", 8, 9, unit="min"),
        ],
    ),
    "CCS": (
        0x1812F456,
        7,
        50,
        0x1200,
        [
            volts("OutputVoltage", 1),
            amps("OutputCurrent", 3),
            F("MinutesCharged", 5, 6, unit="min"),
            F("ChargingAllowed", 7, 0, bits=2),
        ],
    ),
    "BSM": (
        0x181356F4,
        7,
        250,
        0x1300,
        [
            F("MaxVoltageCell", 1, 1, "1", 1),
            degrees("MaxTemperature", 2),
            F("MaxTemperatureProbe", 3, 3, "1", 1),
            degrees("MinTemperature", 4),
            F("MinTemperatureProbe", 5, 5, "1", 1),
            *flags(6, "CellVoltage", "SOCState", "OverCurrent", "OverTemperature"),
            *flags(7, "Insulation", "Connector", "ChargingAllowed"),
        ],
    ),
    "BST": (
        0x101956F4,
        4,
        10,
        0x1900,
        [
            *flags(1, "SOCReached", "TotalVoltageReached", "CellVoltageReached"),
            *flags(1, "", "", "", "StoppedByCharger")[3:],
            *flags(2, "InsulationFault", "OutputConnectorHot", "PartHot", "ConnectorFault"),
            *flags(3, "PackHot", "RelayFault", "Point2VoltageFault", "OtherFault"),
            *flags(4, "OverCurrent", "VoltageError"),
        ],
    ),
    "CST": (
        0x101AF456,
        4,
        10,
        0x1A00,
        [
            *flags(1, "ConditionReached", "StoppedByHand", "StoppedByFault", "StoppedByBattery"),
            *flags(2, "ChargerHot", "ConnectorFault", "InsideHot", "EnergyNotDeliverable"),
            *flags(3, "EmergencyStop", "OtherFault"),
            *flags(4, "CurrentError", "VoltageError"),
        ],
    ),
    "BSD": (
        0x181C56F4,
        7,
        250,
        0x1C00,
        [
            F("EndSOC", 1, 1, unit="%"),
            volts("MinCellVoltage", 2, "0.01"),
            volts("MaxCellVoltage", 4, "0.01"),
            degrees("MinTemperature", 6),
            degrees("MaxTemperature", 7),
        ],
    ),
    "CSD": (
        0x181DF456,
        8,
        250,
        0x1D00,
        [
            F("Minutes", 1, 2, unit="min"),
            F("Energy", 3, 4, "0.1", unit="kWh"),
            F("ChargerNumber", 5, 8),
        ],
    ),
    "BEM": (0x081E56F4, 4, 250, 0x1E00, [F("Timeouts", 1, 4)]),
    "CEM": (0x081FF456, 4, 250, 0x1F00, [F("Timeouts", 1, 4)]),
}
TEXTS = {"Maker": (9, 12), "VIN": (25, 41), "SoftwareVersion": (42, 49)}
"""Of BRM: ASCII."""

Values = dict[str, int | str]


def width(field: F) -> int:
    return field.bits or 8 * (field.end - field.byte + 1)


def packed(name: str, values: Values) -> bytes:
    """Little-endian, unused bits 1."""
    _, length, _, _, fields = TABLE[name]
    number = (1 << 8 * length) - 1
    for field in fields:
        at = 8 * (field.byte - 1) + field.bit
        mask = (1 << width(field)) - 1
        value = values[field.name]
        assert isinstance(value, int)
        number = number & ~(mask << at) | value << at
    data = bytearray(number.to_bytes(length, "little"))
    for text, (first, last) in TEXTS.items() if name == "BRM" else ():
        data[first - 1 : last] = str(values[text]).encode()
    return bytes(data)


def drawn(name: str, rng: random.Random) -> Values:
    values: Values = {f.name: rng.getrandbits(width(f)) for f in TABLE[name][4]}
    if name == "BRM":
        for text, (first, last) in TEXTS.items():
            letters = rng.choices("ABCDEFGHJKLMNPRSTUVWXYZ0123456789", k=last - first + 1)
            values[text] = "".join(letters)
    return values


Sample = tuple[int, str, str, str | int]


class Session:
    """What is on the charging bus, and what it means."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.queues: dict[int, list[list[tuple[int, bytes, list[Sample]]]]] = {CHARGER: [], BMS: []}
        self.frames: list[Frame] = []
        self.expected: list[Sample] = []
        self.transfers = 0

    def say(self, name: str) -> None:
        number, length, _, group, _ = TABLE[name]
        values = drawn(name, self.rng)
        data = packed(name, values)
        samples: list[Sample] = [(0, name, signal, v) for signal, v in values.items()]
        assert length == len(data)
        self._queue(number, group, data, samples)

    def list(self, name: str, entries: Sequence[int]) -> None:
        """Cells or probes."""
        size, group = (2, 0x1500) if name == "BMV" else (1, 0x1600)
        data = b"".join(e.to_bytes(size, "little") for e in entries)
        samples: list[Sample] = []
        message = "BMV_Cell" if name == "BMV" else "BMT_Probe"
        for i, entry in enumerate(entries, 1):
            samples += [(0, message, "Number", i)]
            if name == "BMT":
                samples += [(0, message, "Temperature", entry)]
                continue
            samples += [(0, message, "Voltage", entry & 0xFFF), (0, message, "Group", entry >> 12)]
        self._queue(0x1C0056F4 | group << 8, group, data, samples)

    def _queue(self, number: int, group: int, data: bytes, samples: Sequence[Sample]) -> None:
        sender, to = number & 0xFF, number >> 8 & 0xFF
        if len(data) <= 8:
            self.queues[sender].append([(number | EXTENDED, data, [*samples])])
            return
        self.transfers += 1
        sent = transfers.to_one(sender, to, group, data, self.rng.choice([1, 3, 16]))
        *parts, acknowledgement = sent
        self.queues[sender].append(
            [(i, d, [*samples] if j == len(parts) - 1 else []) for j, (i, d) in enumerate(parts)]
            + [(*acknowledgement, [])]
        )

    def flush(self) -> None:
        """Everything that is queued, in turns: single frames go between those of transfers."""
        rng = self.rng
        while any(self.queues.values()):
            for queue in self.queues.values():
                if not queue:
                    continue
                # Within a node transfers keep their order, single frames go anywhere between.
                first_long = next((q for q in queue if len(q) > 1), queue[0])
                chosen = rng.choice([q for q in queue if len(q) == 1] + [first_long])
                self._put(*chosen.pop(0))
                if not chosen:
                    queue.remove(chosen)
                if rng.random() < 0.3:
                    self._put(rng.choice([0x123, EXTENDED | 0x18FF1234]), bytes(8), [])

    def _put(self, number: int, data: bytes, samples: Sequence[Sample]) -> None:
        time = (self.frames[-1].time if self.frames else 0) + self.rng.randint(1, 10) * MS
        self.frames.append(Frame(time, number, data))
        self.expected += [(time, message, signal, v) for _, message, signal, v in samples]


def charging(seed: int) -> Session:
    """Handshake, parameters, charging, end: as the protocol orders its messages."""
    session = Session(seed)
    rng = session.rng
    stages: list[tuple[int, str]] = [
        (2, "CHM BHM"),
        (2, "CRM BRM"),
        (2, "BCP CTS CML"),
        (2, "BRO CRO"),
        (8, "BCL BCL BCL BCS CCS CCS BSM"),
        (2, "BST CST"),
        (2, "BSD CSD"),
        (1, "BEM CEM"),
    ]
    for times, names in stages:
        for _ in range(times):
            for name in names.split():
                session.say(name)
            if "BCL" in names and rng.random() < 0.5:
                session.list("BMV", [rng.getrandbits(16) for _ in range(rng.choice([3, 96, 256]))])
                session.list("BMT", [rng.getrandbits(8) for _ in range(rng.choice([2, 32, 128]))])
            session.flush()
    return session


def samples_of(tables: Sequence[SignalTable]) -> list[Sample]:
    found: list[Sample] = []
    for table in tables:
        for name in table.names:
            column = table.raw[name]
            text = table.message == "BRM" and name in TEXTS
            for time, value in zip(table.time.tolist(), column, strict=True):
                if not text:
                    found.append((time, table.message, name, int(value)))
                    continue
                data = value.tobytes() if name == "VIN" else as_text(int(value), name)
                found.append((time, table.message, name, data.decode()))
    return found


def as_text(number: int, name: str) -> bytes:
    first, last = TEXTS[name]
    return number.to_bytes(last - first + 1, "big")


@pytest.mark.parametrize("seed", range(4))
def test_a_charging_session_decodes_to_what_was_packed(seed: int) -> None:
    session = charging(seed)
    decoder = Decoder(Database.load([FILE], expand=["BMV", "BMT"]))
    tables = []
    begin = 0
    while begin < len(session.frames):
        end = begin + session.rng.choice([1, 17, 400])
        tables += decoder.decode(block_of(session.frames[begin:end]))
        begin = end
    assert sorted(samples_of(tables), key=str) == sorted(session.expected, key=str)
    counts = decoder.counts
    assert counts.reassembled == session.transfers
    assert (counts.transport_lost, counts.undecodable) == (0, 0)
    others = sum(f.id in (0x123, EXTENDED | 0x18FF1234) for f in session.frames)
    assert counts.unknown == others
    assert counts.decoded + counts.transport + others == len(session.frames)
    assert {t.source for t in tables} == {CHARGER, BMS}


def test_the_file_says_what_the_tables_say() -> None:
    messages = {m.name: m for m in Database.load([FILE]).messages("any")}
    assert messages.keys() == TABLE.keys()
    for name, (number, length, period, group, fields) in TABLE.items():
        message = messages[name]
        assert (message.id, message.length, message.cycle_ms) == (number, length, period)
        assert (message.pgn, message.j1939, message.extended) == (group, True, True)
        described = {
            s.name: (Fraction(str(s.schema.scale)), s.schema.offset, s.schema.unit, s.length)
            for s in message.signals
            if name != "BRM" or s.name not in TEXTS
        }
        assert described == {
            f.name: (Fraction(f.scale), f.offset, f.unit, width(f)) for f in fields
        }
    assert messages["BRM"].by_name["VIN"].schema.kind == "bytes"


def test_the_file_has_no_findings_and_loads_strictly() -> None:
    assert Database.load([FILE]).findings == ()
    loaded: Any = cantools.database.load_file(FILE, strict=True)
    assert len(loaded.messages) == len(TABLE)


def test_a_captured_demand_reads_as_volts_and_amperes() -> None:
    # 350.0 V and -20.0 A, constant current: 3500 and 3800 tenths.
    frame = Frame(0, EXTENDED | 0x181056F4, bytes.fromhex("ac0dd80e02"))
    (table,) = Decoder(Database.load([FILE])).decode(block_of([frame]))
    assert table.physical("VoltageDemand").tolist() == [350.0]
    assert table.physical("CurrentDemand").tolist() == pytest.approx([-20.0])
    assert dict(table.schema.by_name["Mode"].choices)[2] == "Constant current"


def test_the_shorter_recognition_of_2011_ends_with_the_vin() -> None:
    data = packed("BRM", drawn("BRM", random.Random(1)))[:41]
    frames = transfers.timed(transfers.to_one(BMS, CHARGER, 0x0200, data))
    (table,) = Decoder(Database.load([FILE])).decode(block_of(frames))
    assert "VIN" in table.names
    assert "SoftwareVersion" not in table.names
