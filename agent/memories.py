"""What a live run leaves for the next one of the same boot: triggers, and the rows before them.

Two files in the state folder. `triggers.msgpack` holds the state of conditions and triggers, and
`triggers.batch` the rows that wait for a trigger, in steps of a nanosecond. Both are written when
a run ends in order, and gone once they were read, so that no row is ever given twice. While it
runs, the first one is written whenever an event begins or ends, without conditions and rows: after
a power cut the agent goes on with the windows that were open, and says what is missing in them.

In another boot all times mean something else, so nothing is taken over then. A file that cannot be
understood costs itself.
"""

import contextlib
import hashlib
import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgpack
import msgspec

from agent.batch import BatchReader, BatchWriter
from agent.blocks import KeptFrames, SignalTable
from agent.clock import BootNs
from agent.collect import Collector, Plan
from agent.collect.rows import Rows
from agent.errors import BatchError
from agent.spool.filesystem import WRITTEN
from agent.uplink.durable import replace_durably

log = logging.getLogger("edge_agent")

STATE: Final = "triggers.msgpack"
ROWS: Final = "triggers.batch"
_VERSION: Final = 1
_MOST_BYTES: Final = 256 << 20


class Memories:
    """The two files of one state folder."""

    def __init__(self, folder: Path, boot_id: str) -> None:
        self._state = folder / STATE
        self._rows = folder / ROWS
        self._boot_id = boot_id
        self._lock = threading.Lock()
        self._ended = False
        """The last word is written."""

    def read(self, collector: Collector, now: BootNs) -> None:
        """Go on with what the run before left, if it is of this boot and plan."""
        state = self._load(collector.plan)
        try:
            if state is not None:
                collector.restore(state["collector"], self._load_rows(), now)
        except (ValueError, KeyError, TypeError) as e:
            log.warning("triggers begin anew: %s cannot be understood: %s", self._state, e)
        self.forget()

    def forget(self) -> None:
        for path in (self._state, self._rows):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def write(self, collector: Collector) -> None:
        """The end of a run in order."""
        rows = collector.rows()
        with self._lock:
            self._ended = True
        try:
            if rows:
                with BatchWriter(self._rows, resolution_ns=1) as writer:
                    for name, each in ((n, r) for n, held in rows.items() for r in held):
                        writer.add(_named(each, name))
                        if writer.pending_bytes > 1 << 20:
                            writer.flush()
                WRITTEN.add(self._rows.stat().st_size)
            self._write(collector.plan, collector.state())
        except OSError as e:
            log.warning("triggers begin anew at the next start: %s", e.strerror or e)
            self.forget()

    def note(self, plan: Plan, events: Mapping[str, Any]) -> None:
        """An event began or ended: `events` is `Collector.open_events()`."""
        with self._lock, contextlib.suppress(OSError):
            if not self._ended:
                self._write(plan, dict(events))

    def _write(self, plan: Plan, state: dict[str, Any]) -> None:
        whole = {
            "version": _VERSION,
            "boot_id": self._boot_id,
            "plan": _digest(plan),
            "collector": state,
        }
        replace_durably(self._state, msgpack.packb(whole, use_bin_type=True), 0o600)

    def _load(self, plan: Plan) -> dict[str, Any] | None:
        try:
            with self._state.open("rb") as file:
                content = file.read(_MOST_BYTES)
            state = msgpack.unpackb(content, raw=False, strict_map_key=False)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError, msgpack.UnpackException) as e:
            log.warning("triggers begin anew: %s cannot be read: %s", self._state, e)
            return None
        wanted = {"version": _VERSION, "boot_id": self._boot_id, "plan": _digest(plan)}
        fits = isinstance(state, dict) and wanted.items() <= state.items()
        return state if fits else None

    def _load_rows(self) -> dict[str, list[Rows]]:
        found: dict[str, list[Rows]] = {}
        if not self._rows.exists():
            return found
        try:
            for kind, value in BatchReader(self._rows).records():
                if kind in ("samples", "frames"):
                    found.setdefault(value.campaign, []).append(value)
        except BatchError as e:
            log.warning("what waited for a trigger is lost: %s", e)
        return found


def _named(rows: Rows, campaign: str) -> SignalTable | KeptFrames:
    if isinstance(rows, KeptFrames):
        return KeptFrames(rows.block, campaign)
    return SignalTable(rows.schema, rows.time, rows.values, rows.payloads, campaign)


def _digest(plan: Plan) -> str:
    """Of the plan as it is written, and of what its signals mean."""
    meant: Sequence[str] = sorted(
        f"{path.bus} {path} {schema}" for c in plan.campaigns for path, schema in c.schemas
    )
    digest = hashlib.sha256(msgspec.json.encode(plan.written))
    digest.update("\n".join(meant).encode())
    return digest.hexdigest()
