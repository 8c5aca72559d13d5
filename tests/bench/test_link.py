"""The link that can be cut, with real sockets on both sides."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from agent.bench.link import Link
from agent.errors import TransientError


@contextlib.asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """A server that gives back what it gets; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def over(link: Link, data: bytes) -> bytes:
    """Send everything, say that this was all, and read to the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    sending = asyncio.create_task(_send(writer, data))
    try:
        back = await reader.read(-1)
        await sending
        return back
    finally:
        await asyncio.gather(sending, return_exceptions=True)
        writer.close()


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()
    writer.write_eof()


def run(test: Callable[[Link], Awaitable[None]]) -> None:
    async def bench() -> None:
        async with echo() as port, Link("127.0.0.1", port) as link:
            await asyncio.wait_for(test(link), 60)

    asyncio.run(bench())


def test_bytes_pass_both_ways_and_are_counted() -> None:
    async def test(link: Link) -> None:
        data = bytes(range(256)) * 10_000

        assert await over(link, data) == data

        assert (link.up, link.down, link.connections) == (len(data), len(data), 1)

    run(test)


def test_a_cut_resets_what_is_open() -> None:
    async def test(link: Link) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        writer.write(b"half")
        assert await reader.readexactly(4) == b"half"

        link.cut()

        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.close()

    run(test)


def test_while_it_is_cut_a_new_connection_gets_nothing() -> None:
    async def test(link: Link) -> None:
        link.cut()

        with pytest.raises(ConnectionError):
            await over(link, b"hello")

        assert link.up == link.down == 0

    run(test)


def test_restored_it_passes_again() -> None:
    async def test(link: Link) -> None:
        link.cut()
        with pytest.raises(ConnectionError):
            await over(link, b"lost")

        link.restore()

        assert await over(link, b"found") == b"found"

    run(test)


def test_a_target_that_does_not_listen_is_a_reset() -> None:
    async def bench() -> None:
        async with echo() as port:
            pass  # nobody listens there any more
        async with Link("127.0.0.1", port) as link:
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(over(link, b"hello"), 60)

    asyncio.run(bench())


def test_an_address_that_is_taken_is_said() -> None:
    async def test(link: Link) -> None:
        with pytest.raises(TransientError, match=f"cannot listen on 127.0.0.1:{link.port}"):
            await Link("127.0.0.1", 1, port=link.port).start()

    run(test)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - a link tells nobody
        await asyncio.sleep(0.005)


def test_a_slow_link_passes_little_by_little_until_it_is_fast_again() -> None:
    async def test(link: Link) -> None:
        link.kbit_s = 50
        data = bytes(range(256)) * 1000
        passing = asyncio.create_task(over(link, data))

        await until(lambda: link.down > 0)

        assert link.down <= link.up < len(data) / 10
        link.kbit_s = 0
        link.wake()
        assert await passing == data

    run(test)


def test_what_is_late_comes_when_the_link_is_no_longer_late() -> None:
    async def test(link: Link) -> None:
        link.latency_ms = 3_600_000
        passing = asyncio.create_task(over(link, b"hello"))
        await until(lambda: link.connections == 1)

        link.latency_ms = 0
        link.wake()

        assert await passing == b"hello"

    run(test)


def lossy(test: Callable[[Link], Awaitable[None]]) -> None:
    async def bench() -> None:
        async with echo() as port, Link("127.0.0.1", port, resend_s=0.0001) as link:
            await asyncio.wait_for(test(link), 60)

    asyncio.run(bench())


def test_a_lossy_link_loses_time_and_no_bytes() -> None:
    async def test(link: Link) -> None:
        link.lost_percent = 20
        data = bytes(range(256)) * 400

        assert await over(link, data) == data

    lossy(test)


def test_where_everything_is_lost_the_connection_is_given_up() -> None:
    async def test(link: Link) -> None:
        link.lost_percent = 100

        with pytest.raises(ConnectionError):
            await over(link, b"hello")

        assert link.up == 0

    lossy(test)


def test_a_link_that_stands_still_can_be_closed() -> None:
    async def test(link: Link) -> None:
        link.latency_ms = 3_600_000
        passing = asyncio.create_task(over(link, b"hello"))
        await until(lambda: link.connections == 1)

        await link.close()

        await asyncio.wait([passing])
        assert link.down == 0

    run(test)
