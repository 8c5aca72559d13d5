"""Text of the protocol over MQTT 5: addresses, topics, receipts, and what a reason code means.

Pure, and used by both ends; docs/upload-protocol.md is the description. Bad text is no error but no
value.
"""

import dataclasses
import json
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Final, Self

from agent.errors import ConfigError
from agent.uplink import wire
from agent.uplink.policy import Answer

DIGEST: Final = "content-digest"
"""The user property that carries the digest of a batch, written as the field of HTTP."""

RECEIPT_BYTES: Final = 4096
NO_SUBSCRIBER: Final = 0x10

_PREFIX: Final = re.compile(r"[^+#$\x00/][^+#\x00]*")
_BATCH_ID_CHARACTERS: Final = 256
_DETAIL_CHARACTERS: Final = 500

# The reason codes of MQTT 5 (OASIS, 2.4) as the statuses of HTTP for which the policy has rows.
_STATUS: Final[Mapping[int, int]] = {
    NO_SUBSCRIBER: 503,
    0x84: 404,  # unsupported protocol version
    0x85: 404,  # client identifier not valid
    0x86: 401,  # bad user name or password
    0x87: 403,  # not authorised
    0x88: 503,  # server unavailable
    0x89: 503,  # server busy
    0x8A: 403,  # banned
    0x8B: 503,  # server shutting down
    0x8C: 401,  # bad authentication method
    0x8E: 409,  # session taken over
    0x8F: 404,  # topic filter invalid
    0x90: 404,  # topic name invalid
    0x95: 413,  # packet too large
    0x96: 429,  # message rate too high
    0x97: 429,  # quota exceeded
    0x98: 503,  # administrative action
    0x99: 400,  # payload format invalid
    0x9A: 404,  # retain not supported
    0x9B: 404,  # QoS not supported
    0x9C: 404,  # use another server
    0x9D: 404,  # server moved
    0x9E: 404,  # shared subscriptions not supported
    0x9F: 429,  # connection rate exceeded
    0xA0: 503,  # maximum connect time
    0xA2: 404,  # wildcard subscriptions not supported
}


@dataclasses.dataclass(frozen=True, slots=True)
class Broker:
    """Where a broker is, and the topic below which batches go."""

    host: str
    port: int
    tls: bool
    prefix: str
    user: str | None = None
    password: str | None = dataclasses.field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read `mqtt://[user[:password]@]host[:port][/prefix]`, or the same with `mqtts`.

        Raises:
            ConfigError: it is not like that.
        """
        parts = urllib.parse.urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        prefix = urllib.parse.unquote(parts.path).strip("/")
        tls = parts.scheme == "mqtts"
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or port == -1:
            raise ConfigError(f"{wire.shown(url)}: write mqtt://HOST:PORT or mqtts://HOST:PORT")
        if set("?#") & set(url) or (prefix and not _PREFIX.fullmatch(prefix)):
            raise ConfigError(
                f"{wire.shown(url)}: what follows the port is the beginning of topics, such as "
                "/fleet; it has none of + # ? and no $ in front"
            )
        user, password = (
            None if part is None else urllib.parse.unquote(part)
            for part in (parts.username, parts.password)
        )
        default = 8883 if tls else 1883
        return cls(parts.hostname, port or default, tls, prefix, user or None, password)

    def _below(self, *levels: str) -> str:
        return "/".join([*([self.prefix] if self.prefix else []), "v1/vehicles", *levels])

    def batch(self, vehicle: str, batch_id: str) -> str:
        return self._below(vehicle, "batches", batch_id)

    def receipts(self, vehicle: str) -> str:
        return self._below(vehicle, "receipts")

    def status(self, vehicle: str) -> str:
        return self._below(vehicle, "status")

    def nudge(self, vehicle: str) -> str:
        """Where a vehicle is told to look at its configuration repository."""
        return self._below(vehicle, "ota")

    def all_batches(self, group: str) -> str:
        """The filter by which the members of a group share the batches of all vehicles."""
        return f"$share/{group}/{self._below('+', 'batches', '+')}"

    def parse_batch(self, topic: str) -> tuple[str, str] | None:
        """The vehicle and the batch id of a topic, neither of them checked; None of any other."""
        head = self._below("")
        vehicle, slash, rest = topic.removeprefix(head).partition("/batches/")
        if not topic.startswith(head) or not slash or "/" in vehicle or "/" in rest:
            return None
        return vehicle, rest


@dataclasses.dataclass(frozen=True, slots=True)
class Receipt:
    """What a cloud says of a batch; the statuses are those of HTTP."""

    batch_id: str
    status: int
    digest: str = ""
    """The digest field of what is stored under this name, empty where nothing is."""
    detail: str = ""

    def encode(self) -> bytes:
        short = dataclasses.replace(self, detail=self.detail[:_DETAIL_CHARACTERS])
        said = {k: v for k, v in dataclasses.asdict(short).items() if v != ""}
        return json.dumps(said, ensure_ascii=False).encode()

    @classmethod
    def decode(cls, payload: bytes) -> Self | None:
        """The receipt in a message; None where there is none."""
        if len(payload) > RECEIPT_BYTES:
            return None
        try:
            said = json.loads(payload)
        except (ValueError, RecursionError):
            return None
        if not isinstance(said, dict):
            return None
        batch_id, status = said.get("batch_id"), said.get("status")
        digest, detail = said.get("digest", ""), said.get("detail", "")
        if not (isinstance(batch_id, str) and isinstance(digest, str) and isinstance(detail, str)):
            return None
        if type(status) is not int or not 200 <= status < 600:
            return None
        if not 0 < len(batch_id) <= _BATCH_ID_CHARACTERS:
            return None
        return cls(batch_id, status, digest, detail)

    def answer(self, sha256: bytes) -> Answer:
        """What it means for the batch with this sha-256."""
        return Answer(
            status=self.status,
            digest=wire.compare([self.digest], sha256),
            detail=wire.detail(self.detail.encode("utf-8", "replace"), ""),
        )


def status_of(code: int) -> int:
    """The status that stands for a reason code; the codes below 0x80 but one are successes."""
    return _STATUS.get(code, 500 if code >= 0x80 else 200)


def refusal(code: int, name: str, what: str) -> Answer | None:
    """The answer in a reason code of the broker; None where it is a success.

    `what` was asked of the broker: "the connection", "the batch", ...
    """
    status = status_of(code)
    if status == 200:
        return None
    if code == NO_SUBSCRIBER:
        return Answer(status=status, detail="the broker has it, but no cloud is subscribed to it")
    return Answer(status=status, detail=f"the broker refuses {what}: {name.lower()}, 0x{code:02x}")


def too_large(size: int, limit: int) -> Answer:
    """For a packet that the broker has said it would not take."""
    return Answer(
        status=413,
        detail=f"the broker takes packets of {limit:,} bytes, and this batch makes one of {size:,}",
    )


def digest_of(properties: Iterable[tuple[str, str]]) -> str:
    """The digest field among the user properties of a message; empty where there is none."""
    return next((value for key, value in properties if key.lower() == DIGEST), "")


def packet_size(topic: str, properties: int, payload: int) -> int:
    """Bytes of a PUBLISH with QoS 1 (MQTT 5, 3.3); `properties` with their length in front."""
    rest = 2 + len(topic.encode()) + 2 + properties + payload
    return 1 + (1 + (rest > 127) + (rest > 16_383) + (rest > 2_097_151)) + rest
