"""One fault after another, and in the end the receiver has everything, exactly once."""

import asyncio
from pathlib import Path

import pytest

from tests.uplink import badserver as bad
from tests.uplink.badserver import BadServer, Behaviour
from tests.uplink.world import World

# What happens to the second batch, what the server notes, and what the sender counts.
FAULTS: dict[str, tuple[Behaviour, str, str]] = {
    "dropped before the body": (bad.drop_after(0), "dropped", "network"),
    "dropped within the body": (bad.drop_after(1000), "dropped", "network"),
    "dropped after the body": (bad.drop_after(10**9), "dropped", "network"),
    "answer lost": (bad.lose_answer, "answer lost", "412"),
    "answered twice": (bad.answer_twice, "answered twice", "201"),
    "no answer": (bad.never_answer, "no answer", "stalled"),
    "dripping": (bad.drip, "dripping", "stalled"),
    "garbage": (bad.garbage, "garbage", "network"),
    "endless head": (bad.endless_head, "endless head", "network"),
    "endless body": (bad.endless_body, "endless body", "201"),
    "wrong digest": (bad.wrong_digest, "wrong digest", "201"),
    "no digest": (bad.answer(200), "200", "200"),
    "redirect loop": (bad.redirect_to_itself, "redirected", "307"),
    **{
        str(status): (bad.answer(status), str(status), str(status))
        for status in (401, 403, 404, 408, 409, 410, 418, 425, 429, 500, 502, 503, 504, 599, 302)
    },
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_passing_fault_costs_nothing(tmp_path: Path, fault: str) -> None:
    behaviour, noted, counted = FAULTS[fault]

    async def main() -> None:
        async with BadServer(bad.behave, behaviour).running() as server:
            world = World(tmp_path, server)
            world.fill(4)
            quick = fault in ("no answer", "dripping")
            sender = world.sender(stall_timeout_s=0.2 if quick else 20.0)
            await world.run(sender)

            assert noted in server.happened
            assert sender.state["answers"][counted] >= 1
            assert sorted(world.outbox.acknowledged) == sorted(world.outbox.contents)
            assert sender.state["state"] == "idle"
            world.check()

    asyncio.run(main())


def test_a_receiver_that_does_not_read_is_given_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with BadServer(bad.never_read).running() as server:
            world = World(tmp_path, server)
            world.fill(1, size=24_000_000)  # more than the kernel buffers on loopback
            sender = world.sender(stall_timeout_s=0.5)
            await world.run(sender)

            assert "not read" in server.happened
            assert sender.state["answers"]["stalled"] >= 1
            assert world.outbox.acknowledged == ["batch-0"]
            world.check()

    asyncio.run(main())


def test_a_success_before_the_batch_was_sent_is_none(tmp_path: Path) -> None:
    """A captive portal that says 200 to everything must not take data off the flash."""

    async def main() -> None:
        async with BadServer(bad.early_success).running() as server:
            world = World(tmp_path, server)
            world.fill(1, size=24_000_000)
            sender = world.sender(kind="object-store")
            await world.run(sender)

            assert "answered early" in server.happened
            assert sender.state["answers"] == {"network": 1, "201": 1}
            world.check()

    asyncio.run(main())


def test_a_lost_answer_is_found_out_with_head_and_nothing_is_stored_twice(tmp_path: Path) -> None:
    async def main() -> None:
        async with BadServer(bad.lose_answer).running() as server:
            world = World(tmp_path, server)
            world.fill(1)
            sender = world.sender()
            await world.run(sender)

            assert server.happened == ["answer lost", "412", "head"]
            assert sender.state["answers"] == {"network": 1, "412": 1, "HEAD 200": 1}
            assert world.outbox.acknowledged == ["batch-0"]
            world.check()

    asyncio.run(main())


def test_nobody_listens(tmp_path: Path) -> None:
    async def main() -> None:
        server = BadServer()
        async with server.running():
            pass
        world = World(tmp_path, server)
        world.fill(2)
        sender = world.sender()
        await world.run(sender, until=lambda: len(world.time.slept) >= 5)

        assert sender.state["answers"] == {"network": sender.state["attempts"]}
        assert sender.state["attempts"] >= 3
        assert world.outbox.waiting()[0] == 2
        world.check()

    asyncio.run(main())


def test_every_second_answer_is_a_failure_and_everything_arrives(tmp_path: Path) -> None:
    async def main() -> None:
        storm = [
            b
            for behaviour, _, name in FAULTS.values()
            for b in (behaviour, bad.behave)
            if name != "stalled"
        ]
        async with BadServer(*storm).running() as server:
            world = World(tmp_path, server)
            world.fill(30)
            await world.run(world.sender())

            assert sorted(world.outbox.acknowledged) == sorted(world.outbox.contents)
            world.check()

    asyncio.run(main())
