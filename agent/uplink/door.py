"""The door between a sender and the network: what every transport does, and which one is made."""

import urllib.parse
from collections.abc import Callable
from typing import Final, Literal, Protocol

from agent.errors import ConfigError
from agent.settings import Uplink
from agent.spool.outbox import Parcel
from agent.uplink import wire
from agent.uplink.policy import Answer
from agent.uplink.transport import HttpTransport

_SCHEMES: Final = {
    "http": ("http", "https"),
    "object-store": ("http", "https"),
    "mqtt": ("mqtt", "mqtts"),
    "gbt32960": ("gbt32960", "gbt32960s"),
}


class Transport(Protocol):
    """The way of one uplink to its receiver. Belongs to one event loop and one sender.

    What can go wrong on the way is an answer too. Nothing is queued: a batch is under way during
    `put` and at no other time.
    """

    async def put(self, parcel: Parcel) -> Answer:
        """Send a batch.

        Raises:
            Gone: its file has vanished.
        """
        ...

    async def ask(self, parcel: Parcel) -> Answer:
        """What the receiver has under the name of this batch. Comes after `put` of it."""
        ...

    def forget(self, batch_id: str) -> None:
        """This batch will not be sent again."""
        ...

    async def reload(self) -> bool:
        """Read the credential again; gives whether it is another one."""
        ...

    async def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        ...


def check_address(settings: Uplink) -> None:
    """Whether the address fits the kind of an uplink.

    Raises:
        ConfigError: it does not, or names no host, or no port where there is no usual one.
    """
    scheme = urllib.parse.urlsplit(settings.url).scheme
    fitting = _SCHEMES[settings.kind]
    if scheme not in fitting:
        raise ConfigError(
            f'uplink "{settings.name}": kind = "{settings.kind}" wants an address that begins '
            f"with {fitting[0]}:// or {fitting[1]}://, not {wire.shown(settings.url)}"
        )
    if settings.kind == "gbt32960":
        platform_of(settings)


def platform_of(settings: Uplink) -> tuple[str, int, bool]:
    """Host and port of a platform, and whether it is spoken to over TLS.

    Raises:
        ConfigError: the address does not name both, or more than that.
    """
    parts = urllib.parse.urlsplit(settings.url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.path.strip("/") or parts.query or "@" in parts.netloc:
        raise ConfigError(
            f'uplink "{settings.name}": the address of a platform is {parts.scheme}://host:port, '
            f"not {wire.shown(settings.url)}"
        )
    return host, port, parts.scheme == "gbt32960s"


def make_transport(
    settings: Uplink,
    vehicle: str,
    user_agent: str,
    nudged: Callable[[], None] | None = None,
) -> Transport:
    """The transport that the settings name.

    `nudged` is called, in the event loop, when somebody tells this vehicle to look for new
    configuration: as often as they like, and only where the transport can be told something.

    Raises:
        ConfigError: the address does not fit the kind or cannot be used, or a package is missing.
    """
    check_address(settings)
    if settings.kind != "mqtt":
        return HttpTransport(settings, vehicle, user_agent)
    try:
        from agent.uplink.mqtt import MqttTransport  # noqa: PLC0415  (of an extra)
    except ModuleNotFoundError as e:
        if (e.name or "").partition(".")[0] not in ("aiomqtt", "paho"):
            raise
        raise ConfigError(
            f'uplink "{settings.name}": kind = "mqtt" needs a package that is not installed: '
            'pip install "vehicle-edge-agent[mqtt]"'
        ) from e
    return MqttTransport(settings, vehicle, user_agent, nudged)


def proof(settings: Uplink) -> Literal["http", "object-store"]:
    """What the policy asks of a success: the digest of what was stored, or any 2xx."""
    if settings.kind == "mqtt":
        return "http" if settings.acknowledge == "cloud" else "object-store"
    return "object-store" if settings.kind == "object-store" else "http"
