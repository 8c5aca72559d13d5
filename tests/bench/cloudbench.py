"""What tests of the cloud use: batches as an agent would make them, and a cloud on loopback."""

import asyncio
import contextlib
import dataclasses
import hashlib
import http.client
import json
import tempfile
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.batch import BatchWriter
from agent.batch.format import MEDIA_TYPE, Record
from agent.bench.cloud import Store, create_app, serve
from agent.blocks import SignalSchema, SignalTable, TableSchema
from agent.clock import SECOND

INSTALL = "00c0ffee"
VEHICLE = "car-1"
BOOT_ID = "boot-1"
WALL = 1_700_000_000 * SECOND
ANCHOR = {"boot_id": BOOT_ID, "boot": 0, "wall": WALL, "quality": "ntp"}

SPEED = TableSchema(
    bus="powertrain",
    message="Speed",
    signals=(
        SignalSchema("Vehicle", "uint64", 16, 0.01, 0, "km/h"),
        SignalSchema("Gear", "uint64", 4, choices=((0, "park"), (1, "drive"))),
    ),
)


def table(begin_s: float, rows: int, *, gear: int = 1) -> SignalTable:
    """`rows` rows at 10 ms, two samples each; the speed counts up."""
    time = (begin_s * SECOND + np.arange(rows) * 10_000_000).astype(np.int64)
    values = np.stack([np.arange(rows), np.full(rows, gear)]).astype(np.uint64)
    return SignalTable(SPEED, time, {"uint64": values}, campaign="all")


@dataclasses.dataclass
class Batch:
    batch_id: str
    data: bytes
    samples: int
    vehicle: str = VEHICLE

    @property
    def path(self) -> str:
        return f"/v1/vehicles/{self.vehicle}/batches/{self.batch_id}"

    @property
    def headers(self) -> dict[str, str]:
        return {
            "Content-Digest": digest(self.data),
            "Content-Type": MEDIA_TYPE,
            "If-None-Match": "*",
        }

    def tombstone(self, reason: str = "quota") -> dict[str, Any]:
        return {
            "batch_id": self.batch_id,
            "samples": self.samples,
            "reason": reason,
            "uplink": "cloud",
        }


def digest(data: bytes) -> str:
    return f"sha-256=:{b64encode(hashlib.sha256(data).digest()).decode()}:"


class Drive:
    """One run of an agent with one stream; makes its batches one after another."""

    def __init__(
        self, run: int = 1, *, lane: str = "telemetry", anchors: Sequence[Any] = (ANCHOR,)
    ) -> None:
        self.run = run
        self.lane = lane
        self.anchors = list(anchors)
        self.sequence = 0
        self.samples = 0
        self.others = 0
        """Samples that the run kept in other streams, as the ledger counts them."""
        self.second = 0.0
        self.found = 1
        """Samples of earlier runs that waited on board when this one began."""

    def batch(
        self,
        rows: int = 5,
        *,
        final: bool = False,
        tombstones: Sequence[Mapping[str, Any]] = (),
        lost: int = 0,
        chunks: int = 1,
        skip: int = 0,
    ) -> Batch:
        previous = self.sequence
        self.sequence += 1 + skip
        batch_id = f"{INSTALL}-{self.run}-{self.lane}-{self.sequence}"
        samples = 2 * rows * chunks
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "b.batch"
            writer = BatchWriter(
                path,
                batch_id=batch_id,
                vehicle=VEHICLE,
                install=INSTALL,
                run=self.run,
                lane=self.lane,
                sequence=self.sequence,
                stream="cloud",
                previous=previous,
                uplinks=["cloud"],
                boot_id=BOOT_ID,
                anchors=self.anchors,
            )
            with writer:
                writer.record(Record.LEDGER, self._ledger("open", final=False, lost=lost))
                for stone in tombstones:
                    writer.record(Record.TOMBSTONE, dict(stone))
                for _ in range(chunks):
                    writer.add(table(self.second, rows))
                    writer.flush()
                    self.second += 1
                self.samples += samples
                writer.record(Record.LEDGER, self._ledger("seal", final=final, lost=lost))
            return Batch(batch_id, path.read_bytes(), samples)

    def _ledger(self, at: str, *, final: bool, lost: int) -> dict[str, Any]:
        spooled = self.samples + self.others
        uplink = {
            "kept": spooled + lost,
            "spooled": spooled,
            "lost_disk": lost,
            "found": self.found,
        }
        return {
            "at": at,
            "final": final,
            "boot": int(self.second * SECOND),
            "run": {"uplink": {"cloud": uplink}},
            "stream": {"samples": self.samples},
        }


@dataclasses.dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])


class Client:
    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        answer = self.ask("GET", path)
        assert answer.status == 200, answer.body
        return answer.json

    def put(self, batch: Batch, **headers: str) -> Answer:
        return self.ask("PUT", batch.path, batch.data, {**batch.headers, **headers})


@contextlib.contextmanager
def cloud(store: Store, **options: Any) -> Iterator[Client]:
    """A cloud with a loop in a thread of its own, and a client for it; closes the store."""
    ready = threading.Event()
    found: list[str] = []
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        stop.append((asyncio.get_running_loop(), asyncio.Event()))
        async with serve(create_app(store, **options), "127.0.0.1", 0) as url:
            found.append(url)
            ready.set()
            await stop[0][1].wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    try:
        assert ready.wait(30)
        host, _, port = found[0].removeprefix("http://").rpartition(":")
        yield Client(host, int(port))
    finally:
        loop, event = stop[0]
        loop.call_soon_threadsafe(event.set)
        thread.join(30)
        store.close()


def files(folder: Path) -> list[str]:
    """Every file below a data folder but the lock and what is derived of batches, relative."""
    found = [p.relative_to(folder) for p in folder.rglob("*") if p.is_file() and p.name != "lock"]
    return sorted(str(p) for p in found if p.parts[0] != "shelves")
