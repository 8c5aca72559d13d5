"""How fast the reference cloud answers for a page: a vehicle with 3,000 signals and a day of data.

The batches are made by the real writer and uploaded to a real cloud on loopback: 300 messages of 10
signals, each once a second, and one message at 10 Hz, in batches of a minute. A second cloud has
500 vehicles with one batch each. Times are wall-clock, of one request over HTTP.

Cold: the first time that anybody asks. Restarted: the first answer of a new process, which finds
shelves. Warm: what is needed is in memory; each answer is made anew, except for those that are
kept. While ingest goes on: a thread makes and uploads batches without a pause, in this process too.

    .venv/bin/python -m tests.benchmarks.bench_cloud_series [--hours 24] [--messages 300]
"""

import contextlib
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from agent.batch import BatchWriter
from agent.bench.cloud import Store
from agent.blocks import SignalSchema, SignalTable, TableSchema
from agent.clock import SECOND
from tests.bench.cloudbench import ANCHOR, BOOT_ID, INSTALL, VEHICLE, Batch, Client, cloud
from tests.benchmarks.report import Figure, parser, show

MESSAGES = 300
SIGNALS = 10
BATCH_S = 60
FLEET = 500

_SCHEMAS = [
    TableSchema(
        bus=f"bus{number % 4}",
        message=f"Message{number:03}",
        signals=tuple(
            SignalSchema(f"Signal{n}", "uint64", 16, 0.1, -40, "V") for n in range(SIGNALS)
        ),
    )
    for number in range(MESSAGES)
]
_ASKED = "&".join(f"signal=Message{number:03}.Signal3" for number in (0, 1, 2, 3))
"""Message000 is the fast one."""


def make(folder: Path, sequence: int, *, messages: int = MESSAGES, vehicle: str = VEHICLE) -> Batch:
    """A minute of a vehicle, as its writer makes it."""
    rng = np.random.default_rng(sequence)
    batch_id = f"{INSTALL}-1-telemetry-{sequence}"
    path = folder / "made.batch"
    begin = (sequence - 1) * BATCH_S * SECOND
    header: dict[str, Any] = {"boot_id": BOOT_ID, "anchors": [ANCHOR], "stream": "cloud"}
    header |= {"previous": sequence - 1, "uplinks": ["cloud"], "vehicle": vehicle}
    with BatchWriter(path, batch_id=batch_id, **header) as writer:
        for number, schema in enumerate(_SCHEMAS[:messages]):
            rows = BATCH_S * (10 if number == 0 else 1)
            times = begin + np.arange(rows) * (BATCH_S * SECOND // rows)
            steps = rng.integers(0, 5, (SIGNALS, rows))
            values = (1000 + np.abs(np.cumsum(steps - 2, axis=1))).astype(np.uint64)
            writer.add(SignalTable(schema, times.astype(np.int64), {"uint64": values}))
    return Batch(batch_id, path.read_bytes(), 0, vehicle)


def put(client: Client, batch: Batch) -> None:
    answer = client.put(batch)
    if answer.status not in (201, 412):
        raise SystemExit(f"an upload was answered {answer.status}: {answer.body!r}")


def timed_ms(ask: Callable[[], object], times: int = 1) -> float:
    """The median over some calls, in milliseconds."""
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        ask()
        spent.append((time.perf_counter() - began) * 1000)
    return statistics.median(spent)


class Anew:
    """Asks each time by another address, so that no kept answer is given."""

    def __init__(self, client: Client, path: str) -> None:
        self._client = client
        self._path = f"{path}{'&' if '?' in path else '?'}time="

    def __call__(self) -> object:
        return self._client.get(f"{self._path}{time.perf_counter_ns()}")


def fill(client: Client, folder: Path, batches: int, messages: int) -> float:
    """Upload a day; gives the seconds until all of it is in the answers."""
    began = time.perf_counter()
    for sequence in range(1, batches + 1):
        put(client, make(folder, sequence, messages=messages))
    settle(client)
    return time.perf_counter() - began


def settle(client: Client) -> None:
    """Wait until everything that has arrived is in the answers."""
    while client.get(f"/v1/vehicles/{VEHICLE}")["behind"]:
        time.sleep(0.2)  # between two looks


@contextlib.contextmanager
def ingest(client: Client, folder: Path, first: int, messages: int) -> Iterator[list[int]]:
    """Upload all the while; the list counts."""
    stop = threading.Event()
    sent = [0]

    def run() -> None:
        while not stop.is_set():
            put(client, make(folder, first + sent[0], messages=messages))
            sent[0] += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        thread.join()


def of_a_day(data: Path, folder: Path, hours: float, messages: int) -> list[Figure]:
    batches = int(hours * 3600 / BATCH_S)
    base = f"/v1/vehicles/{VEHICLE}"
    figures: list[Figure] = []

    def tell(what: str, value: float, target: float | None = None) -> None:
        figures.append(Figure(what, value, "ms", "at most", target))

    with cloud(Store(data)) as client:
        filled = fill(client, folder, batches, messages)
        figures.append(Figure("a batch, from its writer into the answers", filled / batches, "s"))
        tell("latest, cold", timed_ms(lambda: client.get(f"{base}/latest")), 1000)
        tell("series of 4 signals, cold", timed_ms(lambda: client.get(f"{base}/series?{_ASKED}")))
    with cloud(Store(data)) as client:
        tell("vehicle, restarted", timed_ms(lambda: settle(client)))
        series = f"{base}/series?{_ASKED}"
        tell("series of 4 signals, restarted", timed_ms(lambda: client.get(series)), 2000)
        tell("latest, restarted", timed_ms(lambda: client.get(f"{base}/latest")), 1000)
        for what, path, target in (
            ("vehicles", "/v1/vehicles", 100),
            ("vehicle", base, 100),
            ("latest", f"{base}/latest", 100),
            ("series of 4 signals", series, 100),
            ("series of 4 signals, 4,000 points", f"{series}&points=4000", None),
        ):
            tell(f"{what}, warm", timed_ms(Anew(client, path), 9), target)
        tell("series of 4 signals, kept", timed_ms(lambda: client.get(series), 9))
        with ingest(client, folder, batches + 1, messages) as sent:
            for what, path in (("vehicle", base), ("latest", f"{base}/latest"), ("series", series)):
                tell(
                    f"{what}, while ingest goes on",
                    timed_ms(Anew(client, path), 15),
                )
        figures.append(Figure("batches that were uploaded meanwhile", sent[0]))
    return figures


def of_a_fleet(data: Path, folder: Path) -> list[Figure]:
    with cloud(Store(data)) as client:
        for number in range(FLEET):
            put(client, make(folder, 1, messages=3, vehicle=f"van-{number}"))
        first = timed_ms(lambda: client.get("/v1/vehicles"))
        warm = timed_ms(Anew(client, "/v1/vehicles"), 9)
    return [
        Figure(f"{FLEET} vehicles, after their uploads", first, "ms", "at most", 2000),
        Figure(f"{FLEET} vehicles, warm", warm, "ms", "at most", 100),
    ]


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--hours", type=float, default=24.0, help="how much data the vehicle has")
    made.add_argument("--messages", type=int, default=MESSAGES, help="of 10 signals each")
    options = made.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        figures = of_a_day(root / "day", root, options.hours, options.messages)
        sizes = {
            kind: sum(p.stat().st_size for p in (root / "day").rglob(f"*.{kind}")) / 2**20
            for kind in ("batch", "shelf")
        }
        figures += of_a_fleet(root / "fleet", root)
    notes = [
        f"{options.hours:g} hours, {options.messages * SIGNALS:,} signals",
        f"batches {sizes['batch']:.0f} MiB, shelves {sizes['shelf']:.0f} MiB",
    ]
    show("Answers of the reference cloud", figures, notes, as_json=options.json)


if __name__ == "__main__":
    main()
