"""The sender to a platform, from the spool to the wire and back, against the bench platform."""

import asyncio
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.bench.gbt32960.behaviour import HEARTBEAT, REPORTS, Answer, Behaviour
from agent.clock import SECOND
from agent.errors import ConfigError
from tests.uplink.gbt32960.gbt_world import (
    LIVE,
    LOGIN,
    LOGOUT,
    NOON,
    REISSUE,
    VIN,
    World,
    world,
)
from tests.virtualtime import Time


@pytest.fixture
def time() -> Iterator[Time]:
    with Time(NOON) as made:
        yield made


async def online(it: World) -> None:
    """Awake, logged in, and nothing is owed."""
    it.report()
    await it.until(lambda: VIN in it.platform.online)
    await it.all_there()


def test_live_reports_go_out_at_once_and_once(tmp_path: Path, time: Time) -> None:
    async def main() -> None:
        async with world(tmp_path, time) as it, it.running():
            await online(it)
            for _ in range(5):
                await asyncio.sleep(10)
                it.report()
            await it.until(lambda: it.seen.numbers(LIVE) == [1, 2, 3, 4, 5])
            await it.all_there()
            assert it.seen.numbers(REISSUE) == [0]
            assert it.told["live"] == it.told["confirmed"] - 1 == 5
            assert it.sender.state["state"] == "idle"
            assert it.vehicle.counts["acknowledged"] == 6

    time.run(main())


@pytest.mark.parametrize("style", [Answer.CORRECT, Answer.ECHO, Answer.TIME, Answer.EMPTY])
def test_everything_arrives_whatever_the_answers_look_like(
    tmp_path: Path, time: Time, style: Answer
) -> None:
    behaviour = Behaviour(answers=style)
    if style is not Answer.CORRECT:
        behaviour.commands = {LOGIN: style, HEARTBEAT: style, LOGOUT: style}

    async def main() -> None:
        async with world(tmp_path, time, behaviour) as it:
            it.store(100, first=100 * SECOND)
            async with it.running():
                await online(it)
                for _ in range(20):
                    it.report()
                    await asyncio.sleep(1)
                await it.all_there()
            it.in_order()
            assert it.seen.numbers(REISSUE) == list(range(101))
            assert it.told["last_answer"].endswith("ok")

    time.run(main())


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(answers=Answer.ECHO, piece_bytes=1),
        Behaviour(answers=Answer.TIME, merge=7, merge_s=0.3),
        Behaviour(answers=Answer.ECHO, garbage_bytes=50, delay_s=0.5),
    ],
)
def test_answers_may_come_in_any_segments(tmp_path: Path, time: Time, behaviour: Behaviour) -> None:
    async def main() -> None:
        async with world(tmp_path, time, behaviour) as it:
            it.store(40, first=100 * SECOND)
            async with it.running():
                await online(it)
                it.report(3)
                await it.all_there()
            assert it.told["bad_frames"] == 0
            assert (it.told["skipped_bytes"] > 0) == (behaviour.garbage_bytes > 0)

    time.run(main())


def test_frames_of_one_time_all_arrive(tmp_path: Path, time: Time) -> None:
    async def main() -> None:
        async with world(tmp_path, time, Behaviour(answers=Answer.TIME)) as it, it.running():
            await online(it)
            it.report(3, step_s=0)
            it.store(3, step_s=0)
            await it.all_there()

    time.run(main())


@pytest.mark.parametrize("answers", [Answer.CORRECT, Answer.ECHO])
def test_a_link_that_drops_all_the_time_costs_duplicates(
    tmp_path: Path, time: Time, answers: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        behaviour = Behaviour(answers=answers, drop_after_frames=25)
        async with world(tmp_path, time, behaviour) as it:
            it.store(150, first=100 * SECOND)
            async with it.running():
                for _ in range(30):
                    it.report()
                    await asyncio.sleep(1)
                behaviour.drop_after_frames = 0
                await it.all_there()
            assert it.told["reconnects"] > 2
        told = [r.message for r in caplog.records if r.name == "edge_agent.uplink"]
        assert [m for m in told if "no link" in m or "logged in" in m] == told
        assert len(told) == 3  # it begins, it ends, it is there again; the rest is the same

    with caplog.at_level(logging.INFO):
        time.run(main())


def test_a_platform_that_vanishes_and_comes_back(tmp_path: Path, time: Time) -> None:
    async def main() -> None:
        async with world(tmp_path, time) as it, it.running():
            await online(it)
            it.report(2)
            await it.until(lambda: len(it.seen.numbers()) == 3)
            await it.platform.close()
            for _ in range(600):
                it.report()
                await asyncio.sleep(10)
            assert it.sender.state["state"] == "waiting"
            assert "no link" not in it.sender.state["why"]
            await it.platform.start()
            await it.until(lambda: VIN in it.platform.online)
            await it.all_there()
            it.in_order()

    time.run(main())


def test_two_days_offline(tmp_path: Path, time: Time) -> None:
    async def main() -> None:
        async with world(tmp_path, time) as it:
            await it.platform.close()
            async with it.running():
                for _ in range(48):
                    it.report(30, step_s=120)
                    it.vehicle.seal()
                    await asyncio.sleep(3600)
                await it.platform.start()
                await it.all_there(step_s=10)
                it.in_order()
                assert it.told["reissued"] == 48 * 30
                assert it.told["expired"] == 0

    time.run(main())


def test_what_is_too_old_is_not_sent(tmp_path: Path, time: Time) -> None:
    async def main() -> None:
        async with world(tmp_path, time) as it:
            it.configure(reissue_days=1)
            it.vehicle.keep(it.vehicle.reports(range(90, 95)))
            await asyncio.sleep(90_000)
            it.store(5)
            async with it.running():
                await it.all_there()
            assert it.seen.numbers() == [0, 1, 2, 3, 4]
            assert it.told["expired"] == 5
            assert it.vehicle.counts["evicted"] == 5
            assert it.vehicle.counts["acknowledged"] == 5

    time.run(main())


def test_reports_that_are_refused_go_to_quarantine(tmp_path: Path, time: Time) -> None:
    async def main() -> None:
        behaviour = Behaviour(commands=dict.fromkeys(REPORTS, Answer.ERROR))
        async with world(tmp_path, time, behaviour) as it, it.running():
            it.store(2)
            await it.until(lambda: it.sender.idle)
            it.vehicle.check()
            assert it.told["refused"] == 2
            assert it.vehicle.counts["quarantined"] == 2
            assert it.sender.state["quarantined_batches"] == 1

    time.run(main())


@pytest.mark.parametrize("style", [Answer.DUPLICATE, Answer.ERROR, Answer.NEVER])
def test_a_login_that_is_not_accepted_is_tried_again(
    tmp_path: Path, time: Time, style: Answer
) -> None:
    async def main() -> None:
        behaviour = Behaviour(commands={LOGIN: style}, login_s=1e6)
        async with world(tmp_path, time, behaviour) as it, it.running():
            it.report()
            await it.until(lambda: len(it.seen.of(LOGIN)) >= 4, step_s=1)
            assert time.passed_s > 1800
            assert it.sender.state["state"] == "waiting"
            assert it.seen.numbers() == []
            if style is not Answer.NEVER:
                assert style.value in it.told["last_answer"].lower()
            behaviour.commands = {}
            await it.all_there(step_s=5)

    time.run(main())


def test_a_kill_of_the_agent_costs_duplicates(tmp_path: Path, time: Time) -> None:
    async def main() -> None:
        async with world(tmp_path, time) as it:
            it.store(100, first=100 * SECOND)
            for round_ in range(4):
                async with it.running():
                    it.report()
                    await it.until(lambda: VIN in it.platform.online)
                    it.report()
                    n = 15 * (round_ + 1)
                    await it.until(lambda: len(it.seen.numbers()) >= n)  # noqa: B023
                it.restart()
            async with it.running():
                await it.all_there()
            serials = [int.from_bytes(f.body[6:8], "big") for f in it.seen.of(LOGIN)]
            assert serials == list(range(1, len(serials) + 1))

    time.run(main())


def test_a_sender_may_be_stopped_and_started(tmp_path: Path, time: Time) -> None:
    async def main() -> None:
        async with world(tmp_path, time) as it:
            async with it.running():
                await online(it)
            assert it.told["session"] == "stopped"
            it.report(5)
            async with it.running():
                await it.until(lambda: it.told["session"] == "online")
                it.report()
                await it.all_there()
            assert it.seen.numbers(LIVE) == [6]

    time.run(main())


def test_the_vehicle_sleeps_and_the_link_ends(tmp_path: Path, time: Time) -> None:
    async def main() -> None:
        async with world(tmp_path, time) as it, it.running():
            await online(it)
            it.report(4)
            it.sleep()
            await it.until(lambda: it.seen.of(LOGOUT))
            await it.until(lambda: it.told["session"] == "off")
            await it.until(lambda: it.sender.idle)
            it.check()
            logged_in, logged_out = it.seen.of(LOGIN)[-1], it.seen.of(LOGOUT)[-1]
            assert logged_out.body[6:8] == logged_in.body[6:8]
            assert it.sender.state["state"] == "idle"

            it.report()
            await it.until(lambda: len(it.seen.of(LOGIN)) == 2)
            await it.all_there()

    time.run(main())


def test_offers_and_wakes_may_come_from_other_threads(tmp_path: Path, time: Time) -> None:
    async def main() -> None:
        async with world(tmp_path, time) as it, it.running():
            await online(it)
            made = it.vehicle.reports(it.numbers(20), live=True)
            it.made.update(it.vehicle.made)
            it.vehicle.keep(made, seal=False)
            thread = threading.Thread(target=lambda: it.sender.offer(made))
            thread.start()
            await asyncio.to_thread(thread.join)
            await it.until(lambda: len(it.seen.numbers(LIVE)) == 20)
            await it.all_there()

    time.run(main())


@pytest.mark.parametrize(
    "url",
    [
        "gbt32960://127.0.0.1",
        "gbt32960://:5000",
        "gbt32960://host:99999",
        "gbt32960://host:5000/path",
        "gbt32960://user@host:5000",
        "http://host:5000",
    ],
)
def test_addresses_that_cannot_be(tmp_path: Path, time: Time, url: str) -> None:
    async def main() -> None:
        async with world(tmp_path, time) as it:
            it.url = url
            with pytest.raises(ConfigError):
                it.make()

    time.run(main())


def test_codes_that_cannot_be_sent_are_said_at_the_start(tmp_path: Path, time: Time) -> None:
    async def main() -> None:
        async with world(tmp_path, time) as it:
            it.keys["subsystem_codes"] = ["long", "longer"]
            with pytest.raises(ConfigError, match="one length"):
                it.make()

    time.run(main())
