"""Which encoding a file is taken for, by what is in it."""

import pytest

from agent.signals.dbc import read

CHINESE = '电池最高温度 "摄氏℃" 充电状态 故障等级 SOC电量'
WESTERN = "Größe Wärme °C µs m² Übertragung façade"


def unit_and_encoding(data: bytes) -> tuple[str, str, list[str]]:
    reading = read(data)
    (message,) = reading.messages
    found = [n.done for n in reading.notes if n.item.startswith("encoding")]
    return message.signals[0].schema.unit, reading.encoding, found


def file(unit: str, comment: str = "") -> str:
    comment = comment.replace('"', "")
    return (
        'VERSION ""\nBS_:\nBU_: A\nBO_ 5 M: 8 A\n'
        f' SG_ S : 0|8@1+ (1,0) [0|0] "{unit}" A\nCM_ "{comment}";\n'
    )


@pytest.mark.parametrize(
    ("text", "codec", "encoding"),
    [
        (("°C", WESTERN), "cp1252", "cp1252"),
        (("°C", ""), "cp1252", "cp1252"),
        (("µ", "Größe"), "cp1252", "cp1252"),
        (("m²", "été où déjà"), "cp1252", "cp1252"),
        (("℃", CHINESE), "gb18030", "gb18030"),
        (("千米", ""), "gbk", "gb18030"),
        (("电压", "镕 is rare"), "gbk", "gb18030"),
    ],
)
def test_what_is_no_utf8_is_read_by_what_its_characters_would_be(
    text: tuple[str, str], codec: str, encoding: str
) -> None:
    data = file(*text).encode(codec)
    assert unit_and_encoding(data) == (text[0], encoding, [f"read as {encoding}"])


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("unit", ["°C", "千米", "km"])
def test_utf8_is_nothing_to_speak_of(codec: str, unit: str) -> None:
    got, encoding, notes = unit_and_encoding(file(unit).encode(codec))
    assert (got, encoding in {"utf-8", "ascii"}, notes) == (unit, True, [])


@pytest.mark.parametrize("mark", ["utf-16-le", "utf-16-be"])
def test_utf16_is_known_by_its_mark(mark: str) -> None:
    data = ("\ufeff" + file("°C")).encode(mark)
    assert unit_and_encoding(data)[:2] == ("°C", "utf-16")
    assert unit_and_encoding(data + b"\n")[:2] == ("°C", "utf-16")


def test_a_file_put_together_from_several_is_read_line_by_line() -> None:
    data = file("°C").encode() + 'CM_ "größer";\n// '.encode() + "später\n".encode("cp1252")
    assert unit_and_encoding(data)[:2] == ("°C", "utf-8 and cp1252")


def test_bytes_that_cp1252_does_not_have_are_latin_1() -> None:
    assert unit_and_encoding(file("°C").encode("latin-1") + b"// \x81 \x8d\n")[1] == "latin-1"


def test_all_line_ends_count_the_same() -> None:
    for end in ("\r\n", "\r"):
        reading = read((file("km") + 'VAL_ 9 S 0 "x" ;\n').replace("\n", end).encode())
        assert [n.line for n in reading.notes if "VAL_" in n.item] == [7]
