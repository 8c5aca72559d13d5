"""KCD, SYM and ARXML by way of cantools."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.errors import DatabaseError
from agent.signals import Database, foreign
from agent.signals.dbc.report import Report

KCD = """<?xml version="1.0" encoding="{encoding}"?>
<NetworkDefinition xmlns="http://kayak.2codeornot2code.org/1.0">
  <Document name="any"/>
  <Bus name="Motor">
    <Message id="0x64" name="Gear" length="2">
      <Multiplex name="Mux" offset="8" length="2">
        <MuxGroup count="1"><Signal name="Temperature" offset="10" length="6">
          <Value slope="0.5" intercept="-40" unit="°C"/></Signal></MuxGroup>
      </Multiplex>
      <Signal name="Lever" offset="0" length="4">
        <LabelSet><Label name="Park" value="0"/><Label name="Drive" value="1"/></LabelSet>
      </Signal>
    </Message>
  </Bus>
</NetworkDefinition>
"""
SYM = """FormatVersion=6.0 // Do not edit this line!
Title="any"

{SENDRECEIVE}

[Gear]
ID=064h
Len=8
Var=Lever unsigned 0,8 /u:step /f:0.5 /o:-2
"""


@pytest.mark.parametrize("encoding", ["utf-8", "iso-8859-1"])
def test_kcd(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "any.kcd"
    path.write_bytes(KCD.format(encoding=encoding).encode(encoding))
    database = Database.load([path])
    (message,) = database.messages("any bus")
    assert database.findings == ()
    lever, temperature = message.by_name["Lever"], message.by_name["Temperature"]
    assert dict(lever.schema.choices) == {0: "Park", 1: "Drive"}
    assert temperature.parent == "Mux"
    assert temperature.selected_by == {1}
    assert (temperature.schema.scale, temperature.schema.unit) == (0.5, "°C")


def test_sym(tmp_path: Path) -> None:
    path = tmp_path / "any.sym"
    path.write_text(SYM, "utf-8")
    (message,) = Database.load([path]).messages("any bus")
    schema = message.by_name["Lever"].schema
    assert (message.id, schema.scale, schema.offset, schema.unit) == (0x64, 0.5, -2, "step")


def test_a_signal_described_again_in_another_branch_is_one_or_has_a_number(tmp_path: Path) -> None:
    again = '<Signal name="Temperature" offset="{}" length="6"><Value slope="0.5" intercept="-40"/>'
    groups = "".join(
        f'<MuxGroup count="{count}">{again.format(offset)}</Signal></MuxGroup>'
        for count, offset in ((2, 10), (3, 4))
    )
    path = tmp_path / "any.kcd"
    text = KCD.format(encoding="utf-8").replace("</Multiplex>", f"{groups}</Multiplex>")
    path.write_text(text, "utf-8")
    (message,) = Database.load([path]).messages("any bus")
    assert message.by_name["Temperature"].selected_by == {1, 2}
    assert message.by_name["Temperature_2"].selected_by == {3}


@pytest.mark.parametrize("name", ["any.kcd", "any.sym", "any.arxml"])
@pytest.mark.parametrize("content", [b"", b"no database", b"<a>", b"\xff\xfe\x00", b"<a/>"])
def test_garbage_is_refused_with_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DatabaseError, match=name) as e:
        Database.load([path])
    assert "\n" not in str(e.value)


def test_a_sym_file_that_would_take_minutes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "any.sym"
    path.write_text(SYM + "// \n" * (1 << 19), "utf-8")
    with pytest.raises(DatabaseError, match="has more than 1 MB"):
        Database.load([path])


def test_a_scaling_that_is_no_line_is_a_finding_and_the_raw_values_stay() -> None:
    class PiecewiseConversion:
        is_float = False

        def __init__(self) -> None:
            self.choices = {0: "a", 0.5: "b"}

    signal = SimpleNamespace(
        name="S",
        conversion=PiecewiseConversion(),
        length=8,
        is_signed=False,
        unit=None,
        minimum=None,
        maximum=None,
        start=0,
        byte_order="little_endian",
        is_multiplexer=False,
        multiplexer_signal=None,
        multiplexer_ids=None,
    )
    report = Report()
    schema = foreign._signal(signal, "M", report).schema
    assert (schema.scale, schema.offset, schema.choices) == (1, 0, ((0, "a"),))
    assert [note.what for note in report.notes()] == [
        "its scaling is no line (PiecewiseConversion)",
        '"b" is for 0.5, which is no raw value',
    ]


def test_what_cantools_logs_about_scalings_becomes_a_finding() -> None:
    logger = logging.getLogger("cantools.database.can.formats.arxml.system_loader")
    before = logging.getLogger("cantools").level
    with foreign._told() as lines:
        logger.debug("Compu method category %s is not yet implemented.", "RAT_FUNC")
        logger.debug("Something else")
        logger.debug("Compu method category %s is not yet implemented.", "IDENTICAL")
        logger.warning("Signal scaling featuring multiple segments")
        logger.warning("Signal scaling featuring multiple segments")
    assert lines == [
        "Compu method category RAT_FUNC is not yet implemented.",
        "Signal scaling featuring multiple segments",
    ]
    assert logging.getLogger("cantools").level == before
