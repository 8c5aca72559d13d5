"""One fault after another, and in the end the receiver has everything, exactly once."""

import asyncio
import random
from pathlib import Path

import pytest

from tests.uplink import badserver as bad
from tests.uplink.badserver import BadServer, Behaviour
from tests.uplink.world import World

# What happens to the second batch, what the server notes, and what the sender counts.
_HEAD = b"HTTP/1.1 201 Created\r\n"
NONSENSE: dict[str, tuple[bytes, str]] = {
    "nothing at all": (b"", "network"),
    "half a head": (_HEAD + b"Content-Dig", "network"),
    "a status that is no number": (b"HTTP/1.1 OK 201\r\nContent-Length: 0\r\n\r\n", "network"),
    "a protocol that is not ours": (b"SSH-2.0-x 200 OK\r\n\r\n", "network"),
    "a negative length": (_HEAD + b"Content-Length: -5\r\n\r\n", "network"),
    "two lengths": (_HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx", "network"),
    "a NUL in a name": (_HEAD + b"X\0Y: 1\r\nContent-Length: 0\r\n\r\n", "network"),
    "a digest that is none": (
        _HEAD + b"Content-Digest: sha-256=:%%%:\r\nContent-Length: 0\r\n\r\n",
        "201",
    ),
    "chunks that are none": (_HEAD + b"Transfer-Encoding: chunked\r\n\r\nzzzz\r\n", "201"),
    "a body that ends early": (_HEAD + b"Content-Length: 99\r\n\r\nshort", "201"),
    "compressed garbage": (
        _HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8bxx",
        "201",
    ),
    "Retry-After that is none": (
        b"HTTP/1.1 503 X\r\nRetry-After: -1e999, soon\r\nContent-Length: 0\r\n\r\n",
        "503",
    ),
    "only interim answers": (b"HTTP/1.1 102 Processing\r\n\r\n" * 3, "network"),
    "the beginning of TLS": (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32),
        "network",
    ),
}

FAULTS: dict[str, tuple[Behaviour, str, str]] = {
    "dropped before the body": (bad.drop_after(0), "dropped", "network"),
    "dropped within the body": (bad.drop_after(1000), "dropped", "network"),
    "dropped after the body": (bad.drop_after(10**9), "dropped", "network"),
    "answer lost": (bad.lose_answer, "answer lost", "412"),
    "answered twice": (bad.answer_twice, "answered twice", "201"),
    "sent on twice": (bad.judge_twice, "sent on twice", "412"),
    "answered late": (bad.answer_late, "answered late", "201"),
    "no answer": (bad.never_answer, "no answer", "stalled"),
    "dripping": (bad.drip, "dripping", "stalled"),
    "garbage": (bad.garbage, "garbage", "network"),
    "endless head": (bad.endless_head, "endless head", "network"),
    "endless body": (bad.endless_body, "endless body", "201"),
    "wrong digest": (bad.wrong_digest, "wrong digest", "201"),
    "no digest": (bad.answer(200), "200", "200"),
    "captive portal": (bad.captive_portal, "portal", "200"),
    **{
        name: (bad.nonsense(name, content), name, counted)
        for name, (content, counted) in NONSENSE.items()
    },
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
            sender = world.sender(stall_timeout_s=0.2 if fault in STALLING else 20.0)
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


STALLING = ("no answer", "dripping")
JUDGED = (400, 412, 413, 415, 422)
"""What says something about a batch; `test_sender` tells that story."""


def test_every_status_costs_nothing(tmp_path: Path) -> None:
    """Each one once, and a good answer after it; the batch is there in the end."""
    statuses = [s for s in (101, *range(200, 600), 600, 777, 999) if s not in JUDGED]

    async def main() -> None:
        turns = [b for s in statuses for b in (bad.answer(s), bad.behave)]
        async with BadServer(*turns).running() as server:
            world = World(tmp_path, server)
            world.fill(len(statuses), size=100)
            sender = world.sender()
            await world.run(sender)

            for status in statuses:
                assert server.happened.count(str(status)) == 1
            # A good answer to a PUT is a 201 too, and one to HEAD is counted by itself.
            expected = {str(s): 1 for s in statuses} | {"201": 1 + len(statuses)}
            assert sender.state["answers"] == expected
            assert sorted(world.outbox.acknowledged) == sorted(world.outbox.contents)
            assert world.outbox.quarantined == {}
            world.check()

    asyncio.run(main())


@pytest.mark.parametrize("status", JUDGED)
def test_a_gateway_that_refuses_everything_loses_nothing(tmp_path: Path, status: int) -> None:
    async def main() -> None:
        async with BadServer(always=bad.answer(status)).running() as server:
            server.heads = [bad.answer(404)] * 20
            world = World(tmp_path, server)
            world.fill(6)
            sender = world.sender()
            await world.run(sender, until=lambda: server.happened.count(str(status)) >= 12)

            assert sender.state["state"] == "held"
            assert sender.state["answers"][str(status)] == server.happened.count(str(status))
            # A conflict is proven by the batch alone, but never two of them in a row.
            assert len(world.outbox.quarantined) == (1 if status == 412 else 0)
            world.check()

            server.always, server.heads = bad.behave, []
            await world.run(sender)
            assert len(world.outbox.acknowledged) == 6 - len(world.outbox.quarantined)
            world.check()

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(6))
def test_a_storm_of_all_faults_in_any_order(tmp_path: Path, seed: int) -> None:
    """Nothing is lost, all of it arrives, and both sides count the same faults."""
    dice = random.Random(seed)
    faults = [(behaviour, noted) for name, (behaviour, noted, _) in FAULTS.items()]
    storm = [behaviour for name, (behaviour, _, _) in FAULTS.items() for _ in range(2)]
    dice.shuffle(storm)

    async def main() -> None:
        async with BadServer(*storm).running() as server:
            server.heads = [
                dice.choice((bad.answer(503), bad.drop_after(0), bad.answer(401), bad.behave))
                for _ in range(20)
            ]
            world = World(tmp_path, server)
            world.fill(25)
            sender = world.sender(stall_timeout_s=0.2)
            await world.run(sender)

            for _, noted in faults:
                assert noted in server.happened, noted
            answers = sender.state["answers"]
            for status in (408, 409, 418, 425, 429, 500, 502, 504, 599):
                assert answers[str(status)] == server.happened.count(str(status)) == 2
            assert answers["network"] >= 2
            assert answers["stalled"] == sum(server.happened.count(n) for n in STALLING)
            assert answers["412"] >= 2
            assert answers.get("HEAD 200", 0) == server.happened.count("head")
            puts = {k: n for k, n in answers.items() if not k.startswith("HEAD ")}
            assert sum(puts.values()) == sender.state["attempts"]
            assert sorted(world.outbox.acknowledged) == sorted(world.outbox.contents)
            world.check()

    asyncio.run(main())
