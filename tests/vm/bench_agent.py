"""The highest rate that the whole agent takes without loss: kernel, decoder, spool, cloud.

    python3 -m tests.vm.bench_agent [--json]

Needs a kernel with virtual CAN buses, and root. A process of its own sends classic frames of 100
ids with eight bytes each at a steady rate for five seconds, on one bus and on eight. The agent
keeps every value and uploads it. The rate is raised until the ledger shows a dropped frame.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests import processes
from tests.benchmarks.report import Figure, parser, show
from tests.vm import frames
from tests.vm.car import Car
from tests.vm.links import Links

_IDS = 100
_BATCH_S = 0.005
_SECONDS = 5.0
_FIRST = 1000.0
_STEP = 1.5
_DBC = "\n".join(
    f'BO_ {256 + i} Numbers{i}: 8 A\n SG_ Number{i} : 0|64@1+ (1,0) [0|0] "" A' for i in range(_IDS)
)
_HEAD = 'VERSION ""\nBU_: A\nBO_ 2000 Numbers: 8 A\n SG_ Number : 0|64@1+ (1,0) [0|0] "" A\n'
_BACKLOG = Path("/proc/sys/net/core/netdev_max_backlog")


def send(interfaces: Sequence[str], rate: float) -> None:
    """The sender process: `rate` frames a second on each interface; prints what it reached."""
    a_batch = max(1, round(rate * _BATCH_S))
    made = [frames.classic(256 + i % _IDS, i.to_bytes(8, "little")) for i in range(a_batch)]
    prepared = frames.Prepared(made)
    senders = [frames.Sender(interface) for interface in interfaces]
    sent, begin = 0, time.monotonic()
    for batch in range(round(_SECONDS * rate / a_batch)):
        time.sleep(max(0.0, begin + batch * a_batch / rate - time.monotonic()))
        sent += sum(sender.send_many(prepared) for sender in senders)
    print(json.dumps({"sent": sent, "seconds": time.monotonic() - begin}))


async def once(folder: Path, interfaces: Sequence[str], rate: float) -> tuple[int, float]:
    """Frames that were lost at a rate, and the rate that was reached on each bus."""
    buses = {f"bus{i}": interface for i, interface in enumerate(interfaces)}
    async with processes.cloud(folder / "cloud") as port:
        car = Car(folder, buses, port, dbc=_HEAD + _DBC)
        plan = folder / "plan.toml"
        plan.write_text(plan.read_text().replace('"Numbers.Number"', '"Numbers*"'))
        async with car.agent():
            await processes.until(lambda: car.bus("bus0"), "the agent")
            words = ["-m", "tests.vm.bench_agent", "--rate", str(rate), "--send", *interfaces]
            sender = await asyncio.create_subprocess_exec(
                sys.executable, *words, stdout=asyncio.subprocess.PIPE
            )
            said, _ = await sender.communicate()
            told = json.loads(said)

            def settled() -> list[dict[str, int]] | None:
                rows = [car.bus(bus) for bus in buses]
                all_here = sum(row["received"] for row in rows) >= told["sent"]
                return rows if all_here and not any(row["queued"] for row in rows) else None

            rows = await processes.until(settled, "every frame is read or counted as dropped")
    return sum(row["dropped"] for row in rows), told["sent"] / told["seconds"] / len(buses)


def highest(interfaces: Sequence[str]) -> Figure:
    best, rate, note = 0.0, _FIRST, ""
    while True:
        with tempfile.TemporaryDirectory() as name:
            dropped, reached = asyncio.run(once(Path(name), interfaces, rate))
        if dropped:
            note = f"at {reached:,.0f}: {dropped:,} dropped, and counted"
            break
        best = max(best, reached)
        if reached < 0.8 * rate:
            note = "the sender reaches no more on this CPU"
            break
        rate *= _STEP
    buses = "one bus" if len(interfaces) == 1 else f"each of {len(interfaces)} buses"
    return Figure(f"without loss on {buses}", best, "frames/s", note=note)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--rate", type=float, default=0, help="for the sender process")
    options.add_argument("--send", nargs="+", help="for the sender process")
    asked = options.parse_args()
    if asked.send:
        send(asked.send, asked.rate)
        return
    links = Links()
    before = _BACKLOG.read_text("ascii")
    _BACKLOG.write_text("100000", "ascii")  # a virtual bus is fed in bursts that no wire carries
    try:
        names = [links() for _ in range(8)]
        figures = [highest(names[:1]), highest(names)]
    finally:
        links.close()
        _BACKLOG.write_text(before, "ascii")
    notes = ["Sender, agent and cloud share the CPUs of this machine."]
    show("Frames through the whole agent", figures, notes, as_json=asked.json)


if __name__ == "__main__":
    main()
