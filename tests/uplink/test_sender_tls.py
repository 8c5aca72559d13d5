"""Certificates: trusted, not trusted, and those that tell that the clock is wrong."""

import asyncio
import datetime as dt
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.uplink.badserver import BadServer
from tests.uplink.world import World

YEAR = dt.timedelta(days=365)


def make_server(folder: Path, begins: dt.timedelta, ends: dt.timedelta) -> ssl.SSLContext:
    """TLS for 127.0.0.1 with a certificate of its own, which is left in `ca.pem`."""
    now = dt.datetime.now(dt.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "receiver")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    return context


def test_a_receiver_with_a_certificate_of_our_own(tmp_path: Path) -> None:
    async def main() -> None:
        context = make_server(tmp_path, -YEAR, YEAR)
        async with BadServer().running(context) as server:
            world = World(tmp_path, server)
            world.url = f"https://127.0.0.1:{server.port}"
            world.fill(3, size=300_000)
            sender = world.sender(ca_file=str(tmp_path / "ca.pem"))
            await world.run(sender)
            assert sender.state["answers"] == {"201": 3}
            world.check()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("valid", "trusted", "counted", "words"),
    [
        ((YEAR, 2 * YEAR), True, "clock", "certificate is not yet valid"),
        ((-2 * YEAR, -YEAR), True, "clock", "expired"),
        ((-YEAR, YEAR), False, "tls", "not trusted"),
    ],
)
def test_what_is_wrong_with_a_certificate_is_said(
    tmp_path: Path,
    valid: tuple[dt.timedelta, dt.timedelta],
    trusted: bool,
    counted: str,
    words: str,
) -> None:
    async def main() -> None:
        context = make_server(tmp_path, *valid)
        async with BadServer().running(context) as server:
            world = World(tmp_path, server)
            world.url = f"https://127.0.0.1:{server.port}"
            world.fill(1)
            sender = world.sender(ca_file=str(tmp_path / "ca.pem") if trusted else "")
            await world.run(sender, until=lambda: sender.state["attempts"] >= 2)
            assert set(sender.state["answers"]) == {counted}
            assert words in sender.state["why"]
            assert ("clock of this computer" in sender.state["why"]) == (counted == "clock")
            assert server.requests == []
            world.check()

    asyncio.run(main())


def test_a_ca_file_that_comes_later_is_read_then(tmp_path: Path) -> None:
    async def main() -> None:
        context = make_server(tmp_path, -YEAR, YEAR)
        async with BadServer().running(context) as server:
            world = World(tmp_path, server)
            world.url = f"https://127.0.0.1:{server.port}"
            world.fill(1)
            right = (tmp_path / "ca.pem").rename(tmp_path / "right.pem")
            sender = world.sender(ca_file=str(tmp_path / "ca.pem"))
            await world.run(sender, until=lambda: sender.state["attempts"] >= 1)
            assert "ca.pem" in sender.state["why"]
            right.rename(tmp_path / "ca.pem")
            await world.run(sender)
            assert world.outbox.acknowledged == ["batch-0"]
            world.check()

    asyncio.run(main())
