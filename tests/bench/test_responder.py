"""The ECUs of a virtual vehicle: against the agent's own tester, and against an ISO-TP library."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.bench.ecus import VIN, Watch, vehicle_ecus
from agent.bench.isotp import MAX_BYTES, Transport
from agent.bench.responder import PARAMETERS, EcuDescription, Linear, Responder, Trouble
from agent.bench.vehicle import BUS, VirtualVehicle, dbc_path
from agent.blocks import EXTENDED
from agent.bus.diagnostics import (
    Did,
    Field,
    ObdDtcRequest,
    ObdRequest,
    UdsDtcRequest,
    UdsRequest,
)
from agent.bus.diagnostics.conversation import Layer
from agent.signals import Database
from tests.bus.diagnostics.ecus import Run, poll

READINGS: Mapping[str, float] = {
    "speed": 50, "rpm": 1725.5, "coolant": 50, "fuel": 40, "voltage": 13.87, "charge": 80,
    "pack_voltage": 352.1, "pack_current": -20,
}  # fmt: skip
LONG = bytes(range(200))


def engine(**more: Any) -> EcuDescription:
    return EcuDescription(
        0x7E0,
        0x7E8,
        **{"vin": VIN, "name": "ENGINE", "readings": lambda: READINGS, **more},
    )


class Asker:
    """Asks one ECU, with a transport of its own, and counts what went over the bus."""

    def __init__(self, responder: Responder, request: int = 0x7E0, response: int = 0x7E8) -> None:
        self._responder = responder
        self._request = request
        self._response = response
        self._layer = Layer(request, response, fd=False, padding=0xCC)

    def ask(self, payload: bytes) -> list[bytes]:
        """The messages that answer a request of any length."""
        out = self._layer.send(payload)
        found = []
        while out:
            frame, data = out.pop(0)
            if data[0] >> 4:  # what follows a first frame goes to the one ECU that sent it
                frame = self._response - 8
            for _, identifier, row in self._responder.hear(frame, data):
                assert identifier == self._response
                messages, more = self._layer.feed(row)
                found += messages
                out += more
        return found


def answer(request: str, *, everybody: bool = False, **more: Any) -> str | None:
    """What an engine answers, in hexadecimal digits."""
    tester = Asker(Responder([engine(**more)]), 0x7DF if everybody else 0x7E0)
    found = tester.ask(bytes.fromhex(request))
    return found[0].hex() if found else None


class TestTheAgentAsks:
    """The agent's source of diagnostics, as it runs in a vehicle, on a bus in memory."""

    def ask(self, *requests: Any, seconds: float = 4, **options: Any) -> Run:
        return poll(requests, [Node(vehicle_ecus(lambda: READINGS))], seconds, **options)

    def test_parameters_arrive_as_they_are(self) -> None:
        found = self.ask(ObdRequest([0x0C, 0x0D, 0x05, 0x2F, 0x42, 0x5B, 0x04], 0.5))

        assert set(found.physical("EngineSpeed")) == {1725.5}
        assert set(found.physical("VehicleSpeed")) == {50}
        assert set(found.physical("CoolantTemperature")) == {50}
        assert found.physical("ControlModuleVoltage")[0] == pytest.approx(13.87)
        assert found.physical("FuelLevel")[0] == pytest.approx(40, abs=0.2)
        assert not found.values("EngineLoad")
        assert found.source.totals["bad"] == found.source.totals["timeouts"] == 0

    def test_identifiers_of_the_battery_arrive_in_several_frames_and_one(self) -> None:
        identifiers = [
            Did(0xF190, [Field("Vin", bits=17 * 8, kind="ascii")]),
            Did(0x4801, [Field("StateOfCharge", bits=16, scale=0.01, unit="%")]),
            Did(0x4802, [Field("Volts", bits=16, scale=0.1)]),
            Did(0xDEAD, [Field("Nothing")]),
        ]

        found = self.ask(UdsRequest(0x7E4, 0x7EC, identifiers, interval_s=0.5, session=3))

        assert {bytes(vin) for vin in found.values("Vin")} == {VIN.encode()}
        assert set(found.values("StateOfCharge")) == {8000}
        assert set(found.values("Volts")) == {3521}
        assert found.source.totals["unsupported"] == 1
        assert found.source.totals["bad"] == 0

    def test_trouble_codes_arrive_by_both_ways(self) -> None:
        found = self.ask(
            ObdDtcRequest([3, 7, 10], 1.0),
            UdsDtcRequest(0x7E0, 0x7E8, interval_s=1.0, status_mask=0xFF),
        )

        codes = {bytes(code) for code in found.values("Code")}
        assert {b"P0A1F", b"P0C73"} <= {code.rstrip(b"\0") for code in codes}
        assert b"P0C73-1A" in {code.rstrip(b"\0") for code in codes}


class Node:
    """The responder as a node of the bus in memory."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder

    def hear(self, frame: int, data: bytes) -> Iterable[tuple[int, int, bytes]]:
        return self._responder.hear(frame, data)


class TestObd:
    def test_the_bitmaps_say_which_parameters_there_are(self) -> None:
        tester = Asker(Responder([engine()]))

        there = set()
        for base in (0x00, 0x20, 0x40):
            (message,) = tester.ask(bytes([1, base]))
            assert message[:2] == bytes([0x41, base])
            bits = int.from_bytes(message[2:], "big")
            there |= {base + n for n in range(1, 33) if bits >> (32 - n) & 1}

        readings = {n for n, p in PARAMETERS.items() if p.reading in READINGS}
        assert there == readings | {0x01, 0x1C, 0x20, 0x40}

    @pytest.mark.parametrize(
        ("request_", "wanted"),
        [
            ("010d", "410d32"),
            ("010c", "410c1af6"),
            ("0105", "41055a"),
            ("0142", "4142362e"),
            ("010d05", "410d32055a"),
            ("010d77", "410d32"),
            ("0177", None),
            ("01", "7f0113"),
            ("0101", "410181000000"),
            ("03", "43010301"),
            ("07", "4701c123"),
            ("0a", "4a010301"),
            ("0300", "7f0313"),
            ("0902", "490201" + VIN.encode().hex()),
            ("0900", "490040400000"),
            ("090a", "490a01" + b"ENGINE".ljust(20, b"\0").hex()),
            ("0904", None),
            ("04", "7f0411"),
        ],
    )
    def test_services(self, request_: str, wanted: str | None) -> None:
        troubles = [Trouble("P0301", permanent=True), Trouble("U0123", status=0x04)]

        assert answer(request_, troubles=troubles) == wanted

    def test_readings_beyond_their_bytes_are_clamped(self) -> None:
        high = {"speed": 300.0, "coolant": -90.0, "rpm": float("nan"), "charge": float("inf")}

        found = answer("010d050c5b", readings=lambda: high)

        assert found == "410dff05000cffff5bff"

    def test_values_are_read_anew_for_each_request(self) -> None:
        now = {"speed": 10.0}
        tester = Asker(Responder([engine(readings=lambda: now)]))

        first = tester.ask(b"\x01\x0d")
        now["speed"] = 20.0

        assert [first, tester.ask(b"\x01\x0d")] == [[b"\x41\x0d\x0a"], [b"\x41\x0d\x14"]]


class TestUds:
    @pytest.mark.parametrize(
        ("request_", "wanted"),
        [
            ("1003", "5003003201f4"),
            ("1083", None),
            ("1002", "7f1012"),
            ("10", "7f1013"),
            ("3e00", "7e00"),
            ("3e80", None),
            ("3e01", "7f3e12"),
            ("22f190", "62f190" + VIN.encode().hex()),
            ("221234", "621234" + LONG.hex()),
            ("2200010d0d1234", "621234" + LONG.hex()),
            ("225678", "62567801f4"),
            ("22dead", "7f2231"),
            ("229999", "7f2231"),
            ("22f1", "7f2213"),
            ("1902ff", "59022f0301002f" + "c1231a04"),
            ("190208", "59022f0301002f"),
            ("190108", "59012f010001"),
            ("190a", "590a2f0301002f" + "c1231a04"),
            ("1902", "7f1913"),
            ("1906ffffff", "7f1912"),
            ("2e123400", "7f2e11"),
            ("1101", "7f1111"),
            ("ff", "7fff11"),
        ],
    )
    def test_services(self, request_: str, wanted: str | None) -> None:
        more: dict[str, Any] = {
            "identifiers": {
                0x1234: LONG,
                0x5678: [Linear("speed", 2, 0.1)],
                0x9999: [Linear("nothing")],
            },
            "troubles": [Trouble("P0301", status=0x2F), Trouble("U0123", 0x1A, 0x04)],
        }

        assert answer(request_, **more) == wanted

    @pytest.mark.parametrize("request_", ["22dead", "1101", "1002", "04"])
    def test_who_is_asked_with_everybody_does_not_say_what_it_cannot(self, request_: str) -> None:
        assert answer(request_, everybody=True) is None
        assert answer(request_) is not None

    def test_an_ecu_without_obd_is_silent_to_parameters(self) -> None:
        assert answer("010d", everybody=True, obd=False) is None
        assert answer("22f190", everybody=True, obd=False) is not None

    @pytest.mark.parametrize("code", ["", "P03", "X0301", "P4301", "P03G1"])
    def test_a_trouble_code_that_is_none_is_refused(self, code: str) -> None:
        with pytest.raises(ValueError, match="is no trouble code"):
            Trouble(code)


class TestTransport:
    @given(st.binary(min_size=1, max_size=400) | st.integers(8, MAX_BYTES).map(bytes))
    def test_requests_and_answers_of_any_length_pass(self, payload: bytes) -> None:
        echo = Transport()
        library = Layer(0x7E0, 0x7E8, fd=False, padding=0xCC)
        there = library.send(payload)
        back = []
        while there:
            message, frames = echo.feed(there.pop(0)[1])
            frames += echo.send(message) if message is not None else []
            for _, row in frames:
                messages, more = library.feed(row)
                back += messages
                there += more

        assert back == [payload]
        assert echo.bad == echo.unfinished == 0

    def test_flow_control_says_how_many_frames_and_how_far_apart(self) -> None:
        transport = Transport()
        transport.send(bytes(50))  # a first frame, and seven more

        _, none = transport.feed(bytes.fromhex("310000"))
        _, two = transport.feed(bytes.fromhex("300214"))
        _, rest = transport.feed(bytes.fromhex("3000f5"))

        assert none == []
        assert [delay for delay, _ in two] == [0, 20_000_000]
        assert [delay for delay, _ in rest] == [n * 500_000 for n in range(5)]
        assert [row[0] for _, row in two + rest] == [0x21 + n for n in range(7)]

    def test_an_overflow_at_the_tester_ends_the_message(self) -> None:
        transport = Transport()
        transport.send(bytes(50))

        transport.feed(bytes.fromhex("320000"))

        assert transport.feed(bytes.fromhex("300000")) == (None, [])
        assert (transport.unfinished, transport.bad) == (1, 1)

    def test_a_lost_frame_costs_the_message_and_not_the_next_one(self) -> None:
        transport = Transport()
        transport.feed(bytes.fromhex("1010 0102030405 06".replace(" ", "")))
        transport.feed(bytes.fromhex("2201020304050607"))

        assert (transport.unfinished, transport.bad) == (1, 1)
        assert transport.feed(bytes.fromhex("02010d")) == (b"\x01\x0d", [])

    @pytest.mark.parametrize("size", [0, MAX_BYTES + 1])
    def test_a_message_that_cannot_be_is_refused(self, size: int) -> None:
        with pytest.raises(ValueError, match="1 to 4095 bytes"):
            Transport().send(bytes(size))

    @given(
        st.lists(
            st.tuples(st.sampled_from([0x7DF, 0x7E0, 0x7E4, 0x123]), st.binary(max_size=8)),
            max_size=40,
        )
    )
    def test_any_frames_are_taken_and_a_good_request_is_answered_after_them(
        self, frames: list[tuple[int, bytes]]
    ) -> None:
        responder = vehicle_ecus(lambda: READINGS)
        for frame, data in frames:
            for _, identifier, row in responder.hear(frame, data):
                assert identifier in (0x7E8, 0x7EC)
                assert len(row) == 8

        found = responder.hear(0x7E0, bytes.fromhex("02010d"))

        assert [(i, row[:4].hex()) for _, i, row in found] == [(0x7E8, "03410d32")]
        assert responder.counts["requests"] >= 1


class TestAddresses:
    def test_ids_of_29_bits(self) -> None:
        ecu = EcuDescription(0x18DA10F1, 0x18DAF110, vin=VIN, readings=lambda: READINGS)
        responder = Responder([ecu])

        one = responder.hear(0x18DA10F1 | EXTENDED, bytes.fromhex("02010d"))
        everybody = responder.hear(0x18DB33F1 | EXTENDED, bytes.fromhex("02010d"))
        other = responder.hear(0x7DF, bytes.fromhex("02010d"))

        assert one == everybody == [(0, 0x18DAF110 | EXTENDED, bytes.fromhex("03410d32aaaaaaaa"))]
        assert other == []
        assert responder.ids == {0x18DA10F1 | EXTENDED, 0x18DB33F1 | EXTENDED}

    def test_everybody_answers_a_request_to_everybody(self) -> None:
        second = EcuDescription(0x7E1, 0x7E9, readings=lambda: {"speed": 51})
        responder = Responder([engine(), second])

        found = responder.hear(0x7DF, bytes.fromhex("02010d"))

        assert [(i, row[3]) for _, i, row in found] == [(0x7E8, 50), (0x7E9, 51)]
        assert responder.counts == {"requests": 2, "answers": 2}


class TestWatch:
    def test_what_is_asked_for_is_what_is_on_the_bus(self) -> None:
        watch = Watch(Database.load([dbc_path()]), BUS)
        vehicle = VirtualVehicle(1)
        responder = vehicle_ecus(watch.readings)
        before = responder.hear(0x7E0, bytes.fromhex("02010d"))

        watch.note(vehicle.frames(40))
        seen = watch.readings()

        assert before == []  # nothing was seen yet: nothing is there
        assert watch.signals["speed"] == "VehicleMotion.VehicleSpeed"
        assert watch.signals["voltage"].endswith(".LowVoltage")
        assert {"speed", "rpm", "coolant", "charge", "pack_voltage"} <= set(seen)
        ((_, _, row),) = responder.hear(0x7E0, bytes.fromhex("02010d"))
        assert row[3] == round(seen["speed"])
        assert row[3] > 0

    def test_a_database_without_such_signals_gives_no_readings(self) -> None:
        watch = Watch(Database({}), "can0")

        watch.note(VirtualVehicle(1).frames(1))

        assert watch.readings() == {}
