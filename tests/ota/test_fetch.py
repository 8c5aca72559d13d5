"""A server that is away, slow, confused or lying: a look ends, in time, with a sentence."""

import contextlib
import datetime as dt
import gzip
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import UpdateError
from agent.ota.client import LookError, Unreachable, Untrusted
from tests.ota import server as serving
from tests.ota.server import Behaviour, Server
from tests.ota.vehicle import Vehicle, World
from tests.uplink.certificates import DAY, YEAR, Authority

PAGE = b"<!DOCTYPE html><html>Accept the terms of our WLAN</html>"
JSON = b'{"signed": {}, "signatures": []}'


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def pass_one(self) -> None:
        self.seconds += 1.0


def answered(head: str, body: bytes) -> Behaviour:
    return serving.raw(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)


# What no repository answers, and a word of the sentence that says so.
ODD: dict[str, tuple[Behaviour, str]] = {
    "500": (serving.status(500), "500 .Internal Server Error.: the server cannot just now"),
    "503": (serving.status(503, b"x" * 100_000), "503"),
    "429": (serving.status(429), "429"),
    "401": (serving.status(401), "credential"),
    "407": (serving.status(407), "credential"),
    "403": (serving.status(403), "credential"),
    "404": (serving.status(404), "url is wrong"),
    "404 that is large": (serving.status(404, b"x" * 1_000_000), "404"),
    "410": (serving.status(410), "410"),
    "204": (serving.status(204), "204"),
    "206": (serving.status(206, JSON), "206"),
    "304 that was not asked for": (serving.raw(serving.head(304, {})), "304"),
    "599": (serving.status(599), "599"),
    "redirect": (serving.status(302, b"", {"Location": "http://127.0.0.2/"}), "redirects"),
    "redirect to itself": (serving.status(308, b"", {"Location": "timestamp.json"}), "redirects"),
    "web page": (serving.content(PAGE), "web page"),
    "web page in lower case": (serving.content(b"\n\n<html>" + b"x" * 10**6), "web page"),
    "compressed": (
        serving.status(200, gzip.compress(JSON), {"Content-Encoding": "gzip"}),
        "compressed",
    ),
    "negative length": (answered("HTTP/1.1 200 OK\nContent-Length: -5", JSON), "no length"),
    "no number as length": (answered("HTTP/1.1 200 OK\nContent-Length: 5x", JSON), "no length"),
    "unicode digits as length": (answered("HTTP/1.1 200 OK\nContent-Length: \xb2", JSON), "length"),
    "too long a length": (answered("HTTP/1.1 200 OK\nContent-Length: 500", JSON), "cut off"),
    "chunk that is cut": (
        answered("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"20\r\n{"),
        "cut off",
    ),
    "chunk of negative size": (
        answered("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"-5\r\n" + JSON),
        "no answer of a web server",
    ),
    "no answer": (serving.hang_up, "hung up"),
    "half a head": (serving.raw(b"HTTP/1.1 200 OK\r\nContent-Le"), "without its length"),
    "no length": (answered("HTTP/1.1 200 OK", JSON), "without its length"),
    "garbage": (serving.raw(bytes(range(256)) * 10), "no answer of a web server"),
    "another protocol": (serving.raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "no answer of a web server"),
    "status that is none": (serving.raw(b"HTTP/1.1 9999 OK\r\n\r\n"), "no answer"),
    "endless status line": (serving.raw(b"HTTP/1.1 200 " + b"x" * 100_000), "no answer"),
    "too many headers": (serving.raw(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000), "no answer"),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["*timestamp.json", "*2.root.json", "*.targets.json", "targets/*"])
def test_an_odd_answer_is_unreachable(world: World, kind: str, name: str) -> None:
    behaviour, word = ODD[kind]
    world.server.misbehave(name, behaviour)
    if "root" in name and kind[:3] in ("403", "404"):
        assert world.vehicle.look().floors["root"].version == 1
        return
    with pytest.raises(Unreachable, match=word) as failure:
        world.vehicle.fetch()
    said = str(failure.value)
    assert said.endswith(".")
    assert world.server.url in said


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_answer_to_a_vehicle_that_knows_the_repository(world: World, kind: str) -> None:
    """It keeps what it knows; 304 is what it has asked for."""
    known = world.vehicle.look()
    world.server.misbehave("*timestamp.json", ODD[kind][0])
    with contextlib.suppress(LookError):
        assert not world.vehicle.look().changed
        assert kind.startswith("304")
    world.server.recover()
    assert world.vehicle.look().trusted == known.trusted


@pytest.mark.parametrize("name", ["*timestamp.json", "*2.root.json", "*.targets.json", "targets/*"])
@pytest.mark.parametrize(
    "behaviour",
    [
        serving.endless,
        serving.endless_chunks,
        serving.endless_trailer,
        serving.endless_promises,
        answered("HTTP/1.1 200 OK\nContent-Length: 99999999999999999999", b" " * 100),
    ],
)
def test_endless_data_are_not_read_to_the_end(
    world: World, name: str, behaviour: Behaviour
) -> None:
    world.server.misbehave(name, behaviour)
    with pytest.raises(Untrusted, match="endless data"):
        world.vehicle.fetch()


@pytest.mark.parametrize("name", ["*timestamp.json", "*2.root.json", "*.targets.json", "targets/*"])
def test_a_byte_a_second_ends_at_the_deadline(world: World, name: str) -> None:
    clock = Clock()
    world.server.misbehave(name, serving.drip(clock.pass_one))
    slow = world.another("slow", clock=clock, deadline_s=300)
    with pytest.raises(Unreachable, match="300 s of deadline_s"):
        slow.fetch()


def test_a_head_that_drips_ends_at_the_deadline(world: World) -> None:
    clock = Clock()
    world.server.misbehave("*", serving.drip(clock.pass_one, b"HTTP/1.1 200 OK\r\nX-Long: "))
    with pytest.raises(Unreachable, match="300 s of deadline_s"):
        world.another("slow", clock=clock, deadline_s=300).look()


def test_many_answers_that_are_each_in_time_do_not_make_a_look_longer(world: World) -> None:
    clock = Clock()

    def later(x: serving.Exchange) -> None:
        clock.seconds += 100
        serving.behave(x)

    world.server.misbehave("*", later)
    with pytest.raises(Unreachable, match="250 s of deadline_s"):
        world.another("slow", clock=clock, deadline_s=250).look()
    assert len(world.server.asked) == 3


def test_silence_ends_at_the_deadline(world: World) -> None:
    world.server.misbehave("*", serving.silence)
    with pytest.raises(Unreachable, match="1 s of deadline_s"):
        world.another("silent", deadline_s=1).look()


def test_nobody_listens(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    root = world.repo.root_file
    with pytest.raises(Unreachable, match="Connection refused"):
        Vehicle(f"http://127.0.0.1:{port}", world.folder / "alone", root).look()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:99999",
        "http://[::1",
        "http://127.0.0.1:none",
        "http://a..b/",
        "http://" + "a" * 100 + "/",
        "http:///nowhere",
        "http://127.0.0.1:1/\u00e4",
        "http://127.0.0.1:1/\x7f",
    ],
)
def test_an_address_that_cannot_be_asked(world: World, url: str) -> None:
    with pytest.raises(Unreachable):
        Vehicle(url, world.folder / "lost", world.repo.root_file).look()


def test_one_connection_serves_a_look_and_may_be_closed_between_requests(world: World) -> None:
    def once(x: serving.Exchange) -> None:
        serving.behave(x)
        x.hang_up()

    world.server.misbehave("*", once)
    world.vehicle.look()
    assert len(world.server.asked) == 4
    world.server.recover()
    world.another("second").look()
    assert world.server.connections == 5


def test_the_environments_proxy_is_not_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert world.vehicle.look().targets


# Credentials.


def test_the_token_goes_to_the_server_and_into_no_message(world: World, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("very-secret\n")
    vehicle = world.another("known", token_file=str(tmp_path / "token"))
    vehicle.look()
    assert {r.headers["authorization"] for r in world.server.requests} == {"Bearer very-secret"}
    assert {r.headers["user-agent"] for r in world.server.requests} == {"edge-agent/0"}
    world.server.misbehave("*", serving.status(401))
    with pytest.raises(Unreachable) as failure:
        vehicle.look()
    assert "secret" not in str(failure.value)


def test_a_token_that_cannot_be_read(world: World, tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="missing"):
        world.another("unknown", token_file=str(tmp_path / "missing")).look()
    assert world.server.asked == []


def test_an_address_with_a_password_is_refused(world: World) -> None:
    """It would be in files and on screens: a token has a file of its own."""
    url = world.server.url.replace("//", "//van:secret@")
    with pytest.raises(msgspec.ValidationError, match=r"url"):
        Vehicle(url, world.folder / "v", world.repo.root_file)


# TLS.


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.mark.parametrize(
    ("begins", "ends", "word"),
    [
        (DAY, YEAR, "clock of this computer is probably wrong: its certificate is not yet valid"),
        (-YEAR, -DAY, "clock of this computer is probably wrong: its certificate has expired"),
    ],
)
def test_a_certificate_of_another_time_is_a_fault_of_the_clock(
    world: World, tmp_path: Path, begins: dt.timedelta, ends: dt.timedelta, word: str
) -> None:
    authority = Authority()
    ca_file = authority.write(tmp_path / "ca.pem")
    with Server(world.repo.folder, authority.server(tmp_path, begins, ends)) as server:
        vehicle = Vehicle(server.url, tmp_path / "v", world.repo.root_file, ca_file=ca_file)
        with pytest.raises(Unreachable, match=word):
            vehicle.look()


def test_a_server_of_an_unknown_authority(
    world: World, authority: Authority, tmp_path: Path
) -> None:
    with Server(world.repo.folder, authority.server(tmp_path)) as server:
        with pytest.raises(Unreachable, match="not trusted"):
            Vehicle(server.url, tmp_path / "v", world.repo.root_file).look()
        assert server.asked == []


def test_a_server_that_wants_to_see_our_certificate(
    world: World, authority: Authority, tmp_path: Path
) -> None:
    keys: dict[str, Any] = {"ca_file": authority.write(tmp_path / "ca.pem")}
    with Server(world.repo.folder, authority.server(tmp_path, wants_client=True)) as server:
        with pytest.raises(Unreachable, match=r"TLS failed|connection broke"):
            Vehicle(server.url, tmp_path / "v", world.repo.root_file, **keys).look()
        keys |= authority.put(tmp_path / "van")
        assert Vehicle(server.url, tmp_path / "v", world.repo.root_file, **keys).look().targets


@pytest.mark.parametrize("key", ["ca_file", "client_cert_file"])
def test_a_certificate_file_that_is_none(world: World, tmp_path: Path, key: str) -> None:
    (tmp_path / "bad.pem").write_text("nonsense")
    keys: dict[str, Any] = {key: str(tmp_path / "bad.pem")}
    with pytest.raises(Unreachable, match=r"bad\.pem"):
        Vehicle(
            "https://127.0.0.1:1",
            tmp_path / "v",
            world.repo.root_file,
            **keys,
        ).look()


def test_plain_http_where_tls_is_expected(world: World) -> None:
    url = world.server.url.replace("http:", "https:")
    with pytest.raises(Unreachable, match="TLS failed"):
        Vehicle(url, world.folder / "v", world.repo.root_file).look()


# Whatever comes.


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("lasting")) as world:
        yield world


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    lines=st.lists(
        st.sampled_from(
            [
                b"HTTP/1.1 200 OK",
                b"HTTP/1.1 100 Continue",
                b"HTTP/0.9 200",
                b"HTTP/1.1 304 Not Modified",
                b"Content-Length: 10",
                b"Content-Length: 0",
                b"Transfer-Encoding: chunked",
                b"Transfer-Encoding: gzip, chunked",
                b"Connection: close",
                b"Content-Encoding: br",
                b": nothing",
                b" folded",
                b"",
                b"5",
                b"0",
                b"ffffffffffffffffffff",
                b"{}",
            ]
        )
        | st.binary(max_size=20),
        max_size=8,
    )
)
def test_any_answer_is_an_answer_or_an_error_of_ours(lasting: World, lines: list[bytes]) -> None:
    lasting.server.misbehave("*", serving.raw(b"\r\n".join(lines)))
    try:
        with pytest.raises(UpdateError):
            lasting.another("any", deadline_s=5).look()
    finally:
        lasting.server.recover()
