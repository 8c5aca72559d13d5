"""NMEA 0183: every well-formed sentence is read, every other is counted, whatever the pieces."""

import datetime as dt
import functools
import itertools
import operator
import re
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.blocks import SignalTable
from agent.bus.gnss import schemas
from agent.bus.gnss.epochs import Epoch, Mark
from agent.bus.gnss.nmea import MOST_BYTES, NmeaParser
from agent.bus.gnss.tables import position_row
from agent.clock import SECOND, BootNs

HERE: Final = Mark(BootNs(5), BootNs(3))


def line(body: str) -> bytes:
    check = functools.reduce(operator.xor, body.encode(), 0)
    return f"${body}*{check:02X}\r\n".encode()


def burst(
    hms: str, *, talker: str = "GN", date: str = "230326", north: str = "4717.11399"
) -> bytes:
    """What a u-blox receiver sends each second, in its order."""
    return b"".join(
        (
            line(f"{talker}RMC,{hms},A,{north},N,00833.91590,E,10.500,77.52,{date},,,A,V"),
            line(f"{talker}VTG,77.52,T,,M,10.500,N,19.446,K,A"),
            line(f"{talker}GGA,{hms},{north},N,00833.91590,E,1,08,1.01,499.6,M,48.0,M,,"),
            line(f"{talker}GSA,A,3,23,29,07,08,09,18,26,28,,,,,1.94,1.01,1.54,1"),
            line("GPGSV,3,1,10,23,38,230,44,29,71,156,47,07,29,116,41,08,09,081,36,1"),
            line("GLGSV,1,1,03,66,38,230,44,77,71,156,47,88,29,116,41,1"),
            line(f"{talker}GLL,{north},N,00833.91590,E,{hms},A,A"),
        )
    )


def parse(stream: bytes) -> tuple[list[Epoch], NmeaParser]:
    parser = NmeaParser()
    epochs = parser.feed(stream, HERE)
    return epochs + parser.end(), parser


def one(*lines: bytes) -> dict[str, int]:
    """The values of the only epoch, of lines that are all good."""
    epochs, parser = parse(b"".join(lines))
    assert parser.bad == 0
    assert len(epochs) == 1
    return dict(epochs[0].values)


def row(values: dict[str, int]) -> SignalTable:
    return position_row("gnss", BootNs(7), values)


class TestBurst:
    def test_all_sentences_of_a_time_are_one_epoch(self) -> None:
        epochs, parser = parse(burst("083559.00") + burst("083600.00"))

        assert parser.bad == 0
        assert parser.good == 14
        assert len(epochs) == 2
        assert epochs[0].values == {
            "Latitude": 472_852_332,
            "Longitude": 85_652_650,
            "Altitude": 49_960,
            "Speed": 19_446,
            "Heading": 7752,
            "FixQuality": 1,
            "FixMode": 3,
            "SatellitesUsed": 8,
            "Hdop": 101,
            "Pdop": 194,
            "Vdop": 154,
        }
        assert epochs[0].in_view == 13
        assert epochs[0].utc == dt.datetime(2026, 3, 23, 8, 35, 59, tzinfo=dt.UTC).timestamp() * 1e9

    def test_the_row_shows_physical_values_with_units(self) -> None:
        table = row(one(burst("083559.00")))

        assert table.physical("Latitude")[0] == pytest.approx(47.2852332, abs=1e-9)
        assert table.physical("Speed")[0] == pytest.approx(19.446)
        assert [s.unit for s in table.schema.signals[:5]] == ["deg", "deg", "m", "km/h", "deg"]
        assert table.time.tolist() == [7]
        assert table.schema in schemas("gnss")
        assert not any(table.validity(name).any() for name in table.names)

    @pytest.mark.parametrize("talker", ["GP", "GN", "GL", "GA", "GB", "BD", "QZ"])
    def test_every_satellite_system_may_talk(self, talker: str) -> None:
        assert one(burst("083559.00", talker=talker)) == one(burst("083559.00"))

    def test_the_order_within_a_burst_does_not_matter(self) -> None:
        lines = burst("083559.00").splitlines(keepends=True)

        wanted = one(*lines)

        assert one(*lines[::-1]) == wanted
        assert one(*lines[3:], *lines[:3]) == wanted

    def test_ten_epochs_a_second_are_ten_rows(self) -> None:
        epochs, _ = parse(b"".join(burst(f"083559.{tenth}0") for tenth in range(10)))

        assert len(epochs) == 10

    def test_a_new_format_and_an_old_one_of_the_same_time_are_one_epoch(self) -> None:
        values = one(
            line("GPGGA,083559,4717.1,N,00833.9,E,2,12,0.9,1,M,,M,,"),
            line("GPRMC,083559.000,A,4717.1,N,00833.9,E,0.0,,230326,,"),
        )

        assert values["FixQuality"] == 2

    @pytest.mark.parametrize(
        ("modes", "quality"),
        [("AA", 1), ("ND", 2), ("RR", 4), ("NF", 5), ("DA", 2), ("E", 6), ("S", 8)],
    )
    def test_gns_says_how_good_the_fix_is(self, modes: str, quality: int) -> None:
        values = one(line(f"GNGNS,083559,4717.1,N,00833.9,E,{modes},17,0.9,-12.34,48,,"))

        assert values["FixQuality"] == quality
        assert values["SatellitesUsed"] == 17
        assert values["Altitude"] == -1234

    def test_gll_alone_gives_a_position(self) -> None:
        values = one(line("GPGLL,4717.5,S,00833.9,W,083559,A"))

        assert values == {"Latitude": -472_916_667, "Longitude": -85_650_000}

    def test_speed_of_rmc_is_knots(self) -> None:
        assert one(line("GPRMC,083559,A,4717.1,N,00833.9,E,100,,230326,,"))["Speed"] == 185_200

    def test_a_full_circle_is_north(self) -> None:
        assert one(line("GPRMC,083559,A,4717.1,N,00833.9,E,1,360.00,230326,,"))["Heading"] == 0

    def test_the_date_may_come_from_zda(self) -> None:
        epochs, _ = parse(
            line("GPGGA,083559.25,4717.1,N,00833.9,E,1,08,1,499.6,M,48.0,M,,")
            + line("GPZDA,083559.25,23,03,2026,00,00")
        )

        wall = dt.datetime(2026, 3, 23, 8, 35, 59, 250_000, tzinfo=dt.UTC)
        assert epochs[0].utc == round(wall.timestamp() * 1000) * 1_000_000

    def test_zda_may_come_first(self) -> None:
        epochs, _ = parse(
            b"".join(
                line(f"GPZDA,08355{second},23,03,2026,00,00")
                + line(f"GPGGA,08355{second},4717.1,N,00833.9,E,1,08,1,499.6,M,48.0,M,,")
                for second in range(3)
            )
        )

        assert [e.utc is not None and e.utc // SECOND % 60 for e in epochs] == [50, 51, 52]

    def test_a_zda_of_another_second_dates_nothing_and_makes_no_epoch(self) -> None:
        epochs, _ = parse(
            line("GPGGA,083559,4717.1,N,00833.9,E,1,08,1,499.6,M,48.0,M,,")
            + line("GPZDA,083600,23,03,2026,00,00")
        )

        assert [e.utc for e in epochs] == [None]

    def test_within_a_leap_second_there_is_a_position_and_no_time(self) -> None:
        epochs, parser = parse(burst("235960.00", date="311216"))

        assert parser.bad == 0
        assert epochs[0].utc is None
        assert epochs[0].values["Latitude"] == 472_852_332


class TestNoFix:
    NOTHING = (
        line("GNRMC,,V,,,,,,,,,,N,V"),
        line("GNVTG,,,,,,,,,N"),
        line("GNGGA,,,,,,0,00,99.99,,,,,,"),
        line("GNGSA,A,1,,,,,,,,,,,,,99.99,99.99,99.99,1"),
        line("GNGLL,,,,,,V,N"),
    )

    def test_what_is_not_known_is_not_available(self) -> None:
        values = one(*self.NOTHING)
        table = row(values)

        assert values == {"FixQuality": 0, "FixMode": 1, "SatellitesUsed": 0}
        unknown = [name for name in table.names if table.validity(name)[0] == 1]
        assert unknown == [
            *("Latitude", "Longitude", "Altitude", "Speed", "Heading", "Hdop", "Pdop", "Vdop")
        ]

    def test_a_receiver_without_a_time_gives_a_row_each_second_too(self) -> None:
        epochs, _ = parse(b"".join(self.NOTHING) * 5)

        assert len(epochs) == 5

    def test_the_last_position_that_is_repeated_without_a_fix_is_not_taken(self) -> None:
        epochs, _ = parse(
            line("GPRMC,083559,V,4717.1,N,00833.9,E,12.0,80.0,230326,,,N")
            + line("GPVTG,80.0,T,,M,12.0,N,22.2,K")
            + line("GPGGA,083559,4717.1,N,00833.9,E,0,00,,499.6,M,48.0,M,,")
            + line("GPGLL,4717.1,N,00833.9,E,083559,V")
        )

        assert [dict(e.values) for e in epochs] == [{"FixQuality": 0, "SatellitesUsed": 0}]
        assert epochs[0].utc is None

    def test_what_stands_in_place_of_a_date_before_a_fix_is_not_read(self) -> None:
        _, parser = parse(line("GPRMC,000000.00,V,,,,,,,000000,,"))

        assert parser.bad == 0

    def test_a_valid_sentence_without_a_position_is_no_fix(self) -> None:
        assert one(line("GPRMC,083559,A,,,,,,,230326,,")) == {"FixQuality": 0}

    def test_a_standing_vehicle_has_no_heading(self) -> None:
        table = row(one(line("GPRMC,083559,A,4717.1,N,00833.9,E,0.00,,230326,,,A")))

        assert table.validity("Heading").tolist() == [1]
        assert table.validity("Speed").tolist() == [0]
        assert table.raw["Speed"].tolist() == [0]


class TestSilence:
    def test_it_ends_an_epoch(self) -> None:
        parser = NmeaParser()
        assert parser.feed(burst("083559.00"), HERE) == []

        assert len(parser.quiet()) == 1
        assert parser.quiet() == []

    def test_what_comes_before_the_first_time_after_it_belongs_to_the_next_epoch(self) -> None:
        parser = NmeaParser()
        lines = burst("083559.00").splitlines(keepends=True)
        parser.feed(b"".join(lines), HERE)
        parser.quiet()

        later = Mark(BootNs(99))
        parser.feed(line("GNGSA,A,2,23,29,07,,,,,,,,,,5.00,4.00,3.00,1"), Mark(BootNs(90)))
        parser.feed(line("GNGGA,083600.00,4717.1,N,00833.9,E,1,03,4,499.6,M,48.0,M,,"), later)
        (epoch,) = parser.quiet()

        assert epoch.values["FixMode"] == 2
        assert epoch.mark == later  # dated with the first sentence that tells the time

    def test_a_receiver_that_pauses_within_its_burst_is_not_cut_in_two_again(self) -> None:
        parser = NmeaParser()
        lines = burst("083559.00").splitlines(keepends=True)
        parser.feed(b"".join(lines[:2]), HERE)
        first = parser.quiet()
        first += parser.feed(b"".join(lines[2:]), HERE)

        rest = []
        for second in range(3):
            lines = burst(f"08360{second}.00").splitlines(keepends=True)
            rest += parser.feed(b"".join(lines[:2]), HERE) + parser.quiet()
            rest += parser.feed(b"".join(lines[2:]), HERE) + parser.quiet()
        rest += parser.end()

        assert len(first) == 1
        assert [len(epoch.values) for epoch in rest] == [11, 11, 11]

    def test_a_receiver_that_has_stopped_pausing_is_not_waited_for_any_more(self) -> None:
        parser = NmeaParser()
        lines = burst("083559.00").splitlines(keepends=True)
        parser.feed(b"".join(lines[:2]), HERE)
        parser.quiet()
        parser.feed(b"".join(lines[2:]), HERE)

        at_once = []
        for second in range(20):
            parser.feed(burst(f"0836{second:02d}.00"), HERE)
            at_once.append(len(parser.quiet()))

        assert at_once == sorted(at_once)
        assert at_once[0] == 0
        assert at_once[-1] == 1

    def test_a_frozen_time_is_an_epoch_a_second_all_the_same(self) -> None:
        parser = NmeaParser()
        epochs = []
        for _ in range(4):
            epochs += parser.feed(line("GPRMC,000000.00,V,,,,,,,,,,N"), HERE) + parser.quiet()

        assert len(epochs) == 4


class TestBadLines:
    @pytest.mark.parametrize(
        "body",
        [
            "GPGGA,083559,9017.1,N,00833.9,E,1,08,1,499.6,M,48,M,,",  # beyond the pole
            "GPGGA,083559,4717.1,N,18033.9,E,1,08,1,499.6,M,48,M,,",
            "GPGGA,083559,4760.0,N,00833.9,E,1,08,1,499.6,M,48,M,,",  # 60 minutes
            "GPGGA,083559,-417.1,N,00833.9,E,1,08,1,499.6,M,48,M,,",
            "GPGGA,083559,4717.1,X,00833.9,E,1,08,1,499.6,M,48,M,,",
            "GPGGA,083559,4717.1,,00833.9,E,1,08,1,499.6,M,48,M,,",
            "GPGGA,083559,4717.1,N,,,1,08,1,499.6,M,48,M,,",  # half a position
            "GPGGA,083559,nan,N,00833.9,E,1,08,1,499.6,M,48,M,,",
            "GPGGA,083559,4717.1,N,00833.9,E,1,-8,1,499.6,M,48,M,,",
            "GPGGA,083559,4717.1,N,00833.9,E,1,08,inf,499.6,M,48,M,,",
            "GPGGA,083559,4717.1,N,00833.9,E,1,08,1,NaN,M,48,M,,",
            "GPGGA,083559,4717.1,N,00833.9,E,1,08,1,1e3,M,48,M,,",
            "GPGGA,083559,4717.1,N,00833.9,E,1,08,1,1_0,M,48,M,,",
            "GPGGA,083559,4717.1,N,00833.9,E,1,08,1,499.6,F,48,M,,",  # feet
            "GPGGA,083559,4717.1,N,00833.9,E,one,08,1,499.6,M,48,M,,",
            "GPGGA,243559,4717.1,N,00833.9,E,1,08,1,499.6,M,48,M,,",
            "GPGGA,083561,4717.1,N,00833.9,E,1,08,1,499.6,M,48,M,,",
            "GPGGA,0835,4717.1,N,00833.9,E,1,08,1,499.6,M,48,M,,",
            "GPRMC,083559,A,4717.1,N,00833.9,E,1,400,230326,,",
            "GPRMC,083559,A,4717.1,N,00833.9,E,-1,40,230326,,",
            "GPRMC,083559,A,4717.1,N,00833.9,E,1,40,300226,,",  # 30 February
            "GPRMC,083559,A,4717.1,N,00833.9,E,1,40,000000,,",
            "GPRMC,083559,X,4717.1,N,00833.9,E,1,40,230326,,",
            "GPGSA,A,7,23,29,,,,,,,,,,,1.94,1.01,1.54",
            "GPGSA,A,0,23,29,,,,,,,,,,,1.94,1.01,1.54",
            "GPZDA,083559,31,02,2026,00,00",
            "GPGSV,1,1,-3,23,38,230,44",
            "nonsense",
            "",
        ],
    )
    def test_a_value_that_cannot_be_costs_the_sentence_and_no_other(self, body: str) -> None:
        epochs, parser = parse(line(body) + burst("083559.00"))

        assert parser.bad == 1
        assert [dict(e.values) for e in epochs] == [one(burst("083559.00"))]

    @pytest.mark.parametrize(
        "noise",
        [
            b"$GNGLL,4717.1,N,00833.9,E,083559,A,A\r\n",  # no checksum
            b"$GNGLL,4717.1,N,00833.9,E,083559,A,A*00\r\n",  # a wrong one
            b"$GNGLL,4717.1,N,00833.9,E,083559,A,A*7\r\n",
            b"GGA,123519,4807.038,N\r\n",  # the second half of a sentence
            b"$GNGGA,083559.00,4717.11",  # the first half, and at once the next
            b"\xb5\x62\x01\x07\x02\x00\x11\x22\x33\x44",  # UBX, then NMEA
            b"\x00\xff\xfe\x80\xe0\x98\r",  # a wrong baud rate
            b"$GPGGA\xc3\xa9,1*00\r\n",
            b"$" + b"1" * 5000 + b"\r\n",
            b"x" * 5000 + b"\n",
        ],
    )
    def test_noise_is_counted_and_the_next_sentence_is_read(self, noise: bytes) -> None:
        epochs, parser = parse(noise + burst("083559.00") + noise + burst("083600.00"))

        assert parser.bad == 2
        assert len(epochs) == 2
        assert dict(epochs[1].values) == one(burst("083559.00"))

    @pytest.mark.parametrize(
        "body",
        [
            "PUBX,00,081350.00,4717.113210,N,00833.915187,E,546.589,G3,2.1,2.0,0.007,77.52",
            "PUBX",
            "PUBX,",
            "PASHR",
            "PGRME,15.0,M,45.0,M,25.0,M",
            "PTNL,PJK",
            "PMTK010,001",
            "CCGPQ,GGA",
            "GPGPQ,RMC",
            "GNTXT,01,01,02,u-blox AG - www.u-blox.com",
            "IIVTG,1,T,,M,1,N,1,K",
            "HEHDT,274.07,T",
        ],
    )
    def test_sentences_of_others_are_skipped_quietly(self, body: str) -> None:
        epochs, parser = parse(line(body) + burst("083559.00"))

        assert parser.bad == 0
        assert dict(epochs[0].values) == one(burst("083559.00"))

    def test_a_long_sentence_is_read_up_to_a_kibibyte(self) -> None:
        room = MOST_BYTES - len("$GPGLL,4717.1,N,00833.9,E,083559,A,A,*00")
        fits = line("GPGLL,4717.1,N,00833.9,E,083559,A,A," + "x" * room)
        long = line("GPGLL,4717.1,N,00833.9,E,083559,A,A," + "x" * (room + 1))

        assert parse(fits)[1].bad == 0
        assert parse(long)[1].bad == 1

    def test_a_line_without_end_costs_little_memory(self) -> None:
        parser = NmeaParser()
        for _ in range(200):
            assert parser.feed(b"$GPGGA,1" + b"9" * 10_000, HERE) == []

        parser.feed(b"\r\n" + burst("083559.00"), HERE)

        assert len(parser.end()) == 1
        assert parser.bad == 200


@given(st.integers(0, 89), st.decimals(0, Decimal("59.999999999"), places=9), st.sampled_from("NS"))
@example(47, Decimal("17.11399"), "N")
@example(0, Decimal("0.0000015"), "S")  # 0.25 steps
@example(0, Decimal("0.000003"), "N")  # exactly half a step
@example(89, Decimal("59.999999999"), "S")
def test_a_position_is_exact_to_its_last_digit(degrees: int, minutes: Decimal, side: str) -> None:
    values = one(line(f"GPGLL,{degrees:02d}{minutes:012.9f},{side},18000.0,W,083559,A"))

    with localcontext(prec=60):
        steps = (Decimal(degrees) + minutes / 60) * 10**7
        wanted = int(steps.quantize(Decimal(1), ROUND_HALF_EVEN))
    assert values["Latitude"] == (wanted if side == "N" else -wanted)
    assert values["Longitude"] == -1_800_000_000


@given(st.decimals(0, 99_999, places=3), st.decimals(Decimal("-9999.99"), 9999, places=3))
def test_speed_and_altitude_are_exact(knots: Decimal, altitude: Decimal) -> None:
    speed_wanted = int((knots * Decimal(1852)).to_integral_value(ROUND_HALF_EVEN))
    lines = (
        line(f"GPRMC,083559,A,4717.1,N,00833.9,E,{knots},,230326,,"),
        line(f"GPGGA,083559,4717.1,N,00833.9,E,1,08,1,{altitude},M,48.0,M,,"),
    )
    epochs, parser = parse(b"".join(lines))

    if speed_wanted > 100_000_000:  # 100,000 km/h
        assert parser.bad == 1
        return
    (epoch,) = epochs
    assert epoch.values["Speed"] == speed_wanted
    assert epoch.values["Altitude"] == int((altitude * 100).to_integral_value(ROUND_HALF_EVEN))


BODIES: Final = [re.split(rb"[$*]", part)[1] for part in burst("083559.00").splitlines()] + [
    b"GNZDA,083559.00,23,03,2026,00,00",
    b"GNGNS,083559,4717.1,N,00833.9,E,AN,17,0.9,1,4,,",
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A sentence with a right checksum, of which something may be off."""
    body = draw(st.sampled_from(BODIES)).decode()
    fields = body.split(",")
    at = draw(st.integers(0, len(fields) - 1))
    how = draw(st.integers(0, 5))
    if how == 0:
        fields[at] = draw(st.text("0123456789.-+eEinfaNAV_ \u0660*", max_size=12))
    elif how == 1:
        fields = fields[:at]
    elif how == 2:
        fields.insert(at, draw(st.sampled_from(["", "0", "9" * 30, "1e999", "nan"])))
    elif how == 3:
        fields[0] = draw(st.text("PUBXGNRMCATLQ", min_size=1, max_size=6))
    whole = line(",".join(fields))
    if draw(st.integers(0, 6)) == 0:
        cut = draw(st.integers(0, len(whole)))
        whole = whole[:cut] + draw(st.binary(max_size=3)) + whole[cut + 1 :]
    return whole


streams = st.one_of(
    st.lists(mutated(), max_size=10).map(b"".join),
    st.binary(max_size=200),
    st.lists(st.one_of(mutated(), st.binary(max_size=30)), max_size=10).map(b"".join),
    st.builds(bytes.__mul__, st.sampled_from([b"$GPGGA,", b"9", b"$"]), st.integers(0, 600)),
)


@given(streams, st.lists(st.integers(0, 2000), max_size=8))
@example(b"$" * 1500, [1, 1024, 1025, 1026])
@example(b"9" * 1025 + b"\r\n", [1000, 1024])
@example(line("CCGPQ,RMC") + line("GPGPQ,RMC"), [])
def test_the_pieces_in_which_bytes_come_change_nothing(stream: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = NmeaParser()
    got: list[Epoch] = []

    for begin, end in itertools.pairwise(places):
        got += pieces.feed(stream[begin:end], HERE)

    whole = NmeaParser()
    assert got == whole.feed(stream, HERE)
    assert pieces.end() == whole.end()
    assert (pieces.good, pieces.bad) == (whole.good, whole.bad)


@given(streams)
def test_whatever_comes_every_row_can_be_made_and_keeps_its_limits(stream: bytes) -> None:
    for epoch in parse(stream)[0]:
        table = row(dict(epoch.values))
        for signal in table.schema.signals:
            (value,), (validity,) = table.physical(signal.name), table.validity(signal.name)
            assert validity == 1 or within(value, signal)


def within(value: float, signal: Any) -> bool:
    return bool(signal.minimum - 1e-6 <= value <= signal.maximum + 1e-6)


@given(st.lists(st.sampled_from([0, 1, 2, 3]), min_size=1, max_size=30), st.data())
def test_among_noise_every_sentence_arrives_and_all_else_is_counted(
    kinds: list[int], data: st.DataObject
) -> None:
    stream, rows, bad = b"", 0, 0
    for number, kind in enumerate(kinds):
        if kind < 2:
            stream += line(f"GPGLL,4717.1,N,00833.9,E,{number // 60:02d}{number % 60:02d}00,A")
            rows += 1
        elif kind == 2:
            noise = data.draw(st.binary(min_size=1, max_size=40))
            stream += noise.translate(None, b"$\r\n") + b"\x80\r\n"
            bad += 1
        else:
            stream += b"$GPGLL,4717.1,N,008"
            bad += 1
    # Half a sentence at the end, and a line that begins within one, are settled by a line end.
    epochs, parser = parse(stream + b"\r\n")

    joined = sum(a == 3 and b == 2 for a, b in itertools.pairwise(kinds))
    assert len(epochs) == rows
    assert parser.good == rows
    assert parser.bad == bad - joined  # noise right after half a sentence is the rest of its line


def test_a_sentence_is_dated_with_the_read_that_brought_its_first_byte() -> None:
    parser = NmeaParser()
    stream = burst("083559.00") + burst("083600.00")
    at = stream.index(b"083600")  # within the first sentence of the second epoch
    epochs = parser.feed(stream[:10], Mark(BootNs(1)))
    epochs += parser.feed(stream[10:at], Mark(BootNs(2)))
    epochs += parser.feed(stream[at:], Mark(BootNs(3)))
    epochs += parser.end()

    assert [epoch.mark.read for epoch in epochs] == [1, 2]


def test_times_of_day_count_in_nanoseconds() -> None:
    epochs, _ = parse(
        line("GPRMC,000000.123456789,A,4717.1,N,00833.9,E,0,,010170,,")
        + line("GPRMC,000001,A,4717.1,N,00833.9,E,0,,010126,,")
    )

    start = int(dt.datetime(2026, 1, 1, tzinfo=dt.UTC).timestamp())
    assert epochs[1].utc == (start + 1) * SECOND
    assert epochs[0].utc is not None
    assert epochs[0].utc % SECOND == 123_456_789
