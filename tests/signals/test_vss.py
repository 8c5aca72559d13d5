"""Signals by their VSS paths, in the units of VSS."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from agent.blocks import FrameBlock, SignalSchema, SignalTable, TableSchema
from agent.errors import ConfigError
from agent.settings import VssOfSignal, packaged
from agent.signals import Database, Decoder
from agent.signals.database import SignalPath
from agent.signals.vss import Labels, resolve, with_vss

DBC = """VERSION ""
BS_:
BU_: A
BO_ 1 Motion: 8 A
 SG_ Speed : 0|16@1+ (0.1,0) [0|250] "mph" A
 SG_ Gear : 16|3@1+ (1,0) [0|3] "" A
 SG_ Coolant : 24|8@1+ (1,-40) [-40|215] "degF" A
 SG_ Whole : 32|16@1+ (1,0) [0|0] "km" A
 SG_ Odd : 48|8@1+ (1,0) [0|0] "furlong" A
BO_ 2 Text: 16 A
 SG_ Vin : 0|128@1+ (1,0) [0|0] "km" A
VAL_ 1 Gear 0 "Park" 1 "Drive" ;
"""
SPEED, GEAR = "Vehicle.Speed", "Vehicle.Powertrain.Transmission.CurrentGear"


@pytest.fixture
def database(tmp_path: Path) -> Database:
    path = tmp_path / "car.dbc"
    path.write_text(DBC, "utf-8")
    return Database.load([path])


def entry(path: str, signal: str, unit: str = "") -> VssOfSignal:
    return VssOfSignal(path=path, signal=signal, unit=unit)


def decode(database: Database, data: bytes) -> SignalTable:
    block = FrameBlock.from_arrays(
        bus="can0", time=[0], id=[1], length=[8], data=np.frombuffer(data, np.uint8)[None]
    )
    (table,) = Decoder(database).decode(block)
    return table


class TestSchemas:
    def test_a_signal_gets_its_path_and_keeps_its_unit(self, database: Database) -> None:
        found, mapping = with_vss(database, [entry(GEAR, "Gear")])
        table = decode(found, bytes([0, 0, 1, 0, 0, 0, 0, 0]))
        gear = table.schema.by_name["Gear"]
        assert (gear.vss, gear.unit, gear.choices[1]) == (GEAR, "", (1, "Drive"))
        assert mapping == {GEAR: SignalPath("*", "Motion", "Gear")}

    def test_values_are_given_in_the_unit_and_raw_values_stay(self, database: Database) -> None:
        found, _ = with_vss(
            database,
            [
                entry(SPEED, "Speed", "km/h"),
                entry("Vehicle.Coolant", "Motion.Coolant", "celsius"),
                entry("Vehicle.TraveledDistance", "Whole", "m"),
            ],
        )
        table = decode(found, bytes([0xE8, 3, 0, 252, 7, 0, 0, 0]))
        assert table.raw["Speed"].tolist() == [1000]
        assert table.physical("Speed").tolist() == [1000 * 0.1609344]
        assert table.physical("Coolant")[0] == pytest.approx(100)
        assert table.physical("Whole").tolist() == [7000]
        speed = table.schema.by_name["Speed"]
        assert (speed.unit, speed.scale, speed.minimum) == ("km/h", 0.1609344, 0)
        assert speed.maximum == pytest.approx(402.336)

    def test_the_same_unit_by_another_name_changes_no_number(self, database: Database) -> None:
        found, _ = with_vss(database, [entry(SPEED, "Speed", "mile/h")])
        speed = found.buses["*"][0].by_name["Speed"].schema
        assert (speed.scale, speed.unit) == (0.1, "mile/h")

    def test_everything_else_stays(self, database: Database) -> None:
        found, _ = with_vss(database, [entry(SPEED, "Speed", "km/h")])
        assert found.buses["*"][1] == database.buses["*"][1]
        assert found.paths() == database.paths()

    def test_without_entries_it_is_the_same_database(self, database: Database) -> None:
        assert with_vss(database, []) == (database, {})

    def test_a_value_of_a_list_can_have_a_path(self, tmp_path: Path) -> None:
        path = tmp_path / "car.dbc"
        path.write_text(DBC, "utf-8")
        known = Database.load([path], j1939=True, expand=["DM1"])
        found, _ = with_vss(known, [entry("Vehicle.Diagnostics.Spn", "DM1_DTC.SPN")])
        vss = {s.name: s.vss for e in found.expanders["*"] for s in e.signals}
        assert vss["SPN"] == "Vehicle.Diagnostics.Spn"
        with pytest.raises(ConfigError, match="counts the entries of a list"):
            with_vss(known, [entry("Vehicle.Diagnostics.Number", "DM1_DTC.Number")])


class TestRefused:
    @pytest.mark.parametrize(
        ("entries", "words"),
        [
            ([entry(SPEED, "Spede")], "Vehicle.Speed: no signal is called"),
            (
                [entry(SPEED, "Speed"), entry(SPEED, "Gear")],
                r"Vehicle.Speed: it is given twice, for Motion.Speed and for Motion.Gear",
            ),
            (
                [entry(SPEED, "Speed"), entry("Vehicle.OBD.Speed", "Motion.Speed")],
                r"Vehicle.OBD.Speed: Motion.Speed is Vehicle.Speed already",
            ),
            (
                [entry(SPEED, "Coolant", "km/h")],
                "Vehicle.Speed: km/h cannot be made of degF: velocity is not temperature",
            ),
            ([entry(SPEED, "Gear", "km/h")], 'the database gives no unit; leave "unit" out'),
            ([entry(SPEED, "Odd", "m")], 'Vehicle.Speed: the unit "furlong" is unknown'),
            ([entry(SPEED, "Speed", "kmm/h")], 'Vehicle.Speed: the unit "kmm/h" is unknown'),
            ([entry(SPEED, "Vin", "m")], "Vehicle.Speed: Vin holds bytes and has no unit"),
            ([entry(SPEED, "Motion.*")], '"Motion.*" names 5 signals'),
        ],
    )
    def test_with_path_and_reason(
        self, database: Database, entries: Sequence[VssOfSignal], words: str
    ) -> None:
        with pytest.raises(ConfigError, match=words.replace("*", r"\*")):
            with_vss(database, entries)

    def test_a_name_on_two_buses_has_to_say_which(self, tmp_path: Path) -> None:
        path = tmp_path / "car.dbc"
        path.write_text(DBC, "utf-8")
        known = Database.load({"a": [path], "b": [path]})
        with pytest.raises(ConfigError, match="names 2 signals"):
            with_vss(known, [entry(SPEED, "Motion.Speed")])
        _, mapping = with_vss(known, [entry(SPEED, "b.Motion.Speed")])
        assert mapping[SPEED].bus == "b"
        assert {p.bus for p in known.select(resolve([SPEED], mapping))} == {"b"}


class TestResolve:
    @pytest.fixture
    def mapping(self, database: Database) -> dict[str, SignalPath]:
        entries = [entry(SPEED, "Speed"), entry(GEAR, "Gear"), entry("Vehicle.Ice.T", "Coolant")]
        return dict(with_vss(database, entries)[1])

    @pytest.mark.parametrize(
        ("pattern", "signals"),
        [
            (SPEED, {"Speed"}),
            ("Vehicle.Powertrain.*", {"Gear"}),
            ("Vehicle.*", {"Speed", "Gear", "Coolant"}),
            ("Vehicle.*.?", {"Coolant"}),
            ("Motion.W*", {"Whole"}),
            ("Odd", {"Odd"}),
            ("*.Speed", {"Speed"}),
            ("*", {"Speed", "Gear", "Coolant", "Whole", "Odd", "Vin"}),
        ],
    )
    def test_vss_paths_become_signals_and_others_stay(
        self,
        database: Database,
        mapping: dict[str, SignalPath],
        pattern: str,
        signals: set[str],
    ) -> None:
        assert {p.signal for p in database.select(resolve([pattern], mapping))} == signals

    def test_what_is_no_path_is_refused_by_the_database(
        self, database: Database, mapping: dict[str, SignalPath]
    ) -> None:
        with pytest.raises(ConfigError, match="no signal is called"):
            database.select(resolve(["Vehicle.Cabin.*"], mapping))

    def test_without_paths_nothing_changes(self) -> None:
        assert resolve(["Vehicle.*", "Speed"], {}) == ["Vehicle.*", "Speed"]

    def test_a_message_for_every_bus_is_not_one_of_another_bus(self, tmp_path: Path) -> None:
        path = tmp_path / "car.dbc"
        path.write_text(DBC, "utf-8")
        known = Database.load({"*": [path], "a": [path]})
        pattern = resolve([SPEED], {SPEED: SignalPath("*", "Motion", "Speed")})
        assert {p.bus for p in known.select(pattern)} == {"*"}


def test_what_sources_make_themselves_is_labelled_as_it_passes() -> None:
    """Positions come as tables; the source knows nothing of VSS."""
    position = TableSchema("gnss", "Position", (SignalSchema("Latitude", "float64", 64),))
    other = TableSchema("gnss", "Fix", (SignalSchema("Satellites", "uint64", 8),))
    path = "Vehicle.CurrentLocation.Latitude"
    known = Database({}, tables=(position,), telling=(other,))
    found, _ = with_vss(known, [entry(path, "Position.Latitude")])
    labels = Labels(found)
    table = SignalTable(position, np.array([1]), {"float64": np.array([[51.5]])})
    plain = SignalTable(other, np.array([1]), {"uint64": np.array([[9]], np.uint64)})
    labelled = labels.apply(table)
    assert labelled.schema.by_name["Latitude"].vss == path
    assert labelled.raw["Latitude"].tolist() == [51.5]
    assert labels.apply(plain) is plain
    found, _ = with_vss(known, [entry("Vehicle.Satellites", "Fix.Satellites")])
    assert Labels(found).apply(plain).schema.signals[0].vss == "Vehicle.Satellites"


def test_hundreds_of_paths_for_the_demo_car() -> None:
    database = Database.load([packaged("dbc/ev.dbc")])
    signals = [p for p in database.paths() if p.message != "Tyres"]
    entries = [entry(f"Vehicle.{p.message}.{p.signal}", str(p)) for p in signals]
    found, mapping = with_vss(database, entries)
    assert len(mapping) == len(signals)
    (cell,) = found.select(resolve(["Vehicle.CellVoltages.CellVoltage42"], mapping))
    assert cell.signal == "CellVoltage42"
