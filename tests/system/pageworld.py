"""What the tests of the page share: a page opened on a cloud, and batches that fill the cloud."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.batch import BatchWriter
from agent.batch.format import Record
from agent.bench.cloud import Store
from agent.blocks import SignalSchema, SignalTable, TableSchema
from agent.clock import SECOND
from tests.bench.cloudbench import ANCHOR, BOOT_ID, INSTALL, Batch, Client, cloud
from tests.system.browser import Page, browser

PLOT = "document.querySelector('.chart canvas')"


@contextlib.asynccontextmanager
async def opened(
    profile: Path, origin: str, path: str = "#/", *, quiet: bool = True
) -> AsyncIterator[Page]:
    """The page of a cloud; at the end nothing went wrong and nobody else was asked for anything."""
    async with browser(profile) as page:
        await page.go(f"{origin}/{path}")
        await page.until("document.querySelector('main h1')", "a view is shown")
        yield page
        assert not quiet or page.errors == [], page.errors
        strangers = [
            r for r in page.requests if not r.startswith((f"{origin}/", "about:", "data:"))
        ]
        assert strangers == [], strangers


def inked(plot: str = PLOT) -> str:
    """An expression: how many pixels of a canvas were drawn on."""
    return f"""(() => {{
        const c = {plot};
        const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
        let n = 0;
        for (let i = 3; i < d.length; i += 4) n += d[i] > 0;
        return n;
    }})()"""


class Filling:
    """Batches of one run of one vehicle, with whatever tables and records a test wants."""

    def __init__(self, folder: Path, vehicle: str = "car-1") -> None:
        self._folder = folder
        self._vehicle = vehicle
        self._sequence = 0
        self._samples = 0

    def batch(
        self,
        tables: Sequence[SignalTable],
        events: Sequence[Mapping[str, Any]] = (),
        counts: Mapping[str, Any] | None = None,
    ) -> Batch:
        previous, self._sequence = self._sequence, self._sequence + 1
        name = f"{INSTALL}-1-telemetry-{self._sequence}"
        path = self._folder / f"{self._vehicle}-{name}.batch"
        before = self._samples
        self._samples += sum(table.samples for table in tables)
        writer = BatchWriter(
            path,
            batch_id=name,
            vehicle=self._vehicle,
            install=INSTALL,
            run=1,
            lane="telemetry",
            sequence=self._sequence,
            stream="cloud",
            previous=previous,
            uplinks=["cloud"],
            boot_id=BOOT_ID,
            anchors=[ANCHOR],
        )
        with writer:
            writer.record(Record.LEDGER, self._ledger("open", before, counts))
            for event in events:
                writer.record(Record.EVENT, dict(event))
            for table in tables:
                writer.add(table)
            writer.flush()
            writer.record(Record.LEDGER, self._ledger("seal", self._samples, counts))
        return Batch(name, path.read_bytes(), self._samples - before, self._vehicle)

    def _ledger(self, at: str, samples: int, counts: Mapping[str, Any] | None) -> dict[str, Any]:
        uplink = {"kept": samples, "spooled": samples, "found": 0, "acknowledged": samples}
        return {
            "at": at,
            "final": False,
            "boot": self._sequence * SECOND,
            "run": {"uplink": {"cloud": uplink}, **(counts or {})},
            "stream": {"samples": samples},
        }


def table(
    message: str, names: Sequence[str], rows: int, *, step_ns: int = SECOND, unit: str = "V"
) -> SignalTable:
    """Waves of different lengths, one signal each."""
    signals = tuple(SignalSchema(n, "uint64", 16, 0.01, 0, unit) for n in names)
    time = np.arange(rows, dtype=np.int64) * step_ns
    angle = np.arange(rows)[None, :] / (7.0 + np.arange(len(names))[:, None])
    values = (2000 + 1900 * np.sin(angle)).astype(np.uint64)
    return SignalTable(TableSchema("powertrain", message, signals), time, {"uint64": values})


@contextlib.contextmanager
def filled(folder: Path, batches: Sequence[Batch]) -> Iterator[tuple[Client, str]]:
    """A cloud that has these; gives its client and its origin."""
    with cloud(Store(folder / "cloud")) as client:
        for batch in batches:
            answer = client.put(batch)
            assert answer.status in (200, 201), answer.body
        yield client, f"http://{client.host}:{client.port}"


def run(work: Any) -> None:
    """A test's coroutine, with an end."""

    async def limited() -> None:
        async with asyncio.timeout(110):
            await work

    asyncio.run(limited())
