"""MQTT 5: one batch in, one `Answer` out, as over HTTP. The spool stays the only queue.

A batch is one message with QoS 1. That the broker has taken it says little: it may lose it, or have
nobody to give it to. So a batch counts as delivered when a cloud has sent a *receipt* with the
digest of what it has stored, on a topic of this vehicle (`acknowledge = "cloud"`). With
`acknowledge = "broker"` the broker's word is enough, if it says that there is a subscriber.

    no connection, or it does not move          no answer: later
    a reason code of the broker                 the status that `mqttwire` has for it
    over the Maximum Packet Size of the broker  413, and nothing is sent
    taken, and no receipt in time               504: later; sent twice is stored once
    a receipt                                   its status and digest, as those of an answer of HTTP

A receipt that comes late is kept until the batch is to be sent again, and then answers for it.

The connection stays up between batches; `online` is retained at the broker, and the last will makes
it false. The client id is made of the vehicle and the uplink, so that a connection of which only
the broker believes that it lives is ended by the next one, with its will, before that one begins.

Where somebody wants to know, the connection also listens for a *nudge*: a message that says no more
than "look at your configuration repository". Nothing in it is read, so whoever may publish it can
only make a vehicle look. It is worth nothing to the batches: they go on where it is forbidden.
"""

import asyncio
import hashlib
import json
import logging
import ssl
from collections.abc import Callable
from typing import Any, Final

from aiomqtt import Will
from paho.mqtt.client import MQTTMessage
from paho.mqtt.packettypes import PacketTypes

from agent.clock import WallNs
from agent.errors import ConfigError
from agent.settings import Uplink
from agent.spool.outbox import Parcel
from agent.uplink import mqttwire, trust, wire
from agent.uplink.broker import Connection, Refused, payload_of, properties_of, topic_of
from agent.uplink.credentials import Credentials
from agent.uplink.mqttwire import Broker, Receipt
from agent.uplink.policy import Answer, Digest, Fault
from agent.uplink.transport import Gone

_log = logging.getLogger("edge_agent.uplink")

_UNACKNOWLEDGED: Final = 16
_LARGEST: Final = 16 * 1024
"""What the broker may send: receipts."""
_SILENT: Final = 504
"""The status of a broker that does not answer."""


class MqttTransport:
    """The connection of one uplink. Belongs to one event loop and one sender.

    `nudged` is called in the event loop for each message that asks to look for configuration, as
    often as such messages come; it must not raise. None: nobody listens for them.

    Raises:
        ConfigError: the address is not that of a broker, or a key is set that is of HTTP only.
    """

    def __init__(
        self,
        settings: Uplink,
        vehicle: str,
        user_agent: str,
        nudged: Callable[[], None] | None = None,
    ) -> None:
        self._settings = settings
        self._nudged = nudged
        self._forbidden = False
        """Whether it was said that the broker forbids to listen for nudges."""
        self._vehicle = vehicle
        self._user_agent = user_agent
        self._broker = Broker.parse(settings.url)
        for key in ("proxy", "max_kbit_s"):
            if getattr(settings, key):
                raise ConfigError(
                    f'uplink "{settings.name}": "{key}" is not for kind = "mqtt"; remove it'
                )
        self._by_cloud = settings.acknowledge == "cloud"
        self._credentials = _Credentials(settings)
        self._connection: Connection | None = None
        self._digests: dict[str, bytes] = {}
        """Of the batches that were sent and may be sent again."""
        self._receipts: dict[str, Receipt] = {}
        """The last one for each of these batches."""
        self._came = asyncio.Event()

    async def put(self, parcel: Parcel) -> Answer:
        """Send a batch.

        Raises:
            Gone: its file has vanished.
        """
        try:
            if await asyncio.to_thread(self._credentials.look):
                await self.close()  # the broker knows this connection by the old ones
            data = await asyncio.to_thread(parcel.path.read_bytes)
        except trust.Unusable as e:
            return e.answer.after(0)
        except FileNotFoundError as e:
            raise Gone(parcel.batch_id) from e
        except OSError as e:
            return Answer(fault=Fault.UNREADABLE, detail=trust.reason(e))
        batch_id = parcel.batch_id
        sha256 = self._digests.get(batch_id)
        if sha256 is None:
            sha256 = await asyncio.to_thread(lambda: hashlib.sha256(data).digest())
            self._digests[batch_id] = sha256
        late = self._receipts.pop(batch_id, None)
        if late is not None:
            answer = late.answer(sha256)
            if late.status < 300 and answer.digest is Digest.MATCHED:
                return answer.after(0)
        try:
            connection = await self._open()
        except Refused as e:
            return e.answer.after(0)
        try:
            return await self._publish(connection, batch_id, data, sha256)
        except Refused as e:
            return e.answer

    async def ask(self, parcel: Parcel) -> Answer:
        """What the receipt said that the cloud has under this name. Comes after `put` of it."""
        receipt = self._receipts.pop(parcel.batch_id, None)
        if receipt is None:
            return Answer(status=504, detail="no receipt says what the cloud has")
        answer = receipt.answer(self._digests.get(parcel.batch_id, b""))
        return Answer(status=200, digest=answer.digest, detail=answer.detail)

    def forget(self, batch_id: str) -> None:
        """This batch will not be sent again."""
        self._digests.pop(batch_id, None)
        self._receipts.pop(batch_id, None)

    async def reload(self) -> bool:
        """Read the credentials again; gives whether they are others."""
        try:
            changed = await asyncio.to_thread(self._credentials.look)
        except trust.Unusable:
            return False
        if changed:
            await self.close()
        return changed

    def notice(self, wall: WallNs, *, synchronised: bool) -> str:
        """What a person should know of the credentials at this time; empty when all is well."""
        return self._credentials.notice(wall, synchronised=synchronised)

    async def close(self) -> None:
        """Say that this vehicle leaves, and close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            topic = self._broker.status(self._vehicle)
            await connection.close((topic, self._status(online=False)))

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drop()

    # -- the connection ----------------------------------------------------------------------

    async def _open(self) -> Connection:
        """The connection, a new one where there is none.

        Raises:
            Refused: with the answer that says why there is none.
        """
        if self._connection is not None and self._connection.alive:
            return self._connection
        self._drop()
        settings = self._settings
        try:
            async with asyncio.timeout(settings.connect_timeout_s + settings.stall_timeout_s):
                self._connection = connection = self._prepare()
                await connection.open()
                if self._by_cloud:
                    receipts = self._broker.receipts(self._vehicle)
                    await connection.listen(receipts, settings.stall_timeout_s)
                if self._nudged is not None:
                    await self._listen_for_nudges(connection)
                topic = self._broker.status(self._vehicle)
                connection.send(topic, self._status(online=True), retain=True)
        except (OSError, ValueError) as e:
            self._drop()
            raise Refused(_translate(e)) from e
        except Refused:
            self._drop()
            raise
        return connection

    async def _listen_for_nudges(self, connection: Connection) -> None:
        """Subscribe; a broker that forbids it forbids no batch, so that is no reason to stop.

        Raises:
            Refused: it does not answer, or is gone.
        """
        topic = self._broker.nudge(self._vehicle)
        try:
            await connection.listen(topic, self._settings.stall_timeout_s)
        except Refused as e:
            if not connection.alive or e.answer.status == _SILENT:
                raise
            if not self._forbidden:
                why = e.answer.detail
                _log.warning(
                    "uplink %s: not told of new configuration: %s", self._settings.name, why
                )
            self._forbidden = True
        else:
            self._forbidden = False

    def _prepare(self) -> Connection:
        settings, broker = self._settings, self._broker
        password = self._credentials.token or broker.password
        user = broker.user or (self._vehicle if password else None)
        return Connection(
            broker,
            f"{self._vehicle}.{settings.name}",
            received=self._received,
            connect_timeout_s=settings.connect_timeout_s,
            tls=self._credentials.tls,
            user=user,
            password=password,
            will=Will(broker.status(self._vehicle), self._status(online=False), qos=1, retain=True),
            largest=_LARGEST,
            unacknowledged=_UNACKNOWLEDGED,
        )

    def _status(self, *, online: bool) -> bytes:
        return json.dumps({"online": online, "agent": self._user_agent}).encode()

    # -- a batch -----------------------------------------------------------------------------

    async def _publish(
        self, connection: Connection, batch_id: str, data: bytes, sha256: bytes
    ) -> Answer:
        topic = self._broker.batch(self._vehicle, batch_id)
        properties = properties_of(
            PacketTypes.PUBLISH,
            ContentType=wire.CONTENT_TYPE,
            UserProperty=(mqttwire.DIGEST, wire.digest_field(sha256)),
        )
        size = connection.size_of(topic, data, properties)
        if connection.limit is not None and size > connection.limit:
            return mqttwire.too_large(size, connection.limit).after(0)
        stall_s = self._settings.stall_timeout_s
        taken = connection.send(topic, data, properties)
        if not await connection.settled(taken, stall_s, size):
            self._drop()
            return Answer(fault=Fault.STALLED)
        if not taken.done():
            return connection.ended.result()
        code = taken.result()
        refused = mqttwire.refusal(code.value, code.getName(), "the batch")
        if refused is not None:
            return refused
        if not self._by_cloud:
            return Answer(status=200)
        return await self._receipt(connection, batch_id, sha256)

    async def _receipt(self, connection: Connection, batch_id: str, sha256: bytes) -> Answer:
        stall_s = self._settings.stall_timeout_s
        try:
            async with asyncio.timeout(stall_s):
                while batch_id not in self._receipts and not connection.ended.done():
                    self._came.clear()
                    came = asyncio.ensure_future(self._came.wait())
                    ends: list[asyncio.Future[Any]] = [came, connection.ended]
                    try:
                        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        came.cancel()
        except TimeoutError:
            return Answer(
                status=504,
                detail=f"the broker has the batch, but no cloud sent a receipt in {stall_s:g} s",
            )
        receipt = self._receipts.get(batch_id)
        if receipt is None:
            return connection.ended.result()
        if receipt.status != 412:  # `ask` comes next
            del self._receipts[batch_id]
        return receipt.answer(sha256)

    def _received(self, message: MQTTMessage) -> None:
        """A message on one of our topics; what is no receipt for a batch of ours is left out."""
        topic = topic_of(message)
        if topic == self._broker.nudge(self._vehicle):
            # One that is retained may be years old, and comes with each connection.
            if self._nudged is not None and not message.retain:
                self._nudged()
            return
        if topic != self._broker.receipts(self._vehicle):
            return
        receipt = Receipt.decode(payload_of(message))
        if receipt is not None and receipt.batch_id in self._digests:
            self._receipts[receipt.batch_id] = receipt
            self._came.set()


class _Credentials(Credentials):
    """Those that are shown to a broker."""

    def __init__(self, settings: Uplink) -> None:
        super().__init__(settings)
        self._secure = settings.url.startswith("mqtts:")


def _translate(error: Exception) -> Answer:
    """The fault behind an exception, in words without the address: it may carry a credential."""
    match error:
        case ssl.SSLCertVerificationError():
            return trust.certificate(error)
        case TimeoutError():
            return Answer(fault=Fault.TIMEOUT)
        case ssl.SSLError():
            return Answer(fault=Fault.TLS, detail=trust.reason(error))
        case OSError():
            return Answer(detail=trust.reason(error))
    return Answer(detail="the address cannot be used for a connection")
