"""The mapping of a plan onto lists of cells, the position, alarms and maker items."""

import math
from pathlib import Path

import numpy as np
import pytest

from agent.collect.conditions import Conditions
from tests.collect.reports.mapped import BUS, SNA, S, Small


class TestPacks:
    TEXT = """
        [[pack]]
        voltage = "Voltage"
        current = "-Current"
        cells = ["Cells.*"]
        probes = ["Probe2", "Probe?"]
        [[pack]]
        number = 7
        cells = ["Rear.Volt*"]
    """

    def small(self, tmp_path: Path) -> Small:
        small = Small(tmp_path, self.TEXT)
        small.say(1, "Cells", Page=0, Cell1=3600, Cell2=3610)
        small.say(1, "Cells", Page=1, Cell9=3590, Cell10=3620)
        small.say(1, "Pack", Voltage=3500, Current=-10)
        return small.say(1, "Rear", Volt1=3620, Volt2=3590, Probe1=65, Probe2=60)

    def test_cells_are_in_natural_order_and_in_volts(self, tmp_path: Path) -> None:
        first, second = self.small(tmp_path).at(1).lists["packs"]
        np.testing.assert_allclose(first["cells"], [3.6, 3.61, 3.59, 3.62])
        np.testing.assert_equal(first["probes"], [20, 25])
        assert (first["number"], first["voltage"], first["current"]) == (1, 350, 1)
        assert second["number"] == 7
        assert second.keys() == {"number", "cells"}

    def test_extremes_name_the_first_of_equal_ones(self, tmp_path: Path) -> None:
        assert self.small(tmp_path).at(1).items["extremes"] == {
            "voltage_max_subsystem": 1,
            "voltage_max_cell": 4,
            "voltage_max": 3.62,
            "voltage_min_subsystem": 1,
            "voltage_min_cell": 3,
            "voltage_min": 3.59,
            "temperature_max_subsystem": 1,
            "temperature_max_probe": 2,
            "temperature_max": 25,
            "temperature_min_subsystem": 1,
            "temperature_min_probe": 1,
            "temperature_min": 20,
        }

    def test_extremes_leave_out_what_is_not_known(self, tmp_path: Path) -> None:
        small = self.small(tmp_path)
        small.say(2, "Cells", Page=1, Cell9=SNA, Cell10=SNA)
        found = small.at(2).items["extremes"]
        assert (found["voltage_max_subsystem"], found["voltage_max_cell"]) == (7, 1)
        assert (found["voltage_min_subsystem"], found["voltage_min_cell"]) == (7, 2)
        cells = np.asarray(small.at(2).lists["packs"][0]["cells"])
        np.testing.assert_equal(cells[2:], [np.nan, np.nan])

    def test_extremes_of_nothing_are_nothing(self, tmp_path: Path) -> None:
        found = Small(tmp_path, self.TEXT).at(2).items["extremes"]
        assert len(found) == 12
        assert all(math.isnan(value) for value in found.values())

    def test_extremes_that_the_plan_maps_are_those(self, tmp_path: Path) -> None:
        small = Small(
            tmp_path, self.TEXT + '\n[extremes]\nvoltage_max = "Volt2"\nvoltage_max_cell = 5'
        )
        small.say(1, "Rear", Volt1=3700, Volt2=3650)
        found = small.at(1).items["extremes"]
        assert (found["voltage_max"], found["voltage_max_cell"]) == (3.65, 5)
        assert (found["voltage_max_subsystem"], found["voltage_min_cell"]) == (7, 2)

    def test_a_supercapacitor_has_extremes_of_its_own(self, tmp_path: Path) -> None:
        text = '[supercapacitor]\nnumber = 2\ncells = ["Rear.Volt*"]\nprobes = ["Probe1"]'
        small = Small(tmp_path, text).say(1, "Rear", Volt1=2500, Volt2=2600, Probe1=60)
        items = small.at(1).items
        assert items["supercapacitor"]["number"] == 2
        found = items["supercapacitor_extremes"]
        assert (found["voltage_max_subsystem"], found["voltage_max_cell"]) == (2, 2)
        assert found["temperature_min"] == 20
        assert "extremes" not in items


class TestPosition:
    TEXT = '[position]\nlongitude = "Lon"\nlatitude = "Lat"\nvalid = "Ready == 1"\ndatum = "GCJ02"'

    def test_it_has_a_sign_and_a_datum(self, tmp_path: Path) -> None:
        small = Small(tmp_path, self.TEXT)
        small.say(1, "Place", Lon=-705_000_000, Lat=-334_000_000)
        assert small.at(1, "position.valid").items["position"] == {
            "longitude": -70.5,
            "latitude": pytest.approx(-33.4),
            "no_fix": 0,
            "datum": 2,
        }

    def test_without_a_fix_the_last_one_is_repeated(self, tmp_path: Path) -> None:
        small = Small(tmp_path, self.TEXT)

        def place(time: float, *true: str) -> tuple[float, float]:
            found = small.at(time, *true).items["position"]
            return float(found["longitude"]), float(found["no_fix"])

        small.say(1, "Place", Lon=10_000_000, Lat=0)
        np.testing.assert_equal(place(1), (math.nan, 1))
        assert place(2, "position.valid") == (1, 0)
        small.say(3, "Place", Lon=990_000_000, Lat=0)
        assert place(3) == (1, 1)
        assert place(3, "position.valid") == (99, 0)
        assert place(60, "position.valid") == (99, 1)  # it is stale

    def test_what_is_no_place_is_no_fix(self, tmp_path: Path) -> None:
        small = Small(tmp_path, '[position]\nlongitude = "Lon"\nlatitude = "Lat"')
        assert (
            small.say(1, "Place", Lon=1_810_000_000, Lat=0).at(1).items["position"]["no_fix"] == 1
        )
        assert (
            small.say(2, "Place", Lon=1_800_000_000, Lat=0).at(2).items["position"]["no_fix"] == 0
        )


class TestAlarms:
    TEXT = """
        [alarms]
        soc_low = "Soc < 5"
        insulation = { when = "Soc < 6", level = 3 }
        cell_consistency = { when = "Soc < 7", level = 1 }
        thermal_event = "Soc < 8"
        battery_faults = ["Code1", "Code2 - 1"]
        other_faults = [{ when = { 0x11 = "Soc < 9" } }]
    """

    def test_flags_levels_and_the_highest_of_them(self, tmp_path: Path) -> None:
        small = Small(tmp_path, self.TEXT)
        names = ["alarms.soc_low", "alarms.insulation", "alarms.cell_consistency"]
        alarms = small.at(1, *names).alarms
        assert alarms is not None
        assert alarms.flags == {"soc_low", "insulation", "cell_consistency"}
        assert alarms.levels == {"insulation": 3, "cell_consistency": 1}
        assert alarms.level == 3
        none = small.at(1).alarms
        assert none is not None
        assert (none.level, none.flags, none.levels) == (0, frozenset(), {})

    def test_a_thermal_event_is_of_level_4(self, tmp_path: Path) -> None:
        alarms = Small(tmp_path, self.TEXT).at(1, "alarms.thermal_event").alarms
        assert alarms is not None
        assert alarms.level == 4

    def test_a_level_that_is_mapped_counts_too(self, tmp_path: Path) -> None:
        text = '[alarms]\nlevel = "Code1"\ninsulation = { when = "Soc < 6", level = 2 }'
        small = Small(tmp_path, text)
        levels = []
        for time, code in ((1, 1), (2, 3)):
            small.say(time, "Faults", Code1=code)
            samples = [small.at(time), small.at(time, "alarms.insulation")]
            levels += [sample.alarms.level for sample in samples if sample.alarms]
        assert levels == [1, 2, 3, 3]
        unknown, known = small.at(60).alarms, small.at(60, "alarms.insulation").alarms
        assert unknown is not None
        assert known is not None
        assert math.isnan(unknown.level)
        assert known.level == 2

    def test_codes_of_faults_that_are_not_0(self, tmp_path: Path) -> None:
        small = Small(tmp_path, self.TEXT)
        found = []
        for time, codes in enumerate(((0, 1), (0xFFFFFFFF, 8), (7, 8)), 1):
            small.say(time, "Faults", Code1=codes[0], Code2=codes[1])
            alarms = small.at(time).alarms
            found.append(list(alarms.battery_faults) if alarms else None)
        assert found == [[], [0xFFFFFFFF, 7], [7]]

    def test_a_code_may_stand_for_a_condition(self, tmp_path: Path) -> None:
        small = Small(tmp_path, self.TEXT).say(1, "State", Soc=1)
        alarms = small.at(1, "alarms.other_faults #1 0x11").alarms
        assert alarms is not None
        assert list(alarms.other_faults) == [17]

    def test_conditions_are_those_of_the_collector(self, tmp_path: Path) -> None:
        text = '[alarms]\ninsulation = "Soc < 10 for 5 s"'
        small = Small(tmp_path, text)
        conditions = Conditions(small.compiled.conditions)
        rows = [(float(t), "State", {"Soc": 100 if t < 3 else 10}) for t in range(12)]
        (steps,) = conditions.feed(small.tables(rows), {BUS: 11 * S}).values()
        assert steps.rises().tolist() == [8 * S]


class TestMaker:
    def test_numbers_become_big_endian_bytes(self, tmp_path: Path) -> None:
        small = Small(
            tmp_path,
            """
            [[maker]]
            type = 0x81
            fields = [
              { value = "Voltage", bytes = 2, scale = 0.1 },
              { value = "Current", bytes = 3, scale = 0.1, offset = -1000 },
              { value = 5, bytes = 1 },
            ]
            """,
        )
        small.say(1, "Pack", Voltage=3500, Current=-125)
        assert small.at(1).maker == {0x81: b"\x0d\xac" + b"\x00\x26\x93" + b"\x05"}

    def test_no_value_and_what_does_not_fit_have_their_codes(self, tmp_path: Path) -> None:
        text = '[[maker]]\ntype = 0x80\nfields = [{ value = "Code1", bytes = 2, scale = 0.5 }]'
        small = Small(tmp_path, text)
        assert small.at(0).maker[0x80] == b"\xff\xff"
        for raw, expected in ((32766, b"\xff\xfc"), (32767, b"\xff\xfe"), (99_999, b"\xff\xfe")):
            assert small.say(1, "Faults", Code1=raw).at(1).maker[0x80] == expected
