"""`edge-agent plan import`: plans from Kuksa's mapping files."""

import contextlib
import json
import tomllib
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cli import main
from agent.errors import ConfigError
from agent.settings import load_plan
from agent.signals import Database, kuksa
from agent.signals.vss import with_vss
from tests.shared_data import needs_shared, shared

DBC = """VERSION ""
BS_:
BU_: A
BO_ 1 Motion: 8 A
 SG_ Speed : 0|16@1+ (0.1,0) [0|250] "mph" A
 SG_ Gear : 16|3@1+ (1,0) [0|3] "" A
 SG_ Coolant : 24|8@1+ (1,-40) [-40|215] "degF" A
 SG_ Angle : 32|16@1- (0.1,0) [0|0] "deg" A
 SG_ Tilt : 48|8@1+ (0.02,0) [0|5] "V" A
 SG_ Count : 56|8@1+ (1,0) [0|0] "" A
BO_ 2 Tire: 4 A
 SG_ Place M : 0|8@1+ (1,0) [0|3] "" A
 SG_ FrontPressure m0 : 8|8@1+ (4,0) [0|1000] "kPa" A
 SG_ RearPressure m1 : 8|8@1+ (4,0) [0|1000] "kPa" A
BO_ 3 Other: 1 A
 SG_ Count : 0|8@1+ (1,0) [0|0] "" A
VAL_ 1 Gear 0 "Park" 1 "Drive" 2 "Reverse" ;
"""


def leaf(signal: str = "", key: str = "dbc2vss", **more: Any) -> dict[str, Any]:
    """A leaf of the tree; `unit` and `vss2dbc` are its own, all else is the mapping's."""
    found: dict[str, Any] = {"datatype": "float", "description": "x", "type": "sensor"}
    found |= {k: more.pop(k) for k in ("unit", "vss2dbc") if k in more}
    return found | ({key: {"signal": signal, **more}} if signal else {})


def tree(leaves: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Leaves by their paths, as branches."""
    found: dict[str, Any] = {}
    for path, each in leaves.items():
        *branches, name = path.split(".")
        inside = found
        for branch in branches:
            made = inside.setdefault(branch, {"type": "branch", "description": "x", "children": {}})
            inside = made["children"]
        inside[name] = each
    return found


class Answer(NamedTuple):
    """What a run of the command gave."""

    status: int
    out: str
    err: str
    plan: Path

    @property
    def toml(self) -> dict[str, Any]:
        return tomllib.loads(self.plan.read_text("utf-8"))

    def vss(self, path: str) -> dict[str, Any]:
        (entry,) = [e for e in self.toml["vss"] if e["path"] == path]
        return dict(entry)


Run = Callable[..., Answer]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    (tmp_path / "car.dbc").write_text(DBC, "utf-8")

    def call(mapping: Any, *more: str, output: bool = True) -> Answer:
        source, plan = tmp_path / "vss_dbc.json", tmp_path / "plan.toml"
        if isinstance(mapping, bytes):
            source.write_bytes(mapping)
        else:
            source.write_text(json.dumps(mapping), "utf-8")
        where = ["-o", str(plan)] if output else []
        dbc = ["--dbc", str(tmp_path / "car.dbc")]
        status = main(["plan", "import", str(source), *dbc, *where, *more])
        out, err = capsys.readouterr()
        return Answer(status, out, err, plan)

    return call


class TestPlan:
    def test_a_mapping_becomes_paths_units_and_a_campaign_for_each_interval(self, run: Run) -> None:
        answer = run(
            tree(
                {
                    "Vehicle.Speed": leaf("Speed", unit="km/h", interval_ms=100),
                    "Vehicle.Chassis.SteeringWheel.Angle": leaf("Angle", interval_ms=100),
                    "Vehicle.Powertrain.Gear": leaf("Gear", on_change=True),
                    "Vehicle.Cabin.Nothing": leaf(),
                    "Vehicle.Slow": leaf("Coolant", "dbc"),
                    "Vehicle.All": leaf("Tilt", interval_ms=0),
                }
            )
        )
        assert (answer.status, answer.err) == (0, "")
        assert answer.toml["name"] == "vss_dbc"
        assert answer.toml["database"] == [{"bus": "*", "files": ["car.dbc"]}]
        assert answer.vss("Vehicle.Speed")["signal"] == "Motion.Speed"
        assert answer.toml["campaign"] == [
            {
                "name": "every-100-ms",
                "signals": ["Vehicle.Speed", "Vehicle.Chassis.SteeringWheel.Angle"],
                "every_ms": 100,
            },
            {"name": "on-change", "signals": ["Vehicle.Powertrain.Gear"], "on_change": True},
            {"name": "every-1000-ms", "signals": ["Vehicle.Slow"], "every_ms": 1000},
            {"name": "every-sample", "signals": ["Vehicle.All"]},
        ]

    def test_the_plan_can_be_loaded_and_gives_values_in_units_of_vss(self, run: Run) -> None:
        answer = run(tree({"Vehicle.Speed": leaf("Speed", unit="km/h")}))
        plan = load_plan(answer.plan)
        database, _ = with_vss(Database.load(plan.database[0].files), plan.vss)
        schema = database.buses["*"][0].by_name["Speed"].schema
        assert (schema.vss, schema.unit, schema.scale) == ("Vehicle.Speed", "km/h", 0.1609344)

    def test_without_a_file_it_is_printed(self, run: Run) -> None:
        answer = run(tree({"Vehicle.Speed": leaf("Speed")}), output=False)
        assert answer.status == 0
        assert tomllib.loads(answer.out)["vss"][0]["path"] == "Vehicle.Speed"
        assert Path(tomllib.loads(answer.out)["database"][0]["files"][0]).is_absolute()
        assert "1 signals in 1 campaigns" in answer.err
        assert not answer.plan.exists()

    def test_name_and_bus_can_be_given(self, run: Run) -> None:
        mapping = tree({"Vehicle.Speed": leaf("Speed")})
        answer = run(mapping, "--name", "fleet-7", "--bus", "powertrain")
        assert (answer.toml["name"], answer.toml["database"][0]["bus"]) == ("fleet-7", "powertrain")

    def test_a_plan_that_is_there_is_not_replaced(self, run: Run) -> None:
        run(tree({"Vehicle.Speed": leaf("Speed")}))
        answer = run(tree({"Vehicle.Gear": leaf("Gear")}))
        assert (answer.status, answer.toml["vss"][0]["path"]) == (2, "Vehicle.Speed")
        assert "is there already" in answer.err
        answer = run(tree({"Vehicle.Gear": leaf("Gear")}), "--force")
        assert (answer.status, answer.toml["vss"][0]["path"]) == (0, "Vehicle.Gear")

    def test_json_tells_programs_the_same(self, run: Run) -> None:
        answer = run(
            tree(
                {
                    "Vehicle.Speed": leaf("Speed", interval_ms=5),
                    "Vehicle.Tilt": leaf("Tilt", interval_ms=5, transform={"math": "floor(x)"}),
                    "Vehicle.Gone": leaf("Sped"),
                }
            ),
            "--json",
        )
        assert answer.status == 1
        found = json.loads(answer.out)
        assert (found["signals"], found["campaigns"]) == (2, {"every-5-ms": 2})
        assert [e["path"] for e in found["left_out"]] == ["Vehicle.Gone"]
        assert [e["path"] for e in found["not_taken_over"]] == ["Vehicle.Tilt"]
        assert found["file"] == str(answer.plan)

    def test_paths_with_dots_need_no_branches(self, run: Run) -> None:
        answer = run({"Vehicle.Speed": leaf("Speed")})
        assert [e["path"] for e in answer.toml["vss"]] == ["Vehicle.Speed"]


class TestTransforms:
    @pytest.mark.parametrize(
        ("signal", "unit", "math"),
        [
            ("Speed", "km/h", "x*1.609344"),
            ("Speed", "km/h", "1.609*x"),
            ("Speed", "km/h", "x"),
            ("Speed", "m/s", "(x * 0.44704)"),
            ("Coolant", "celsius", "(x-32)*5/9"),
            ("Angle", "degrees", "x+0"),
        ],
    )
    def test_a_conversion_becomes_the_unit(
        self, run: Run, signal: str, unit: str, math: str
    ) -> None:
        mapped = leaf(signal, unit=unit, transform={"math": math})
        answer = run(tree({"Vehicle.X": mapped}))
        assert (answer.status, answer.vss("Vehicle.X")["unit"]) == (0, unit)

    @pytest.mark.parametrize(
        ("signal", "unit", "math"),
        [
            ("Angle", "degrees", "floor(x+0.5)"),
            ("Tilt", "percent", "floor((x*40)-100)"),
            ("Tilt", "percent", "x*40-100"),
            ("Speed", "km/h", "x*1.8"),
            ("Count", "percent", "x/2.55"),
            ("Speed", "km/h", "__import__('os').system('true')"),
        ],
    )
    def test_other_expressions_are_told_and_not_taken_over(
        self, run: Run, signal: str, unit: str, math: str
    ) -> None:
        signal = f"Motion.{signal}"
        answer = run(tree({"Vehicle.X": leaf(signal, unit=unit, transform={"math": math})}))
        words = f'Vehicle.X: math "{math}": values stay as the DBC gives them'
        assert answer.status == 1
        assert f"not taken over: {words}" in answer.out
        assert f"#   {words}" in answer.plan.read_text("utf-8")
        assert "unit" not in answer.vss("Vehicle.X")

    def test_units_that_do_not_fit_are_told(self, run: Run) -> None:
        answer = run(tree({"Vehicle.Tilt": leaf("Tilt", unit="percent")}))
        assert answer.status == 1
        assert "the unit: percent cannot be made of V" in answer.out

    def test_where_the_database_has_no_unit_values_are_what_they_are(self, run: Run) -> None:
        answer = run(tree({"Vehicle.Gear": leaf("Gear", unit="percent")}))
        assert answer.status == 0
        assert "unit" not in answer.vss("Vehicle.Gear")
        assert "# VSS has percent: the database gives no unit" in answer.plan.read_text("utf-8")

    def test_a_mapping_that_says_what_the_value_table_says_is_nothing_to_tell(
        self, run: Run
    ) -> None:
        values = [{"from": "Park", "to": False}, {"from": "Drive", "to": True}]
        answer = run(tree({"Vehicle.Gear": leaf("Gear", transform={"mapping": values})}))
        assert answer.status == 0

    def test_other_mappings_are_told_with_the_words_of_the_value_table(self, run: Run) -> None:
        values = [{"from": "Drive", "to": 1}, {"from": "Reverse", "to": -1}]
        answer = run(tree({"Vehicle.Gear": leaf("Gear", transform={"mapping": values})}))
        assert answer.status == 1
        assert 'its words for them: 0 "Park", 1 "Drive", 2 "Reverse"' in answer.out

    def test_an_interval_beside_on_change_is_told(self, run: Run) -> None:
        answer = run(tree({"Vehicle.Gear": leaf("Gear", on_change=True, interval_ms=50)}))
        assert answer.status == 1
        assert "every change is kept" in answer.out
        (campaign,) = answer.toml["campaign"]
        assert (campaign["name"], campaign["on_change"]) == ("on-change-50-ms", True)


class TestLeftOut:
    @pytest.mark.parametrize(
        ("path", "mapped", "words"),
        [
            ("Vehicle.X", leaf("Sped"), 'the database has no signal "Sped"; near it: Speed'),
            ("Vehicle.X", leaf("Count"), '"Count" is in 2 messages: Motion.Count, Other.Count'),
            ("Vehicle.X", leaf("Gear"), "Motion.Gear is Vehicle.Gear already"),
            ("Vehicle", leaf("Tilt"), "Vehicle: is no VSS path"),
            ("Vehicle.Türe", leaf("Tilt"), "is no VSS path"),
            (
                "Vehicle.X",
                leaf("Tilt", multiplexer=[{"signal": "Angle", "value": 1}]),
                'only where "Angle" is 1',
            ),
        ],
    )
    def test_with_the_reason(self, run: Run, path: str, mapped: dict[str, Any], words: str) -> None:
        answer = run({"Vehicle.Gear": leaf("Gear"), path: mapped})
        assert answer.status == 1
        assert f"left out: {path}: " in answer.out
        assert words in answer.out
        assert words in answer.plan.read_text("utf-8")
        assert len(answer.toml["vss"]) == 1

    def test_what_is_written_to_the_bus(self, run: Run) -> None:
        mapped = leaf("Gear", vss2dbc={"signal": "Gear"})
        answer = run(tree({"Vehicle.Gear": mapped}))
        assert answer.status == 1
        assert "left out: Vehicle.Gear: vss2dbc writes to the bus" in answer.out
        assert answer.vss("Vehicle.Gear")["signal"] == "Motion.Gear"

    def test_a_multiplexer_that_the_database_knows_is_taken(self, run: Run) -> None:
        mapped = leaf("RearPressure", multiplexer=[{"signal": "Place", "value": 1}], unit="bar")
        answer = run(tree({"Vehicle.Tire": mapped}))
        assert (answer.status, answer.vss("Vehicle.Tire")["unit"]) == (0, "bar")
        mapped = leaf("RearPressure", multiplexer=[{"signal": "Place", "value": 0}])
        answer = run({"Vehicle.Gear": leaf("Gear"), "Vehicle.Tire": mapped}, "--force")
        assert (answer.status, len(answer.toml["vss"])) == (1, 1)

    def test_where_nothing_is_left_there_is_no_plan(self, run: Run) -> None:
        answer = run(tree({"Vehicle.X": leaf("Sped")}))
        assert answer.status == 2
        assert "nothing in it can be taken over. Vehicle.X: the database has no" in answer.err
        assert not answer.plan.exists()


def deep(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


class TestHostileFiles:
    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"", "is not valid JSON"),
            (b"{", "is not valid JSON"),
            (b"\xff\xfe{}", "is not valid JSON"),
            (b"[1]", "has to be a JSON object"),
            (deep(200_000), "is nested too deeply"),
            (b'{"a": ' + b"9" * 5000 + b"}", "is not valid JSON"),
            (b"{}", "nothing in it can be taken over"),
            (b'{"Vehicle": {"type": "branch", "children": []}}', '"children" is no object'),
            (b'{"A.B": {"type": "sensor", "dbc": {}}}', '"signal" is missing'),
            (b'{"A.B": {"type": "sensor", "dbc": []}}', '"dbc" is no object'),
            (b'{"A.B": {"type": "sensor", "dbc2vss": {"signal": 5}}}', "or no text"),
        ],
    )
    def test_they_are_refused_in_a_sentence(self, run: Run, data: bytes, words: str) -> None:
        answer = run(data)
        assert answer.status == 2
        assert words in answer.err
        assert not answer.plan.exists()

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            ({"interval_ms": -1}, "interval_ms"),
            ({"interval_ms": 1.5}, "interval_ms"),
            ({"interval_ms": True}, "interval_ms"),
            ({"interval_ms": 10**12}, "interval_ms"),
            ({"on_change": 1}, "on_change"),
            ({"transform": []}, "transform"),
            ({"transform": {"math": "x", "mapping": []}}, "transform"),
            ({"transform": {"math": 5}}, "math"),
            ({"transform": {"mapping": [{"from": 1}]}}, "mapping"),
            ({"multiplexer": [{"signal": "Place", "value": "0"}]}, "multiplexer"),
            ({"unit": 5}, "unit"),
        ],
    )
    def test_wrong_types_are_named_with_their_path(
        self, run: Run, more: dict[str, Any], words: str
    ) -> None:
        answer = run(tree({"Vehicle.Speed": leaf("Speed", **more)}))
        assert answer.status == 2
        assert f'vss_dbc.json: Vehicle.Speed: "{words}"' in answer.err

    def test_both_names_of_one_thing_are_refused(self, run: Run) -> None:
        both = leaf("Speed") | {"dbc": {"signal": "Gear"}}
        assert "has both" in run(tree({"Vehicle.Speed": both})).err

    def test_a_file_of_the_wrong_kind_is_not_read_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "huge.json"
        with path.open("wb") as file:
            file.truncate((64 << 20) + 1)
        with pytest.raises(ConfigError, match="is larger than 64 MB"):
            kuksa.read(path)
        with pytest.raises(ConfigError, match="cannot be read: No such file"):
            kuksa.read(tmp_path / "gone.json")

    def test_words_from_the_file_cannot_break_the_plan(self, run: Run) -> None:
        """Line ends in a comment of TOML would begin a new line of the plan; so do escapes."""
        nasty = 'x\n[[campaign]]\nname = "evil"\x1b[2J\u2028\ud800'
        answer = run(
            {
                "Vehicle.Gear": leaf("Gear", unit=nasty, transform={"math": nasty}),
                nasty: leaf("Speed"),
                "Vehicle.Y": leaf(nasty),
            }
        )
        assert answer.status == 1
        assert [c["name"] for c in answer.toml["campaign"]] == ["every-1000-ms"]
        assert "\x1b" not in answer.out

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        [
                            "type",
                            "children",
                            "dbc",
                            "dbc2vss",
                            "vss2dbc",
                            "signal",
                            "transform",
                            "math",
                        ]
                    )
                    | st.text(max_size=3),
                    inner | st.sampled_from(["sensor", "branch"]),
                    max_size=5,
                )
            ),
            max_leaves=20,
        )
    )
    @settings(max_examples=200, deadline=None)
    def test_any_json_is_read_or_refused(
        self, tmp_path_factory: pytest.TempPathFactory, value: Any
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "any.json"
        path.write_text(json.dumps(value), "utf-8")
        with contextlib.suppress(ConfigError):
            assert all(isinstance(m.signal, str) for m in kuksa.read(path).mapped)


_EXPRESSIONS = st.recursive(
    st.just("x") | st.decimals(0, 999, places=3).map(str),
    lambda inner: (
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
        | inner.map(lambda t: f"-{t}")
    ),
    max_leaves=12,
)


class TestExpressions:
    @given(_EXPRESSIONS)
    def test_a_line_goes_through_the_points_of_the_expression(self, text: str) -> None:
        line = kuksa.linear(text)
        if line is None:
            return
        factor, offset = line
        for x in (Fraction(-3), Fraction(0), Fraction(7, 2)):
            assert factor * x + offset == evaluated(text, x)

    @pytest.mark.parametrize(
        "text", ["", "x x", "x*x", "1/x", "x/0", "x^2", "abs(x)", "5 5", "0x10", "y", "x,", "(x"]
    )
    def test_what_is_no_line_is_none(self, text: str) -> None:
        assert kuksa.linear(text) is None

    @pytest.mark.parametrize("text", ["(" * 5000 + "x" + ")" * 5000, "-" * 900 + "x", "1e999*x"])
    def test_what_is_out_of_hand_is_none(self, text: str) -> None:
        assert kuksa.linear(text) is None

    @given(st.text(max_size=50))
    def test_any_text_is_a_line_or_not(self, text: str) -> None:
        kuksa.linear(text)


def evaluated(text: str, x: Fraction) -> Fraction:
    """By the language itself: what the strategy makes is nothing but numbers, x and signs."""
    whole = "".join(f"F('{t}')" if t[0].isdigit() else t for t in _tokens(text))
    found = eval(whole, {"__builtins__": {}, "F": Fraction, "x": x})  # noqa: S307
    return Fraction(found)


def _tokens(text: str) -> list[str]:
    spaced = "".join(f" {c} " if c in "()+-*/x" else c for c in text)
    return spaced.split()


@needs_shared
def test_the_example_of_the_provider(run: Run) -> None:
    """Signals of the provider's own example, with its own database."""
    park = [
        {"from": "DI_GEAR_D", "to": 1},
        {"from": "DI_GEAR_P", "to": 0},
        {"from": "DI_GEAR_INVALID", "to": 0},
        {"from": "DI_GEAR_R", "to": -1},
    ]
    answer = run(
        tree(
            {
                "Vehicle.Speed": leaf("DI_uiSpeed", unit="km/h", interval_ms=100),
                "Vehicle.OBD.Speed": leaf("DI_uiSpeed", unit="km/h", interval_ms=100),
                "Vehicle.Chassis.SteeringWheel.Angle": leaf(
                    "SteeringAngle129",
                    unit="degrees",
                    interval_ms=100,
                    transform={"math": "floor(x+0.5)"},
                ),
                "Vehicle.Powertrain.Transmission.CurrentGear": leaf(
                    "DI_gear", interval_ms=100, transform={"mapping": park}
                ),
                "Vehicle.OBD.ControlModuleVoltage": leaf("PCS_dcdcLvBusVolt", unit="V"),
                "Vehicle.OBD.AmbientAirTemperature": leaf(
                    "VCFRONT_tempAmbientFiltered", unit="celsius"
                ),
            }
        ),
        "--dbc",
        str(shared("dbc/kuksa_Model3CAN.dbc")),
    )
    assert answer.status == 1
    assert {e["path"] for e in answer.toml["vss"]} == {
        "Vehicle.Speed",
        "Vehicle.Chassis.SteeringWheel.Angle",
        "Vehicle.Powertrain.Transmission.CurrentGear",
        "Vehicle.OBD.ControlModuleVoltage",
        "Vehicle.OBD.AmbientAirTemperature",
    }
    assert "Vehicle.OBD.Speed: " in answer.out
    assert answer.vss("Vehicle.OBD.AmbientAirTemperature")["unit"] == "celsius"
