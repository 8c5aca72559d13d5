"""Values to bytes: the batch file, the same bytes on flash, on the link and at the reader.

docs/batch-format.md is the specification. In short: a file is a header, chunks and, once it is
sealed, a footer. A chunk is appended every commit interval and made durable; its payload is a flush
of a zstd stream, and a new zstd frame starts every 16 chunks. Inside lie typed, length-prefixed
records, each a msgpack map, its arrays as bytes.

Invariants:

- What was appended is never changed. A file that was cut anywhere is readable up to its last whole
  chunk; a chunk whose checksum fails costs itself and the rest of its zstd frame, and is counted.
- A reader never decodes past a gap: the columns of a zstd frame are deltas to the row before.
- Schemas are written at first use in the file, so that a batch needs nothing else to be read.
- The encoder (`encoder.py`; `columns.py` for samples, `frames.py` for raw frames, `reports.py` for
  reports) turns what is kept into bytes and does no I/O; `writer.py` and the spool put them on
  disk.
"""

from agent.batch.dated import read_batch, read_events, read_frames, read_reports
from agent.batch.reader import BatchReader, Scan
from agent.batch.writer import BatchWriter

__all__ = [
    "BatchReader",
    "BatchWriter",
    "Scan",
    "read_batch",
    "read_events",
    "read_frames",
    "read_reports",
]
