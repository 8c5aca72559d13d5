"""Where the figures of the agent can be read by a Prometheus."""

import ipaddress
from pathlib import Path
from typing import Annotated, Final, NamedTuple

from msgspec import Meta, Struct

from agent.errors import ConfigError
from agent.settings.types import described

_HIGHEST_PORT: Final = 65_535


class Metrics(Struct, kw_only=True, forbid_unknown_fields=True):
    """The agent's figures for a Prometheus: GET /metrics over HTTP. Off unless `listen` is set."""

    listen: Annotated[
        str,
        Meta(
            pattern=r"^(|[^\s/]+:[0-9]{1,5}|[^\x00]*/[^\x00]*)\Z",
            description="An address and a port, such as 127.0.0.1:9469 or [::1]:9469, or the path "
            "of a Unix socket, which has a / in it. Empty: off.",
        ),
    ] = ""
    beyond_loopback: Annotated[
        bool,
        described(
            "Also an address that others than this computer reach. They read all figures, without "
            "a password and in the clear."
        ),
    ] = False


class TcpAddress(NamedTuple):
    """Where a TCP server listens."""

    host: str
    """An IP address, without brackets."""
    port: int
    """0: one that is free."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def address_of(metrics: Metrics) -> TcpAddress | Path | None:
    """Where to listen: an address, the path of a socket, or None for nowhere.

    Raises:
        ConfigError: it is no IP address with a port, or one beyond this computer that nobody
            allowed.
    """
    listen = metrics.listen
    if not listen:
        return None
    if "/" in listen:
        return Path(listen)
    host, _, port = listen.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if host == "localhost":
        host = "127.0.0.1"  # whatever a file of names says of it
    try:
        address = ipaddress.ip_address(host)
    except ValueError as e:
        raise ConfigError(
            f'"listen": "{listen}" is no IP address with a port, such as 127.0.0.1:9469, and no '
            "path of a socket"
        ) from e
    if not port.isdecimal() or int(port) > _HIGHEST_PORT:
        raise ConfigError(f'"listen": a port is 0 to {_HIGHEST_PORT}, not {port}')
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    if not (mapped or address).is_loopback and not metrics.beyond_loopback:
        raise ConfigError(
            f'"listen": {listen} can be reached from outside this computer; use 127.0.0.1, or set '
            '"beyond_loopback = true" if everybody there may read the figures'
        )
    return TcpAddress(str(address), int(port))
