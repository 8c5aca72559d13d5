"""What a mapping of GB/T 32960 refuses, and how it says so."""

from pathlib import Path

import pytest

from agent.errors import ConfigError
from agent.settings import load_plan
from tests.collect.reports.mapped import Small

REFUSED = {
    "no such signal, with one near it": (
        '[vehicle]\nsoc = "State.Socc"',
        ["vehicle.soc: ", 'no signal is called "State.Socc"', "State.Soc"],
    ),
    "several signals": (
        '[[pack]]\nvoltage = "Rear.*"',
        ['pack #1.voltage: "Rear.*" is a pattern of 4 signals', "one signal"],
    ),
    "a word with a slip": (
        '[vehicle]\nrun_mode = "electrc"',
        ['vehicle.run_mode: no signal is called "electrc"', 'allowed: 1 "electric", 2 "hybrid"'],
    ),
    "a number out of range in both editions": (
        "[vehicle]\nsoc = 120",
        ["vehicle.soc: 120 is out of range", "0 to 100 %"],
    ),
    "a number that is no state": (
        "[vehicle]\nvehicle_state = 7",
        ["vehicle.vehicle_state: 7 is out of range", '1 "started"'],
    ),
    "a constant expression out of range": (
        '[vehicle]\nsoc = "-3"',
        ["vehicle.soc: -3.0 is out of range"],
    ),
    "a word that the field does not have": (
        '[vehicle]\ngear = { signal = "Gear", values = { Park = "parked" } }',
        ['vehicle.gear: values "Park": "parked" is not a word of this field', '13 "R"'],
    ),
    "another quantity": (
        '[vehicle]\ntotal_voltage = "Current"',
        ["vehicle.total_voltage: Pack.Current: ", "V cannot be made of A", "voltage"],
    ),
    "another quantity in a list": (
        '[[pack]]\ncells = ["Rear.*"]',
        ["pack #1.cells: Rear.Probe1: ", "V cannot be made of degC"],
    ),
    "a unit that nobody knows": (
        '[vehicle]\nspeed = { signal = "Code1", unit = "knoten" }',
        ['vehicle.speed: Faults.Code1: the unit "knoten" is unknown'],
    ),
    "a unit for what has none": (
        '[[maker]]\ntype = 0x80\nfields = [{ value = { signal = "Soc", unit = "%" }, bytes = 1 }]',
        ['maker 0x80 #1: State.Soc: "unit" is of no use'],
    ),
    "an expression in another unit": (
        '[vehicle]\ntotal_voltage = "(LinkVoltage + LinkVoltage) / 2"',
        ["vehicle.total_voltage: ", "is in mV", "the field in V", 'unit = "mV"'],
    ),
    "an expression of another quantity": (
        '[vehicle]\ntotal_current = "Voltage * 2"',
        ["vehicle.total_current: ", "is in V", "A cannot be made of V"],
    ),
    "an expression that adds units": (
        '[vehicle]\ntotal_voltage = "Voltage + LinkVoltage"',
        ["vehicle.total_voltage: it adds or subtracts V and mV"],
    ),
    "an expression that is none": (
        '[vehicle]\nsoc = "(State.Soc + "',
        ["vehicle.soc: column 13: ", "(State.Soc + "],
    ),
    "a window": (
        '[vehicle]\nsoc = "mean(Soc, 5 s)"',
        ["vehicle.soc: mean(", "looks back"],
    ),
    "the value before": (
        '[vehicle]\nsoc = "previous(Soc) / 2"',
        ["vehicle.soc: previous(", "looks back"],
    ),
    "a condition where a number is wanted": (
        '[vehicle]\nvehicle_state = "Ready == 1"',
        ["vehicle.vehicle_state: it is a condition, not a number", 'when = { "started" = \'Ready'],
    ),
    "a number where a condition is wanted": (
        '[alarms]\nsoc_low = "Soc"',
        ["alarms.soc_low: ", "is a number, not a condition"],
    ),
    "an empty condition": (
        '[alarms]\nsoc_low = { when = " ", level = 1 }',
        ["alarms.soc_low: the condition is empty"],
    ),
    "nothing": ('[vehicle]\nsoc = ""', ["vehicle.soc: it is empty"]),
    "a text": ('[[motor]]\nspeed = "Vin"', ["motor #1.speed: Text.Vin holds bytes"]),
    "a text among cells": ('[[pack]]\ncells = ["Text.Vin"]', ["pack #1.cells: Text.Vin holds"]),
    "states without their table": (
        '[vehicle]\nvehicle_state = "Gear"',
        ["vehicle.vehicle_state: State.Gear has a value table of its own", "values = "],
    ),
    "a label that there is not": (
        '[vehicle]\ngear = { signal = "Gear", values = { Parked = 15 } }',
        ['vehicle.gear: values "Parked": no label and no raw value of State.Gear', '"Park"'],
    ),
    "a label of what has none": (
        '[vehicle]\ngear = { signal = "Plain", values = { Park = 15 } }',
        ['values "Park": ', "State.Plain, which has no value table"],
    ),
    "a raw value that cannot be": (
        '[vehicle]\ngear = { signal = "Gear", values = { 16 = 15 } }',
        ['vehicle.gear: values "16": State.Gear has 4 bits and is never 16'],
    ),
    "a raw value given twice": (
        '[vehicle]\ngear = { signal = "Gear", values = { Park = 15, 0 = 14 } }',
        ['vehicle.gear: values "0": the raw value 0 is given twice'],
    ),
    "values of an expression": (
        '[vehicle]\ngear = { signal = "Gear + 1", values = { 1 = 15 } }',
        ['vehicle.gear: "values" are those of a signal'],
    ),
    "neither signal nor when": (
        "[vehicle]\ngear = { otherwise = 1 }",
        ['vehicle.gear: give either "signal" or "when"'],
    ),
    "signal and when": (
        '[vehicle]\ngear = { signal = "Gear", when = { P = "Ready == 1" } }',
        ['vehicle.gear: give either "signal" or "when"'],
    ),
    "values and when": (
        '[vehicle]\ngear = { values = { 1 = 1 }, when = { P = "Ready == 1" } }',
        ['vehicle.gear: "values" go with "signal"'],
    ),
    "otherwise of a plain signal": (
        '[vehicle]\nsoc = { signal = "Soc", otherwise = 5 }',
        ['vehicle.soc: "otherwise" goes with'],
    ),
    "otherwise that is no value": (
        '[vehicle.gear]\nwhen = { P = "Ready == 1" }\notherwise = 9',
        ["vehicle.gear: otherwise: 9 is out of range"],
    ),
    "a unit of states": (
        '[vehicle]\ngear = { signal = "Gear", values = { 1 = 1 }, unit = "V" }',
        ['vehicle.gear: "unit" is of no use'],
    ),
    "a condition that names nothing": (
        '[vehicle.gear.when]\nP = "Redy == 1"',
        ['vehicle.gear: when "P": column 1: no signal is called "Redy"', "Ready"],
    ),
    "no pattern fits": ('[[pack]]\nprobes = ["Prob?X"]', ["pack #1.probes: no signal is called"]),
    "a number of a pack twice": (
        "[[pack]]\n[[pack]]\nnumber = 1",
        ["pack #2: the number 1 is given twice"],
    ),
    "a type of a maker twice": (
        2 * "[[maker]]\ntype = 0x80\nfields = [{ value = 1, bytes = 1 }]\n",
        ["maker 0x80: the type is given twice"],
    ),
    "a scale of 0": (
        "[[maker]]\ntype = 0x80\nfields = [{ value = 1, bytes = 1, scale = 0 }]",
        ["maker 0x80 #1: the scale cannot be 0"],
    ),
    "a datum that there is not": (
        '[position]\nlongitude = "Lon"\nlatitude = "Lat"\ndatum = "BD09"',
        ['position.datum: "BD09" is not a word', '"GCJ02"'],
    ),
}


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_it_is_refused_with_key_and_reason(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        Small(tmp_path, text)
    said = str(refused.value)
    assert said.startswith("[gbt32960]: ")
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[gbt32960.vehicle]\nvoltage = 1", ['unknown key "voltage"', "total_voltage"]),
        ("[gbt32960.vehicle]\nspeed = true", ['"speed"', "bool"]),
        ("[[gbt32960.maker]]\ntype = 0x7F\nfields = []", ['"type"', ">= 128"]),
        ("[gbt32960]\nstale_after_s = 0", ['"stale_after_s"']),
        ("[gbt32960.alarms]\nsoc_low = { level = 1 }", ['"when" is missing']),
        ("[gbt32960.position]\nlongitude = 1", ['"latitude" is missing']),
    ],
)
def test_what_the_file_cannot_say_is_refused_with_its_line(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(f'version = 1\nname = "a"\ndatabase = []\n{text}\n', "utf-8")
    with pytest.raises(ConfigError) as refused:
        load_plan(path)
    assert str(refused.value).startswith(f"{path}:")
    for word in words:
        assert word in str(refused.value)
