"""One connection to a broker that speaks MQTT 5: aiomqtt, and what it keeps to itself.

aiomqtt joins paho-mqtt to the event loop. What is needed here and does not come out of it is taken
where it goes in, in the callbacks that it has for paho: the reason code of each PUBACK, what the
CONNACK says of packet sizes, why a connection ended, and messages that are acknowledged by hand.

A connection is used once. When to open another one is decided by whoever uses it, and nothing that
this one had not finished is kept for the next: clean start, no session, no queue.

Opening blocks (the name, TCP, TLS), so it has a thread of its own: a caller that gives up, or a
program that ends, does not wait for it.
"""

import asyncio
import contextlib
import logging
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import aiomqtt
from paho.mqtt.client import (
    MQTT_ERR_SUCCESS,
    Client,
    ConnectFlags,
    DisconnectFlags,
    MQTTMessage,
)
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.uplink.mqttwire import Broker, packet_size, refusal
from agent.uplink.policy import Answer
from agent.uplink.stall import Sockets

KEEPALIVE_S: Final = 60
_LOOKS: Final = 4
"""How often to look while one stall timeout passes."""
_FAREWELL_S: Final = 0.5

# What paho says is said again by the caller, once and in words for people.
_silent = logging.getLogger("edge_agent.paho")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


class Refused(Exception):  # noqa: N818  (it carries an answer)
    """The broker said no, or is gone."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.detail)
        self.answer = answer


class Connection(aiomqtt.Client):
    """From `open` to `close`, in one event loop.

    Args:
        broker: where it is.
        client_id: a second connection of this name ends the first.
        tls: for mqtts.
        password: instead of that of the address.
        will: what the broker says when this connection is lost.
        received: takes each message, in the event loop; must not raise.
        largest: bytes of a packet that the broker may send.
        unacknowledged: how many messages the broker may send ahead of their acknowledgement.
        by_hand: whether `acknowledge` is called for each message.
    """

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        *,
        received: Callable[[MQTTMessage], None],
        connect_timeout_s: float,
        tls: ssl.SSLContext | None = None,
        user: str | None = None,
        password: str | None = None,
        will: aiomqtt.Will | None = None,
        largest: int,
        unacknowledged: int,
        by_hand: bool = False,
    ) -> None:
        properties = properties_of(
            PacketTypes.CONNECT,
            SessionExpiryInterval=0,
            ReceiveMaximum=unacknowledged,
            MaximumPacketSize=largest,
        )
        if tls is not None:
            tls.sslsocket_class = _ClosedWhenRefused
        super().__init__(
            broker.host,
            broker.port,
            username=user,
            password=password,
            identifier=client_id,
            protocol=aiomqtt.ProtocolVersion.V5,
            logger=_silent,
            will=will,
            keepalive=KEEPALIVE_S,
            clean_start=True,
            properties=properties,
            tls_context=tls,
        )
        self._client.connect_timeout = connect_timeout_s
        self._client.manual_ack_set(by_hand)
        self._received = received
        self._abandoned = False
        self._published: dict[int, asyncio.Future[ReasonCode]] = {}
        self._greeted: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[Answer] = self._loop.create_future()
        """Why there is no connection any more."""
        self.limit: int | None = None
        """Bytes of a packet that the broker takes; None: it names no limit."""
        self._disconnected.add_done_callback(self._broken)

    @property
    def alive(self) -> bool:
        return self._greeted.done() and not self.ended.done()

    async def open(self) -> None:
        """Connect, and wait for the broker's greeting.

        Raises:
            OSError: it cannot be reached, or its TLS is not trusted.
            ValueError: the name of the host cannot be one.
            Refused: it does not want this client.
        """
        up: asyncio.Future[None] = self._loop.create_future()
        threading.Thread(target=self._connect, args=(up,), name="mqtt-connect", daemon=True).start()
        try:
            await up
            ends: list[asyncio.Future[Any]] = [self._greeted, self.ended]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            self.drop()
            raise
        if self.ended.done():
            self.drop()
            raise Refused(self.ended.result())

    def _connect(self, up: asyncio.Future[None]) -> None:
        error: Exception | None = None
        try:
            self._client_connect()
        except Exception as e:  # noqa: BLE001  (raised again where it is waited for)
            error = e
        try:
            self._loop.call_soon_threadsafe(self._connected_or_not, up, error)
        except RuntimeError:  # the loop has ended
            if (sock := self._client.socket()) is not None:
                sock.close()

    def _connected_or_not(self, up: asyncio.Future[None], error: Exception | None) -> None:
        if self._abandoned:
            self._release()
        if up.done():
            return
        if error is None:
            up.set_result(None)
        else:
            up.set_exception(error)

    async def close(self, *farewell: tuple[str, bytes]) -> None:
        """End well, with last retained messages, as far as that is possible in a moment."""
        if self.alive:
            for topic, payload in farewell:
                self._client.publish(topic, payload, retain=True)
            self._client.disconnect()
            await asyncio.wait([self.ended], timeout=_FAREWELL_S)
        self.drop()

    def drop(self) -> None:
        """End it at once; the broker publishes the last will."""
        self._abandoned = True
        self._end(Answer(detail="the connection was given up"))
        self._release()

    def _release(self) -> None:
        if self._misc_task is not None:
            self._misc_task.cancel()
        sock = self._client.socket()
        if sock is not None and (number := sock.fileno()) >= 0:
            self._loop.remove_reader(number)
            self._loop.remove_writer(number)
            sock.close()

    def _end(self, why: Answer) -> None:
        if not self.ended.done():
            self.ended.set_result(why)

    # -- sending -----------------------------------------------------------------------------

    def size_of(self, topic: str, payload: bytes, properties: Properties) -> int:
        """Bytes of a PUBLISH with QoS 1."""
        packed: bytes = properties.pack()  # type: ignore[no-untyped-call]  # paho has no type here
        return packet_size(topic, len(packed), len(payload))

    def send(
        self,
        topic: str,
        payload: bytes,
        properties: Properties | None = None,
        *,
        retain: bool = False,
    ) -> asyncio.Future[ReasonCode]:
        """Publish with QoS 1; gives what will be the reason code of its PUBACK.

        Raises:
            Refused: there is no connection any more.
        """
        info = self._client.publish(topic, payload, qos=1, retain=retain, properties=properties)
        if info.rc != MQTT_ERR_SUCCESS:
            raise Refused(self._why_ended())
        published = self._published[info.mid] = self._loop.create_future()
        return published

    def acknowledge(self, message: MQTTMessage) -> None:
        """Tell the broker that a message is in good hands; in the order in which they came."""
        self._client.ack(message.mid, message.qos)

    async def listen(self, topic: str, stall_s: float) -> None:
        """Subscribe, with QoS 1.

        Raises:
            Refused: the broker does not let us, or is gone.
        """
        asked = asyncio.ensure_future(
            self.subscribe(topic, options=SubscribeOptions(qos=1), timeout=2 * stall_s)
        )
        try:
            if not await self.settled(asked, stall_s):
                raise Refused(Answer(status=504, detail="the broker did not answer"))
            if not asked.done():
                raise Refused(self._why_ended())
            codes: Sequence[Any] = asked.result()
        except aiomqtt.MqttError as e:
            raise Refused(self._why_ended()) from e
        finally:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
        for code in codes:
            if isinstance(code, ReasonCode):
                refused = refusal(code.value, code.getName(), f"the subscription to {topic}")
                if refused is not None:
                    raise Refused(refused)

    async def settled(self, reply: asyncio.Future[Any], stall_s: float, size: int = 0) -> bool:
        """Wait for a reply to what was sent, `size` bytes, or for the end of the connection.

        Gives False where nothing has moved for `stall_s`: the peer's kernel has acknowledged no
        byte of it, or all of it and no reply came.
        """
        sockets = _One(self._client.socket())
        acknowledged = sockets.acknowledged()
        all_of_it = acknowledged + size
        quiet = 0
        while quiet < _LOOKS:
            done, _ = await asyncio.wait(
                [reply, self.ended],
                timeout=stall_s / _LOOKS,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if done:
                return True
            before, acknowledged = acknowledged, sockets.acknowledged()
            quiet = 0 if before < acknowledged and before < all_of_it else quiet + 1
        return False

    def _why_ended(self) -> Answer:
        if self.ended.done():
            return self.ended.result()
        return Answer(detail="the connection to the broker is gone")

    # -- what paho tells, in the event loop --------------------------------------------------

    def _on_connect(
        self,
        client: Client,
        userdata: Any,
        flags: ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        if refused := refusal(reason_code.value, reason_code.getName(), "the connection"):
            self._end(refused)
            return
        self.limit = getattr(properties, "MaximumPacketSize", None)
        if not self._greeted.done():
            self._greeted.set_result(None)

    def _on_disconnect(
        self,
        client: Client,
        userdata: Any,
        flags: DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        why = None
        if flags.is_disconnect_packet_from_server:
            why = refusal(reason_code.value, reason_code.getName(), "to go on")
        self._end(why or Answer(detail="the broker closed the connection"))

    def _on_publish(
        self,
        client: Client,
        userdata: Any,
        mid: int,
        reason_code: ReasonCode,
        properties: Properties,
    ) -> None:
        published = self._published.pop(mid, None)
        if published is not None and not published.done():
            published.set_result(reason_code)

    def _on_message(self, client: Client, userdata: Any, message: MQTTMessage) -> None:
        self._received(message)

    def _broken(self, disconnected: asyncio.Future[None]) -> None:
        """Something in aiomqtt or paho gave up: bytes that are not MQTT, a reset."""
        if disconnected.cancelled():
            return
        error = disconnected.exception()
        reason = getattr(error, "strerror", None) or "what it said is not MQTT 5"
        self._end(Answer(detail=f"the connection to the broker broke: {reason}"))


class _ClosedWhenRefused(ssl.SSLSocket):
    """paho forgets the socket of a handshake that fails."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


class _One(Sockets):
    """A socket that was made by another."""

    def __init__(self, sock: Any) -> None:
        super().__init__()
        if sock is not None:
            self._made.add(sock)


def properties_of(packet: int, **values: Any) -> Properties:
    """Properties of a kind of packet, by the names that paho has for them."""
    properties = Properties(packet)  # type: ignore[no-untyped-call]  # paho has no type here
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


def topic_of(message: MQTTMessage) -> str:
    """The topic of a message; empty where it is no text."""
    with contextlib.suppress(UnicodeDecodeError):
        return str(message.topic)
    return ""


def payload_of(message: MQTTMessage) -> bytes:
    return bytes(message.payload)  # of bytes no copy is made


def user_properties(message: MQTTMessage) -> list[tuple[str, str]]:
    """What the sender has added to a message."""
    found: list[tuple[str, str]] = getattr(message.properties, "UserProperty", [])
    return found
