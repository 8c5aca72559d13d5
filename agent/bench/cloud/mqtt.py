"""Batches in, from a broker: the same checks, the same files and the same statuses as over HTTP.

Any number of clouds of one *group* subscribe to the batches of all vehicles, and the broker gives
each batch to one of them (a shared subscription, MQTT 5, 4.8.2). When a batch is durable, or has
been refused, a receipt goes to its vehicle; only the receipt lets the vehicle delete its copy. So
nothing here has to be exact: a message that this cloud did not get to, because it or the broker
died, is sent again by the vehicle, and what is here already gets its receipt at once.

The broker is asked for a bounded number of messages ahead of their acknowledgement, and a message
is acknowledged, in its turn, when its batch has been dealt with. What does not fit waits at the
broker, which gives it to another cloud of the group or lets it go.

Receipts
    201  stored          200  was already here with the same digest
    412  is here with other content; the digest is that of what is here
    409  the bytes that arrived are not those that the vehicle digested: to be sent again
    400  no digest, or no batch id     413, 415, 422  as over HTTP     500, 507  the disk

A topic that does not name a vehicle gets no receipt: there is nobody who could read it.
"""

import asyncio
import collections
import contextlib
import logging
import random as _random
import re
import ssl
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final

from paho.mqtt.client import MQTTMessage

from agent.batch.format import MEDIA_TYPE
from agent.bench.cloud import digest as digests
from agent.bench.cloud.server import MAX_BATCH
from agent.bench.cloud.store import (
    ConflictError,
    DigestMismatchError,
    Outcome,
    Store,
    is_batch_id,
    is_vehicle,
)
from agent.bench.cloud.uploads import BATCH_TYPES, why_not_kept
from agent.errors import BatchError, ConfigError
from agent.uplink import trust, wire
from agent.uplink.broker import Connection, Refused, payload_of, topic_of, user_properties
from agent.uplink.mqttwire import Broker, Receipt, digest_of
from agent.uplink.policy import Answer

_log = logging.getLogger(__name__)

_UNACKNOWLEDGED: Final = 32
_OVERHEAD_BYTES: Final = 4096
"""What a message has beside its batch."""
_CONNECT_S: Final = 10.0
_STALL_S: Final = 30.0
_RETRY_MAX_S: Final = 30.0
_ECHO_CHARACTERS: Final = 200
_GROUP: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class BrokerIngest:
    """Takes batches from a broker into a store.

    `told` gets a sentence when the connection comes up and when it goes.

    Raises:
        ConfigError: the address is not that of a broker, or the group cannot be one.
    """

    def __init__(
        self,
        store: Store,
        url: str,
        group: str = "cloud",
        *,
        password_file: str = "",
        ca_file: str = "",
        max_batch: int = MAX_BATCH,
        told: Callable[[str], None] = lambda _: None,
        random: Callable[[], float] = _random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if not _GROUP.fullmatch(group):
            raise ConfigError(f"--mqtt-group {group}: write letters, digits, . _ and - only")
        self._store = store
        self._broker = Broker.parse(url)
        self._shown = wire.shown(url)
        self._group = group
        self._password_file = password_file
        self._ca_file = ca_file
        self._max_batch = max_batch
        self._told = told
        self._random = random
        self._sleep = sleep
        self._on_received: Callable[[Outcome], None] = lambda _: None
        self._connection: Connection | None = None
        self._works: collections.deque[tuple[MQTTMessage, asyncio.Task[None]]]
        self._works = collections.deque()
        self._said = ""
        self.counts: collections.Counter[str] = collections.Counter()
        """Receipts by status, and `foreign` messages, which get none."""

    async def run(self, on_received: Callable[[Outcome], None], stop: asyncio.Event) -> None:
        """Take batches until `stop`, whatever the broker does.

        `on_received` is called in the event loop for each batch that became durable.
        """
        self._on_received = on_received
        stopped = asyncio.ensure_future(stop.wait())
        step_s = 1.0
        try:
            while not stop.is_set():
                why = await self._connect()
                if self._connection is not None:
                    step_s = 1.0
                    self._tell(f"subscribed to {self._shown}, group {self._group}")
                    ends: list[asyncio.Future[Any]] = [stopped, self._connection.ended]
                    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                    if stop.is_set():
                        return
                    why = self._connection.ended.result()
                    self._connection.drop()
                self._tell(f"waiting for {self._shown}: {why.detail or why.fault.value}")
                pause = asyncio.ensure_future(self._sleep(step_s * (0.5 + 0.5 * self._random())))
                await asyncio.wait([stopped, pause], return_when=asyncio.FIRST_COMPLETED)
                pause.cancel()
                step_s = min(2 * step_s, _RETRY_MAX_S)
        finally:
            stopped.cancel()
            await self._finish()

    async def _finish(self) -> None:
        """Begin nothing any more, bring to an end what has begun, and leave."""
        connection = self._connection
        works = [work for _, work in self._works]
        self._connection = None
        await asyncio.gather(*works, return_exceptions=True)
        if connection is not None:
            await connection.close()

    def _tell(self, sentence: str) -> None:
        if sentence != self._said:
            self._said = sentence
            self._told(sentence)

    async def _connect(self) -> Answer:
        """Connect and subscribe; else say why not."""
        self._connection = None
        connection: Connection | None = None
        try:
            async with asyncio.timeout(_CONNECT_S + _STALL_S):
                connection = await self._prepare()
                await connection.open()
                self._connection = connection  # messages may come before the answer
                await connection.listen(self._broker.all_batches(self._group), _STALL_S)
                return Answer()
        except (trust.Unusable, Refused) as e:
            why = e.answer
        except ssl.SSLCertVerificationError as e:
            why = trust.certificate(e)
        except TimeoutError:
            why = Answer(detail="it does not answer")
        except (OSError, ValueError) as e:
            why = Answer(detail=trust.reason(e))
        self._connection = None
        if connection is not None:
            connection.drop()
        return why

    async def _prepare(self) -> Connection:
        broker = self._broker
        password = await asyncio.to_thread(trust.read_token, self._password_file)
        tls = await asyncio.to_thread(trust.tls, self._ca_file) if broker.tls else None
        return Connection(
            broker,
            f"cloud-{self._group}-{uuid.uuid4().hex[:12]}",
            received=self._received,
            connect_timeout_s=_CONNECT_S,
            tls=tls,
            user=broker.user,
            password=password or broker.password,
            largest=self._max_batch + _OVERHEAD_BYTES,
            unacknowledged=_UNACKNOWLEDGED,
            by_hand=True,
        )

    # -- one message -------------------------------------------------------------------------

    def _received(self, message: MQTTMessage) -> None:
        connection = self._connection
        if connection is None or (message.qos == 0 and len(self._works) >= 2 * _UNACKNOWLEDGED):
            return  # leaving, or what no broker does to whom it was told how much it may send
        work = asyncio.ensure_future(self._work(message, connection))
        self._works.append((message, work))
        work.add_done_callback(lambda done: self._worked(done, connection))

    def _worked(self, work: asyncio.Task[None], connection: Connection) -> None:
        """Acknowledge what is done, up to the first that is not: the order of arrival counts."""
        if not work.cancelled() and (error := work.exception()):
            _log.error("a message of the broker could not be dealt with: %r", error)
        while self._works and self._works[0][1].done():
            message, _ = self._works.popleft()
            if connection.alive:
                connection.acknowledge(message)

    async def _work(self, message: MQTTMessage, connection: Connection) -> None:
        named = self._broker.parse_batch(topic_of(message))
        if named is None or not is_vehicle(named[0]):
            self.counts["foreign"] += 1
            return
        vehicle, batch_id = named
        receipt, outcome = await asyncio.to_thread(self._judge, vehicle, batch_id, message)
        self.counts[str(receipt.status)] += 1
        if outcome is not None:
            self._on_received(outcome)
        with contextlib.suppress(Refused):  # the vehicle will send it again
            connection.send(self._broker.receipts(vehicle), receipt.encode())

    def _judge(
        self, vehicle: str, batch_id: str, message: MQTTMessage
    ) -> tuple[Receipt, Outcome | None]:
        """Check and keep; what is created is durable when this returns."""
        if not is_batch_id(batch_id):
            detail = "a batch id is INSTALL-RUN-LANE-SEQUENCE"
            return Receipt(batch_id[:_ECHO_CHARACTERS], 400, detail=detail), None
        payload = payload_of(message)
        if len(payload) > self._max_batch:
            detail = f"a batch has at most {self._max_batch} bytes"
            return Receipt(batch_id, 413, detail=detail), None
        if getattr(message.properties, "ContentType", "") not in BATCH_TYPES:
            return Receipt(batch_id, 415, detail=f"the content type must be {MEDIA_TYPE}"), None
        try:
            digest = digests.parse(digest_of(user_properties(message)))
        except ValueError as e:
            return Receipt(batch_id, 400, detail=str(e)), None
        try:
            return self._keep(vehicle, batch_id, payload, digest)
        except (DigestMismatchError, ConflictError, BatchError, OSError) as e:
            status, _, detail = why_not_kept(e)
            return Receipt(batch_id, status, detail=detail), None

    def _keep(
        self, vehicle: str, batch_id: str, payload: bytes, digest: bytes
    ) -> tuple[Receipt, Outcome | None]:
        here = self._store.find(vehicle, batch_id)
        if here is None:
            upload = self._store.upload(vehicle, batch_id)
            try:
                upload.write(payload)
                outcome = self._store.commit(upload, digest)
            except ConflictError:
                here = self._store.find(vehicle, batch_id)
                if here is None:
                    raise
            else:
                if outcome.status == "created":
                    return Receipt(batch_id, 201, digests.field(digest)), outcome
                here = outcome.stored
            finally:
                upload.close()
        stored = self._store.digest(here)
        if stored == digest:
            return Receipt(batch_id, 200, digests.field(stored)), None
        detail = "it is here with other content"
        return Receipt(batch_id, 412, digests.field(stored), detail), None
