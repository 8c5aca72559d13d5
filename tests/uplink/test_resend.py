"""A receiver that has lost batches asks for them, and gets what is kept."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.uplink import wire
from tests.uplink.badserver import BadServer, Exchange, behave, digest_of
from tests.uplink.world import World

ID = "0123456789abcdef-3-telemetry-"


@pytest.mark.parametrize(
    ("fields", "ranges"),
    [
        ([f"{ID}5..{ID}9"], [(f"{ID}5", f"{ID}9")]),
        ([f"{ID}5..{ID}5 , {ID}7..{ID}8"], [(f"{ID}5", f"{ID}5"), (f"{ID}7", f"{ID}8")]),
        ([f"{ID}5..{ID}5", f"{ID}5..{ID}5"], [(f"{ID}5", f"{ID}5")]),
        ([f"{ID}9..{ID}5"], []),
        ([f"{ID}5..{ID.replace('telemetry', 'raw')}9"], []),
        ([f"{ID}5..{ID.replace('-3-', '-4-')}9"], []),
        ([f"{ID}5"], []),
        (["..", "", ",", "a..b", f"{ID}5..", f"../../etc..{ID}5", f"{ID}5...{ID}6"], []),
        ([f"nonsense, {ID}1..{ID}2, more"], [(f"{ID}1", f"{ID}2")]),
    ],
)
def test_what_is_asked_for(fields: list[str], ranges: list[tuple[str, str]]) -> None:
    assert wire.resend(fields) == tuple(ranges)


def test_at_most_eight_ranges() -> None:
    field = ", ".join(f"{ID}{i}..{ID}{i}" for i in range(20))
    assert wire.resend([field]) == tuple((f"{ID}{i}", f"{ID}{i}") for i in range(8))


@given(st.lists(st.text(alphabet=f"{ID}0123456789., \0é", max_size=200), max_size=4))
def test_any_text_is_no_error(fields: list[str]) -> None:
    assert len(wire.resend(fields)) <= 8


class Forgetful(BadServer):
    """Has lost the first batches, and asks for them with every answer to a PUT."""

    def __init__(self, lost: int) -> None:
        super().__init__(always=self._ask)
        self.lost = [f"{ID}{i}" for i in range(1, lost + 1)]
        self.asked = 0

    async def _ask(self, x: Exchange) -> None:
        if len(self.stored) < 4:
            await behave(x)
            return
        content = await x.body()
        self.stored[x.batch_id] = content
        self.asked += 1
        headers = {
            "Content-Digest": digest_of(content),
            "Edge-Agent-Resend": f"{self.lost[0]}..{self.lost[-1]}",
        }
        await x.reply(201, headers)
        x.note("asked")


def test_what_is_kept_is_sent_again_once_an_hour(tmp_path: Path) -> None:
    async def main() -> None:
        server = Forgetful(lost=2)
        async with server.running():
            world = World(tmp_path, server)
            world.outbox.keeps = True
            for i in range(1, 6):
                world.outbox.put(f"{ID}{i}", world.random.randbytes(1000))
            sender = world.sender()
            await world.run(sender)

            # The fifth was answered with the wish, and so was what came of it: no end to that.
            assert [p.rpartition("/")[2] for _, p, _ in server.requests] == [
                *(f"{ID}{i}" for i in range(1, 6)),
                f"{ID}1",
                f"{ID}2",
            ]
            assert server.asked == 3
            assert sender.state["resent_batches"] == 2
            world.check()

            world.time.pass_s(3601)
            world.outbox.put(f"{ID}6", b"x")
            sender.wake()
            await world.run(sender)
            assert sender.state["resent_batches"] == 4
            world.check()

    asyncio.run(main())


def test_what_is_not_kept_is_asked_for_in_vain(tmp_path: Path) -> None:
    async def main() -> None:
        server = Forgetful(lost=2)
        async with server.running():
            world = World(tmp_path, server)
            for i in range(1, 8):
                world.outbox.put(f"{ID}{i}", world.random.randbytes(1000))
            sender = world.sender()
            await world.run(sender)
            assert server.asked == 3
            assert sender.state["answers"] == {"201": 7}
            assert sender.state["resent_batches"] == 0
            world.check()

    asyncio.run(main())
