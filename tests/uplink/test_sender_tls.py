"""Certificates of both sides: trusted, not trusted, of another time, replaced while it runs."""

import asyncio
import contextlib
import datetime as dt
import logging
import ssl
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.clock import WallNs
from agent.uplink.credentials import Life
from tests.uplink import badserver as bad
from tests.uplink.badserver import BadServer
from tests.uplink.certificates import DAY, YEAR, Authority, Doorman, now
from tests.uplink.world import World


@contextlib.asynccontextmanager
async def world_with(
    folder: Path, context: ssl.SSLContext | None, server: BadServer | None = None
) -> AsyncIterator[World]:
    """A receiver behind https on 127.0.0.1, and three batches for it."""
    async with (server or BadServer()).running(context) as running:
        world = World(folder, running)
        world.url = f"https://127.0.0.1:{running.port}"
        world.time.set_wall(now())
        world.fill(3, size=100_000)
        yield world
        world.check()


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def ca_file(authority: Authority, tmp_path: Path) -> str:
    return authority.write(tmp_path / "ca.pem")


def test_a_receiver_with_a_certificate_of_our_own(
    tmp_path: Path, authority: Authority, ca_file: str
) -> None:
    async def main() -> None:
        async with world_with(tmp_path, authority.server(tmp_path)) as world:
            sender = world.sender(ca_file=ca_file)
            await world.run(sender)
            assert sender.state["answers"] == {"201": 3}
            assert sender.state["credential"] == ""

    asyncio.run(main())


@pytest.mark.parametrize(
    ("valid", "words"),
    [
        ((YEAR, 2 * YEAR), "certificate is not yet valid"),
        ((-2 * YEAR, -YEAR), "certificate has expired"),
    ],
)
def test_a_certificate_of_another_time_is_a_fault_of_the_clock_until_it_is_right(
    tmp_path: Path,
    authority: Authority,
    ca_file: str,
    valid: tuple[dt.timedelta, dt.timedelta],
    words: str,
) -> None:
    context = authority.server(tmp_path, *valid)

    async def main() -> None:
        async with world_with(tmp_path, context) as world:
            sender = world.sender(ca_file=ca_file)
            await world.run(sender, until=lambda: sender.state["attempts"] >= 2)
            assert sender.state["answers"] == {"clock": sender.state["attempts"]}
            assert words in sender.state["why"]
            assert "clock of this computer" in sender.state["why"]
            assert world.server.requests == []
            world.check()

            authority.replace(context, tmp_path, -DAY, DAY)
            await world.run(sender)
            assert sender.state["answers"]["201"] == 3

    asyncio.run(main())


def test_a_certificate_by_somebody_else_is_not_trusted(tmp_path: Path, ca_file: str) -> None:
    context = Authority("somebody else").server(tmp_path)

    async def main() -> None:
        async with world_with(tmp_path, context) as world:
            sender = world.sender(ca_file=ca_file)
            await world.run(sender, until=lambda: sender.state["attempts"] >= 2)
            assert sender.state["answers"] == {"tls": sender.state["attempts"]}
            assert "not trusted" in sender.state["why"]
            assert world.server.requests == []

    asyncio.run(main())


def test_tls_older_than_1_2_is_refused(tmp_path: Path, authority: Authority, ca_file: str) -> None:
    context = authority.server(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")

    async def main() -> None:
        world = World(tmp_path, BadServer())
        with Doorman(context, world.server.stored) as doorman:
            world.url = f"https://127.0.0.1:{doorman.port}"
            world.fill(1)
            sender = world.sender(ca_file=ca_file)
            await world.run(sender, until=lambda: sender.state["attempts"] >= 2)
            assert doorman.has_refused(sender.state["attempts"])
            assert sender.state["answers"] == {"tls": doorman.refused}
            assert world.server.stored == {}
            world.check()

    asyncio.run(main())


def test_plain_http_behind_an_address_of_https_is_no_receiver(tmp_path: Path, ca_file: str) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), world_with(tmp_path, None) as world:
            sender = world.sender(ca_file=ca_file, connect_timeout_s=0.5)
            await world.run(sender, until=lambda: sender.state["attempts"] >= 2)
            assert set(sender.state["answers"]) <= {"tls", "timeout"}
            assert world.server.stored == {}

    asyncio.run(main())


def test_a_handshake_that_nobody_answers_is_given_up(tmp_path: Path, ca_file: str) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read(1))
        await reader.read()
        writer.close()

    seen: list[bytes] = []

    async def main() -> None:
        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        async with server:
            world = World(tmp_path, BadServer())
            world.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            world.fill(1)
            sender = world.sender(ca_file=ca_file, connect_timeout_s=0.2, stall_timeout_s=0.2)
            await world.run(sender, until=lambda: sender.state["attempts"] >= 2)
            assert sender.state["answers"] == {"timeout": sender.state["attempts"]}
            assert seen[0] == b"\x16"  # a handshake record (RFC 8446, 5.1)
            world.check()

    asyncio.run(main())


def test_a_ca_file_that_comes_later_is_read_then(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with world_with(tmp_path, authority.server(tmp_path)) as world:
            sender = world.sender(ca_file=str(tmp_path / "later.pem"))
            await world.run(sender, until=lambda: sender.state["attempts"] >= 1)
            assert "later.pem" in sender.state["why"]
            authority.write(tmp_path / "later.pem")
            await world.run(sender)
            assert len(world.outbox.acknowledged) == 3

    asyncio.run(main())


# -- our own certificate ---------------------------------------------------------------------


def test_a_client_certificate_is_shown(tmp_path: Path, authority: Authority, ca_file: str) -> None:
    async def main() -> None:
        context = authority.server(tmp_path, wants_client=True)
        async with world_with(tmp_path, context) as world:
            files = authority.put(tmp_path / "van-7")
            sender = world.sender(ca_file=ca_file, **files)
            await world.run(sender)
            assert sender.state["answers"] == {"201": 3}

    asyncio.run(main())


@pytest.mark.parametrize(
    ("shown", "newest"),
    [
        ("none", ssl.TLSVersion.TLSv1_3),  # TLS 1.2 has no word for it but "handshake failure"
        ("of somebody else", ssl.TLSVersion.TLSv1_2),
        ("of somebody else", ssl.TLSVersion.TLSv1_3),
        ("expired", ssl.TLSVersion.TLSv1_2),
        ("expired", ssl.TLSVersion.TLSv1_3),
    ],
)
def test_a_refused_client_certificate_holds_until_there_is_another(
    tmp_path: Path, authority: Authority, ca_file: str, shown: str, newest: ssl.TLSVersion
) -> None:
    """In TLS 1.3 our handshake is over before the refusal comes: it must not look like a reset."""

    async def main() -> None:
        context = authority.server(tmp_path, wants_client=True)
        context.maximum_version = newest
        world = World(tmp_path, BadServer())
        with Doorman(context, world.server.stored) as doorman:
            world.url = f"https://127.0.0.1:{doorman.port}"
            world.fill(3, size=1000)
            by = Authority("somebody else") if shown == "of somebody else" else authority
            files = by.put(tmp_path / "van-7", ends=-DAY if shown == "expired" else YEAR)
            sender = world.sender(ca_file=ca_file, **({} if shown == "none" else files))
            await world.run(sender, until=lambda: sender.state["attempts"] >= 1)
            assert doorman.has_refused(1)
            assert sender.state["answers"] == {"credential": 1}
            assert "does not take our certificate" in sender.state["why"]
            assert sender.state["state"] == "held"
            world.check()

            authority.put(tmp_path / "van-7")
            if shown == "none":
                sender = world.sender(ca_file=ca_file, **files)
            slept = sum(world.time.slept)
            await world.run(sender)
            assert sum(world.time.slept) - slept <= 60  # it is looked at while the uplink is held
            assert sorted(world.outbox.acknowledged) == sorted(world.outbox.contents)
            world.check()

    asyncio.run(main())


def test_a_new_certificate_opens_a_new_connection(
    tmp_path: Path, authority: Authority, ca_file: str
) -> None:
    async def main() -> None:
        context = authority.server(tmp_path, wants_client=True)
        seen: list[str] = []

        async def look(x: bad.Exchange) -> None:
            shown = x.writer.get_extra_info("peercert")
            seen.append(shown["subject"][0][0][1])
            if len(seen) == 1:
                authority.put(tmp_path / "van", "second")
            await bad.behave(x)

        async with world_with(tmp_path, context, BadServer(always=look)) as world:
            sender = world.sender(ca_file=ca_file, **authority.put(tmp_path / "van", "first"))
            await world.run(sender)
            assert seen == ["first", "second", "second"]
            assert sender.state["answers"] == {"201": 3}

    asyncio.run(main())


@pytest.mark.parametrize("half", ["key of another", "cut certificate", "no key", "empty"])
def test_half_written_files_leave_the_old_ones_in_use_and_it_is_said(
    tmp_path: Path,
    authority: Authority,
    ca_file: str,
    half: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        files = authority.put(tmp_path / "van", "first")
        certificate, key = (Path(name) for name in files.values())
        good = certificate.read_bytes()
        told: list[str] = []

        async def spoil(x: bad.Exchange) -> None:
            match half:
                case "key of another":
                    certificate.write_bytes(authority.issue("second")[0])
                case "cut certificate":
                    certificate.write_bytes(good[: len(good) // 2])
                case "no key":
                    key.unlink(missing_ok=True)
                case "empty":
                    certificate.write_bytes(b"")
            await bad.behave(x)

        async def note(x: bad.Exchange) -> None:
            told.append(sender.state["credential"])
            await bad.behave(x)

        context = authority.server(tmp_path, wants_client=True)
        async with world_with(tmp_path, context, BadServer(spoil, always=note)) as world:
            sender = world.sender(ca_file=ca_file, **files)
            await world.run(sender)
            assert sender.state["answers"] == {"201": 3}
            assert all("the old one is" in words for words in told)
            world.check()

            authority.put(tmp_path / "van", "third")
            world.outbox.put("last", b"last")
            sender.wake()
            await world.run(sender)
            assert sender.state["credential"] == ""

    asyncio.run(main())
    assert sum("the old one is" in r.getMessage() for r in caplog.records) == 1


def test_a_certificate_that_ends_soon_is_said_in_status_and_log_once(
    tmp_path: Path, authority: Authority, ca_file: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="edge_agent.uplink")

    async def main() -> None:
        context = authority.server(tmp_path, wants_client=True)
        async with world_with(tmp_path, context) as world:
            files = authority.put(tmp_path / "van", begins=-YEAR, ends=20 * DAY)
            sender = world.sender(ca_file=ca_file, **files)
            await world.run(sender)
            assert "the client certificate expires on" in sender.state["credential"]

    asyncio.run(main())
    assert [r.getMessage().split(":")[0] for r in caplog.records] == ["uplink cloud"]


@pytest.mark.parametrize(
    ("life_days", "left_days", "told"),
    [
        (3650, 31, False),
        (3650, 29, True),
        (90, 10, False),
        (90, 8, True),
        (1, 0.11, False),
        (1, 0.09, True),
        (90, -1, True),
        (90, 91, True),
    ],
)
def test_when_the_end_is_near(life_days: float, left_days: float, *, told: bool) -> None:
    """30 days or a tenth of the life, whichever is shorter; and before its beginning."""
    ends = dt.datetime(2031, 5, 1, 12, tzinfo=dt.UTC)
    life = Life(ends - life_days * DAY, ends)
    moment = ends - left_days * DAY
    notice = life.notice(WallNs(int(moment.timestamp()) * 10**9), synchronised=True)
    assert bool(notice) == told
    assert ("clock of this computer" in notice) == (left_days > life_days)
    assert ("has expired" in notice) == (left_days < 0)


@pytest.mark.parametrize("content", ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_file_that_is_no_certificate_is_said_and_nothing_is_sent(
    tmp_path: Path, authority: Authority, ca_file: str, content: str
) -> None:
    async def main() -> None:
        async with world_with(tmp_path, authority.server(tmp_path)) as world:
            (tmp_path / "van.pem").write_text(content)
            sender = world.sender(ca_file=ca_file, client_cert_file=str(tmp_path / "van.pem"))
            await world.run(sender, until=lambda: sender.state["attempts"] >= 1)
            assert sender.state["answers"] == {"credential": 1}
            assert "van.pem" in sender.state["why"]
            assert world.server.requests == []

    asyncio.run(main())
