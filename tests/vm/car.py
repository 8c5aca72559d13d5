"""A car on buses of a real kernel: a device file, and the agent that runs by it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from agent.batch import read_batch
from tests import processes

DBC: Final = """VERSION ""
BU_: A
BO_ 291 Numbers: 8 A
 SG_ Number : 0|64@1+ (1,0) [0|0] "" A
"""
PLAN: Final = """version = 1
name = "all"
[[database]]
bus = "*"
files = ["numbers.dbc"]
[[campaign]]
name = "all"
signals = ["Numbers.Number", "*.BusState.*"]
"""


class Car:
    """A device file for some buses, and where the agent and the cloud keep what they have."""

    def __init__(
        self, folder: Path, buses: dict[str, str], port: int, more: str = "", dbc: str = DBC
    ) -> None:
        self.folder = folder
        self.config = folder / "agent.toml"
        self.log = folder / "agent.log"
        self.socket = folder / "state/agent.sock"
        (folder / "numbers.dbc").write_text(dbc)
        (folder / "plan.toml").write_text(PLAN)
        tables = "".join(
            f'[[bus]]\nname = "{name}"\nkind = "socketcan"\ninterface = "{interface}"\n{more}\n'
            for name, interface in buses.items()
        )
        self.config.write_text(
            'vehicle = "car"\nplan = "plan.toml"\nstate_dir = "state"\n'
            f'{tables}[[uplink]]\nname = "cloud"\nurl = "http://127.0.0.1:{port}"\n'
            "[batch]\nseal_after_s = 1\n[spool]\nfree_floor_mb = 0\ncommit_interval_s = 0.2\n"
        )

    @contextlib.asynccontextmanager
    async def agent(self) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await processes.start("run", "-c", str(self.config), log=self.log)
        try:
            yield process
        finally:
            assert await processes.stop(process) == 0, self.said

    @property
    def said(self) -> str:
        return self.log.read_text()

    def bus(self, name: str) -> dict[str, int]:
        """The ledger of a bus; empty while no agent answers."""
        status = processes.status(self.socket)
        assert status is None or status["differences"] == []
        return {} if status is None else dict(status["ledger"]["bus"][name])

    async def read(self, bus: str, n: int) -> dict[str, int]:
        """Wait until so many frames of a bus are decoded or known as something else."""

        def enough() -> dict[str, int] | None:
            row = self.bus(bus)
            return row if row and row["read"] - row["queued"] >= n else None

        try:
            row: dict[str, int] = await processes.until(enough, f"{n} frames of {bus}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.bus(bus)}\n{self.said}") from None
        return row

    def arrived(self, bus: str) -> list[int]:
        """The numbers that came to the cloud."""
        paths = sorted((self.folder / "cloud").rglob("*.batch"))
        tables = [t for t in read_batch(*paths) if (t.bus, t.message) == (bus, "Numbers")]
        return [v for table in tables for v in table.raw["Number"].tolist()]
