"""Writes a golden batch and what is in it, once for each released format number.

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
from agent.blocks import SignalSchema, SignalTable, TableSchema

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


def main() -> None:
    path = FOLDER / f"format-{FORMAT}.batch"
    expected: dict[str, Any] = {}
    with BatchWriter(
        path,
        batch_id="00112233445566aa-7-telemetry-3",
        vehicle="golden",
        install="00112233445566aa",
        run=7,
        lane="telemetry",
        sequence=3,
        stream="telemetry/cloud",
        previous=2,
        uplinks=["cloud"],
        boot_id=BOOT,
        anchors=[{"boot_id": BOOT, "boot": 5, "wall": 9, "quality": "unsynchronised"}],
    ) as writer:
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
