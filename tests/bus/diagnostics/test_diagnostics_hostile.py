"""A bus full of frames that are wrong, late, too long or somebody else's."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.blocks import EXTENDED
from agent.bus.diagnostics import (
    Did,
    Field,
    ObdDtcRequest,
    ObdRequest,
    Request,
    UdsDtcRequest,
    UdsRequest,
)
from agent.clock import MILLISECOND
from tests.bus.diagnostics.ecus import Bus, Ecu, fixed, obd, poll, wide

LONG = Did(0xF18C, [Field("Serial", bits=8 * 40, kind="ascii")])
SHORT = Did(0x4801, [Field("StateOfCharge")])
SERIAL = b"\x62\xf1\x8c" + bytes(range(0x30, 0x30 + 40))
ANSWERS = {b"\x22\xf1\x8c": SERIAL, b"\x22\x48\x01": b"\x62\x48\x01\x50"}


def uds(*dids: Did, interval_s: float = 1) -> UdsRequest:
    return UdsRequest(0x7E4, 0x7EC, dids, interval_s)


def battery(consecutive: Callable[[list[bytes]], list[bytes]] = list) -> Ecu:
    return Ecu(fixed(ANSWERS), 0x7E4, 0x7EC, also=(), consecutive=consecutive)


def wrong_number(frames: list[bytes]) -> list[bytes]:
    return [frames[0], b"\x2e" + frames[1][1:], *frames[2:]]


@pytest.mark.parametrize(
    "spoil",
    [
        wrong_number,
        lambda frames: frames[:-1],
        lambda _: [],
        lambda frames: [frames[0], frames[0], *frames[1:]],
        lambda frames: [frames[0], b"", *frames[1:]],
        lambda frames: [frames[0], b"\x50\0\0", *frames[1:]],
        lambda frames: [frames[1], frames[0], *frames[2:]],
    ],
    ids=["number", "end", "silence", "twice", "empty", "kind", "order"],
)
def test_a_spoiled_answer_costs_itself(
    spoil: Callable[[list[bytes]], list[bytes]],
) -> None:
    calls = itertools.count()

    def at_first(frames: list[bytes]) -> list[bytes]:
        return spoil(frames) if next(calls) == 0 else frames

    run = poll([uds(LONG, SHORT)], [battery(at_first)], 10)

    serials = [bytes(t.raw["Serial"][0]) for t in run.tables if "Serial" in t.names]
    assert set(serials) == {SERIAL[3:]}
    assert 5 <= len(serials) < 10
    assert run.source.totals["timeouts"] == 1
    assert len(run.values("StateOfCharge")) >= 8


def test_the_longest_message_is_taken() -> None:
    long = Did(0xF18C, [Field("End", byte=4091, bits=8)])
    payload = b"\x62\xf1\x8c" + bytes(4091) + b"\x77"
    assert len(payload) == 4095

    run = poll([uds(long, interval_s=5)], [Ecu(lambda _: [payload], 0x7E4, 0x7EC)], 4)

    assert run.values("End") == [0x77]


def test_a_message_beyond_the_longest_is_refused_with_an_overflow() -> None:
    class Boaster(Ecu):
        def _begin(self, payload: bytes) -> bytes:
            return bytes.fromhex("1000 7FFFFFFF 6248")

    ecu = Boaster(fixed(ANSWERS), 0x7E4, 0x7EC, also=())

    run = poll([uds(SHORT)], [ecu], 5)

    assert ecu.flow
    assert {flow[0] for flow in ecu.flow} == {0x32}
    assert not run.tables
    assert run.source.counts["bad_lines"] >= 1


def test_the_last_frame_must_come_within_its_time_and_the_request_ends() -> None:
    slow = Ecu(fixed(ANSWERS), 0x7E4, 0x7EC, also=(), gap_ms=1500)
    trickling = Ecu(lambda _: [b"\x62\xf1\x8c" + bytes(4092)], 0x7E4, 0x7EC, also=(), gap_ms=900)

    late = poll([uds(LONG)], [slow], 20)
    endless = poll([uds(LONG)], [trickling], 100)

    assert not late.of("Uds")
    first, second = (at for at, _, _ in endless.bus.requests[:2])
    assert 29 < second - first < 35


def test_flow_control_that_nobody_asked_for_is_left_alone() -> None:
    def prepare(bus: Bus) -> None:
        for number in range(200):
            kind = (0x30, 0x31, 0x32, 0x3F)[number % 4]
            bus.put(number * 25 * MILLISECOND, 0x7EC, bytes([kind, 0, 0]))

    run = poll([uds(SHORT, LONG)], [battery()], 6, prepare=prepare)

    assert len(run.values("StateOfCharge")) >= 4
    long = [at for at, _, payload in run.bus.requests if payload == b"\x22\xf1\x8c"]
    assert len([d for _, _, d in run.bus.sent if d[0] >> 4 == 3]) == len(long)


def test_flow_control_goes_only_to_who_is_asked_at_the_moment() -> None:
    def prepare(bus: Bus) -> None:
        for number in range(300):
            for ecu in (0x7E8, 0x7E9, 0x7EF):
                bus.put(number * 20 * MILLISECOND, ecu, b"\x10\x14\x49\x02\x01ABC")

    run = poll(
        [uds(SHORT, interval_s=0.5), ObdRequest([0x0C], 60, 0x7E7)], [battery()], 6, prepare=prepare
    )

    flow = [(at, i) for at, i, d in run.bus.sent if d[0] >> 4 == 3]
    asked = [at for at, i, _ in run.bus.requests if i == 0x7E7]
    assert {i for _, i in flow} <= {0x7E7}
    assert all(any(0 <= at - a < 31 for a in asked) for at, _ in flow)


def test_the_answer_to_another_question_is_no_answer() -> None:
    others = {
        b"\x22\x48\x01": [
            b"\x62\x48\x02\x11",
            b"\x7f\x19\x31",
            b"\x41\x0c\0\0",
            b"\x62\x48\x01\x50",
        ]
    }

    run = poll([uds(SHORT)], [Ecu(fixed(others), 0x7E4, 0x7EC, also=())], 3)

    assert set(run.values("StateOfCharge")) == {0x50}
    assert run.source.totals["unexpected"] == 3 * run.source.totals["answered"]
    assert run.source.totals["negative"] == 0


def test_a_late_answer_is_not_taken_for_that_of_the_next_request() -> None:
    count = itertools.count(1)
    late = Ecu(lambda _: [bytes([0x62, 0x48, 0x01, next(count)])], 0x7E4, 0x7EC, delay_ms=700)

    run = poll([uds(SHORT, interval_s=5)], [late], 30, answer_ms=500)

    assert not run.tables
    assert run.source.totals["unexpected"] == run.source.totals["requests"]


def test_many_ecus_that_nobody_knows_are_borne() -> None:
    class Swarm:
        def hear(self, frame: int, data: bytes) -> list[tuple[int, int, bytes]]:
            begin = b"\x10\x14\x41\0\xff\xff\xff\xff"
            everybody = [(MILLISECOND, wide(0x18DAF100 + n), begin) for n in range(256)]
            return everybody * 20 if frame == wide(0x18DB33F1) else []

    run = poll([ObdRequest([0x0C], address=0x18DB33F1)], [Swarm()], 30)

    assert not run.tables
    requests = [at for at, _, _ in run.bus.requests]
    assert len(requests) > 1
    flow = [i for at, i, d in run.bus.sent if d[0] == 0x30 and at < requests[1]]
    assert max(flow.count(i) for i in set(flow)) <= 8
    assert wide(0x18DAF1F1) not in flow, "that is the tester's own address"


REQUESTS: list[Request] = [
    ObdRequest([0x0C, 0x0D, 0x05, 0x06, 0x4F]),
    ObdDtcRequest((3, 7, 10), interval_s=0.5),
    uds(SHORT, LONG, interval_s=0.2),
    UdsRequest(0x7E5, 0x7ED, [LONG], 1, session=3, tester_present=True),
    UdsDtcRequest(0x7E4, 0x7EC, interval_s=0.5),
    ObdRequest([0x0C], address=0x18DB33F1),
]
IDS = [*range(0x7E8, 0x7F0), 0x18DAF110 | EXTENDED, 0x18DAF1FF | EXTENDED, 0x123, 0x7E0]
FIRST = st.sampled_from([*range(0x09), 0x10, 0x1F, *range(0x20, 0x23), 0x30, 0x31, 0x32, 0x40])
LIKELY = st.sampled_from(
    [
        bytes.fromhex(text)
        for text in (
            "064100ffffffff00",
            "04410c1af8000000",
            "0643020301c1a200",
            "037f227800000000",
            "037f222100000000",
            "037f013100000000",
            "03627f",
            "0462480150000000",
            "1014590203030405",
            "1014594300010203",
            "1000000010000000",
            "1007620000000000",
            "0250030000000000",
            "7f",
            "00",
        )
    ]
)
DATA = st.one_of(
    LIKELY,
    st.builds(lambda a, b: bytes([a]) + b, FIRST, st.binary(max_size=7)),
    st.binary(max_size=64),
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    frames=st.lists(
        st.tuples(st.integers(0, 3_000), st.sampled_from(IDS), DATA), min_size=1, max_size=300
    )
)
def test_no_frames_from_the_bus_raise_or_stop_the_polling(
    frames: list[tuple[int, int, bytes]],
) -> None:
    def prepare(bus: Bus) -> None:
        for at_ms, frame, data in frames:
            bus.put(at_ms * MILLISECOND, frame, data)

    run = poll(REQUESTS, [], 6, prepare=prepare)

    assert run.source.state == "ended"
    assert run.bus.seconds < 8
    for table in run.tables:
        assert len(table) == len(table.time)
        assert all(len(table.raw[name]) == len(table) for name in table.names)
    requests = [at for at, _, _ in run.bus.requests]
    assert all(b - a >= 0.05 - 1e-9 for a, b in itertools.pairwise(requests))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    messages=st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=40),
)
def test_whatever_ecus_answer_never_raises(messages: list[bytes]) -> None:
    turn = itertools.cycle(messages)

    def answer(request: bytes) -> list[bytes]:
        given = next(turn)
        return [
            bytes([request[0] + 0x40]) + request[1:] + given,
            given,
            b"\x7f" + request[:1] + given,
        ]

    nodes = [
        Ecu(answer),
        Ecu(answer, 0x7E1, 0x7E9),
        Ecu(answer, 0x7E4, 0x7EC, also=()),
        Ecu(answer, 0x7E5, 0x7ED, also=()),
    ]

    run = poll(REQUESTS, nodes, 20)

    assert run.source.state == "ended"


def test_a_flood_on_the_ids_of_answers_ends_no_request_late() -> None:
    def prepare(bus: Bus) -> None:
        for number in range(20_000):
            bus.put(number * MILLISECOND // 4, 0x7EC, b"\x02\x99\x99")

    run = poll([uds(SHORT)], [battery()], 5, prepare=prepare)

    assert len(run.values("StateOfCharge")) >= 4


def test_an_obd_ecu_and_a_battery_live_beside_each_other() -> None:
    run = poll(REQUESTS, [Ecu(obd({0x0C: b"\1\2", 0x4F: b"\1\2\3\4"})), battery()], 10)

    assert set(run.values("EngineSpeed")) == {0x0102}
    assert set(run.values("MaxIntakeManifoldPressure")) == {4}
    assert set(run.values("StateOfCharge")) == {0x50}
