"""A cloud on a bench: its door over HTTP, and what it does wrong when it is told to."""

import contextlib
import http.client
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.bench.cloud.faults import CloudFaults
from agent.bench.cloud.store import Store
from agent.bench.host import BenchError
from agent.errors import ConfigError
from tests.bench.cloudbench import Answer, Client, Drive, cloud, files

PRESS = "/bench/v1/faults/link-down"
RIGHT = {"X-Edge-Agent": "bench"}


class Door:
    """A bench with one fault."""

    def __init__(self) -> None:
        self.active = False
        self.parameters: Mapping[str, Any] = {}

    def state(self) -> dict[str, Any]:
        return {"vehicle": "car-1", "faults": [{"name": "link-down", "active": self.active}]}

    async def press(self, name: str, on: bool, parameters: Mapping[str, Any]) -> dict[str, Any]:
        if name == "broken":
            raise BenchError("the agent ended by itself")
        if name != "link-down":
            raise ConfigError(f"there is no fault {name}; there are: link-down")
        self.active, self.parameters = on, parameters
        return {"name": name, "active": on}


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def faults() -> CloudFaults:
    return CloudFaults()


@pytest.fixture
def client(tmp_path: Path, door: Door, faults: CloudFaults) -> Iterator[Client]:
    with cloud(Store(tmp_path / "data"), bench=door, faults=faults) as found:
        yield found


def press(client: Client, body: object, path: str = PRESS, **headers: str) -> Answer:
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.ask("POST", path, json.dumps(body).encode(), {**RIGHT, **more})


class TestDoor:
    def test_the_state_is_that_of_the_bench(self, client: Client, door: Door) -> None:
        door.active = True

        assert client.get("/bench/v1/state") == door.state()

    def test_a_fault_is_pressed_and_taken_back(self, client: Client, door: Door) -> None:
        answer = press(client, {"on": True, "parameters": {"kbit_s": 8}})
        assert (answer.status, answer.json) == (200, {"name": "link-down", "active": True})
        assert (door.active, door.parameters) == (True, {"kbit_s": 8})

        assert press(client, {"on": False}).status == 200
        assert (door.active, door.parameters) == (False, {})

    def test_another_site_cannot_press(self, client: Client, door: Door) -> None:
        body = b'{"on": true}'
        for headers in ({}, {"X-Edge-Agent": "page"}, {"Content-Type": "text/plain"}):
            answer = client.ask("POST", PRESS, body, headers)
            assert (answer.status, answer.code) == (403, "header")
        assert not door.active

    @pytest.mark.parametrize(
        "host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil", "10.0.0.1:8080", ""]
    )
    def test_a_name_that_was_made_to_point_here_cannot_press(
        self, client: Client, door: Door, host: str
    ) -> None:
        answer = press(client, {"on": True}, Host=host)

        assert (answer.status, answer.code) == (403, "host")
        assert not door.active

    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080"])
    def test_names_of_this_computer_can(self, client: Client, door: Door, host: str) -> None:
        assert press(client, {"on": True}, Host=host).status == 200
        assert door.active

    @pytest.mark.parametrize(
        "body",
        [None, [], {}, {"on": 1}, {"on": "true"}, {"on": True, "parameters": []}, "on", 1],
    )
    def test_what_is_no_press_is_refused(self, client: Client, door: Door, body: object) -> None:
        answer = press(client, body)

        assert (answer.status, answer.code) == (400, "body")
        assert not door.active

    def test_neither_is_what_is_no_json_or_too_long(self, client: Client) -> None:
        assert client.ask("POST", PRESS, b"{", RIGHT).status == 400
        assert client.ask("POST", PRESS, b"\xff\xfe", RIGHT).status == 400
        assert client.ask("POST", PRESS, b" " * 100_000, RIGHT).status == 413

    def test_what_the_bench_cannot_do_is_a_sentence(self, client: Client) -> None:
        unknown = press(client, {"on": True}, "/bench/v1/faults/nonsense")
        assert (unknown.status, unknown.code) == (400, "fault")
        assert "there are: link-down" in unknown.json["error"]["message"]

        broken = press(client, {"on": True}, "/bench/v1/faults/broken")
        assert (broken.status, broken.code) == (409, "fault")

    def test_a_cloud_that_is_on_no_bench_has_no_such_door(self, tmp_path: Path) -> None:
        with cloud(Store(tmp_path / "other")) as client:
            assert client.ask("GET", "/bench/v1/state").status == 404
            assert press(client, {"on": True}).status == 404


class TestCloudFaults:
    @pytest.mark.parametrize("code", [503, 401, 422, 204, 302])
    def test_it_answers_any_status_and_takes_nothing(
        self, client: Client, faults: CloudFaults, tmp_path: Path, code: int
    ) -> None:
        faults.status = code
        batch = Drive().batch()

        assert client.put(batch).status == code
        assert files(tmp_path / "data") == []
        assert client.get("/v1/vehicles") == {"vehicles": []}

        faults.status = 0
        assert client.put(batch).status == 201
        assert faults.injured == 1

    def test_a_lost_acknowledgement_is_a_broken_connection_and_a_batch_that_is_here(
        self, client: Client, faults: CloudFaults
    ) -> None:
        faults.lost_ack = True
        batch = Drive().batch()

        with pytest.raises((http.client.HTTPException, ConnectionError)):
            client.put(batch)

        assert client.ask("HEAD", batch.path).status == 200
        with contextlib.suppress(http.client.HTTPException, ConnectionError):
            assert client.put(batch).status == 412  # it asks again, and is told
        faults.lost_ack = False
        assert client.put(batch).status == 412
