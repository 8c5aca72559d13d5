"""A batch file for a script or a benchmark; the agent itself writes through the spool."""

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agent.batch.encoder import BatchEncoder
from agent.batch.format import Record
from agent.blocks import Kept
from agent.clock import MILLISECOND


class BatchWriter:
    """Writes tables, raw frames, reports and events to one batch file.

    with BatchWriter("drive.batch", vehicle="test") as writer:
        writer.add(table)
        writer.flush()      # a chunk
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        resolution_ns: int = MILLISECOND,
        **header: Any,
    ) -> None:
        """Create the file; `header` adds to the header map, such as `vehicle` and `batch_id`.

        Raises:
            OSError: the file cannot be created.
        """
        self._file = Path(path).open("wb")  # noqa: SIM115 - closed by close()
        header.setdefault("batch_id", Path(path).stem)
        self._encoder = BatchEncoder(header, resolution_ns=resolution_ns)
        self._file.write(self._encoder.begin())
        self._pending: list[Kept] = []
        self._entries: list[tuple[Record, dict[str, Any]]] = []

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._encoder.size

    @property
    def samples(self) -> int:
        """Values, frames and reports written so far."""
        return self._encoder.samples

    @property
    def pending_bytes(self) -> int:
        """About how much memory is taken by what was added and not written."""
        return sum(each.nbytes for each in self._pending)

    def add(self, kept: Kept) -> None:
        self._pending.append(kept)

    def record(self, kind: Record, value: dict[str, Any]) -> None:
        self._entries.append((kind, value))

    def flush(self) -> None:
        """Write what was added as one chunk."""
        self._file.write(self._encoder.chunk(self._pending, self._entries))
        self._pending.clear()
        self._entries.clear()

    def close(self) -> None:
        """Flush, seal and close."""
        if not self._file.closed:
            self.flush()
            self._file.write(self._encoder.finish())
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()
