"""`edge-agent enrol` at a reference cloud that speaks TLS, and what comes of it."""

import argparse
import asyncio
import contextlib
import functools
import itertools
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.bench.cloud import create_app, serve
from agent.bench.cloud.enrol import Authority, RefusedError
from agent.bench.cloud.identity import Identity
from agent.bench.cloud.store import Store
from agent.commands import cloud, enrol
from agent.errors import ConfigError, PermanentError, TransientError, UnauthorisedError
from agent.settings import Uplink
from agent.spool.outbox import Parcel
from agent.uplink.credentials import life_of
from agent.uplink.policy import Answer, Digest
from agent.uplink.transport import HttpTransport
from tests.bench.cloudbench import VEHICLE, Drive
from tests.uplink.certificates import Authority as Stranger

DEVICE = """
vehicle = "{vehicle}"
plan = "plan.toml"
state_dir = "state"
[[uplink]]
name = "cloud"
url = "{url}"
ca_file = "{ca}"
"""


class Scene:
    """A cloud that runs, and a vehicle's folder."""

    def __init__(self, folder: Path, authority: Authority, url: str) -> None:
        self.folder = folder
        self.authority = authority
        self.url = url
        self.config = folder / "agent.toml"
        self.key = folder / "state" / "client.key"
        self.certificate = folder / "state" / "client.crt"
        self.token_file = folder / "token"
        (folder / "state").mkdir()
        self.write_device()

    def write_device(self, vehicle: str = VEHICLE, url: str = "") -> None:
        text = DEVICE.format(vehicle=vehicle, url=url or self.url, ca=self.authority.ca_file)
        self.config.write_text(text)

    def token(self, vehicle: str = VEHICLE) -> str:
        token = self.authority.token(vehicle)
        self.token_file.write_text(token + "\n")
        return token

    def enrol(self, *words: str) -> int:
        how = words or ("--token-file", str(self.token_file))
        arguments = _parser().parse_args(["enrol", "-c", str(self.config), *how])
        return enrol.run(arguments)

    def put(self, *, shown: bool = True) -> Answer:
        """Send a batch as the agent does."""
        batch = Drive().batch()
        path = self.folder / "a.batch"
        path.write_bytes(batch.data)
        ours = {"client_cert_file": str(self.certificate), "client_key_file": str(self.key)}
        keys: dict[str, Any] = ours if shown else {}
        settings = Uplink(name="cloud", url=self.url, ca_file=str(self.authority.ca_file), **keys)

        async def main() -> Answer:
            transport = HttpTransport(settings, VEHICLE, "test")
            try:
                return await transport.put(
                    Parcel(batch.batch_id, "telemetry", path, len(batch.data), batch.samples)
                )
            finally:
                await transport.close()

        return asyncio.run(main())


@functools.cache
def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser()
    sub = top.add_subparsers()
    enrol.add_parser(sub)
    cloud.add_parser(sub)
    return top


@contextlib.contextmanager
def running(store: Store, authority: Authority) -> Iterator[str]:
    ready, stop = threading.Event(), threading.Event()
    found: list[str] = []

    async def main() -> None:
        app = create_app(store, identity=Identity(authority))
        async with serve(app, "127.0.0.1", 0, authority.context("127.0.0.1")) as url:
            found.append(url)
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    try:
        assert ready.wait(30)
        yield found[0]
    finally:
        stop.set()
        thread.join(30)
        store.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    authority = Authority(tmp_path / "authority")
    (tmp_path / "vehicle").mkdir()
    with running(Store(tmp_path / "data"), authority) as url:
        yield Scene(tmp_path / "vehicle", authority, url)


def test_a_vehicle_enrols_and_sends_with_its_certificate(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scene.url.startswith("https://")
    refused = scene.put(shown=False)
    assert refused.status == 401

    token = scene.token()
    assert scene.enrol() == 0
    told = capsys.readouterr().out
    assert f"client.crt: {VEHICLE}, until " in told
    assert "client_cert_file = " in told
    assert scene.key.stat().st_mode & 0o777 == 0o600
    assert token not in told + scene.certificate.read_text() + scene.key.read_text()
    assert token not in (scene.authority.ca_file.parent / "tokens").read_text()

    answer = scene.put()
    assert (answer.status, answer.digest) == (201, Digest.MATCHED)


def test_a_certificate_of_another_vehicle_is_refused(scene: Scene) -> None:
    scene.write_device("other")
    scene.token("other")
    scene.enrol()
    assert scene.put().status == 403


def test_a_token_is_good_for_one_key_and_that_one_as_often_as_an_answer_is_lost(
    scene: Scene,
) -> None:
    scene.token()
    scene.enrol()
    first = scene.certificate.read_bytes()
    scene.certificate.unlink()
    assert scene.enrol() == 0
    assert scene.certificate.read_bytes() != first

    scene.certificate.unlink()
    scene.key.unlink()
    with pytest.raises(UnauthorisedError, match="was used"):
        scene.enrol()
    assert not scene.certificate.exists()


def test_what_is_enrolled_is_left_alone(scene: Scene) -> None:
    scene.token()
    scene.enrol()
    before = scene.certificate.read_bytes(), scene.key.read_bytes()
    scene.token_file.unlink()
    assert scene.enrol() == 0
    assert (scene.certificate.read_bytes(), scene.key.read_bytes()) == before


@pytest.mark.parametrize("token", ["wrong", ""])
def test_a_wrong_token_is_refused_in_a_sentence(scene: Scene, token: str) -> None:
    scene.token_file.write_text(token)
    with pytest.raises((UnauthorisedError, ConfigError), match="token"):
        scene.enrol()
    assert not scene.certificate.exists()


def test_a_token_of_another_vehicle_is_refused(scene: Scene) -> None:
    scene.token("other")
    with pytest.raises(UnauthorisedError, match=f"not one for {VEHICLE}"):
        scene.enrol()


def test_a_certificate_is_renewed_by_itself_and_keeps_its_key(scene: Scene) -> None:
    scene.token()
    scene.enrol()
    key, first = scene.key.read_bytes(), x509.load_pem_x509_certificate(_pem(scene))
    assert scene.enrol("--renew") == 0
    second = x509.load_pem_x509_certificate(_pem(scene))
    assert scene.key.read_bytes() == key
    assert first.serial_number != second.serial_number
    assert scene.put().status == 201


def _pem(scene: Scene) -> bytes:
    return scene.certificate.read_bytes()


def test_without_a_certificate_there_is_nothing_to_renew(scene: Scene) -> None:
    with pytest.raises(ConfigError, match="enrol with a token"):
        scene.enrol("--renew")


def test_what_is_there_can_be_asked(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    assert scene.enrol("--check") == 1
    scene.token()
    scene.enrol()
    assert scene.enrol("--check") == 0
    end = life_of(str(scene.certificate)).ends
    assert f"until {end:%Y-%m-%d %H:%M} UTC" in capsys.readouterr().out


def test_an_address_without_tls_is_refused(scene: Scene) -> None:
    scene.token()
    scene.write_device(url="http://cloud.example")
    with pytest.raises(ConfigError, match="https://"):
        scene.enrol()


def test_a_cloud_that_is_not_trusted_gets_no_token(scene: Scene, tmp_path: Path) -> None:
    scene.token()
    stranger = Stranger().write(tmp_path / "stranger.pem")
    with pytest.raises(TransientError, match="not trusted"):
        scene.enrol("--token-file", str(scene.token_file), "--ca-file", stranger)
    scene.enrol()  # the token is still good


def test_nobody_there_is_a_sentence(scene: Scene) -> None:
    scene.token()
    scene.write_device(url="https://127.0.0.1:9")
    with pytest.raises(TransientError, match=r"https://127\.0\.0\.1:9: cannot be reached"):
        scene.enrol()
    assert scene.key.exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda _k: b"nonsense", "no certificate"),
        (lambda _k: Stranger().issue(VEHICLE)[0], "another key"),
        (lambda k: _certificate(k, "other"), "for other, not"),
        (
            lambda k: _certificate(k, VEHICLE) + Stranger().issue("x")[0],
            "no chain",
        ),
    ],
)
def test_what_is_not_ours_is_not_kept(tmp_path: Path, given: Any, words: str) -> None:
    """A cloud that answers with the certificate of somebody else."""
    from http.server import BaseHTTPRequestHandler, HTTPServer  # noqa: PLC0415

    class Wrong(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = given(x509.load_pem_x509_csr(body).public_key())
            self.send_response(201)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = HTTPServer(("127.0.0.1", 0), Wrong)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        authority = Authority(tmp_path / "authority")
        (tmp_path / "vehicle").mkdir()
        scene = Scene(tmp_path / "vehicle", authority, f"http://127.0.0.1:{server.server_port}")
        scene.token()
        with pytest.raises(PermanentError, match=words):
            scene.enrol()
        assert not scene.certificate.exists()
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def _certificate(key: Any, common: str) -> bytes:
    by = Stranger()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])
    made = (
        x509.CertificateBuilder(by.name, name, key, x509.random_serial_number())
        .not_valid_before(by.certificate.not_valid_before_utc)
        .not_valid_after(by.certificate.not_valid_after_utc)
        .sign(by.key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


# -- the authority ---------------------------------------------------------------------------


def request(common: str = VEHICLE, key: Any = None) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])
    key = key or ec.generate_private_key(ec.SECP256R1())
    made = x509.CertificateSigningRequestBuilder(name).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM)


def test_an_authority_is_the_same_after_a_restart(tmp_path: Path) -> None:
    first = Authority(tmp_path)
    token = first.token(VEHICLE)
    pem = first.ca_file.read_bytes()
    again = Authority(tmp_path)
    assert again.ca_file.read_bytes() == pem
    chain = x509.load_pem_x509_certificates(again.enrol(VEHICLE, token, request()))
    chain[0].verify_directly_issued_by(x509.load_pem_x509_certificate(pem))


def test_a_server_keeps_its_certificate_until_its_name_is_another(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    seen = []
    for host in ("127.0.0.1", "127.0.0.1", "cloud.example", "cloud.example"):
        context = authority.context(host)
        assert context.verify_mode is ssl.CERT_OPTIONAL
        seen.append((tmp_path / "server.pem").read_bytes())
    assert [a == b for a, b in itertools.pairwise(seen)] == [True, False, True]


@pytest.mark.parametrize(
    "asked",
    [b"", b"nonsense", request("other"), request()[:-60], Stranger().issue(VEHICLE)[0]],
)
def test_a_request_that_is_none_costs_no_token(tmp_path: Path, asked: bytes) -> None:
    authority = Authority(tmp_path)
    token = authority.token(VEHICLE)
    with pytest.raises(RefusedError) as refused:
        authority.enrol(VEHICLE, token, asked)
    assert not refused.value.unauthorised
    assert authority.enrol(VEHICLE, token, request())


@pytest.mark.parametrize("name", ["", "../x", "a b", "a\nb"])
def test_a_token_needs_the_name_of_a_vehicle(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="vehicle's name"):
        Authority(tmp_path).token(name)


def test_a_token_is_printed_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["cloud", "--tls", str(tmp_path), "--token", VEHICLE]
    assert cloud.run(_parser().parse_args(words)) == 0
    token = capsys.readouterr().out.strip()
    assert Authority(tmp_path).enrol(VEHICLE, token, request())


def test_a_token_without_an_authority_is_misuse() -> None:
    with pytest.raises(ConfigError, match="--tls"):
        cloud.run(_parser().parse_args(["cloud", "--token", VEHICLE]))
