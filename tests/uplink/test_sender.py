"""The sender as a whole: holds, probes, credentials, budget, eviction, what it tells."""

import asyncio
import itertools
import json
import logging
from pathlib import Path

import pytest

from agent.uplink.budget import RetryBudget
from tests.uplink import badserver as bad
from tests.uplink.badserver import BadServer, Exchange
from tests.uplink.world import World, started


def test_a_request_is_what_the_protocol_says(tmp_path: Path) -> None:
    async def main() -> None:
        async with BadServer().running() as server:
            world = World(tmp_path, server)
            parcel = world.outbox.put("i-1-t-1", b"content of a batch" * 10_000)
            (tmp_path / "token").write_text("secret-token\n")
            await world.run(world.sender(token_file=str(tmp_path / "token")))

            ((method, target, headers),) = server.requests
            assert (method, target) == ("PUT", "/base/v1/vehicles/car-1/batches/i-1-t-1")
            assert headers["if-none-match"] == "*"
            assert headers["content-type"] == "application/vnd.vehicle-edge-agent.batch"
            assert headers["content-length"] == str(parcel.size)
            assert "transfer-encoding" not in headers
            assert headers["authorization"] == "Bearer secret-token"
            world.check()

    asyncio.run(main())


def test_a_presigned_address_is_sent_as_it_is(tmp_path: Path) -> None:
    async def main() -> None:
        async with BadServer(always=bad.answer(200)).running() as server:
            world = World(tmp_path, server)
            world.url = f"http://127.0.0.1:{server.port}/b/{{batch_id}}?sig=%2Bsecret%2F=&x"
            world.outbox.put("i-1", b"content")
            sender = world.sender(kind="object-store")
            await world.run(sender)

            assert server.requests[0][1] == "/b/i-1?sig=%2Bsecret%2F=&x"
            assert world.outbox.acknowledged == ["i-1"]
            assert "secret" not in json.dumps(sender.state)

    asyncio.run(main())


def test_413_to_all_holds_and_quarantines_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with BadServer(always=bad.answer(413, body=b"too big")).running() as server:
            world = World(tmp_path, server)
            world.fill(5)
            sender = world.sender()
            await world.run(sender, until=lambda: server.happened.count("413") >= 9)

            assert world.outbox.quarantined == {}
            assert sender.state["state"] == "held"
            assert "413" in sender.state["why"]
            assert "too big" in sender.state["why"]
            assert sum(world.time.slept) >= 6 * 900
            assert sender.state["retries"] == 0
            world.check()

            server.always = bad.behave
            healed = await world.run(sender)
            assert sorted(world.outbox.acknowledged) == sorted(world.outbox.contents)
            assert healed["state"] == "idle"
            world.check()

    asyncio.run(main())


@pytest.mark.parametrize("bad_ones", [{0}, {2}, {0, 1}, {0, 1, 2, 5}, {6}, {3, 4, 5, 6}])
def test_bad_batches_go_to_quarantine_and_no_others(tmp_path: Path, bad_ones: set[int]) -> None:
    """Also two bad ones in a row: a hold, a probe with another one, and each is judged alone."""
    names = {f"batch-{i}" for i in bad_ones}

    async def choosy(x: Exchange) -> None:
        await (bad.answer(422) if x.batch_id in names else bad.behave)(x)

    async def main() -> None:
        async with BadServer(always=choosy).running() as server:
            world = World(tmp_path, server)
            world.fill(7)
            sender = world.sender()
            # The last bad one is judged only when there is something else to send.
            await world.run(sender, until=lambda: len(world.outbox.acknowledged) == 7 - len(names))
            extra = itertools.count()
            while world.outbox.waiting_ids():
                world.outbox.put(f"later-{next(extra)}", b"later")
                seen = len(server.happened)
                await world.run(sender, until=lambda: len(server.happened) > seen + 5)  # noqa: B023

            assert set(world.outbox.quarantined) == names
            assert all("422" in reason for reason in world.outbox.quarantined.values())
            assert sender.state["quarantined_batches"] == len(names)
            world.check()

    asyncio.run(main())


def test_an_identity_conflict_is_quarantined(tmp_path: Path) -> None:
    async def main() -> None:
        async with BadServer().running() as server:
            server.stored["batch-1"] = b"of another vehicle"
            world = World(tmp_path, server)
            world.fill(3)
            await world.run(world.sender())

            assert list(world.outbox.quarantined) == ["batch-1"]
            assert "identity conflict" in world.outbox.quarantined["batch-1"]
            world.check()

    asyncio.run(main())


def test_head_that_fails_decides_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with BadServer(bad.lose_answer).running() as server:
            server.heads = [bad.answer(503), bad.drop_after(0)]
            world = World(tmp_path, server)
            world.fill(1)
            await world.run(world.sender())

            assert {"answer lost", "503", "dropped"} <= set(server.happened)
            assert world.outbox.acknowledged == ["batch-0"]
            world.check()

    asyncio.run(main())


@pytest.mark.parametrize("status", [404, 410])
def test_a_wrong_address_is_probed_every_15_to_60_minutes(tmp_path: Path, status: int) -> None:
    async def main() -> None:
        async with BadServer(always=bad.answer(status)).running() as server:
            world = World(tmp_path, server)
            world.fill(2)
            sender = world.sender()
            await world.run(sender, until=lambda: len(server.requests) >= 11)

            hours = sum(world.time.slept) / 3600
            assert 10 * 0.25 <= hours <= 10 * 1.0
            assert sender.state["answers"] == {str(status): 11}
            world.check()

    asyncio.run(main())


def test_a_new_token_is_used_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    token = tmp_path / "token"
    token.write_text("old-secret")

    async def refuse(x: Exchange) -> None:
        token.write_text("new-secret")
        await bad.answer(401, body=b"I do not like old-secret")(x)

    async def main() -> None:
        async with BadServer(refuse).running() as server:
            world = World(tmp_path, server)
            world.fill(2)
            sender = world.sender(token_file=str(token))
            await world.run(sender)

            sent = [headers["authorization"] for _, _, headers in server.requests]
            assert sent == ["Bearer old-secret", "Bearer new-secret", "Bearer new-secret"]
            assert world.time.slept == []
            assert "secret" not in json.dumps(sender.state)
            world.check()

    asyncio.run(main())
    assert "secret" not in caplog.text


def test_a_refused_token_holds_until_the_file_is_right(tmp_path: Path) -> None:
    token = tmp_path / "token"

    async def guarded(x: Exchange) -> None:
        right = x.headers["authorization"] == "Bearer right"
        await (bad.behave if right else bad.answer(403))(x)

    async def main() -> None:
        async with BadServer(always=guarded).running() as server:
            world = World(tmp_path, server)
            world.fill(2)
            sender = world.sender(token_file=str(token))
            await world.run(sender, until=lambda: sender.state["attempts"] >= 1)
            assert sender.state["answers"] == {"credential": 1}  # there is no file yet
            assert server.requests == []

            token.write_text("wrong")
            await world.run(sender, until=lambda: "403" in server.happened)
            assert world.outbox.waiting()[0] == 2

            token.write_text("right")
            await world.run(sender)
            assert sorted(world.outbox.acknowledged) == ["batch-0", "batch-1"]
            world.check()

    asyncio.run(main())


@pytest.mark.parametrize("content", [b"", b"two words", b"a\nb", b"\xff\xfe"])
def test_a_token_file_with_anything_else_is_not_sent(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)

    async def main() -> None:
        async with BadServer().running() as server:
            world = World(tmp_path, server)
            world.fill(1)
            sender = world.sender(token_file=str(tmp_path / "token"))
            await world.run(sender, until=lambda: sender.state["attempts"] >= 1)
            assert sender.state["answers"] == {"credential": 1}
            assert server.requests == []
            world.check()

    asyncio.run(main())


def test_retry_after_is_waited_for(tmp_path: Path) -> None:
    async def main() -> None:
        busy = bad.answer(503, {"Retry-After": "1234"})
        async with BadServer(busy).running() as server:
            world = World(tmp_path, server)
            world.fill(1)
            await world.run(world.sender())
            assert 1234 <= sum(world.time.slept) <= 1234 * 1.25
            assert server.happened == ["503", "stored"]
            world.check()

    asyncio.run(main())


def test_all_senders_share_one_budget_of_retries(tmp_path: Path) -> None:
    async def main() -> None:
        async with BadServer(*[bad.answer(500)] * 6).running() as server:
            world = World(tmp_path, server)
            world.budget = RetryBudget(capacity=1, per_minute=0.01)  # one in 100 minutes
            world.fill(3)
            sender = world.sender()
            await world.run(sender)
            assert sender.state["retries"] == 6
            assert sender.state["attempts"] == 9
            assert sum(world.time.slept) >= 5 * 6000
            world.check()

    asyncio.run(main())


def test_a_batch_that_is_evicted_while_it_is_sent_is_counted_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with BadServer().running() as server:
            world = World(tmp_path, server)
            world.fill(3)

            async def evict_and_store(x: Exchange) -> None:
                world.outbox.evict(x.batch_id)
                await bad.behave(x)

            server.puts = [evict_and_store]
            await world.run(world.sender())
            assert world.outbox.evicted == ["batch-0"]
            assert len(server.stored) == 3
            world.check()

    asyncio.run(main())


def test_a_file_that_has_vanished_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with BadServer().running() as server:
            world = World(tmp_path, server)
            world.fill(3)
            named = world.outbox.next

            def name_and_evict() -> object:
                parcel = named()
                if parcel and parcel.batch_id == "batch-1" and not world.outbox.evicted:
                    world.outbox.evict("batch-1")
                return parcel

            world.outbox.next = name_and_evict  # type: ignore[method-assign,assignment]
            await world.run(world.sender())
            assert world.outbox.evicted == ["batch-1"]
            assert sorted(server.stored) == ["batch-0", "batch-2"]
            world.check()

    asyncio.run(main())
    assert caplog.records == []


def test_an_outbox_that_goes_on_naming_what_is_gone_is_not_asked_in_a_circle(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with BadServer().running() as server:
            world = World(tmp_path, server)
            world.fill(1)
            (tmp_path / "cloud-batch-0.batch").unlink()
            sender = world.sender()
            await world.run(sender, until=lambda: len(world.time.slept) >= 3)
            assert sender.state["state"] == "waiting"
            assert "spool" in sender.state["why"]

    asyncio.run(main())


def test_a_spool_that_cannot_unlink_is_tried_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with BadServer().running() as server:
            world = World(tmp_path, server)
            world.fill(2)
            world.outbox.failures = [OSError(5, "Input/output error"), OSError(30, "read-only")]
            sender = world.sender()
            await world.run(sender)
            assert server.happened.count("stored") == 2
            assert sender.state["answers"] == {"201": 2, "412": 2, "HEAD 200": 2}
            world.check()

    asyncio.run(main())


def test_a_batch_that_cannot_be_read_is_quarantined(tmp_path: Path) -> None:
    async def main() -> None:
        async with BadServer().running() as server:
            world = World(tmp_path, server)
            world.fill(2)
            (tmp_path / "cloud-batch-0.batch").unlink()
            (tmp_path / "cloud-batch-0.batch").mkdir()
            await world.run(world.sender())
            assert list(world.outbox.quarantined) == ["batch-0"]
            assert world.outbox.acknowledged == ["batch-1"]
            world.check()

    asyncio.run(main())


def test_a_sender_can_be_ended_at_any_request_and_begun_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with BadServer(always=bad.never_answer).running() as server:
            world = World(tmp_path, server)
            world.fill(2)
            sender = world.sender()
            for _ in range(3):
                async with started(sender):
                    server.noted.clear()
                    await server.noted.wait()
                world.check()
            assert server.happened == ["no answer"] * 3
            server.always = bad.behave
            await world.run(sender)
            assert sorted(world.outbox.acknowledged) == ["batch-0", "batch-1"]
            world.check()

    asyncio.run(main())


def test_it_wakes_from_any_thread_and_tells_when_nothing_waits(tmp_path: Path) -> None:
    async def main() -> None:
        async with BadServer().running() as server:
            world = World(tmp_path, server)
            sender = world.sender()
            sender.wake()
            async with started(sender):
                await sender.drained()
                assert sender.idle
                assert sender.state["state"] == "idle"
                for i in range(3):
                    world.outbox.put(f"new-{i}", b"new")
                    await asyncio.to_thread(sender.wake)
                    await sender.drained()
                    assert len(server.stored) == i + 1
            sender.wake()  # nobody listens any more, and that is no error
            world.check()

    asyncio.run(main())


def test_an_outage_is_two_lines_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="edge_agent.uplink")

    async def main() -> None:
        outage = [bad.answer(s) for s in (500, 503, 500, 418, 500, 418, 500, 418)]
        async with BadServer(bad.behave, *outage).running() as server:
            world = World(tmp_path, server)
            world.fill(3)
            sender = world.sender()
            await world.run(sender)
            state = sender.state
            assert state["answers"] == {"201": 3, "500": 4, "503": 1, "418": 3}
            assert (state["attempts"], state["retries"]) == (11, 8)
            assert state["sent_batches"] == 3
            assert state["sent_bytes"] == sum(map(len, world.outbox.contents.values()))
            assert state["last_success_s_ago"] == 0
            world.check()

    asyncio.run(main())
    lines = [(r.levelname, r.getMessage()) for r in caplog.records]
    assert [level for level, _ in lines] == ["WARNING", "WARNING", "INFO"]
    assert "500" in lines[0][1]
    assert "418" in lines[1][1]  # "anything else" is said once besides
