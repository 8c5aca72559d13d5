"""Writes golden batches and what is in them, once for each released format number and record.

    python -m tests.batch.golden.make

A file that was released is never written again: what this program writes may change within a
format, what it reads may not.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from agent.batch import BatchWriter
from agent.batch.format import FORMAT, Record
from agent.blocks import (
    ERROR,
    EXTENDED,
    FD_BIT_RATE_SWITCH,
    FD_FRAME,
    REMOTE,
    SENT,
    Event,
    FrameBlock,
    KeptFrames,
    Reports,
    SignalSchema,
    SignalTable,
    TableSchema,
)

FOLDER = Path(__file__).parent
SECOND = 1_000_000_000
BOOT = "6f1b7f0e-0000-4000-8000-000000000001"

MOTOR = TableSchema(
    "powertrain",
    "Motor",
    (
        SignalSchema("Torque", "int64", 12, 0.5, -100, "Nm", minimum=-1124, maximum=923.5),
        SignalSchema("Speed", "uint64", 16, 0.25, 0, "rpm", vss="Vehicle.Powertrain.Motor.Speed"),
        SignalSchema("Counter", "uint64", 64),
        SignalSchema("Gear", "uint64", 3, choices=((0, "P"), (1, "R"), (3, "D"))),
    ),
)
CELLS = TableSchema(
    "powertrain",
    "Cells",
    (SignalSchema("Group", "uint64", 5), SignalSchema("Cell9", "uint64", 13, 0.001, 0, "V")),
    branch="Group=2",
)
MIXED = TableSchema(
    "body",
    "Mixed",
    (
        SignalSchema("Ratio", "float32", 32),
        SignalSchema("Precise", "float64", 64),
        SignalSchema("Name", "bytes", 100),
    ),
    source=0x21,
    clock="recorded",
)


def tables(chunk: int) -> list[SignalTable]:
    """What goes into one chunk: tables come and go, columns rest and jump."""
    n = 1 + chunk % 4
    rows = np.arange(n) + 4 * chunk
    made = [
        SignalTable(
            MOTOR,
            chunk * SECOND + np.arange(n) * 10_500_000,
            {
                "int64": ((rows * 37) % 4096 - 2048)[None, :],
                "uint64": np.array(
                    [rows * 3, 2**64 - 1 - rows.astype(np.uint64) * 2**40, rows // 8 % 4],
                    np.uint64,
                ),
            },
            campaign="drive",
        )
    ]
    if chunk % 3 == 0:
        values = np.array([np.full(n, 2), 3700 + rows % 5], np.uint64)
        made.append(SignalTable(CELLS, chunk * SECOND + np.arange(n), {"uint64": values}))
    if chunk % 5 == 2:
        made.append(
            SignalTable(
                MIXED,
                1_700_000_000 * SECOND + chunk * SECOND + np.arange(n) * 1000,
                {
                    "float32": np.array([[0.1, -0.0, math.inf, 1e-40][:n]], np.float32),
                    "float64": np.array([[math.pi, -1e300, 5e-324, 0.1][:n]]),
                },
                (np.arange(13 * n, dtype=np.uint8).reshape(n, 13),),
            )
        )
    return made


def plain(value: Any) -> Any:
    """A raw value as JSON keeps it: floats by their bits, bytes as hex."""
    if isinstance(value, float):
        return value.hex()
    return value.hex() if isinstance(value, bytes) else value


IDS = (0x123, EXTENDED | 0x18FEF100, 0x123, REMOTE | 0x200, ERROR | 0x4, EXTENDED | 0x1ABCDE, 0x7FF)
LENGTHS = (8, 8, 3, 8, 8, 24, 0)
FLAGS = (0, SENT, 0, 0, 0, FD_FRAME | FD_BIT_RATE_SWITCH, 0)
"""Of the frames, in turn."""


def frames(chunk: int) -> list[KeptFrames]:
    """What goes into one chunk: two campaigns and two clocks, counters and constants."""
    n = 3 + chunk % 9
    turn = (np.arange(n) + 5 * chunk) % len(IDS)
    length = np.array(LENGTHS, np.uint16)[turn]
    data = ((np.arange(64) + 3) * (np.arange(n)[:, None] // 2 + chunk) % 256).astype(np.uint8)
    data[(np.arange(64) >= length[:, None]) | (turn == 3)[:, None]] = 0
    time = chunk * SECOND + np.cumsum(np.arange(n) * 123_456)
    time[n // 2] -= 400_000  # not in the order of time
    block = FrameBlock.from_arrays(
        bus="powertrain",
        time=time,
        id=np.array(IDS, np.uint32)[turn],
        length=length,
        flags=np.array(FLAGS, np.uint8)[turn],
        data=data,
    )
    made = [KeptFrames(block, "raw")]
    if chunk % 4 == 1:
        short = block[length <= 8]
        made.append(
            KeptFrames(
                FrameBlock.from_arrays(
                    bus="body",
                    time=1_700_000_000 * SECOND + short.time,
                    id=short.id,
                    length=short.length,
                    flags=short.flags,
                    data=short.data[:, :8],
                    clock="recorded",
                )
            )
        )
    return made


ENGINE = bytes.fromhex("04 01 0BB8 FFFF")
POSITION = bytes.fromhex("05 02 01 06EA0500 02549480")


def reports(chunk: int) -> list[Reports]:
    """What goes into one chunk: two editions and two clocks, samples in order and not."""
    n = 1 + chunk % 5
    time = chunk * 10 * SECOND + 123_456_789 + np.arange(n) * SECOND
    bodies = tuple(ENGINE + bytes([0x80, 0, 1 + i, *range(chunk, chunk + 1 + i)]) for i in range(n))
    made = [Reports("gbt32960-2016", time, bodies)]
    if chunk % 4 == 1:  # of the time before, and two frames of one sample
        made.append(Reports("gbt32960-2016", time - 30 * SECOND, bodies[::-1]))
        made.append(Reports("gbt32960-2016", np.array([time[0], time[0]]), (b"\x30", b"")))
    if chunk % 3 == 2:
        at = np.array([1_700_000_000 * SECOND + chunk])
        made.append(Reports("gbt32960-2025", at, (POSITION,), "recorded"))
    return made


def event(*, complete: bool) -> Event:
    return Event(
        {
            "kind": "trigger",
            "id": "6f1b7f0e-hot-7000000000",
            "name": "hot",
            "campaign": "raw",
            "time": 7 * SECOND,
            "clock": "boot",
            "first": 5 * SECOND,
            "last": 9 * SECOND if complete else None,
            "complete": complete,
            "expression": "Temperature > 55 for 5 s",
            "values": {"powertrain.Motor.Temperature": 55.5, "Gear": "D"},
            "missing": [[5 * SECOND, 6 * SECOND, "no memory was left"]],
        }
    )


def plain_frames(block: FrameBlock) -> list[list[Any]]:
    """Of each: time as it is kept, id, flags, length, bytes as hex."""
    columns = (block.time // 1000 * 1000, block.id, block.flags, block.length)
    return [
        [time, number, flags, length, bytes(row[:length]).hex()]
        for time, number, flags, length, row in zip(
            *(column.tolist() for column in columns), block.data, strict=True
        )
    ]


def header(sequence: int) -> dict[str, Any]:
    return {
        "batch_id": f"00112233445566aa-7-telemetry-{sequence}",
        "vehicle": "golden",
        "install": "00112233445566aa",
        "run": 7,
        "lane": "telemetry",
        "sequence": sequence,
        "stream": "telemetry/cloud",
        "previous": sequence - 1,
        "uplinks": ["cloud"],
        "boot_id": BOOT,
        "anchors": [{"boot_id": BOOT, "boot": 5, "wall": 9, "quality": "unsynchronised"}],
    }


def write_frames(path: Path) -> None:
    expected: dict[str, Any] = {"frames": {}, "events": []}
    with BatchWriter(path, **header(4)) as writer:
        for chunk in range(20):
            for kept in frames(chunk):
                writer.add(kept)
                where = f"{kept.block.bus}/{kept.campaign}/{kept.block.clock}"
                expected["frames"].setdefault(where, []).extend(plain_frames(kept.block))
            if chunk in (7, 9):
                told = event(complete=chunk == 9)
                writer.add(told)
                expected["events"].append(told.value)
            if chunk == 4:
                writer.record(
                    Record.ANCHOR,
                    {"boot_id": BOOT, "boot": 4 * SECOND, "wall": 10**18, "quality": "ntp"},
                )
            writer.flush()
    path.with_suffix(".json").write_text(json.dumps(expected, indent=None) + "\n")


def write_reports(path: Path) -> None:
    expected: dict[str, list[Any]] = {}
    with BatchWriter(path, **header(5)) as writer:
        for chunk in range(20):
            for kept in reports(chunk):
                writer.add(kept)
                rows = zip(kept.time.tolist(), kept.bodies, strict=True)
                expected.setdefault(f"{kept.form}/{kept.clock}", []).extend(
                    [time, body.hex()] for time, body in rows
                )
            if chunk == 4:
                writer.record(
                    Record.ANCHOR,
                    {"boot_id": BOOT, "boot": 4 * SECOND, "wall": 10**18, "quality": "ntp"},
                )
            writer.flush()
    path.with_suffix(".json").write_text(json.dumps(expected, indent=None) + "\n")


def main() -> None:
    for name, write in (("", write_tables), ("-frames", write_frames), ("-reports", write_reports)):
        path = FOLDER / f"format-{FORMAT}{name}.batch"
        if not path.exists():
            write(path)


def write_tables(path: Path) -> None:
    expected: dict[str, Any] = {}
    with BatchWriter(path, **header(3)) as writer:
        for chunk in range(20):
            for table in tables(chunk):
                writer.add(table)
                signals = expected.setdefault(table.message, {"time": []})
                signals["time"] += (table.time // 1_000_000 * 1_000_000).tolist()
                for name in table.names:
                    raw = table.raw[name]
                    values = [bytes(r) for r in raw] if raw.ndim == 2 else raw.tolist()
                    signals.setdefault(name, []).extend(map(plain, values))
            if chunk == 4:
                writer.record(
                    Record.ANCHOR,
                    {"boot_id": BOOT, "boot": 4 * SECOND, "wall": 10**18, "quality": "ntp"},
                )
            if chunk == 6:
                writer.record(
                    Record.TOMBSTONE,
                    {"batch_id": "gone", "samples": 5, "uplink": "cloud", "reason": "quota"},
                )
            writer.flush()
    path.with_suffix(".json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
