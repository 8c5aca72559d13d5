"""What this program owes to a bus that it sends on."""

import itertools
import subprocess
import sys
import threading

import can
import pytest

from agent.bus.diagnostics import (
    DiagnosticsSource,
    Did,
    Field,
    ObdDtcRequest,
    ObdRequest,
    Request,
    UdsDtcRequest,
    UdsRequest,
)
from agent.bus.diagnostics.adapters import PythonCanLink
from agent.bus.diagnostics.requests import Address
from agent.clock import SystemClock
from agent.errors import BusError, ConfigError
from tests.bus.diagnostics.ecus import Bus, Ecu, Run, Stop, Time, fixed, obd, poll

ENGINE = {0x04: b"\x80", 0x05: b"\x5a", 0x0C: b"\x1a\xf8", 0x0D: b"\x32", 0x10: b"\x01\x02"}
OBD = ObdRequest(sorted(ENGINE))
DID = Did(0x4801, [Field("StateOfCharge")])
EVERYTHING: list[Request] = [
    OBD,
    ObdRequest([0x0C], interval_s=0.2, address=0x7E0),
    ObdDtcRequest((3, 7, 10), interval_s=2),
    UdsRequest(0x7E4, 0x7EC, [DID], 0.3),
    UdsDtcRequest(0x7E4, 0x7EC, interval_s=3),
]


def nodes() -> list[Ecu]:
    battery = fixed(
        {
            b"\x22\x48\x01": b"\x62\x48\x01\x50",
            b"\x19\x02\x09": b"\x59\x02\x7f" + bytes(range(1, 41)),
        }
    )
    return [
        Ecu(obd(ENGINE), delay_ms=30),
        Ecu(obd({0x0D: b"\x33"}), 0x7E1, 0x7E9, delay_ms=45),
        Ecu(battery, 0x7E4, 0x7EC, also=()),
    ]


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("transmit", [False, None, 0, 1, "true"])
def test_without_transmit_the_source_is_refused(transmit: object) -> None:
    with pytest.raises(ConfigError, match="set transmit = true for it in the device file"):
        DiagnosticsSource("body", "can0", [OBD], transmit=transmit)  # type: ignore[arg-type]


def test_without_transmit_what_sends_is_not_even_loaded() -> None:
    told = python(
        "import sys\n"
        "from agent.bus.diagnostics import DiagnosticsSource, ObdRequest, schemas\n"
        "from agent.errors import ConfigError\n"
        "requests = [ObdRequest(['EngineSpeed'])]\n"
        "schemas('body', requests)\n"
        "try:\n"
        "    DiagnosticsSource('body', 'can0', requests, transmit=False)\n"
        "except ConfigError:\n"
        "    print(*sorted(m for m in sys.modules if m.startswith(\n"
        "        ('isotp', 'udsoncan', 'agent.bus.diagnostics'))))\n"
        "DiagnosticsSource('body', 'can0', requests, transmit=True)\n"
        "print('agent.bus.diagnostics.sending' in sys.modules)\n"
    )

    loaded, sends = told.splitlines()
    assert loaded.split() == [
        "agent.bus.diagnostics",
        *(
            f"agent.bus.diagnostics.{name}"
            for name in ("fields", "pids", "requests", "source", "tables")
        ),
    ]
    assert sends == "True"


@pytest.mark.parametrize("library", ["isotp", "udsoncan"])
def test_a_missing_library_is_named_with_what_to_install(library: str) -> None:
    told = python(
        "import sys\n"
        f"sys.modules[{library!r}] = None\n"
        "from agent.bus.diagnostics import DiagnosticsSource, ObdRequest\n"
        "from agent.errors import ConfigError\n"
        "try:\n"
        "    DiagnosticsSource('body', 'can0', [ObdRequest([12])], transmit=True)\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )

    assert library in told
    assert "pip install 'vehicle-edge-agent[diagnostics]'" in told


def test_nothing_is_sent_before_others_were_seen_to_send() -> None:
    run = poll([OBD], nodes(), 60, others=lambda s: s >= 40)

    assert 40 <= run.bus.sent[0][0] < 41


def test_nothing_is_sent_when_others_have_been_silent_for_5_s() -> None:
    run = poll(EVERYTHING, nodes(), 60, others=lambda s: s < 20)

    assert 24 < run.bus.sent[-1][0] < 25.6


def test_the_state_says_why_nothing_is_sent() -> None:
    states: dict[str, float] = {}
    poll(
        [UdsRequest(0x7E4, 0x7EC, [DID], 1)],
        nodes(),
        30,
        others=lambda s: s < 10,
        watch=lambda seconds, state: states.setdefault(state, seconds),
    )

    assert list(states) == [
        "starting",
        "reading",
        "waiting: no frame was seen on the bus for 5 s",
    ]
    assert states["waiting: no frame was seen on the bus for 5 s"] == pytest.approx(15, abs=1)


def test_the_state_says_that_nobody_answers() -> None:
    states: list[str] = []
    poll([OBD], [], 30, watch=lambda _, state: states.append(state))

    assert states[-1] == "waiting: no ECU answers"


def test_polling_goes_on_when_the_vehicle_wakes_up_and_begins_anew() -> None:
    engine = Ecu(obd(ENGINE))

    run = poll([OBD], [engine], 120, others=lambda s: not 10 < s < 70)

    silent = [(a, b) for (a, _, _), (b, _, _) in itertools.pairwise(run.bus.sent) if b - a > 20]
    assert len(silent) == 1
    assert silent[0] == pytest.approx((15, 70), abs=1.2)
    maps = [at for at, _, payload in run.bus.requests if payload == b"\x01\x00"]
    assert len(maps) == 2, "what an ECU has is asked again"


def test_a_silent_ecu_is_asked_at_once_after_the_vehicle_woke_up() -> None:
    run = poll([OBD], [], 400, others=lambda s: not 250 < s < 300)

    later = [at for at, _, _ in run.bus.requests if at > 260]
    assert later[0] < 301


def test_another_sign_of_life_is_needed_too_where_there_is_one() -> None:
    bus: list[Bus] = []

    run = poll([OBD], nodes(), 60, prepare=bus.append, awake=lambda: 30 < bus[0].seconds < 40)

    at = [a for a, _, _ in run.bus.sent]
    assert 29 < min(at) < 32
    assert 39 < max(at) < 42


def test_a_bus_that_carries_only_diagnostics_relies_on_the_other_sign() -> None:
    run = poll([OBD], nodes(), 5, others=lambda _: False, awake=lambda: True, needs_traffic=False)

    assert run.values("EngineSpeed")
    with pytest.raises(ConfigError, match="another sign"):
        DiagnosticsSource("body", "can0", [OBD], transmit=True, needs_traffic=False)


def outstanding(run: Run, pause_s: float) -> None:
    """Between two requests lie the answers to the first, and the pause."""
    requests = [at for at, _, _ in run.bus.requests]
    for (begin, end), gap in zip(
        itertools.pairwise(requests), (b - a for a, b in itertools.pairwise(requests)), strict=True
    ):
        heard = [at for at, _, _ in run.bus.came if begin <= at <= end]
        assert gap >= pause_s - 1e-9
        assert not heard or end - heard[-1] >= pause_s - 1e-9


@pytest.mark.parametrize("pause_ms", [0, 50, 400])
def test_one_request_is_outstanding_and_a_pause_follows_it(pause_ms: int) -> None:
    run = poll(EVERYTHING, nodes(), 30, pause_ms=pause_ms)

    assert len(run.bus.requests) > 20
    outstanding(run, pause_ms / 1000)
    assert run.source.totals["unexpected"] == 0, "no answer came when another was waited for"


def test_nothing_is_sent_while_nothing_is_due() -> None:
    run = poll([UdsRequest(0x7E4, 0x7EC, [DID], 10)], nodes(), 100)

    at = [a for a, _, _ in run.bus.sent]
    assert len(at) == 10
    assert [round(b - a, 1) for a, b in itertools.pairwise(at)] == [10.0] * 9


def test_intervals_that_were_missed_are_not_made_up_for() -> None:
    run = poll([OBD], [Ecu(obd(ENGINE))], 60, awake=lambda: True)
    slow = poll([ObdRequest([0x0C], interval_s=0.1)], [Ecu(obd(ENGINE), delay_ms=450)], 20)

    assert 55 <= len(run.values("EngineSpeed")) <= 61
    outstanding(slow, 0.05)
    assert len(slow.values("EngineSpeed")) <= 40


def test_an_ecu_that_does_not_answer_is_asked_less_and_less_often(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = poll([OBD, UdsRequest(0x7E4, 0x7EC, [DID], 1)], [], 3600)

    for frame in (0x7DF, 0x7E4):
        at = [a for a, i, _ in run.bus.requests if i == frame]
        gaps = [b - a for a, b in itertools.pairwise(at)]
        assert gaps[-1] == pytest.approx(60, abs=2)
        assert gaps == sorted(gaps) or max(a - b for a, b in itertools.pairwise(gaps)) < 2, (
            "doubling up to a minute"
        )
        assert len(at) < 75
    assert run.source.totals["timeouts"] == run.source.totals["requests"]
    said = [r.message for r in caplog.records]
    assert sum("0x7DF does not answer" in m for m in said) == 1
    assert sum("0x7E4 does not answer" in m for m in said) == 1


def test_services_that_are_passed_over_in_silence_do_not_hold_up_the_others() -> None:
    run = poll([OBD, ObdDtcRequest((3, 7, 10), interval_s=1)], [Ecu(obd(ENGINE))], 100)

    assert len(run.values("EngineSpeed")) >= 90
    silent = [p for _, _, p in run.bus.requests if p == b"\x0a"]
    assert 3 <= len(silent) <= 9


def test_an_ecu_that_answers_again_is_polled_as_before() -> None:
    ecu = Ecu(obd(ENGINE))
    answer = ecu.answer

    def others(seconds: float) -> bool:
        ecu.answer = answer if seconds < 10 or seconds > 200 else lambda _: ()
        return True

    run = poll([OBD], [ecu], 400, others=others)

    late = [(int(t.time[0]) / 1e9 - 1000) for t in run.tables if "EngineSpeed" in t.names]
    assert len([at for at in late if at > 300]) >= 99


def test_every_request_is_accounted_for() -> None:
    refusing = fixed({b"\x22\x48\x01": b"\x7f\x22\x22"})
    requests: list[Request] = [
        ObdRequest([0x0C], address=0x7E0),
        UdsRequest(0x7E4, 0x7EC, [DID, Did(1, [Field("A")])], 1),
    ]

    run = poll(requests, [Ecu(obd(ENGINE)), Ecu(refusing, 0x7E4, 0x7EC, also=())], 100)

    totals = run.source.totals
    assert totals["requests"] == len(run.bus.requests)
    assert totals["requests"] == totals["answered"] + totals["negative"] + totals["timeouts"]
    assert all(totals[name] for name in ("answered", "negative", "timeouts"))


def test_a_request_that_is_outstanding_at_the_end_is_no_timeout() -> None:
    slow = Ecu(obd(ENGINE), delay_ms=450)

    run = poll([ObdRequest([0x0C], address=0x7E0)], [slow], 0.3)

    totals = run.source.totals
    assert (totals["requests"], totals["cut_short"], totals["timeouts"]) == (1, 1, 0)


def test_an_interface_that_goes_away_is_waited_for() -> None:
    run = poll([OBD], nodes(), 60, broken=lambda s: 20 < s < 30)

    at = [int(t.time[0]) / 1e9 - 1000 for t in run.tables if "EngineSpeed" in t.names]
    assert [a for a in at if a < 20]
    assert not [a for a in at if 20 < a < 30]
    assert [a for a in at if a > 31]
    assert run.source.state == "ended"


def test_an_interface_that_is_not_there_is_said_in_the_state() -> None:
    time = Time()
    stop = Stop(time)
    source = DiagnosticsSource("body", "nosuchcan", [OBD], transmit=True, clock=time)
    states: list[str] = []

    class Once(Stop):
        def wait(self, timeout: float | None = None) -> bool:
            states.append(source.state)
            self.set()
            return super().wait(timeout)

    stop = Once(time)
    source.run(lambda _: None, stop)

    assert states in (
        ["waiting: there is no interface nosuchcan"],
        ["waiting: this kernel has no CAN"],
    )
    assert source.state == "ended"


def test_two_ecus_that_could_not_be_told_apart_are_refused() -> None:
    requests = [UdsRequest(0x7E4, 0x7EC, [DID]), UdsRequest(0x6E4, 0x6EC, [DID])]

    with pytest.raises(ConfigError, match="give one of them another message name"):
        DiagnosticsSource("body", "can0", requests, transmit=True)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"pause_ms": -1}, "pause_ms"),
        ({"answer_ms": 1}, "answer_ms"),
        ({"quiet_s": 0}, "quiet_s"),
        ({"padding": 256}, "padding is one byte"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, int], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        DiagnosticsSource("body", "can0", [OBD], transmit=True, **options)  # type: ignore[arg-type]


def test_no_requests_are_refused() -> None:
    with pytest.raises(ConfigError, match="no diagnostic requests"):
        DiagnosticsSource("body", "can0", [], transmit=True)


def test_no_thread_is_left_or_even_started() -> None:
    before = set(threading.enumerate())

    poll(EVERYTHING, nodes(), 5)

    assert set(threading.enumerate()) == before


def test_a_bus_of_python_can_is_a_way_too() -> None:
    with can.Bus("diagnostics", interface="virtual") as vehicle:
        link = PythonCanLink(
            can.Bus("diagnostics", interface="virtual"), [Address(0x7DF)], SystemClock()
        )
        link.send(0x7DF, b"\x02\x01\x00")
        link.send(0x98DB33F1, b"\x02\x01\x00")
        heard = [vehicle.recv(5), vehicle.recv(5)]
        assert [(m.arbitration_id, m.is_extended_id) for m in heard if m] == [
            (0x7DF, False),
            (0x18DB33F1, True),
        ]
        for frame in (0x7E9, 0x7E1, 0x7DF):
            vehicle.send(can.Message(arbitration_id=frame, is_extended_id=False, data=b"\1\2"))

        received = link.recv(5)
        assert received is not None
        assert received[:2] == (0x7E9, b"\1\2")
        assert link.recv(0.0) is None
        assert link.recv(0.0) is None
        assert not link.traffic(), "requests and answers are no sign of life"

        vehicle.send(can.Message(arbitration_id=0x123, is_extended_id=False))
        assert link.recv(0.0) is None
        assert link.traffic()
        assert not link.traffic()
        link.close()
        with pytest.raises(BusError, match="fails"):
            link.send(0x7DF, b"")
