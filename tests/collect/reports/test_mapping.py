"""The mapping of a plan onto the fields of GB/T 32960: how values are made."""

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.collect.reports import fields
from agent.collect.reports.mapping import CompiledReports, Held
from agent.collect.reports.mapping import Mapping as FieldMapping
from agent.gbt32960.report import encode
from agent.settings import gbt32960_mapping as written
from agent.settings import load_plan, packaged
from agent.signals import Database
from agent.signals.units import quantities
from agent.signals.vss import with_vss
from tests.collect.reports.mapped import SNA, Small


class TestValues:
    """Each form in which a field can be written."""

    def test_a_signal_by_any_name_a_campaign_takes(self, tmp_path: Path) -> None:
        for name in ("Soc", "State.Soc", "can-1.State.Soc", "Vehicle.Charge"):
            small = Small(tmp_path, f'[vehicle]\nsoc = "{name}"').say(1, "State", Soc=131)
            assert small.vehicle(1, "soc") == 65.5

    def test_a_number_and_a_word_of_the_standard(self, tmp_path: Path) -> None:
        small = Small(
            tmp_path,
            """
            [vehicle]
            run_mode = "electric"
            charge_state = "not_charging"
            gear = "Drive"
            insulation_resistance = 500
            brake_pedal = "applied"
            speed = "12.5"
            """,
        )
        values = small.at(1).items["vehicle"]
        assert values == {
            "run_mode": 1,
            "charge_state": 3,
            "gear": 14,
            "insulation_resistance": 500,
            "brake_pedal": 101,
            "speed": 12.5,
        }

    def test_a_table_of_labels_and_raw_values(self, tmp_path: Path) -> None:
        small = Small(
            tmp_path,
            """
            [vehicle.gear]
            signal = "State.Gear"
            values = { Park = "P", drive = 14, 1 = "reverse", SNA = 0 }
            """,
        )
        found = []
        for time, raw in enumerate((0, 3, 1, 2, 15)):
            found.append(small.say(time, "State", Gear=raw).vehicle(time, "gear"))
        # Neutral is not in the table; SNA is a code, but a label names it.
        np.testing.assert_equal(found, [15, 14, 13, math.nan, 0])

    def test_a_table_says_what_all_others_are(self, tmp_path: Path) -> None:
        text = (
            '[vehicle]\ndc_dc = { signal = "Ready", values = { 1 = "working" }, otherwise = "off" }'
        )
        small = Small(tmp_path, text)
        assert math.isnan(small.vehicle(0, "dc_dc"))  # nothing was heard
        assert small.say(1, "State", Ready=1).vehicle(1, "dc_dc") == 1
        assert small.say(2, "State", Ready=2).vehicle(2, "dc_dc") == 2

    def test_the_first_condition_that_is_true_wins(self, tmp_path: Path) -> None:
        small = Small(
            tmp_path,
            """
            [vehicle.vehicle_state]
            when = { started = "Ready == 1", 3 = "Soc > 90" }
            otherwise = "off"
            """,
        ).say(1, "State", Ready=1)
        both = ("vehicle.vehicle_state started", "vehicle.vehicle_state 3")
        assert small.vehicle(1, "vehicle_state", *both) == 1
        assert small.vehicle(1, "vehicle_state", both[1]) == 3
        assert small.vehicle(1, "vehicle_state") == 2

    def test_flags_are_conditions(self, tmp_path: Path) -> None:
        small = Small(tmp_path, '[vehicle]\nbrake_force = "Soc > 3"\ndrive_force = "Soc > 4"')
        values = small.at(0, "vehicle.brake_force").items["vehicle"]
        assert values == {"brake_force": 1, "drive_force": 0}

    def test_what_is_not_mapped_is_not_there(self, tmp_path: Path) -> None:
        sample = Small(tmp_path, '[vehicle]\nsoc = "Soc"').at(0)
        assert sample.items.keys() == {"vehicle"}
        assert sample.items["vehicle"].keys() == {"soc"}
        assert not sample.lists
        assert sample.alarms is None


class TestExpressions:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("-Current", 12.5),
            ("abs(Current) * 2 - 1", 24),
            ("(Voltage + 2 * Voltage) / 3", 350),
            ("Current + 12.5", 0),
            ("Voltage * Current / 1000", -4.375),
            ("Voltage / (Current + 12.5)", math.nan),
            ("1 + 2", 3),
        ],
    )
    def test_it_is_computed_from_the_last_values(
        self, tmp_path: Path, text: str, expected: float
    ) -> None:
        small = Small(
            tmp_path,
            f'[[maker]]\ntype = 0x80\nfields = [{{ value = "0", bytes = 1 }}]\n[vehicle]\n'
            f'total_current = {{ signal = "{text}", unit = "A" }}',
        ).say(1, "Pack", Voltage=3500, Current=-125)
        np.testing.assert_allclose(small.vehicle(1, "total_current"), expected, rtol=1e-12)

    def test_what_is_not_known_in_it_makes_it_unknown(self, tmp_path: Path) -> None:
        small = Small(tmp_path, '[vehicle]\ntotal_voltage = "Voltage + 0 * Rear.Volt1"')
        small.say(1, "Pack", Voltage=3500)
        assert math.isnan(small.vehicle(1, "total_voltage"))
        small.say(2, "Rear", Volt1=4000)
        assert small.vehicle(2, "total_voltage") == 350

    def test_one_in_another_unit_is_converted_when_it_says_so(self, tmp_path: Path) -> None:
        text = '[vehicle]\ntotal_voltage = { signal = "LinkVoltage * 2", unit = "mV" }'
        small = Small(tmp_path, text).say(1, "Pack", LinkVoltage=175_250)
        assert small.vehicle(1, "total_voltage") == 350.5

    def test_one_that_converts_by_itself_is_taken_as_it_is(self, tmp_path: Path) -> None:
        text = '[vehicle]\ntotal_voltage = { signal = "LinkVoltage / 500", unit = "V" }'
        small = Small(tmp_path, text).say(1, "Pack", LinkVoltage=175_250)
        assert small.vehicle(1, "total_voltage") == 350.5


class TestUnits:
    def test_signals_are_converted_to_the_unit_of_the_field(self, tmp_path: Path) -> None:
        small = Small(
            tmp_path,
            """
            [vehicle]
            total_voltage = "LinkVoltage"
            odometer = "Way"
            [[motor]]
            motor_temperature = "Heat"
            """,
        )
        small.say(1, "Pack", LinkVoltage=351_234).say(1, "State", Way=123_456, Heat=3131)
        assert small.vehicle(1, "total_voltage") == 351.234
        assert small.vehicle(1, "odometer") == 123.456
        assert small.at(1).lists["motors"][0]["motor_temperature"] == pytest.approx(39.95)

    def test_a_signal_without_a_unit_is_taken_for_that_of_the_field(self, tmp_path: Path) -> None:
        small = Small(tmp_path, '[vehicle]\nspeed = "Code1"').say(1, "Faults", Code1=88)
        assert small.vehicle(1, "speed") == 88

    def test_a_unit_that_the_plan_gives(self, tmp_path: Path) -> None:
        text = '[vehicle]\nspeed = { signal = "Code1", unit = "m/s" }'
        assert Small(tmp_path, text).say(1, "Faults", Code1=10).vehicle(1, "speed") == 36

    def test_the_sign_of_the_current_stays(self, tmp_path: Path) -> None:
        small = Small(tmp_path, '[vehicle]\ntotal_current = "Current"')
        assert small.say(1, "Pack", Current=-85).vehicle(1, "total_current") == -8.5


class TestNoValue:
    def test_nothing_was_heard(self, tmp_path: Path) -> None:
        sample = Small(tmp_path, '[vehicle]\nsoc = "Soc"').at(1)
        assert math.isnan(sample.items["vehicle"]["soc"])
        assert not sample.fresh

    def test_a_code_is_no_value_though_the_one_before_was(self, tmp_path: Path) -> None:
        small = Small(tmp_path, '[vehicle]\ntotal_voltage = "Voltage"')
        small.say(1, "Pack", Voltage=3500).say(2, "Pack", Voltage=SNA)
        sample = small.at(2)
        assert math.isnan(sample.items["vehicle"]["total_voltage"])
        assert sample.fresh

    def test_a_stale_value_is_none(self, tmp_path: Path) -> None:
        text = """
            stale_after_s = 5
            [vehicle]
            soc = "Soc"
            odometer = { signal = "Way", stale_after_s = 60 }
            gear = { signal = "Gear", values = { Park = "P" } }
            run_mode = "electric"
            [[motor]]
            stale_after_s = 2
            speed = "Code1"
        """
        small = Small(tmp_path, text).say(10, "State", Soc=100, Way=5000).say(10, "Faults", Code1=9)
        first, second, last = small.at(15), small.at(15.000_000_001), small.at(70)
        assert first.items["vehicle"] == {
            "run_mode": 1,
            "odometer": 5,
            "soc": 50,
            "gear": 15,
        }
        assert first.fresh
        vehicle = second.items["vehicle"]
        assert math.isnan(vehicle["soc"])
        assert math.isnan(vehicle["gear"])
        assert vehicle["odometer"] == 5
        assert not second.fresh
        assert last.items["vehicle"]["odometer"] == 5
        assert last.items["vehicle"]["run_mode"] == 1
        assert small.at(12).lists["motors"][0]["speed"] == 9
        assert math.isnan(small.at(12.1).lists["motors"][0]["speed"])

    def test_a_position_does_not_tell_that_the_vehicle_is_awake(self, tmp_path: Path) -> None:
        position = '[position]\nlongitude = "Lon"\nlatitude = "Lat"\nvalid = "Lon > 0"\n'
        only = Small(tmp_path, position).say(1, "Place", Lat=5)
        assert only.at(1).fresh
        small = Small(tmp_path, position + '[vehicle]\nsoc = "Soc"').say(1, "Place", Lat=5)
        assert not small.at(1).fresh
        assert small.say(2, "State", Soc=5).at(2).fresh

    def test_conditions_of_which_nothing_is_heard_say_nothing(self, tmp_path: Path) -> None:
        text = '[vehicle.vehicle_state]\nwhen = { started = "Ready == 1" }\notherwise = "off"'
        small = Small(tmp_path, text).say(1, "State", Ready=1)
        name = "vehicle.vehicle_state started"
        assert small.vehicle(11, "vehicle_state", name) == 1
        assert math.isnan(small.vehicle(11.5, "vehicle_state", name))

    def test_a_condition_that_asks_for_silence_says_something_in_silence(
        self, tmp_path: Path
    ) -> None:
        small = Small(
            tmp_path,
            """
            [vehicle.vehicle_state.when]
            started = "Ready == 1"
            off = "missing(Ready, 3 s)"
            """,
        ).say(1, "State", Ready=1)
        true = ("vehicle.vehicle_state started", "vehicle.vehicle_state off")
        assert small.vehicle(5, "vehicle_state", *true) == 1
        assert small.vehicle(50, "vehicle_state", *true) == 2


class TestUnmapped:
    def test_items_and_fields_by_edition(self, tmp_path: Path) -> None:
        compiled = Small(
            tmp_path,
            """
            [vehicle]
            soc = "Soc"
            [[motor]]
            speed = "Code1"
            [[motor]]
            [[pack]]
            cells = ["Rear.Volt*"]
            [fuel_cell]
            hydrogen_concentration_volume = 1
            """,
        ).compiled
        old, new = compiled.unmapped(2016), compiled.unmapped(2025)
        assert compiled.unmapped() == list(dict.fromkeys(old + new))
        assert "vehicle.soc" not in old
        assert {"vehicle.brake_pedal", "motor #1.controller_voltage", "motor #2.speed"} <= set(old)
        assert "motor #1.speed" not in old
        assert {"vehicle.brake_pedal", "motor #1.controller_voltage"}.isdisjoint(new)
        assert {"engine", "position", "alarms", "pack.probes", "stack"} <= set(new)
        assert "fuel_cell.hydrogen_concentration_max" in old
        assert "fuel_cell.hydrogen_concentration_volume" not in new
        assert "extremes.voltage_max" not in old
        assert "extremes.temperature_max" in old


class TestSettings:
    def test_its_keys_are_the_fields_of_the_layouts(self) -> None:
        tables: dict[str, type[msgspec.Struct]] = {
            "vehicle": written.VehicleFields,
            "motor": written.MotorFields,
            "engine": written.EngineFields,
            "fuel_cell": written.FuelCellFields,
            "position": written.PositionFields,
            "extremes": written.ExtremesFields,
            "alarms": written.AlarmFields,
            "pack": written.PackFields,
            "stack": written.StackFields,
            "supercapacitor": written.SupercapacitorFields,
        }
        for name, struct in tables.items():
            keys = {field.encode_name for field in msgspec.structs.fields(struct)}
            expected = set(fields.fields_of(name))
            if name == "alarms":
                expected |= {*fields.flags_of(2016), *fields.flags_of(2025)}
            assert keys - {"stale_after_s", "number", "valid"} == expected, name

    def test_the_units_of_the_layouts_are_known(self) -> None:
        for table in ("vehicle", "motor", "engine", "fuel_cell", "position", "pack", "stack"):
            for spec in fields.fields_of(table).values():
                if spec.unit not in ("", "mg/kg", "% vol"):
                    assert quantities(spec.unit), spec.name


@pytest.fixture(scope="module", name="compiled")
def of_the_demo_car() -> CompiledReports:
    plan = load_plan(packaged("config/plan-gbt32960.toml"))
    assert plan.gbt32960 is not None
    database, vss = with_vss(Database.load(plan.database[0].files), plan.vss)
    return FieldMapping.build(plan.gbt32960, database, vss)


class TestDemoPlan:
    def test_only_what_the_car_does_not_have_is_unmapped(self, compiled: CompiledReports) -> None:
        lists = {f"alarms.{name}_faults" for name in ("motor", "engine", "other")}
        both = {"engine", "fuel_cell", "alarms.storage_mismatch", "alarms.brake_system"}
        assert set(compiled.unmapped(2016)) == both | lists
        assert set(compiled.unmapped(2025)) == both | lists | {
            "stack",
            "supercapacitor",
            "alarms.motor_over_current",
            "alarms.supercapacitor_over_temperature",
            "alarms.supercapacitor_over_voltage",
            "alarms.hydrogen_leak",
            "alarms.hydrogen_pressure",
            "alarms.hydrogen_temperature",
            "alarms.stack_over_temperature",
        }

    def test_all_96_cells_and_24_probes_are_there(self, compiled: CompiledReports) -> None:
        sample = compiled.sample(Held(compiled.slots), dict.fromkeys(compiled.conditions, False), 0)
        (pack,) = sample.lists["packs"]
        assert np.shape(pack["cells"]) == (96,)
        assert np.shape(pack["probes"]) == (24,)

    def test_its_sample_can_be_sent_in_both_editions(self, compiled: CompiledReports) -> None:
        held = Held(compiled.slots)
        held.value[:], held.time[:] = 3, 0
        sample = compiled.sample(held, dict.fromkeys(compiled.conditions, False), 0)
        for edition in (2016, 2025):
            bodies, _, _ = encode(sample, edition)
            assert len(bodies) == 1
