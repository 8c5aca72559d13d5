"""UDS: data by identifier, trouble codes, sessions, and ECUs that refuse or take their time."""

import itertools
import logging
from collections.abc import Mapping, Sequence

import pytest

from agent.bus.diagnostics import Did, Field, UdsDtcRequest, UdsRequest
from agent.errors import ConfigError
from tests.bus.diagnostics.ecus import Bus, Ecu, Run, fixed, poll, wide

VIN = Did(0xF190, [Field("Vin", bits=17 * 8, kind="ascii")])
SOC = Did(
    0x4801,
    [
        Field("StateOfCharge", bits=16, scale=0.01, unit="%"),
        Field("PackCurrent", byte=2, bits=16, kind="signed", scale=0.1, unit="A"),
        Field("Contactor", byte=4, bit=6, bits=2, choices=((1, "closed"),)),
    ],
)
ANSWERS = {
    b"\x22\xf1\x90": b"\x62\xf1\x90WVWZZZ1KZAW000001",
    b"\x22\x48\x01": bytes.fromhex("62 4801 1F40 FF38 FD"),
}


def read(
    *dids: Did, interval_s: float = 1, session: int = 0, tester_present: bool = False
) -> UdsRequest:
    return UdsRequest(
        0x7E4, 0x7EC, dids, interval_s, session=session, tester_present=tester_present
    )


def ecu(answers: Mapping[bytes, bytes | Sequence[bytes]], *, delay_ms: float = 10) -> Ecu:
    return Ecu(fixed(answers), 0x7E4, 0x7EC, also=(), delay_ms=delay_ms)


def asked(run: Run) -> list[bytes]:
    return [payload for _, _, payload in run.bus.requests]


def times(run: Run, payload: bytes) -> list[float]:
    return [at for at, _, p in run.bus.requests if p == payload]


def test_identifiers_become_signals() -> None:
    run = poll([read(VIN, SOC)], [ecu(ANSWERS)], 2.5)

    vin = run.of("Uds")[0]
    assert bytes(vin.raw["Vin"][0]) == b"WVWZZZ1KZAW000001"
    assert (vin.source, vin.branch) == (0xEC, "DID=0xF190")
    soc = next(t for t in run.tables if "PackCurrent" in t.names)
    assert soc.raw["StateOfCharge"].tolist() == [8000]
    assert soc.physical("StateOfCharge").tolist() == [80.0]
    assert soc.raw["PackCurrent"].tolist() == [-200]
    assert soc.raw["Contactor"].tolist() == [1]
    assert len(run.values("StateOfCharge")) == 3


def test_a_shorter_answer_gives_the_signals_that_it_covers() -> None:
    answers = {b"\x22\x48\x01": bytes.fromhex("62 4801 1F40 FF38")}

    run = poll([read(SOC)], [ecu(answers)], 1)

    assert run.tables[0].names == ("StateOfCharge", "PackCurrent")


def test_an_answer_without_data_is_counted_as_bad() -> None:
    run = poll([read(SOC)], [ecu({b"\x22\x48\x01": b"\x62\x48\x01"})], 2)

    assert not run.tables
    assert run.source.counts["bad_lines"] >= 1


def test_ids_of_29_bits_and_any_others() -> None:
    request = UdsRequest(0x17FC007B, 0x17FE007B, [SOC])
    node = Ecu(fixed(ANSWERS), wide(0x17FC007B), wide(0x17FE007B), also=())

    run = poll([request], [node], 1)

    assert run.values("StateOfCharge") == [8000]
    assert run.tables[0].source == 0x7B


def test_trouble_codes_with_their_states() -> None:
    answers = {
        b"\x19\x02\x0c": bytes.fromhex("59 02 7F 03011A 2C C10000 08"),
    }
    request = UdsDtcRequest(0x7E4, 0x7EC, status_mask=0x0C)

    run = poll([request], [ecu(answers)], 1)

    (table,) = run.of("Dtc")
    assert [bytes(c) for c in table.raw["Code"]] == [b"P0301-1A", b"U0100-00"]
    assert table.raw["Status"].tolist() == [0x2C, 0x08]
    (count,) = run.of("DtcCount")
    assert (count.raw["Count"].tolist(), count.raw["AvailableStatus"].tolist()) == ([2], [0x7F])


def test_no_trouble_codes_is_said_too() -> None:
    run = poll(
        [UdsDtcRequest(0x7E4, 0x7EC)], [ecu({b"\x19\x02\x09": bytes.fromhex("59 02 7F")})], 1
    )

    assert run.values("Count") == [0]
    assert not run.of("Dtc")


def test_many_trouble_codes_in_the_longest_message() -> None:
    codes = b"".join(bytes([n >> 8 & 0x3F, n & 0xFF, 0x11, 0x09]) for n in range(1, 1023))
    answers = {b"\x19\x02\x09": b"\x59\x02\x7f" + codes}
    assert len(answers[b"\x19\x02\x09"]) == 4091

    run = poll([UdsDtcRequest(0x7E4, 0x7EC)], [ecu(answers)], 5)

    assert run.values("Count") == [1022]
    assert bytes(run.of("Dtc")[0].raw["Code"][-1]) == b"P03FE-11"


def test_a_session_is_opened_before_each_round_and_not_in_between() -> None:
    answers = {**ANSWERS, b"\x10\x03": bytes.fromhex("5003003201F4")}

    run = poll([read(VIN, SOC, interval_s=10, session=3)], [ecu(answers)], 25)

    assert [p.hex() for p in asked(run)] == ["1003", "22f190", "224801"] * 3
    assert len(run.values("StateOfCharge")) == 3


def test_tester_present_keeps_the_session_open_when_it_is_asked_for() -> None:
    answers = {**ANSWERS, b"\x10\x03": bytes.fromhex("5003003201F4")}
    request = read(SOC, interval_s=10, session=3, tester_present=True)

    run = poll([request], [ecu(answers)], 35)

    assert len(times(run, b"\x10\x03")) == 1
    assert len(times(run, b"\x3e\x80")) >= 10
    every = [at for at, _, _ in run.bus.requests]
    assert max(b - a for a, b in itertools.pairwise(every)) < 5, "an ECU leaves it after 5 s"
    assert len(run.values("StateOfCharge")) == 4
    assert run.source.totals["timeouts"] == 0


def test_without_tester_present_none_is_sent() -> None:
    answers = {**ANSWERS, b"\x10\x03": bytes.fromhex("5003003201F4")}

    run = poll([read(SOC, session=3)], [ecu(answers)], 20)

    assert not times(run, b"\x3e\x80")


def test_a_session_that_is_refused_is_not_asked_for_again() -> None:
    answers = {**ANSWERS, b"\x10\x03": b"\x7f\x10\x12"}

    run = poll([read(SOC, session=3)], [ecu(answers)], 20)

    assert len(times(run, b"\x10\x03")) == 1
    assert len(run.values("StateOfCharge")) >= 18


def test_a_session_that_the_ecu_has_left_is_opened_again() -> None:
    refusals = iter([b"\x7f\x22\x7f"])

    def answer(request: bytes) -> list[bytes]:
        if request == b"\x10\x03":
            return [bytes.fromhex("5003003201F4")]
        return [next(refusals, ANSWERS[request])]

    run = poll([read(SOC, session=3)], [Ecu(answer, 0x7E4, 0x7EC, also=())], 5)

    assert [p.hex() for p in asked(run)][:4] == ["1003", "224801", "1003", "224801"]
    assert run.values("StateOfCharge")


def test_an_answer_that_is_pending_is_waited_for() -> None:
    pending = b"\x7f\x22\x78"
    slow = ecu({b"\x22\x48\x01": [pending, pending, ANSWERS[b"\x22\x48\x01"]]}, delay_ms=4000)

    run = poll([read(SOC, interval_s=60)], [slow], 20, answer_ms=5000)

    assert run.values("StateOfCharge") == [8000]
    assert run.source.totals["pending"] == 2
    assert run.source.totals["negative"] == 0


def test_an_answer_that_is_pending_for_ever_is_given_up() -> None:
    forever = ecu({b"\x22\x48\x01": [b"\x7f\x22\x78"] * 100})

    run = poll([read(SOC, interval_s=1)], [forever], 40)

    first, second = times(run, b"\x22\x48\x01")[:2]
    assert 5 < second - first < 32
    assert run.source.totals["timeouts"] >= 1


@pytest.mark.parametrize("code", [0x11, 0x12, 0x31])
def test_what_is_not_supported_is_dropped_and_said_once(
    code: int, caplog: pytest.LogCaptureFixture
) -> None:
    answers = {**ANSWERS, b"\x22\xf1\x90": bytes([0x7F, 0x22, code])}

    run = poll([read(VIN, SOC)], [ecu(answers)], 60, others=lambda s: not 20 < s < 30)

    assert len(times(run, b"\x22\xf1\x90")) == 1
    assert len(run.values("StateOfCharge")) > 30
    assert run.source.totals["unsupported"] == 1
    said = [r.message for r in caplog.records if "0xF190" in r.message]
    assert len(said) == 1
    assert f"is not supported (response code 0x{code:02X})" in said[0]


def test_a_busy_ecu_is_asked_again_a_little_later_and_not_for_ever() -> None:
    busy = b"\x7f\x22\x21"
    twice = iter([busy, busy])
    node = Ecu(lambda r: [next(twice, ANSWERS[r])], 0x7E4, 0x7EC, also=())
    always = ecu({b"\x22\x48\x01": busy})

    soon = poll([read(SOC, interval_s=30)], [node], 5)
    never = poll([read(SOC, interval_s=1)], [always], 100)

    at = times(soon, b"\x22\x48\x01")
    assert [round(b - a, 1) for a, b in itertools.pairwise(at)] == [0.5, 0.5]
    assert soon.values("StateOfCharge") == [8000]
    assert len(times(never, b"\x22\x48\x01")) < 40
    assert never.source.totals["negative"] == len(times(never, b"\x22\x48\x01"))


def test_any_other_refusal_makes_requests_rarer() -> None:
    run = poll([read(SOC, interval_s=1)], [ecu({b"\x22\x48\x01": b"\x7f\x22\x22"})], 600)

    gaps = [b - a for a, b in itertools.pairwise(times(run, b"\x22\x48\x01"))]
    assert gaps[:3] == pytest.approx([1, 2, 4], abs=1)
    assert all(a <= b + 1 for a, b in itertools.pairwise(gaps))
    assert max(gaps) == pytest.approx(60, abs=1.1)


def test_one_identifier_without_an_answer_does_not_hold_up_the_others() -> None:
    run = poll([read(VIN, SOC)], [ecu({b"\x22\x48\x01": ANSWERS[b"\x22\x48\x01"]})], 60)

    assert len(run.values("StateOfCharge")) > 50
    assert len(times(run, b"\x22\xf1\x90")) < 12


def test_the_libraries_do_not_write_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    node = ecu({b"\x22\xf1\x90": ANSWERS[b"\x22\xf1\x90"]})

    def prepare(bus: Bus) -> None:
        for number in range(500):
            bus.put(number * 7_000_000, 0x7EC, b"\x21junk")

    run = poll([read(VIN, SOC)], [node], 5, prepare=prepare)

    assert run.source.counts["bad_lines"] > 0
    assert {r.name for r in caplog.records} <= {"edge_agent"}


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Did(0x10000, [Field("A")]), "16 bits"),
        (lambda: Did(1, []), "needs fields"),
        (lambda: Did(1, [Field("A"), Field("A")]), "own name"),
        (lambda: UdsRequest(0x7E4, 0x7E4, [SOC]), "both have the id 0x7E4"),
        (lambda: UdsRequest(0x7E4, 0x7EC, []), "needs identifiers"),
        (lambda: UdsRequest(0x7E4, 0x7EC, [SOC, SOC]), "each once"),
        (lambda: UdsRequest(0x7E4, 1 << 29, [SOC]), "no CAN id"),
        (lambda: UdsRequest(0x7E4, 0x18DAF110, [SOC]), "ids of one length"),
        (lambda: UdsRequest(0x7E4, 0x7EC, [SOC], session=2), "session 2"),
        (lambda: UdsRequest(0x7E4, 0x7EC, [SOC], tester_present=True), "none is set"),
        (lambda: UdsDtcRequest(0x7E4, 0x7EC, status_mask=0), "no mask"),
        (lambda: Field("A", bits=65), "at most 64 bits"),
        (lambda: Field("A", bits=16, kind="float"), "32 or 64"),
        (lambda: Field("A", bit=1, kind="bytes"), "whole bytes"),
        (lambda: Field("A", bits=12, little_endian=True), "whole bytes"),
        (lambda: Field("A", byte=4090, bits=64), "longest answer"),
        (lambda: Field("A", byte=-1), "no place"),
        (lambda: Field(""), "needs a name"),
    ],
)
def test_requests_that_cannot_be_are_refused(make: object, word: str) -> None:
    assert callable(make)
    with pytest.raises(ConfigError, match=word):
        make()
