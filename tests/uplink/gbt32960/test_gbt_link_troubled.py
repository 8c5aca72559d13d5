"""The sender to a platform that is hostile, in a hurry, or knows more than the vehicle."""

import asyncio
import dataclasses
import itertools
import logging
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.bench.gbt32960.behaviour import REPORTS, Answer, Behaviour, Mischief
from agent.blocks import Reports
from agent.clock import SECOND, BootNs, Quality, SystemClock, WallNs
from agent.errors import UplinkError
from agent.gbt32960 import signature
from agent.gbt32960.codec import GBT2016, pack_time, unpack_time
from agent.gbt32960.envelope import Frame
from agent.gbt32960.layout import Item
from agent.uplink.gbt32960.sign import Signer
from tests.uplink.certificates import Authority
from tests.uplink.gbt32960.gbt_vehicle import body
from tests.uplink.gbt32960.gbt_world import LIVE, LOGIN, NOON, REISSUE, VIN, World, scripted, world
from tests.virtualtime import Time


@pytest.fixture
def time() -> Iterator[Time]:
    with Time(NOON) as made:
        yield made


async def online(it: World) -> None:
    it.report()
    await it.until(lambda: VIN in it.platform.online)
    await it.all_there()


# -- hostile platforms


@pytest.mark.parametrize("what", list(Mischief))
def test_mischief_costs_nothing_but_a_count(tmp_path: Path, time: Time, what: Mischief) -> None:
    async def main() -> None:
        behaviour = Behaviour(mischief=(what,), answers=Answer.TIME)
        async with world(tmp_path, time, behaviour) as it:
            it.store(30, first=100 * SECOND)
            async with it.running():
                it.report()
                await it.until(lambda: it.told["bad_frames"] + it.told["commands_refused"] > 0)
                behaviour.mischief = ()
                await it.all_there()
            assert it.tuning.report_s == 10.0

    time.run(main())


def test_control_commands_and_another_endpoint_are_refused(tmp_path: Path, time: Time) -> None:
    async def main() -> None:
        async with world(tmp_path, time) as it, it.running():
            await online(it)
            for control in (1, 2, 3, 4, 5, 7):
                values = {"fields": b";;;"} if control == 1 else {}
                reply = await it.platform.control(VIN, control, values)
                assert reply.ack == 0x02
            item = Item(0x06, {"platform_port": 1})
            assert (await it.platform.set_parameters(VIN, [item])).ack == 0x02
            assert it.told["commands_refused"] == 7
            await online(it)

    time.run(main())


def test_endless_bytes_end_the_link_and_make_it_wait(tmp_path: Path, time: Time) -> None:
    said: list[int] = []

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said.append(0)
        while True:
            writer.write(b"##\x02\xfe" * 4096)
            await writer.drain()
            said[-1] += 16384

    async def main() -> None:
        async with world(tmp_path, time) as it, scripted(flood) as it.url:
            it.configure()
            async with it.running():
                it.report()
                await it.until(lambda: len(said) > 1)
                assert time.passed_s > 30
                # What lies in the buffers of both ends comes to it.
                assert all(n < 32 << 20 for n in said)
                assert "more than anybody asked" in it.sender.state["why"]
                assert it.told["skipped_bytes"] + it.told["bad_frames"] > 1 << 20

    time.run(main())


def test_a_platform_that_reads_nothing_ends_the_link(tmp_path: Path, time: Time) -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        login = await reader.readexactly(25 + 30)
        writer.write(Frame(GBT2016, LOGIN, 0x01, VIN, login[24:30]).to_bytes())
        assert isinstance(writer.transport, asyncio.Transport)
        writer.transport.pause_reading()

    async def main() -> None:
        async with world(tmp_path, time) as it, scripted(deaf) as it.url:
            it.configure()
            async with it.running():
                it.report()
                await it.until(lambda: it.told["session"] == "online")
                content = b"\x80\xff\xf0" + bytes(0xFFF0)
                when = np.full(40, time.boot(), np.int64)
                for i in range(8):
                    reports = Reports("gbt32960-2016", when + i, (content,) * 40, live=True)
                    it.sender.offer(reports)
                    await asyncio.sleep(0.01)
                await it.until(lambda: "nothing has moved" in it.sender.state["why"])

    time.run(main())


def test_frames_of_another_vehicle_mean_nothing(tmp_path: Path, time: Time) -> None:
    async def main() -> None:
        async with world(tmp_path, time) as it, it.running():
            await online(it)
            other = dataclasses.replace(it.seen.of(LOGIN)[0], vin="LEDGAGENT00000002", ack=3)
            it.platform.send(VIN, other.to_bytes() * 5)
            await it.until(lambda: it.told["bad_frames"] == 5)
            await online(it)

    time.run(main())


@pytest.mark.parametrize("step", [97, 1009])
def test_links_that_break_in_the_middle_of_frames(tmp_path: Path, time: Time, step: int) -> None:
    """Behind a proxy that cuts both ways after so many bytes, of which there are more each time."""

    async def main() -> None:
        cuts = itertools.count(step, step)
        async with world(tmp_path, time, Behaviour(answers=Answer.ECHO)) as it:
            port = it.platform.port

            async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                there = await asyncio.open_connection("127.0.0.1", port)
                left = next(cuts)

                async def carry(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
                    nonlocal left
                    while data := await source.read(min(50, max(1, left))):
                        to.write(data)
                        left -= len(data)
                        if left <= 0:
                            break

                ways = [
                    asyncio.ensure_future(carry(reader, there[1])),
                    asyncio.ensure_future(carry(there[0], writer)),
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    there[1].transport.abort()
                    writer.transport.abort()
                    await asyncio.gather(*ways, return_exceptions=True)

            async with scripted(proxy) as it.url:
                it.configure()
                it.store(60, first=100 * SECOND)
                async with it.running():
                    for _ in range(20):
                        it.report()
                        await asyncio.sleep(1)
                    await it.all_there()
                assert it.told["reconnects"] > 1

    time.run(main())


def test_a_parked_vehicle_without_a_time_does_not_log_in_again_and_again(tmp_path: Path) -> None:
    async def main(time: Time) -> None:
        behaviour = Behaviour(commands={0x08: Answer.NEVER})
        async with world(tmp_path, time, behaviour, its_clock=Right(time)) as it:
            it.store(3)
            async with it.running():
                await asyncio.sleep(7200)
                assert len(it.seen.of(LOGIN)) == 1
                assert it.sender.state["state"] == "waiting"
                assert it.sender.state["why"] == "the time is not known yet"
                assert not it.sender.idle

    with Time(WallNs(1000 * SECOND), Quality.UNSYNCHRONISED) as time:
        time.run(main(time))


# -- parameters


def test_the_platform_sets_periods_and_they_are_kept(tmp_path: Path, time: Time) -> None:
    async def main() -> None:
        async with world(tmp_path, time) as it:
            async with it.running():
                await online(it)
                reply = await it.platform.set_parameters(
                    VIN,
                    [Item(0x02, {"report_period": 600}), Item(0x03, {"alarm_report_period": 500})],
                )
                assert reply.ack == 0x01
                await it.until(lambda: it.tuning.report_s == 30)
            it.tuning.report_s = 10.0
            it.restart()
            assert it.tuning.report_s == 30
            async with it.running():
                await online(it)
                reply = await it.platform.query(VIN, [0x02, 0x09])
                assert reply.values is not None
                told = {k: v for i in reply.values["parameters"] for k, v in i.values.items()}
                assert told == {"report_period": 600, "heartbeat_period": 60}
                assert (await it.platform.query(VIN, [0x02, 0x77])).ack == 0x02

    time.run(main())


# -- time


class Right:
    """The clock of the platform: the right time, whatever that of the vehicle says."""

    boot_id = "its own"

    def __init__(self, time: Time) -> None:
        self._time = time

    def boot(self) -> BootNs:
        return self._time.boot()

    def wall(self) -> WallNs:
        return WallNs(NOON - 1000 * SECOND + self._time.boot())

    def quality(self) -> Quality:
        return Quality.NTP


def test_the_platform_tells_a_vehicle_without_a_clock_the_time(tmp_path: Path) -> None:
    async def main(time: Time) -> None:
        async with world(tmp_path, time, its_clock=Right(time)) as it:
            it.store(5, first=100 * SECOND)
            async with it.running():
                it.report()
                await it.until(lambda: len(it.seen.numbers()) == 6)
                it.report()
                await it.until(lambda: len(it.seen.numbers(LIVE)) == 1)
                it.vehicle.seal()
                await it.until(lambda: it.sender.idle)
            assert unpack_time(it.seen.of(LOGIN)[0].body[:6]) < NOON - 20 * 365 * 86400 * SECOND
            assert sorted(it.seen.numbers()) == list(range(7))
            for number, wall in zip(it.seen.numbers(), it.seen.times(), strict=True):
                assert abs(wall - (it.made[number] + NOON - 1000 * SECOND)) <= 2 * SECOND
            it.vehicle.check()

            # A process of the next boot, which has a clock, knows what it was.
            it.store(3, first=5000 * SECOND)
            time.boot_id = "boot-2"
            it.restart()
            time.good = Quality.NTP
            time.set_wall(WallNs(NOON + 86400 * SECOND))
            async with it.running():
                await it.until(lambda: it.sender.idle)
            assert it.seen.times(REISSUE)[-3] - (NOON + 4000 * SECOND) <= 2 * SECOND
            assert it.vehicle.counts["quarantined"] == 0

    with Time(WallNs(1000 * SECOND), Quality.UNSYNCHRONISED) as time:
        time.run(main(time))


def test_without_time_sync_a_vehicle_without_a_clock_waits(tmp_path: Path) -> None:
    async def main(time: Time) -> None:
        async with world(tmp_path, time, its_clock=Right(time)) as it:
            it.configure(time_sync=False)
            async with it.running():
                for _ in range(10):
                    it.report()
                    await asyncio.sleep(10)
                assert it.platform.counts["connected"] == 0
                time.good = Quality.GNSS
                time.set_wall(Right(time).wall())
                it.vehicle.seal()
                await it.all_there()

    with Time(WallNs(1000 * SECOND), Quality.UNSYNCHRONISED) as time:
        time.run(main(time))


# -- signatures of 2025


def signer(folder: Path, script: str) -> list[str]:
    path = folder / "sign"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(stat.S_IRWXU)
    return [str(path)]


def test_reports_of_2025_are_signed(tmp_path: Path) -> None:
    """Processes take their own time, so this is in real time."""

    async def main() -> None:
        async with world(tmp_path, SystemClock(), Behaviour(answers=Answer.TIME)) as it:
            script = "n=$(wc -c); printf 'SM2 %064x %064x\\n' $n 7"
            it.configure(edition=2025, sign=signer(tmp_path, script))
            it.store(3, form="gbt32960-2025")
            async with it.running():
                it.report(form="gbt32960-2025")
                await it.until(lambda: it.told["session"] == "online")
                it.report(2, form="gbt32960-2025")
                await it.until(lambda: len(it.seen.numbers(LIVE)) == 2)
                it.vehicle.seal()
                await it.until(lambda: it.sender.idle)
            assert set(it.seen.numbers()) == set(range(6))
            for frame in it.seen.of(LIVE, REISSUE):
                covered, item = signature.split(frame.body)
                assert item is not None
                assert len(covered) == 6 + len(body(0))
                assert int.from_bytes(item.values["signature_r"], "big") == len(covered)
            it.vehicle.check()

    asyncio.run(main())


def test_what_cannot_be_signed_waits_and_the_link_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with world(tmp_path, SystemClock(), Behaviour(answers=Answer.TIME)) as it:
            it.configure(edition=2025, sign=signer(tmp_path, "exit 3"))
            async with it.running():
                it.store(1, form="gbt32960-2025")
                it.report(form="gbt32960-2025")
                await it.until(lambda: it.told["session"] == "online")
                await it.until(lambda: it.told["unsigned"] > 0)
                for _ in range(3):
                    before = it.told["unsigned"]
                    it.report(form="gbt32960-2025")
                    await it.until(lambda: it.told["unsigned"] > before)  # noqa: B023
                assert "ends with status 3" in it.told["trouble"]
                assert it.seen.numbers() == []
                assert VIN in it.platform.online
                signer(tmp_path, "echo ECC 01 02")
                it.report(form="gbt32960-2025")
                await it.until(lambda: 5 in it.seen.numbers(LIVE))
            assert it.told["trouble"] == ""
            assert it.vehicle.counts["quarantined"] == 0
        assert caplog.text.count("the signing command") == 1

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exit 3", "status 3"),
        ("echo nonsense", "does not print"),
        ("echo SM2 0g 01", "hexadecimal"),
        ("echo MD5 00 01", "does not print"),
        ("exec yes SM2", "too much"),
        ("exec sleep 1000", "longer than 0.3 s"),
        ("exec /nowhere 2> /dev/null", "status 12"),
    ],
)
def test_what_signing_commands_do_wrong(tmp_path: Path, script: str, words: str) -> None:
    unsigned = pack_time(NOON) + body(1)
    limit_s = 0.3 if "sleep" in script else 60.0
    bad = Signer(signer(tmp_path, script), limit_s=limit_s)
    with pytest.raises(UplinkError, match=words):
        asyncio.run(bad.sign(unsigned))
    with pytest.raises(UplinkError, match="No such file"):
        asyncio.run(Signer(["/nowhere/sign"]).sign(unsigned))


# -- TLS


def test_tls_with_certificates_of_both_sides(tmp_path: Path, time: Time) -> None:
    authority = Authority()
    context = authority.server(tmp_path, wants_client=True)
    ca_file = authority.write(tmp_path / "ca.pem")

    async def main() -> None:
        async with world(tmp_path, time, tls=context) as it:
            it.url = it.url.replace("gbt32960:", "gbt32960s:")
            it.configure({"ca_file": ca_file, **authority.put(tmp_path / "van")})
            it.store(3)
            async with it.running():
                await online(it)
                await it.all_there()
            assert it.sender.state["credential"] == ""

    time.run(main())


def test_a_platform_that_is_not_trusted_gets_nothing(tmp_path: Path, time: Time) -> None:
    context = Authority().server(tmp_path)

    async def main() -> None:
        async with world(tmp_path, time, tls=context) as it:
            it.url = it.url.replace("gbt32960:", "gbt32960s:")
            it.configure({"ca_file": Authority("another").write(tmp_path / "ca.pem")})
            async with it.running():
                it.report()
                await it.until(lambda: it.told["session"] == "waits to connect")
                await asyncio.sleep(600)
                assert it.seen.frames == []
                assert it.sender.state["state"] == "waiting"
                assert it.sender.state["why"]
                assert it.sender.state["until_s"] is not None

    time.run(main())


def test_a_certificate_file_that_is_missing_is_said(tmp_path: Path, time: Time) -> None:
    async def main() -> None:
        async with world(tmp_path, time) as it:
            it.url = it.url.replace("gbt32960:", "gbt32960s:")
            it.configure({"ca_file": str(tmp_path / "nothing.pem")})
            async with it.running():
                it.report()
                await it.until(lambda: "nothing.pem" in it.sender.state["why"])

    time.run(main())


# -- the card


def test_the_iccid_is_read_at_each_login(tmp_path: Path, time: Time) -> None:
    async def main() -> None:
        async with world(tmp_path, time) as it:
            card = tmp_path / "iccid"
            card.write_text("89860000000000000001\nmore\n")
            it.configure(iccid="898600000000000000FF", iccid_file=str(card))
            cards = [b"89860000000000000001", b"898600000000000000FF"]
            for expected in cards:
                async with it.running():
                    it.report()
                    await it.until(lambda: it.told["session"] == "online")
                    await it.all_there()
                assert it.seen.of(LOGIN)[-1].body[8:28] == expected
                card.write_text("no-number at all\n" * 100)

    time.run(main())


# -- more than one


def test_two_platforms_share_nothing(tmp_path: Path, time: Time) -> None:
    async def main() -> None:
        bad = Behaviour(commands=dict.fromkeys(REPORTS, Answer.ERROR))
        async with (
            world(tmp_path / "a", time) as one,
            world(tmp_path / "b", time, bad) as other,
            one.running(),
            other.running(),
        ):
            for it in (one, other):
                it.report()
                await it.until(lambda: VIN in it.platform.online)  # noqa: B023
                it.report(3)
            await one.all_there()
            other.vehicle.seal()
            await other.until(lambda: other.sender.idle)
            assert other.told["confirmed"] == 0
            assert one.told["refused"] == 0

    time.run(main())
