"""gpsd's protocol, as gpsd 3.22 speaks it."""

import itertools
import json
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.bus.gnss.epochs import Epoch, Mark
from agent.bus.gnss.gpsd import MOST_BYTES, GpsdParser
from agent.clock import SECOND, BootNs

HERE: Final = Mark(BootNs(5), BootNs(5))
VERSION: Final = {"class": "VERSION", "release": "3.22", "proto_major": 3, "proto_minor": 14}
TPV: Final = {
    "class": "TPV",
    "device": "/dev/pts/0",
    "mode": 3,
    "time": "2026-03-23T12:00:00.000Z",
    "ept": 0.005,
    "lat": 47.285233167,
    "lon": 8.565265,
    "altHAE": 547.6,
    "altMSL": 499.6,
    "alt": 499.6,
    "track": 77.52,
    "speed": 5.402,
    "eph": 19.19,
}
SKY: Final = {
    "class": "SKY",
    "device": "/dev/pts/0",
    "vdop": 1.54,
    "hdop": 1.01,
    "pdop": 1.94,
    "nSat": 3,
    "uSat": 2,
    "satellites": [
        {"PRN": 23, "el": 38.0, "az": 230.0, "ss": 44.0, "used": True},
        {"PRN": 29, "el": 71.0, "az": 156.0, "ss": 47.0, "used": True},
        {"PRN": 7, "el": 29.0, "az": 116.0, "ss": 41.0, "used": False},
    ],
}


def line(report: dict[str, Any]) -> bytes:
    return json.dumps(report).encode() + b"\r\n"


def parse(stream: bytes) -> tuple[list[Epoch], GpsdParser]:
    parser = GpsdParser()
    epochs = parser.feed(stream, HERE)
    return epochs + parser.end(), parser


def one(*reports: dict[str, Any]) -> dict[str, int]:
    epochs, parser = parse(b"".join(map(line, reports)))
    assert parser.bad == 0
    assert len(epochs) == 1
    return dict(epochs[0].values)


def test_position_and_satellites_of_a_cycle_are_one_epoch() -> None:
    epochs, parser = parse(line(VERSION) + line(SKY) + line(TPV))

    assert parser.bad == 0
    assert len(epochs) == 1
    assert epochs[0].values == {
        "Latitude": 472_852_332,
        "Longitude": 85_652_650,
        "Altitude": 49_960,
        "Speed": 19_447,
        "Heading": 7752,
        "FixQuality": 1,
        "FixMode": 3,
        "SatellitesUsed": 2,
        "Hdop": 101,
        "Pdop": 194,
        "Vdop": 154,
    }
    assert epochs[0].in_view == 3
    assert epochs[0].utc == 1_774_267_200 * SECOND


def test_the_same_time_told_again_and_fuller_is_the_same_epoch() -> None:
    first = {k: v for k, v in TPV.items() if not k.startswith("alt")} | {"mode": 2}

    values = one(first, TPV, SKY, TPV)

    assert values["FixMode"] == 3
    assert values["Altitude"] == 49_960


def test_without_a_fix_nothing_is_known_and_the_reports_of_a_cycle_are_a_row() -> None:
    parser = GpsdParser()
    epochs = []
    for second in range(3):
        # gpsd may tell it several times while it listens to one burst of the receiver.
        for told in range(4):
            mark = Mark(BootNs(second * SECOND + told * SECOND // 20))
            epochs += parser.feed(line({"class": "TPV", "mode": 1}), mark)
    epochs += parser.end()

    assert [dict(e.values) for e in epochs] == [{"FixQuality": 0, "FixMode": 1}] * 3


def test_a_report_without_a_time_does_not_swallow_the_next_second() -> None:
    parser = GpsdParser()
    epochs = parser.feed(line({"class": "TPV", "mode": 1}), Mark(BootNs(0)))
    epochs += parser.feed(line(TPV), Mark(BootNs(SECOND)))
    epochs += parser.end()

    assert [(e.mark.read, e.values["FixQuality"]) for e in epochs] == [(0, 0), (SECOND, 1)]


def test_a_position_without_a_fix_is_not_taken() -> None:
    assert one(TPV | {"mode": 1}) == {"FixQuality": 0, "FixMode": 1}


@pytest.mark.parametrize(("status", "quality"), [(2, 2), (3, 4), (4, 5), (5, 6), (8, 8)])
def test_status_says_how_good_the_fix_is(status: int, quality: int) -> None:
    assert one(TPV | {"status": status})["FixQuality"] == quality


def test_a_status_that_is_not_known_is_not_guessed() -> None:
    assert "FixQuality" not in one(TPV | {"status": 77})


def test_an_old_gpsd_gives_the_height_as_alt_and_satellites_as_a_list() -> None:
    old = {k: v for k, v in TPV.items() if k not in ("altMSL", "altHAE")}
    values = one({k: v for k, v in SKY.items() if k not in ("nSat", "uSat")}, old)

    assert values["Altitude"] == 49_960
    assert values["SatellitesUsed"] == 2


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"{}",
        b"[]",
        b'{"class":1}',
        b'{"class":"TPV","mode":9}',
        b'{"class":"TPV","mode":"3"}',
        b'{"class":"TPV","mode":3,"lat":91,"lon":1}',
        b'{"class":"TPV","mode":3,"lat":1,"lon":-180.1}',
        b'{"class":"TPV","mode":3,"lat":"NaN","lon":1}',
        b'{"class":"TPV","mode":3,"lat":"sNaN","lon":1}',
        b'{"class":"TPV","mode":3,"lat":1e999999,"lon":1}',
        b'{"class":"TPV","mode":3,"lat":NaN,"lon":1}',
        b'{"class":"TPV","mode":3,"lat":1,"lon":1,"speed":-1}',
        b'{"class":"TPV","mode":3,"lat":1,"lon":1,"speed":"Infinity"}',
        b'{"class":"TPV","mode":3,"lat":1,"lon":1,"track":361}',
        b'{"class":"TPV","mode":3,"time":"yesterday"}',
        b'{"class":"TPV","mode":3,"time":"2026-03-23T12:00:00"}',
        b'{"class":"TPV","mode":3,"time":"9999-03-23T12:00:00Z"}',
        b'{"class":"SKY","nSat":-1}',
        b'{"class":"SKY","uSat":100000000000000000000}',
        b'{"class":"SKY","hdop":-1}',
        b'{"class":"SKY","satellites":' + b"[" * 30_000,
        b'{"class":"TPV","x":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"class":"TPV","x":"' + b"y" * MOST_BYTES + b'"}',
        b"\xff\xfe\x00",
        b"$GPGGA,123519",
    ],
)
def test_a_bad_line_is_counted_and_costs_itself(bad: bytes) -> None:
    epochs, parser = parse(bad + b"\r\n" + line(TPV))

    assert parser.bad == (1 if bad else 0)
    assert [e.values["Latitude"] for e in epochs] == [472_852_332]


def test_tiny_and_huge_exponents_take_no_time() -> None:
    values = one(TPV | {"lat": 0}, TPV | {"speed": 0})
    epochs, parser = parse(
        b'{"class":"TPV","mode":3,"lat":1e-999999,"lon":0e999999}\n'
        b'{"class":"TPV","mode":3,"lat":1e999999,"lon":-1e999999}\n'
    )

    assert values["Latitude"] == 472_852_332
    assert [dict(e.values)["Latitude"] for e in epochs] == [0]
    assert parser.bad == 1


@given(st.decimals(-90, 90, places=9), st.decimals(-180, 180, places=9))
def test_a_position_is_exact(latitude: Decimal, longitude: Decimal) -> None:
    epochs, _ = parse(
        f'{{"class":"TPV","mode":3,"lat":{latitude:f},"lon":{longitude:f}}}\n'.encode()
    )

    def steps(angle: Decimal) -> int:
        return int((angle * 10**7).to_integral_value(ROUND_HALF_EVEN))

    assert epochs[0].values["Latitude"] == steps(latitude)
    assert epochs[0].values["Longitude"] == steps(longitude)


values_ = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.none(),
    st.booleans(),
    st.sampled_from(["NaN", "-Infinity", "1e400", "2026-03-23T12:00:00Z", "0001-01-01T00:00:00Z"]),
)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """A report of which something may be off."""
    report: dict[str, Any] = dict(draw(st.sampled_from([TPV, SKY, VERSION])))
    for _ in range(draw(st.integers(0, 2))):
        report[draw(st.sampled_from([*TPV, *SKY]))] = draw(values_)
    whole = line(report)
    if draw(st.integers(0, 3)) == 0:
        cut = draw(st.integers(0, len(whole)))
        whole = whole[:cut] + draw(st.binary(max_size=3)) + whole[cut + 1 :]
    return whole


@given(
    st.one_of(st.lists(lines(), max_size=8).map(b"".join), st.binary(max_size=200)),
    st.lists(st.integers(0, 3000), max_size=6),
)
def test_the_pieces_in_which_bytes_come_change_nothing(stream: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = GpsdParser()
    got: list[Epoch] = []

    for begin, end in itertools.pairwise(places):
        got += pieces.feed(stream[begin:end], HERE)

    whole = GpsdParser()
    assert got == whole.feed(stream, HERE)
    assert pieces.end() == whole.end()
    assert (pieces.good, pieces.bad) == (whole.good, whole.bad)


def test_a_line_without_end_costs_itself_and_little_memory() -> None:
    parser = GpsdParser()
    for _ in range(50):
        assert parser.feed(b'{"class":"TPV","mode":3,' + b" " * 10_000, HERE) == []

    parser.feed(b"\n" + line(TPV), HERE)

    assert len(parser.end()) == 1
    assert parser.bad == 1
