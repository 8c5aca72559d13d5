"""Where credentials come from, and when a sender holds itself back after an absence."""

import asyncio
import dataclasses
from pathlib import Path

import pytest

from agent.clock import SECOND, BootNs
from agent.errors import ConfigError
from agent.settings import Device, Uplink, load_device
from agent.spool.ages import Born
from agent.uplink.credentials import Credentials
from agent.uplink.trust import Unusable
from tests.uplink.badserver import BadServer
from tests.uplink.world import World

DEVICE = """
vehicle = "van-7"
plan = "plan.toml"
state_dir = "state"
[[uplink]]
name = "cloud"
url = "https://cloud.example"
"""


def device(folder: Path, more: str, environment: dict[str, str] | None = None) -> Device:
    (folder / "agent.toml").write_text(DEVICE + more)
    return load_device(folder / "agent.toml", environment or {})


@pytest.mark.parametrize(
    "key", ["token_file", "ca_file", "client_cert_file", "client_key_file", "proxy_auth_file"]
)
def test_a_credential_of_systemd_is_a_file_in_its_folder(tmp_path: Path, key: str) -> None:
    both = 'client_cert_file = "c"\n' if key == "client_key_file" else ""
    text = f'{both}{key} = "credential:it"\n'
    inside = device(tmp_path, text, {"CREDENTIALS_DIRECTORY": "/run/credentials/x"})
    assert getattr(inside.uplink[0], key) == "/run/credentials/x/it"
    # `edge-agent status` reads the device file too, without the folder of the service.
    outside = device(tmp_path, text)
    assert getattr(outside.uplink[0], key) == "/run/credentials/edge-agent.service/it"


@pytest.mark.parametrize("name", ["", "..", "a/b", "../token"])
def test_a_credential_cannot_be_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is not the name of a credential"):
        device(tmp_path, f'token_file = "credential:{name}"\n')


def test_a_file_is_beside_the_device_file(tmp_path: Path) -> None:
    found = device(tmp_path, 'client_cert_file = "van.crt"\n').uplink[0].client_cert_file
    assert found == str(tmp_path / "van.crt")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('client_key_file = "k"\n', '"client_key_file" is of no use without'),
        ('[link]\nmetered = "file"\n', '"file" and metered = "file" belong together'),
        ('[link]\ncommand = ["x"]\n', '"command" and metered = "command" belong together'),
        ('proxy = "http://user:secret@proxy:3128"\n', '"proxy"'),
        ('proxy = "socks5://proxy"\n', '"proxy"'),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, more: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        device(tmp_path, more)
    assert words in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("content", ["", "no colon", "a:b\nc:d", "a:\x00"])
def test_a_proxy_credential_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "auth").write_text(content)
    settings = Uplink(name="c", url="http://x", proxy_auth_file=str(tmp_path / "auth"))
    with pytest.raises(Unusable, match="user:password"):
        Credentials(settings).look()


@pytest.mark.parametrize(
    ("born", "waits"),
    [
        (None, False),
        (Born("boot-1", BootNs(990 * SECOND), None), False),
        (Born("boot-1", BootNs(-3000 * SECOND), None), True),
        (Born("boot-0", BootNs(990 * SECOND), None), True),
    ],
)
def test_after_an_absence_the_first_batch_waits_a_little(
    tmp_path: Path, born: Born | None, *, waits: bool
) -> None:
    async def main() -> None:
        async with BadServer().running() as server:
            world = World(tmp_path, server)
            parcel = dataclasses.replace(world.outbox.put("old", b"old"), born=born)
            world.outbox.replace(parcel)
            sender = world.sender()
            await world.run(sender)
            assert 0 <= sum(world.time.slept) <= 60
            assert bool(world.time.slept) == waits
            assert sender.state["answers"] == {"201": 1}
            world.check()

    asyncio.run(main())
