"""A small vehicle whose signals are mapped, told in rows and asked at moments."""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from agent.bench.encode import Encoder
from agent.blocks import FrameBlock, SignalTable
from agent.collect.reports.mapping import CompiledReports, Held
from agent.collect.reports.mapping import Mapping as FieldMapping
from agent.gbt32960.sample import Sample
from agent.settings import CodesOfSignals, Gbt32960Mapping, VssOfSignal
from agent.signals import Database, Decoder
from agent.signals.database import SignalPath
from agent.signals.vss import with_vss

S = 1_000_000_000
BUS = "can-1"
SNA = 0xFFFF
DBC = """VERSION ""
BS_:
BU_: A
BO_ 256 Pack: 8 A
 SG_ Voltage : 0|16@1+ (0.1,0) [0|0] "V" A
 SG_ Current : 16|16@1- (0.1,0) [0|0] "A" A
 SG_ LinkVoltage : 32|32@1+ (1,0) [0|0] "mV" A
BO_ 257 State: 8 A
 SG_ Gear : 0|4@1+ (1,0) [0|0] "" A
 SG_ Ready : 4|2@1+ (1,0) [0|0] "" A
 SG_ Plain : 6|2@1+ (1,0) [0|0] "" A
 SG_ Soc : 8|8@1+ (0.5,0) [0|0] "%" A
 SG_ Heat : 16|16@1+ (0.1,0) [0|0] "K" A
 SG_ Way : 32|32@1+ (1,0) [0|0] "m" A
BO_ 258 Cells: 5 A
 SG_ Page M : 0|8@1+ (1,0) [0|0] "" A
 SG_ Cell1 m0 : 8|16@1+ (1,0) [0|0] "mV" A
 SG_ Cell2 m0 : 24|16@1+ (1,0) [0|0] "mV" A
 SG_ Cell9 m1 : 8|16@1+ (1,0) [0|0] "mV" A
 SG_ Cell10 m1 : 24|16@1+ (1,0) [0|0] "mV" A
BO_ 259 Rear: 8 A
 SG_ Volt1 : 0|16@1+ (0.001,0) [0|0] "V" A
 SG_ Volt2 : 16|16@1+ (0.001,0) [0|0] "V" A
 SG_ Probe1 : 32|8@1+ (1,-40) [0|0] "degC" A
 SG_ Probe2 : 40|8@1+ (1,-40) [0|0] "degC" A
BO_ 260 Faults: 8 A
 SG_ Code1 : 0|32@1+ (1,0) [0|0] "" A
 SG_ Code2 : 32|32@1+ (1,0) [0|0] "" A
BO_ 261 Place: 8 A
 SG_ Lat : 0|32@1- (0.0000001,0) [0|0] "deg" A
 SG_ Lon : 32|32@1- (0.0000001,0) [0|0] "deg" A
BO_ 262 Text: 10 A
 SG_ Vin : 0|80@1+ (1,0) [0|0] "" A
VAL_ 257 Gear 0 "Park" 1 "Reverse" 2 "Neutral" 3 "Drive" 15 "SNA" ;
VAL_ 257 Ready 0 "No" 1 "Yes" ;
"""


def database(folder: Path) -> tuple[Database, Mapping[str, SignalPath]]:
    """The vehicle's database with codes and a VSS path."""
    path = folder / "small.dbc"
    path.write_text(DBC, "utf-8")
    found = Database.load({BUS: [path]})
    found = found.with_codes(
        BUS,
        [
            CodesOfSignals(signals=["Voltage", "Cell?", "Cell10"], error=[SNA]),
            CodesOfSignals(signals=["Gear"], not_available=[15]),
        ],
    )
    return with_vss(found, [VssOfSignal(path="Vehicle.Charge", signal="State.Soc", unit="percent")])


def written(text: str) -> Gbt32960Mapping:
    """`[gbt32960]` of a plan, without the name of the table."""
    return msgspec.convert(tomllib.loads(text), Gbt32960Mapping, strict=True)


class Small:
    """The vehicle with a mapping."""

    def __init__(self, folder: Path, text: str) -> None:
        self.database, self.vss = database(folder)
        self.compiled: CompiledReports = FieldMapping.build(written(text), self.database, self.vss)
        self.held = Held(self.compiled.slots)
        self._decoder = Decoder(self.database)
        self._encoders = {m.name: Encoder(m) for m in self.database.messages(BUS)}

    def tables(self, rows: Iterable[tuple[float, str, Mapping[str, int]]]) -> list[SignalTable]:
        """Rows of one block: time in s, message, raw values."""
        rows = list(rows)
        messages = [self._encoders[name].message for _, name, _ in rows]
        data = np.zeros((len(rows), 64), np.uint8)
        for at, (_, name, raw) in enumerate(rows):
            payload = self._encoders[name].encode(raw)[0]
            data[at, : len(payload)] = payload
        block = FrameBlock.from_arrays(
            bus=BUS,
            time=[round(t * S) for t, _, _ in rows],
            id=[message.id for message in messages],
            length=[message.length for message in messages],
            data=data,
        )
        return self._decoder.decode(block)

    def say(self, time: float, message: str, **raw: int) -> "Small":
        """A frame, which is held from now on."""
        self.held.take(self.tables([(time, message, raw)]), round(time * S))
        return self

    def at(self, time: float, *true: str) -> Sample:
        """The sample at a time, s; `true` are the conditions that are."""
        names = {f"gbt32960 {name}" for name in true}
        assert names <= self.compiled.conditions.keys()
        truths = {name: name in names for name in self.compiled.conditions}
        return self.compiled.sample(self.held, truths, round(time * S))

    def vehicle(self, time: float, field: str, *true: str) -> Any:
        """A field of the whole vehicle."""
        return self.at(time, *true).items["vehicle"][field]
