"""Files that cantools reads give the same here, field by field."""

import pytest

from agent.settings import packaged
from agent.signals import Database
from agent.signals.dbc import read
from tests.shared_data import needs_shared, shared
from tests.signals.dbc import cantools_reading

NAMES = [p.name for p in sorted(shared("dbc").glob("*.dbc")) if p.name != "kona_pcan.dbc"]

ATTRIBUTES = """VERSION ""
BS_:
BU_: A
BO_ 2566844672 CCVS: 8 A
 SG_ Speed : 8|16@1+ (0.00390625,0) [0|250.996] "km/h" A,B

BO_ 2566844673 Other: 8 A
 SG_ S m1M : 0|8@1+ (1,0) [0|0] "" A
 SG_ T m300 : 8|8@1+ (1,0) [0.0|0] "" A

BA_DEF_ BO_ "VFrameFormat" {format};
BA_DEF_ BO_ "GenMsgCycleTime" INT 0 65535;
BA_DEF_ BO_ "SystemMessageLongSymbol" STRING ;
BA_DEF_DEF_ "VFrameFormat" {default};
BA_DEF_DEF_ "GenMsgCycleTime" 100;
BA_DEF_DEF_ "SystemMessageLongSymbol" "";
BA_ "VFrameFormat" BO_ 2566844672 3;
BA_ "GenMsgCycleTime" BO_ 2566844672 0;
BA_ "SystemMessageLongSymbol" BO_ 2566844673 "AnotherMessageWithALongName";
VAL_ 2566844672 Speed 65535 "not \\"there\\"" 65534 "error" ;
"""


@needs_shared
@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_a_real_vehicle(name: str) -> None:
    data = shared(f"dbc/{name}").read_bytes()
    reading = read(data)
    assert reading.messages == cantools_reading.messages(data.decode(reading.encoding))


def test_the_demo_vehicle() -> None:
    data = packaged("dbc/ev.dbc").read_bytes()
    assert read(data).messages == cantools_reading.messages(data.decode())


@pytest.mark.parametrize(
    ("kind", "default"),
    [
        ('ENUM "StandardCAN","ExtendedCAN","reserved","J1939PG"', '"J1939PG"'),
        ('ENUM "StandardCAN","ExtendedCAN","reserved","J1939PG"', '""'),
        ('ENUM "J1939PG","x","y","ExtendedCAN"', '"J1939PG"'),
        ("INT 0 15", "0"),
        ("INT 0 15", "3"),
    ],
)
def test_attributes_and_long_names(kind: str, default: str) -> None:
    text = ATTRIBUTES.format(format=kind, default=default)
    assert read(text.encode()).messages == cantools_reading.messages(text)


@needs_shared
@pytest.mark.parametrize("name", NAMES)
def test_signals_share_bits_where_cantools_says_so_when_it_is_strict(name: str) -> None:
    reading = read(shared(f"dbc/{name}").read_bytes())
    complaint = cantools_reading.strict_complaint(shared(f"dbc/{name}"), reading.encoding)
    shared_bits = [n for n in reading.notes if n.what.startswith("shares bits with")]
    assert bool(shared_bits) == ("overlapping" in complaint)


@needs_shared
def test_a_file_without_sections_is_the_same_as_one_with_them() -> None:
    broken = Database.load([shared("dbc/kona_pcan.dbc")])
    mended = Database.load([shared("dbc/kona_pcan_fixed.dbc")])
    assert broken.buses == mended.buses
    assert [f.item for f in broken.findings] == ["BS_", "BU_"]
    assert mended.findings == ()
