"""The bench platform over real TCP: how it answers, and that no vehicle can hurt it."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from agent.bench.gbt32960.behaviour import HEARTBEAT, LOGIN, LOGOUT, Answer, Behaviour, Mischief
from agent.bench.gbt32960.platform import Platform
from agent.bench.gbt32960.record import Record
from agent.clock import SystemClock, WallNs
from agent.errors import TransientError
from agent.gbt32960.codec import GBT2016, GBT2025, Codec, pack_time
from agent.gbt32960.envelope import Frame, request
from agent.gbt32960.layout import Item
from tests.bench.gbt32960.platformbench import (
    BEGIN,
    CODECS,
    VIN,
    Terminal,
    at,
    cell_items,
    heartbeat,
    login,
    logout,
    report,
    run,
)

OTHER = "LTEST000000000002"


class StoppedClock(SystemClock):
    def wall(self) -> WallNs:
        return at(100)


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: c.layout.name)
@pytest.mark.parametrize(
    ("style", "ack", "body"),
    [
        (Answer.ECHO, 1, "all"),
        (Answer.TIME, 1, "time"),
        (Answer.EMPTY, 1, ""),
        (Answer.ERROR, 2, "time"),
        (Answer.DUPLICATE, 3, "time"),
    ],
    ids=lambda v: getattr(v, "value", str(v)),
)
def test_reports_are_answered_in_each_style(
    codec: Codec, style: Answer, ack: int, body: str
) -> None:
    async def test(platform: Platform) -> None:
        platform.behaviour.answers = style
        async with Terminal.connect(platform.port) as vehicle:
            await vehicle.asks(login(codec))
            for stored in (False, True):
                sent = report(codec, 0, stored=stored)

                answer = await vehicle.asks(sent)

                wanted = {"all": sent.body, "time": sent.body[:6], "": b""}[body]
                assert answer == Frame(codec, sent.command, ack, VIN, wanted)

    run(test)


@pytest.mark.parametrize("style", [Answer.CORRECT, Answer.NEVER])
def test_a_right_report_may_have_no_answer(style: Answer) -> None:
    async def test(platform: Platform) -> None:
        platform.behaviour.answers = style
        async with Terminal.connect(platform.port) as vehicle:
            await vehicle.asks(login(GBT2016))

            vehicle.send(report(GBT2016, 0), report(GBT2016, 10, stored=True))
            answer = await vehicle.asks(heartbeat(GBT2016))

            assert answer.command == HEARTBEAT
            assert platform.record.vehicles[VIN].reports == 2

    run(test)


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: c.layout.name)
def test_login_heartbeat_time_and_logout_are_answered_as_the_standard_has_it(codec: Codec) -> None:
    async def test(platform: Platform) -> None:
        async with Terminal.connect(platform.port) as vehicle:
            began = await vehicle.asks(login(codec))
            alive = await vehicle.asks(heartbeat(codec))
            time = await vehicle.asks(request(codec, 0x08, VIN))
            ended = await vehicle.asks(logout(codec))

            assert began == Frame(codec, LOGIN, 1, VIN, pack_time(BEGIN))
            assert alive == Frame(codec, HEARTBEAT, 1, VIN)
            assert time == Frame(codec, 0x08, 1, VIN, pack_time(at(100)))
            assert ended == Frame(codec, LOGOUT, 1, VIN, pack_time(BEGIN))

    run(test, clock=StoppedClock())


def test_a_style_may_be_of_one_command() -> None:
    async def test(platform: Platform) -> None:
        async with Terminal.connect(platform.port) as vehicle:
            duplicate = await vehicle.asks(login(GBT2016))
            assert duplicate.ack == 3
            assert not platform.online

            platform.behaviour.commands = {HEARTBEAT: Answer.TIME}
            await vehicle.asks(login(GBT2016))
            assert (await vehicle.asks(heartbeat(GBT2016))).body == pack_time(at(100))

    behaviour = Behaviour(commands={LOGIN: Answer.DUPLICATE})
    run(test, clock=StoppedClock(), behaviour=behaviour)


def test_a_malformed_report_is_answered_with_an_error_and_kept_with_its_reason() -> None:
    async def test(platform: Platform) -> None:
        async with Terminal.connect(platform.port) as vehicle:
            await vehicle.asks(login(GBT2025))
            broken = request(GBT2025, 0x02, VIN, pack_time(BEGIN) + b"\x01\x00")
            encrypted = Frame(GBT2025, 0x02, 0xFE, VIN, b"12345678", 0x04)

            answers = [await vehicle.asks(broken), await vehicle.asks(encrypted)]

            assert [a.ack for a in answers] == [6, 7]
            kept = platform.record.vehicles[VIN].malformed
            assert [why for _, why, _ in kept] == [
                "realtime, vehicle 0x01, offset 8: charge_state needs 1 bytes and 0 are left",
                "the data unit is encrypted (0x04, SM2)",
            ]

    run(test)


def test_a_frame_before_the_login_ends_the_connection() -> None:
    async def test(platform: Platform) -> None:
        async with Terminal.connect(platform.port) as vehicle:
            vehicle.send(report(GBT2016, 0))

            assert await vehicle.ended()
            assert platform.counts["before_login"] == 1
            assert not platform.record.vehicles

    run(test)


def test_a_login_that_cannot_be_read_is_ignored() -> None:
    async def test(platform: Platform) -> None:
        async with Terminal.connect(platform.port) as vehicle:
            vehicle.send(request(GBT2016, LOGIN, VIN, b"\x63"), login(GBT2016, ""))

            answer = await vehicle.asks(login(GBT2016, serial=7))

            assert answer.ack == 1
            assert platform.counts["bad_logins"] == 2
            assert [serial for _, serial, _ in platform.record.vehicles[VIN].logins] == [7]

    run(test)


def test_a_vin_that_connects_again_takes_the_place_of_its_old_connection() -> None:
    async def test(platform: Platform) -> None:
        async with (
            Terminal.connect(platform.port) as first,
            Terminal.connect(platform.port) as second,
        ):
            await first.asks(login(GBT2016))
            await second.asks(login(GBT2016, serial=2))

            assert await first.ended()
            assert (await second.asks(heartbeat(GBT2016))).ack == 1
            assert platform.counts["replaced"] == 1

    run(test)


def test_both_editions_are_served_at_once() -> None:
    async def test(platform: Platform) -> None:
        async with Terminal.connect(platform.port) as old, Terminal.connect(platform.port) as new:
            await old.asks(login(GBT2016, VIN))
            await new.asks(login(GBT2025, OTHER))

            old.send(report(GBT2016, 0))
            new.send(report(GBT2025, 0, vin=OTHER))
            await asyncio.gather(old.asks(heartbeat(GBT2016)), new.asks(heartbeat(GBT2025, OTHER)))

            vehicles = platform.record.vehicles
            assert {v: (r.codec, r.reports) for v, r in vehicles.items()} == {
                VIN: (GBT2016, 1),
                OTHER: (GBT2025, 1),
            }

    run(test)


def test_answers_in_pieces_late_or_behind_garbage_are_still_answers() -> None:
    async def test(platform: Platform) -> None:
        async with Terminal.connect(platform.port) as vehicle:
            answer = await vehicle.asks(login(GBT2016))
            assert answer.ack == 1
            echo = await vehicle.asks(report(GBT2016, 0))
            assert echo.body == report(GBT2016, 0).body
            assert vehicle.stream.skipped_bytes >= 50

    behaviour = Behaviour(
        answers=Answer.ECHO, piece_bytes=3, piece_gap_s=0, delay_s=0.001, garbage_bytes=30
    )
    run(test, behaviour=behaviour)


def test_pieces_come_apart() -> None:
    async def test(platform: Platform) -> None:
        async with Terminal.connect(platform.port) as vehicle:
            vehicle.send(login(GBT2016))

            assert len(await vehicle.reader.read(1000)) == 10

    run(test, behaviour=Behaviour(piece_bytes=10, piece_gap_s=0.2))


def test_answers_can_go_together() -> None:
    async def test(platform: Platform) -> None:
        async with Terminal.connect(platform.port) as vehicle:
            vehicle.send(login(GBT2016), *[heartbeat(GBT2016)] * 2)

            together = await vehicle.reader.read(1000)

            assert together.count(b"##") == 3

    run(test, behaviour=Behaviour(merge=3, merge_s=30))


def test_a_link_is_dropped_after_so_many_frames_the_last_of_which_is_kept() -> None:
    async def test(platform: Platform) -> None:
        async with Terminal.connect(platform.port) as vehicle:
            vehicle.send(login(GBT2016), *(report(GBT2016, n) for n in range(5)))

            assert await vehicle.ended()
            assert platform.record.vehicles[VIN].reports == 2

    run(test, behaviour=Behaviour(drop_after_frames=3))


@pytest.mark.parametrize(
    ("behaviour", "count"),
    [
        (Behaviour(drop_every_s=0.01), "dropped"),
        (Behaviour(silence_s=0.01), "silent"),
    ],
    ids=["every so often", "silent"],
)
def test_a_link_is_dropped_in_time(behaviour: Behaviour, count: str) -> None:
    async def test(platform: Platform) -> None:
        async with Terminal.connect(platform.port) as vehicle:
            vehicle.send(login(GBT2016))

            assert await vehicle.ended()
            assert platform.counts[count] == 1

    run(test, behaviour=behaviour)


def test_who_does_not_log_in_is_dropped() -> None:
    async def test(platform: Platform) -> None:
        async with Terminal.connect(platform.port) as vehicle:
            assert await vehicle.ended()
            assert platform.counts["no_login"] == 1

    run(test, behaviour=Behaviour(login_s=0.01))


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: c.layout.name)
def test_commands_go_down_and_their_answers_are_kept(codec: Codec) -> None:
    async def vehicle_of(terminal: Terminal) -> None:
        for _ in range(3):
            asked = await terminal.read()
            if asked.command == 0x80:
                items = [Item(0x09, {"heartbeat_period": 60})]
                values = {"time": asked.decode()["time"], "parameters": items}
                body = codec.encode(0x80, values, 0x01)
                terminal.send(Frame(codec, 0x80, 0x01, VIN, body))
            else:
                ack = 0x01 if asked.command == 0x81 else 0x02
                terminal.send(Frame(codec, asked.command, ack, VIN, asked.body[:6]))

    async def test(platform: Platform) -> None:
        async with Terminal.connect(platform.port) as terminal:
            await terminal.asks(login(codec))
            answering = asyncio.ensure_future(vehicle_of(terminal))

            query = await platform.query(VIN, [0x09])
            setting = await platform.set_parameters(VIN, [Item(0x02, {"report_period": 5})])
            control = await platform.control(VIN, 0x02, {})
            await answering

            assert query.values is not None
            assert query.values["parameters"] == [Item(0x09, {"heartbeat_period": 60})]
            assert (setting.ack, control.ack) == (1, 2)
            assert list(platform.replies) == [query, setting, control]

    run(test)


def test_who_is_not_online_cannot_be_asked() -> None:
    async def test(platform: Platform) -> None:
        with pytest.raises(TransientError, match=f"{VIN} is not online"):
            await platform.query(VIN, [0x02])
        async with Terminal.connect(platform.port) as vehicle:
            await vehicle.asks(login(GBT2016))
            asking = asyncio.ensure_future(platform.query(VIN, [0x02]))
            await vehicle.read()
            platform.drop(VIN)
            with pytest.raises(TransientError, match="has left"):
                await asking

    run(test)


@pytest.mark.parametrize("what", Mischief, ids=lambda m: m.value)
def test_mischief_comes_after_the_login(what: Mischief) -> None:
    async def test(platform: Platform) -> None:
        async with Terminal.connect(platform.port) as vehicle:
            assert (await vehicle.asks(login(GBT2025))).command == LOGIN
            while vehicle.received < 60:
                data = await vehicle.reader.read(65_536)
                vehicle.received += len(data)

    run(test, behaviour=Behaviour(mischief=(what,)))


# -- hostile vehicles ------------------------------------------------------------------------


def test_bytes_without_end_cost_a_connection_no_more_than_a_frame() -> None:
    async def test(platform: Platform) -> None:
        async with Terminal.connect(platform.port) as vehicle:
            await vehicle.asks(login(GBT2016))
            for _ in range(20):
                vehicle.writer.write(b"##\x02\xfe\x01" * 16_384)
                await vehicle.writer.drain()

            vehicle.writer.write(bytes(70_000))
            vehicle.send(heartbeat(GBT2016))
            while (await vehicle.read()).command != HEARTBEAT:
                pass

            assert platform.record.vehicles[VIN].counts["bad_frames"] > 1000

    run(test)


def test_a_wrong_bcc_costs_itself() -> None:
    async def test(platform: Platform) -> None:
        async with Terminal.connect(platform.port) as vehicle:
            await vehicle.asks(login(GBT2016))
            wrong = bytearray(report(GBT2016, 0).to_bytes())
            wrong[-1] ^= 1
            vehicle.writer.write(wrong)
            vehicle.send(report(GBT2016, 10))
            await vehicle.asks(heartbeat(GBT2016))

            known = platform.record.vehicles[VIN]
            assert (known.reports, known.counts["bad_frames"]) == (1, 1)

    run(test)


def test_huge_counts_are_malformed() -> None:
    async def test(platform: Platform) -> None:
        async with Terminal.connect(platform.port) as vehicle:
            await vehicle.asks(login(GBT2016))
            huge = [b"\x09\xfa", b"\x08\xfa", b"\x03" + bytes(6) + b"\xff\xfd", b"\x80\xff\xff"]
            for items in huge:
                answer = await vehicle.asks(request(GBT2016, 0x02, VIN, pack_time(BEGIN) + items))
                assert answer.ack == 2
            assert platform.record.vehicles[VIN].counts["malformed"] == len(huge)

    run(test)


def test_packs_that_never_become_whole_take_no_room() -> None:
    async def test(platform: Platform) -> None:
        async with Terminal.connect(platform.port) as vehicle:
            await vehicle.asks(login(GBT2016))
            for n in range(1000):
                vehicle.send(report(GBT2016, n, cell_items(201)[0]))
            await vehicle.asks(heartbeat(GBT2016))

            assert platform.record.vehicles[VIN].incomplete == 999

    run(test)


def test_another_vin_on_a_connection_is_an_error() -> None:
    async def test(platform: Platform) -> None:
        async with Terminal.connect(platform.port) as vehicle:
            await vehicle.asks(login(GBT2016))

            answer = await vehicle.asks(report(GBT2016, 0, vin=OTHER))

            assert answer.ack == 2
            assert list(platform.record.vehicles) == [VIN]
            assert platform.record.vehicles[VIN].counts["malformed"] == 1

    run(test)


def test_connections_are_bounded_and_those_within_go_on() -> None:
    async def test(platform: Platform) -> None:
        async with contextlib.AsyncExitStack() as stack:
            first = await stack.enter_async_context(Terminal.connect(platform.port))
            await first.asks(login(GBT2016))
            for _ in range(300):
                with contextlib.suppress(OSError):
                    await stack.enter_async_context(Terminal.connect(platform.port))
            await platform.until(lambda: platform.counts["connected"] == 301)

            assert len(platform.connections) == 10
            assert platform.counts["refused"] == 291
            assert (await first.asks(heartbeat(GBT2016))).ack == 1

    run(test, most=10)


def test_who_reads_no_answers_is_read_no_more() -> None:
    async def test(platform: Platform) -> None:
        platform.behaviour.answers = Answer.ECHO
        async with Terminal.connect(platform.port) as deaf, Terminal.connect(platform.port) as ok:
            deaf.send(login(GBT2016))
            big = report(GBT2016, 0, *[Item(0x80, bytes(60_000))]).to_bytes()
            blocked = False
            for _ in range(400):
                deaf.writer.write(big)
                try:
                    await asyncio.wait_for(deaf.writer.drain(), 1)
                except TimeoutError:
                    blocked = True
                    break

            assert blocked
            assert (await ok.asks(login(GBT2016, OTHER))).ack == 1
            deaf.writer.transport.abort()

    run(test)


def test_what_cannot_be_kept_is_not_confirmed(tmp_path: Path) -> None:
    async def test(platform: Platform) -> None:
        platform.behaviour.answers = Answer.ECHO
        async with Terminal.connect(platform.port) as vehicle:
            await vehicle.asks(login(GBT2016))
            assert (await vehicle.asks(report(GBT2016, 0))).ack == 1
            vehicle.send(report(GBT2016, 1))

            with pytest.raises((EOFError, OSError)):
                await vehicle.read()
            assert platform.counts["not_kept"] == 1

    run(test, record=Record(tmp_path, most_bytes=150))
