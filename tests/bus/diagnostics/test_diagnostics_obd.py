"""OBD-II: which parameters there are, their values, trouble codes, and who answers."""

import pytest

from agent.blocks import SignalTable
from agent.bus.diagnostics import ObdDtcRequest, ObdRequest, Request, schemas
from agent.errors import ConfigError
from tests.bus.diagnostics.ecus import START, Bus, Ecu, Run, fixed, obd, poll, wide

ENGINE = {0x04: b"\x80", 0x05: b"\x5a", 0x0C: b"\x1a\xf8", 0x0D: b"\x32", 0x10: b"\x01\x02"}


def asked(run: Run) -> list[bytes]:
    return [payload for _, _, payload in run.bus.requests]


def test_parameters_arrive_raw_with_scale_unit_and_the_ecu_that_answered() -> None:
    run = poll([ObdRequest(["EngineSpeed", 0x05, "0x0D"])], [Ecu(obd(ENGINE))], seconds=3)

    assert run.values("EngineSpeed")[:2] == [0x1AF8, 0x1AF8]
    assert run.physical("EngineSpeed")[0] == 1726.0
    assert run.physical("CoolantTemperature")[0] == 50.0
    assert run.physical("VehicleSpeed")[0] == 50.0
    table = next(t for t in run.tables if "EngineSpeed" in t.names)
    assert (table.bus, table.message, table.source, table.branch) == (
        "body",
        "Obd",
        0xE8,
        "PID=0x0C",
    )
    assert table.schema.by_name["EngineSpeed"].unit == "rpm"
    assert table.clock == "boot"


def test_a_row_is_dated_with_the_first_frame_of_its_answer() -> None:
    ecu = Ecu(obd(ENGINE), delay_ms=30, gap_ms=100)

    run = poll([ObdRequest(sorted(ENGINE))], [ecu], seconds=2)

    asked_at = next(at for at, _, payload in run.bus.requests if len(payload) > 2)
    table = run.of("Obd")[0]
    assert int(table.time[0]) - START == pytest.approx((asked_at + 0.030) * 1e9, abs=1e3)


def test_only_parameters_that_an_ecu_has_are_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    run = poll([ObdRequest(["EngineSpeed", "FuelLevel", "Odometer"])], [Ecu(obd(ENGINE))], 20)

    polled = {number for payload in asked(run) for number in payload[1:]}
    assert polled == {0x00, 0x0C}
    told = [r.message for r in caplog.records if "not asked for" in r.message]
    assert told == ["bus body: no ECU at 0x7DF has FuelLevel, Odometer: not asked for"]


def test_bitmaps_are_followed_as_far_as_parameters_are_wanted() -> None:
    values = {0x0C: b"\0\1", 0x42: b"\x30\xd4", 0xA6: b"\0\1\2\3"}

    near = poll([ObdRequest([0x42])], [Ecu(obd(values))], 2)
    far = poll([ObdRequest([0xA6])], [Ecu(obd(values))], 2)

    maps = [p[1] for p in asked(near) if p[1] % 0x20 == 0]
    assert maps == [0x00, 0x20, 0x40]
    assert [p[1] for p in asked(far) if p[1] % 0x20 == 0] == [0, 0x20, 0x40, 0x60, 0x80, 0xA0]
    assert far.physical("Odometer")[0] == pytest.approx(6605.1)


def test_up_to_six_parameters_go_into_one_request() -> None:
    values = {n: bytes([n, 7, 7, 7])[:length] for n, length in PARAMETERS.items()}
    run = poll([ObdRequest(list(values), interval_s=1)], [Ecu(obd(values))], 1.5)

    groups = [p for p in asked(run) if p[1] % 0x20]
    assert [len(p) - 1 for p in groups[:2]] == [6, 2]
    assert run.values("EngineLoad") == [4, 4]
    assert run.values("FuelLevel") == [0x2F, 0x2F]


PARAMETERS = {0x04: 1, 0x05: 1, 0x0B: 1, 0x0C: 2, 0x0D: 1, 0x0E: 1, 0x10: 2, 0x2F: 1}


@pytest.mark.parametrize("at_once", [1, 3])
def test_an_ecu_that_takes_fewer_at_once_is_asked_one_by_one_in_the_end(at_once: int) -> None:
    ecu = Ecu(obd(ENGINE, at_once=at_once))

    run = poll([ObdRequest(sorted(ENGINE))], [ecu], 20)

    lengths = [len(p) - 1 for p in asked(run) if p[1]]
    assert lengths[0] == 5
    assert lengths.count(5) == 2, "twice is enough to know"
    assert set(lengths[-10:]) == {1}
    assert len(run.values("EngineSpeed")) >= 15


def test_values_that_an_ecu_leaves_out_of_a_group_are_asked_for_alone() -> None:
    def only_the_first(request: bytes) -> list[bytes]:
        return list(obd(ENGINE)(request[:2]))

    run = poll([ObdRequest([0x0C, 0x0D])], [Ecu(only_the_first)], 6)

    assert len(run.values("VehicleSpeed")) >= 4
    assert len(run.values("EngineSpeed")) >= 4


def test_a_refused_group_is_asked_one_by_one_at_once() -> None:
    def refuses(request: bytes) -> list[bytes]:
        return list(obd(ENGINE)(request)) if len(request) == 2 else [b"\x7f\x01\x12"]

    run = poll([ObdRequest([0x0C, 0x0D], address=0x7E0)], [Ecu(refuses)], 5)

    assert [len(p) - 1 for p in asked(run) if p[1]].count(2) == 1
    assert len(run.values("VehicleSpeed")) >= 4


def test_a_lost_answer_does_not_end_requests_for_several() -> None:
    calls = 0

    def loses_one(request: bytes) -> list[bytes]:
        nonlocal calls
        calls += 1
        return [] if calls == 4 else list(obd(ENGINE)(request))

    run = poll([ObdRequest([0x0C, 0x0D])], [Ecu(loses_one)], 20)

    assert len(asked(run)[-1]) == 3
    assert run.source.totals["timeouts"] == 1


def test_two_ecus_answer_one_request() -> None:
    engine = Ecu(obd({0x0C: b"\x10\x00", 0x0D: b"\x20"}))
    gearbox = Ecu(obd({0x0D: b"\x21", 0x05: b"\x60"}), 0x7E1, 0x7E9, delay_ms=25)

    run = poll([ObdRequest([0x0C, 0x0D, 0x05])], [engine, gearbox], 4)

    assert run.values("VehicleSpeed", source=0xE8)[:2] == [0x20, 0x20]
    assert run.values("VehicleSpeed", source=0xE9)[:2] == [0x21, 0x21]
    assert not run.values("CoolantTemperature", source=0xE8)
    assert len(run.values("CoolantTemperature", source=0xE9)) >= 3
    assert run.source.totals["timeouts"] == 0


def test_two_long_answers_at_the_same_time_stay_apart() -> None:
    one = {n: bytes([n, 1]) for n in (0x0C, 0x10, 0x1F, 0x21, 0x23)}
    other = {n: bytes([n, 2]) for n in (0x0C, 0x10, 0x1F, 0x21, 0x23)}
    nodes = [Ecu(obd(one)), Ecu(obd(other), 0x7E1, 0x7E9)]

    run = poll([ObdRequest(list(one))], nodes, 3)

    assert set(run.values("RunTime", source=0xE8)) == {0x1F01}
    assert set(run.values("RunTime", source=0xE9)) == {0x1F02}
    assert [{f[:1] for f in ecu.flow} for ecu in nodes] == [{b"\x30"}, {b"\x30"}]


def test_addresses_of_29_bits() -> None:
    ecu = Ecu(obd(ENGINE), wide(0x18DA10F1), wide(0x18DAF110), also=(wide(0x18DB33F1),))

    everybody = poll([ObdRequest(sorted(ENGINE), address=0x18DB33F1)], [ecu], 2)
    one = poll([ObdRequest(sorted(ENGINE), address=0x18DA10F1)], [ecu], 2)

    assert everybody.values("EngineSpeed", source=0x10)
    assert one.values("EngineSpeed", source=0x10)
    assert {i for _, i, _ in everybody.bus.sent} == {wide(0x18DB33F1), wide(0x18DA10F1)}
    assert {i for _, i, _ in one.bus.sent} == {wide(0x18DA10F1)}


@pytest.mark.parametrize(("padding", "frame"), [(0x55, "0201005555555555"), (None, "020100")])
def test_frames_are_padded_as_asked(padding: int | None, frame: str) -> None:
    run = poll([ObdRequest([0x0C])], [Ecu(obd(ENGINE))], 1, padding=padding)

    assert run.bus.sent[0][2].hex() == frame


def test_trouble_codes_and_how_many() -> None:
    ecu = Ecu(
        fixed(
            {
                b"\x03": bytes.fromhex("43 03 0301 C1A2 7F00"),
                b"\x07": bytes.fromhex("47 01 0420"),
                b"\x0a": bytes.fromhex("4A 00"),
            }
        )
    )

    run = poll([ObdDtcRequest((3, 7, 10), interval_s=60)], [ecu], 10)

    (stored,) = run.of("Dtc")
    assert [bytes(c) for c in stored.raw["Code"]] == [b"P0301", b"U01A2", b"C3F00"]
    assert stored.schema.entries
    assert len(set(stored.time.tolist())) == 1
    assert [bytes(c) for c in run.of("PendingDtc")[0].raw["Code"]] == [b"P0420"]
    assert not run.of("PermanentDtc")
    counts = {t.message: t.raw["Count"].tolist() for t in run.tables if "Count" in t.names}
    assert counts == {"DtcCount": [3], "PendingDtcCount": [1], "PermanentDtcCount": [0]}


def test_a_broken_list_of_trouble_codes_is_counted_and_no_table() -> None:
    ecu = Ecu(fixed({b"\x03": bytes.fromhex("43 09 0301")}))

    run = poll([ObdDtcRequest(interval_s=1)], [ecu], 2)

    assert not run.tables
    assert run.source.counts["bad_lines"] > 0


def test_what_an_ecu_has_is_asked_again_after_an_hour() -> None:
    bus: list[Bus] = []

    def learns(request: bytes) -> list[bytes]:
        later = {0x0F: b"\x40"} if bus[0].seconds > 60 else {}
        return list(obd({**ENGINE, **later})(request))

    request = ObdRequest([0x0F, 0x0C], interval_s=10)
    run = poll([request], [Ecu(learns)], 3700, prepare=bus.append)

    first = next(t for t in run.tables if "IntakeAirTemperature" in t.names)
    assert 3600 < (int(first.time[0]) - START) / 1e9 < 3620


def test_the_schemas_cover_every_table() -> None:
    requests: list[Request] = [ObdRequest(sorted(ENGINE)), ObdDtcRequest((3, 7, 10))]
    ecu_values = obd(ENGINE)
    codes = fixed({b"\x03": b"\x43\1\3\1", b"\x07": b"\x47\1\3\1", b"\x0a": b"\x4a\1\3\1"})
    ecu = Ecu(lambda r: [*ecu_values(r), *codes(r)])

    run = poll(requests, [ecu], 3)

    def key(table: SignalTable) -> tuple[object, ...]:
        return (table.bus, table.message, table.branch, table.schema.signals)

    catalogue = {(s.bus, s.message, s.branch, s.signals) for s in schemas("body", requests)}
    assert {key(t) for t in run.tables} == catalogue


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: ObdRequest([0x99]), "0x99 is no OBD parameter"),
        (lambda: ObdRequest(["Velocity"]), "'Velocity' is no OBD parameter"),
        (lambda: ObdRequest([]), "names no parameters"),
        (lambda: ObdRequest([0x0C], address=0x700), "0x700 is no address"),
        (lambda: ObdRequest([0x0C], address=0x98DA10F1), "is no address"),
        (lambda: ObdRequest([0x0C], address=0x18DAF1F1), "is no address"),
        (lambda: ObdRequest([0x0C], interval_s=0.01), "interval of 0.01 s"),
        (lambda: ObdRequest([0x0C], together=7), "1 to 6"),
        (lambda: ObdDtcRequest((4,)), r"3, 7 and 10, not \[4\]"),
    ],
)
def test_requests_that_cannot_be_are_refused(make: object, word: str) -> None:
    assert callable(make)
    with pytest.raises(ConfigError, match=word):
        make()
