"""The way to the receiver: through a proxy, over IPv6, at a given pace, without much memory."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.settings import Uplink
from agent.spool.outbox import Parcel
from agent.uplink.budget import Pace
from agent.uplink.transport import HttpTransport
from tests import processes
from tests.uplink import badserver as bad
from tests.uplink.badserver import BadServer
from tests.uplink.certificates import Authority
from tests.uplink.proxies import Proxy
from tests.uplink.world import World

PAIR = "van:secret-word"


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("pair", ["", PAIR])
def test_everything_goes_through_the_proxy(
    tmp_path: Path, pair: str, caplog: pytest.LogCaptureFixture, *, secure: bool
) -> None:
    authority = Authority()
    (tmp_path / "proxy-auth").write_text(pair + "\n")
    auth: dict[str, Any] = {"proxy_auth_file": str(tmp_path / "proxy-auth")} if pair else {}

    async def main() -> None:
        context = authority.server(tmp_path) if secure else None
        async with BadServer().running(context) as server, Proxy(pair).running() as proxy:
            world = World(tmp_path, server)
            world.url = f"{'https' if secure else 'http'}://127.0.0.1:{server.port}"
            world.fill(3, size=100_000)
            sender = world.sender(
                proxy=proxy.url, ca_file=authority.write(tmp_path / "ca.pem"), **auth
            )
            await world.run(sender)
            assert sender.state["answers"] == {"201": 3}
            expected = "CONNECT 127.0.0.1" if secure else f"PUT http://127.0.0.1:{server.port}/v1/"
            assert proxy.seen
            assert all(line.startswith(expected) for line in proxy.seen)
            assert all("proxy-authorization" not in headers for *_, headers in server.requests)
            world.check()

    asyncio.run(main())
    assert "secret" not in caplog.text


@pytest.mark.parametrize("secure", [False, True])
def test_a_proxy_that_wants_another_credential_holds_until_it_has_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, secure: bool
) -> None:
    authority = Authority()
    file = tmp_path / "proxy-auth"
    file.write_text("van:old-secret-word")

    async def main() -> None:
        context = authority.server(tmp_path) if secure else None
        async with BadServer().running(context) as server, Proxy(PAIR).running() as proxy:
            world = World(tmp_path, server)
            world.url = f"{'https' if secure else 'http'}://127.0.0.1:{server.port}"
            world.fill(2)
            sender = world.sender(
                proxy=proxy.url,
                proxy_auth_file=str(file),
                ca_file=authority.write(tmp_path / "ca.pem"),
            )
            await world.run(sender, until=lambda: sender.state["attempts"] >= 1)
            assert proxy.refused == 1
            assert sender.state["answers"] == {"credential": 1}
            assert "the proxy answered 407" in sender.state["why"]
            assert "secret" not in json.dumps(sender.state)

            file.write_text(PAIR)
            await world.run(sender)
            assert sender.state["answers"] == {"credential": 1, "201": 2}
            world.check()

    asyncio.run(main())
    assert "secret" not in caplog.text


def test_a_proxy_that_is_not_there_is_said(tmp_path: Path) -> None:
    async def main() -> None:
        proxy = Proxy()
        async with proxy.running():
            pass
        async with BadServer().running() as server:
            world = World(tmp_path, server)
            world.fill(1)
            sender = world.sender(proxy=proxy.url)
            await world.run(sender, until=lambda: sender.state["attempts"] >= 2)
            assert sender.state["answers"] == {"network": sender.state["attempts"]}
            assert "the proxy is not there" in sender.state["why"]
            assert server.requests == []
            world.check()

    asyncio.run(main())


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("excepted", [True, False])
def test_the_environment_says_the_proxy_where_the_device_file_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, asked: bool, excepted: bool
) -> None:
    async def main() -> None:
        async with BadServer().running() as server, Proxy(PAIR).running() as proxy:
            monkeypatch.setenv("http_proxy", f"http://van:secret-word@127.0.0.1:{proxy.port}")
            monkeypatch.setenv("no_proxy", "127.0.0.1" if excepted else "")
            world = World(tmp_path, server)
            world.fill(1)
            await world.run(world.sender(proxy="environment" if asked else ""))
            assert bool(proxy.seen) == (asked and not excepted)
            assert proxy.refused == 0
            world.check()

    asyncio.run(main())


def test_an_address_of_ipv6(tmp_path: Path) -> None:
    async def main() -> None:
        async with BadServer().running(host="::1") as server:
            world = World(tmp_path, server)
            world.url = f"http://[::1]:{server.port}/base"
            world.fill(2)
            await world.run(world.sender())
            assert server.requests[0][2]["host"] == f"[::1]:{server.port}"
            assert len(world.outbox.acknowledged) == 2
            world.check()

    asyncio.run(main())


def test_a_name_that_may_have_addresses_of_both_kinds_of_which_one_answers(tmp_path: Path) -> None:
    async def main() -> None:
        async with BadServer().running() as server:
            world = World(tmp_path, server)
            world.url = f"http://localhost:{server.port}"
            world.fill(1)
            sender = world.sender()
            await world.run(sender)
            assert sender.state["answers"] == {"201": 1}
            world.check()

    asyncio.run(main())


# -- the pace --------------------------------------------------------------------------------


def test_a_pace_is_kept_whatever_the_pieces() -> None:
    pace = Pace(80)  # 10,000 bytes a second
    now = sent = 0.0
    for size in (100, 5000, 1, 64_000, 20_000):
        now += pace.take(size, now)
        assert sent <= 10_000 * now + 1e-6
        sent += size
    assert now == pytest.approx((sent - 20_000) / 10_000)


def test_a_pause_saves_nothing_up() -> None:
    pace = Pace(80)
    assert pace.take(10_000, 0.0) == 0
    assert pace.take(10_000, 3600.0) == 0
    assert pace.take(10_000, 3600.0) == 1


@pytest.mark.parametrize(("kbit_s", "piece"), [(1, 1024), (80, 2500), (1_000_000, 65_536)])
def test_slow_links_get_small_pieces(kbit_s: int, piece: int) -> None:
    assert Pace(kbit_s).piece(65_536) == piece


def test_a_batch_goes_out_at_its_pace_and_is_not_taken_for_stalled(tmp_path: Path) -> None:
    """100 kB at 8 kbit/s are 100 s: ten times as long as a stall may be."""
    waited = [0.0]

    async def sleep(seconds: float) -> None:
        waited[0] += seconds
        await asyncio.sleep(0)

    async def main() -> None:
        async with BadServer().running() as server:
            content = bytes(100_000)
            (tmp_path / "a.batch").write_bytes(content)
            settings = Uplink(
                name="cloud",
                url=f"http://127.0.0.1:{server.port}",
                max_kbit_s=8,
                stall_timeout_s=10,
            )
            transport = HttpTransport(settings, "car-1", "test", now=lambda: waited[0], sleep=sleep)
            answer = await transport.put(
                Parcel("a", "telemetry", tmp_path / "a.batch", len(content), 1)
            )
            await transport.close()
            assert answer.status == 201
            assert server.stored["a"] == content
            assert 98 <= waited[0] <= 100

    asyncio.run(main())


def test_a_receiver_that_stalls_is_given_up_also_at_a_pace(tmp_path: Path) -> None:
    async def main() -> None:
        async with BadServer(bad.never_read).running() as server:
            world = World(tmp_path, server)
            world.fill(1, size=24_000_000)
            sender = world.sender(stall_timeout_s=0.5, max_kbit_s=8_000_000)
            await world.run(sender)
            assert "not read" in server.happened
            assert sender.state["answers"]["stalled"] >= 1
            world.check()

    asyncio.run(main())


# -- memory and start ------------------------------------------------------------------------

_BIG = """
import asyncio, json, resource, sys, tracemalloc
from pathlib import Path
from agent.settings import Uplink
from agent.spool.outbox import Parcel
from agent.uplink.transport import HttpTransport

path = Path(sys.argv[1])
settings = Uplink(name="cloud", url=sys.argv[2])

async def main():
    transport = HttpTransport(settings, "car-1", "test")
    small = path.with_suffix(".small")
    small.write_bytes(b"small")
    await transport.put(Parcel("small", "telemetry", small, 5, 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    answer = await transport.put(Parcel("big", "telemetry", path, path.stat().st_size, 1))
    peak = tracemalloc.get_traced_memory()[1]
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await transport.close()
    print(json.dumps([answer.status, peak, 1024 * (after - before)]))

asyncio.run(main())
"""


def test_a_big_batch_does_not_sit_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "big.batch"
    with path.open("wb") as file:
        file.truncate(64 << 20)

    async def main() -> list[int]:
        async with BadServer().running() as server:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                _BIG,
                str(path),
                f"http://127.0.0.1:{server.port}",
                stdout=asyncio.subprocess.PIPE,
            )
            told, _ = await process.communicate()
            assert process.returncode == 0
            assert len(server.stored["big"]) == 64 << 20
            found: list[int] = json.loads(told)
            return found

    status, traced, resident = asyncio.run(main())
    assert status == 201
    assert traced < 4 << 20
    assert resident < 16 << 20


def test_a_sender_can_be_made_without_the_libraries_that_it_sends_with() -> None:
    """They take a tenth of a second to import, and a start waits for that."""
    program = (
        "import sys, agent.uplink.sender; "
        "print([m for m in ('aiohttp', 'yarl', 'cryptography', 'aiomqtt') if m in sys.modules])"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert told.stdout.strip() == "[]"


def test_who_is_cancelled_while_a_file_opens_leaves_none_open(tmp_path: Path) -> None:
    """A named pipe takes as long to open, and to read, as its other end wants."""
    path = tmp_path / "slow.batch"
    os.mkfifo(path)

    def opened() -> list[str]:
        links = (link for link in Path("/proc/self/fd").iterdir() if link.is_symlink())
        return [str(link) for link in links if os.path.realpath(link) == str(path.resolve())]

    async def main() -> None:
        settings = Uplink(name="cloud", url="http://127.0.0.1:9")
        transport = HttpTransport(settings, "car-1", "test")
        putting = asyncio.create_task(transport.put(Parcel("a", "telemetry", path, 4, 1)))
        with await asyncio.to_thread(path.open, "wb") as end:  # the thread has it open now
            putting.cancel()
            await asyncio.gather(putting, return_exceptions=True)
            end.write(b"late")
        await processes.until(lambda: not opened(), "it is closed")
        await transport.close()

    asyncio.run(main())
