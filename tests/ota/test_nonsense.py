"""Whatever bytes come as metadata, or were stored: an answer, or an error of ours."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.exceptions import FormatError
from securesystemslib.formats import encode_canonical

from agent.ota.client import Client, Looked, LookError, Trusted
from agent.ota.trusted import Floor
from tests.ota import server as serving
from tests.ota.repo import NOW
from tests.ota.vehicle import World, wall

FILES = {
    "root": "2.root.json",
    "timestamp": "timestamp.json",
    "snapshot": "2.snapshot.json",
    "targets": "2.targets.json",
}
MANY = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    2**31,
    2**53,
    2**70,
    10**400,
    "",
    "x",
    "\x00",
    "\ud800",
    "2041-02-30T00:00:00Z",
    "99999-01-01T00:00:00Z",
    "targets",
    [],
    {},
    ["x"],
    {"x": "y"},
    {"": {}},
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A vehicle that knows the first state, and a second state with a new root."""
    with World(tmp_path_factory.mktemp("world")) as world:
        world.vehicle.look()
        world.repo.rotate("timestamp", "targets")
        world.repo.add_bundle("ev", 2, b"two")
        world.repo.publish()
        yield world


def heard(looked: Looked) -> tuple[Any, ...]:
    return looked.floors, looked.targets, looked.expires


@pytest.fixture(scope="module")
def sayings(world: World) -> list[Any]:
    """What may be heard of the repository: its first state, and its second."""
    world.server.recover()
    second = judged(world, world.vehicle.trusted, world.vehicle.floors)
    assert second is not None
    timestamp = world.vehicle.trusted
    assert timestamp is not None
    world.server.misbehave("*", serving.content(timestamp.files["timestamp.json"]))
    first = judged(world, timestamp, world.vehicle.floors)
    assert first is not None
    return [heard(first), heard(second)]


def judged(world: World, trusted: Trusted | None, floors: dict[str, Floor]) -> Looked | None:
    """A look that ends well or with an error of ours; None for an error."""
    client: Client = world.vehicle.client
    try:
        looked = client.look(trusted, floors, wall(NOW))
    except LookError:
        return None
    versions = [floor.version for floor in looked.floors.values()]
    assert all(type(version) is int and 0 < version <= 2**53 for version in versions)
    return looked


@st.composite
def mutilated(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes that differ from these in a few places."""
    damaged = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(damaged) - 1)))
        kind = draw(st.sampled_from(["put", "cut", "insert", "end"]))
        if kind == "put" and damaged:
            damaged[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del damaged[at : at + draw(st.integers(1, 30))]
        elif kind == "insert":
            damaged[at:at] = draw(st.sampled_from([b"{", b"[", b'"', b"\\", b"9" * 50, b"\xff"]))
        else:
            del damaged[at:]
    return bytes(damaged)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON value, with each key or index of it."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


@st.composite
def distorted(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value with one or two parts of it replaced, taken away or doubled."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 2))):
        found = list(places(value))
        container, key = draw(st.sampled_from(found))
        kind = draw(st.sampled_from(["replace", "remove", "double"]))
        if kind == "replace":
            container[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
        elif kind == "remove" or isinstance(container, dict):
            del container[key]
        else:
            container.append(copy.deepcopy(container[key]))
        if not any(True for _ in places(value)):
            break
    return value


@pytest.mark.parametrize("role", FILES)
@MANY
@given(data=st.data())
def test_damaged_bytes_say_what_was_signed_or_nothing(
    world: World, sayings: list[Any], role: str, data: st.DataObject
) -> None:
    good = world.repo.metadata(FILES[role]).read_bytes()
    bad = data.draw(mutilated(good))
    world.server.recover()
    world.server.misbehave(f"*/{FILES[role]}", serving.content(bad))
    looked = judged(world, world.vehicle.trusted, world.vehicle.floors)
    if looked is not None:
        assert heard(looked) in sayings


@pytest.mark.parametrize("role", FILES)
@MANY
@given(data=st.data())
def test_a_distorted_form_says_what_was_signed_or_nothing(
    world: World, sayings: list[Any], role: str, data: st.DataObject
) -> None:
    """Signatures are over what python-tuf reads in the bytes, and not over the bytes.

    It reads a `spec_version` of null as its own, for instance. So other bytes may be taken, but
    they never say anything else.
    """
    good = json.loads(world.repo.metadata(FILES[role]).read_bytes())
    bad = data.draw(distorted(good))
    world.server.recover()
    world.server.misbehave(f"*/{FILES[role]}", serving.content(json.dumps(bad).encode()))
    looked = judged(world, world.vehicle.trusted, world.vehicle.floors)
    if looked is not None:
        assert heard(looked) in sayings


@pytest.mark.parametrize("role", FILES)
@MANY
@given(data=st.data())
def test_nonsense_that_is_signed_by_the_right_keys(
    world: World, role: str, data: st.DataObject
) -> None:
    good = json.loads(world.repo.metadata(FILES[role]).read_bytes())["signed"]
    bad = data.draw(distorted(good))
    try:
        payload = (encode_canonical(bad) or "").encode()
    except (FormatError, ValueError):
        payload = b""
    keys = {key.public_key.keyid: key for key in world.repo.keys[role]}
    signatures = [key.sign(payload).to_dict() for key in keys.values()]
    body = json.dumps({"signed": bad, "signatures": signatures}).encode()
    world.server.recover()
    world.server.misbehave(f"*/{FILES[role]}", serving.content(body))
    looked = judged(world, world.vehicle.trusted, world.vehicle.floors)
    for target in looked.targets.values() if looked else ():
        assert type(target.length) is int
        assert isinstance(target.custom, dict)
    if looked:
        # What it has taken, it can live with from then on.
        judged(world, looked.trusted, looked.floors)


@MANY
@given(data=st.data())
def test_stored_files_of_any_kind_do_no_harm(world: World, data: st.DataObject) -> None:
    world.server.recover()
    whole = judged(world, world.vehicle.trusted, world.vehicle.floors)
    assert whole is not None
    files = dict(whole.trusted.files)
    for name in data.draw(st.sets(st.sampled_from(sorted(files)), min_size=1)):
        files[name] = data.draw(mutilated(files[name]))
    again = judged(world, Trusted(files, whole.trusted.etag), whole.floors)
    assert again is not None
    assert again.floors == whole.floors
    assert again.targets == whole.targets


@pytest.mark.parametrize("role", FILES)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b'{"a":' * 10_000,
        b'{"signed":{"_type":"timestamp"},"signatures":[]}',
        b"\xef\xbb\xbf{}",
        b"9" * 10_000,
        b"NaN",
    ],
    ids=range(8),
)
def test_json_that_parsers_stumble_on(world: World, body: bytes, role: str) -> None:
    world.server.recover()
    world.server.misbehave(f"*/{FILES[role]}", serving.content(body))
    assert judged(world, world.vehicle.trusted, world.vehicle.floors) is None
