"""Addresses, digest fields, Retry-After, the budget, and what counts as progress."""

import asyncio
import hashlib
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import SECOND, BootNs
from agent.errors import ConfigError
from agent.settings import Uplink
from agent.uplink import wire
from agent.uplink.budget import RetryBudget
from agent.uplink.policy import Digest
from agent.uplink.stall import Progress, Sockets

SHA = hashlib.sha256(b"batch").digest()
OURS = wire.digest_field(SHA)
OTHER = wire.digest_field(hashlib.sha256(b"other").digest())


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://a", "https://a/v1/vehicles/car/batches/b-1"),
        ("https://a/", "https://a/v1/vehicles/car/batches/b-1"),
        ("https://a:1/in?key=s%2F1", "https://a:1/in/v1/vehicles/car/batches/b-1?key=s%2F1"),
        ("https://a/x/{batch_id}?sig=%2Bq", "https://a/x/b-1?sig=%2Bq"),
        ("https://a/{vehicle}/{batch_id}.vea", "https://a/car/b-1.vea"),
    ],
)
def test_address(url: str, address: str) -> None:
    assert wire.address(wire.template(Uplink(name="u", url=url)), "car", "b-1") == address


def test_what_is_filled_in_stays_in_its_place() -> None:
    template = wire.template(Uplink(name="u", url="https://a"))
    address = wire.address(template, "../{batch_id}", "x/../?y#z")
    assert address == "https://a/v1/vehicles/..%2F%7Bbatch_id%7D/batches/x%2F..%2F%3Fy%23z"


def test_a_template_for_all_batches_at_once_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch_id"):
        wire.template(Uplink(name="u", url="https://a/{vehicle}?sig=secret"))


def test_an_address_is_shown_without_what_is_secret() -> None:
    shown = wire.shown("https://user:secret@a:8443/x/{batch_id}?sig=secret#secret")
    assert shown == "https://a:8443/x/{batch_id}?…"


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ([], Digest.ABSENT),
        ([""], Digest.ABSENT),
        ([OURS], Digest.MATCHED),
        ([OTHER], Digest.WRONG),
        ([OTHER, OURS], Digest.MATCHED),
        ([f"sha-512=:AAAA:, {OURS};q=1"], Digest.MATCHED),
        ([f"x={OURS}"], Digest.ABSENT),
        (["sha-512=:AAAA:"], Digest.ABSENT),
        (["sha-256=:A:"], Digest.ABSENT),
        (["sha-256=::"], Digest.WRONG),
        ([OURS.upper()], Digest.ABSENT),
    ],
)
def test_digest_fields(fields: list[str], found: Digest) -> None:
    assert wire.compare(fields, SHA) is found


def test_retry_after() -> None:
    date = "Sun, 06 Nov 1994 08:49:37 GMT"
    assert wire.retry_after("120", None) == 120
    assert wire.retry_after("Sun, 06 Nov 1994 08:50:37 GMT", date) == 60
    assert wire.retry_after("Sun, 06 Nov 1994 08:40:37 GMT", date) == 0
    for nonsense in (None, "", "soon", "-5", "1.5", "½", "²"):
        assert wire.retry_after(nonsense, date) is None
    assert wire.retry_after(date, None) is None
    assert wire.retry_after("9" * 5000, None) == 1e9


@given(st.text(), st.text())
def test_bad_text_is_no_error(one: str, other: str) -> None:
    wire.compare([one, other], SHA)
    after = wire.retry_after(one, other)
    assert after is None or after >= 0


def test_what_a_receiver_says_is_made_fit_for_a_log() -> None:
    said = wire.detail(b"no\r\n\x1b[31m token abc123!\xff " + b"x" * 500, "abc123")
    assert said.startswith("no [31m token …!\ufffd xxx")
    assert len(said) == 201


@given(st.lists(st.integers(0, 100 * SECOND), min_size=1, max_size=200), st.integers(1, 5))
def test_a_budget_is_never_exceeded(gaps: list[int], capacity: int) -> None:
    budget = RetryBudget(capacity, per_minute=6)
    now, taken = 0, []
    for gap in gaps:
        now += gap
        lacking = budget.take(BootNs(now))
        if lacking == 0:
            taken.append(now)
        else:
            assert 0 < lacking <= 10
    for i, start in enumerate(taken):
        for j in range(i, len(taken)):
            assert j - i + 1 <= capacity + (taken[j] - start) / (10 * SECOND) + 1e-6


def test_a_budget_says_when() -> None:
    budget = RetryBudget(2, per_minute=6)
    start = BootNs(77 * SECOND)
    assert [budget.take(start) for _ in range(3)] == [0, 0, 10]
    assert budget.take(BootNs(start + 10 * SECOND)) == 0


@pytest.mark.parametrize(("capacity", "rate"), [(0, 1), (1, 0), (1, -1)])
def test_a_budget_of_nothing_is_refused(capacity: int, rate: float) -> None:
    with pytest.raises(ValueError, match="budget"):
        RetryBudget(capacity, rate)


def test_the_peers_acknowledgements_are_progress() -> None:
    """What the kernel still holds has not moved; what the peer's kernel has got has."""
    sockets = Sockets()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        sockets.make(socket.AF_INET, socket.SOCK_STREAM, 0) as ours,
    ):
        ours.setblocking(True)
        ours.connect(server.getsockname())
        peer, _ = server.accept()
        with peer:
            before = sockets.acknowledged()
            ours.sendall(b"x" * 5000)
            assert peer.recv(5000, socket.MSG_WAITALL)
            peer.sendall(b"y")  # carries the acknowledgement
            assert ours.recv(1)
            assert sockets.acknowledged() == before + 5000
    assert sockets.acknowledged() == 0


def test_a_piece_moves_the_deadline_and_not_after_the_end() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(5000) as deadline:
            with Progress(deadline, Sockets(), 1000) as progress:
                await asyncio.sleep(0)
                progress.moved()
                moved_to = deadline.when()
                assert moved_to is not None
                assert moved_to <= loop.time() + 1000
            progress.moved()
            assert deadline.when() == moved_to

    asyncio.run(main())


def test_importing_the_room_does_not_import_aiohttp() -> None:
    code = "import sys, agent.uplink; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
