"""Bytes a sample, and the size of batches against xz -9e of the same delta columns."""

import dataclasses
import lzma
import tempfile
from pathlib import Path

from agent.batch import BatchWriter, read_batch
from agent.batch.columns import pack_tables
from agent.batch.format import CHUNK_HEAD, FOOTER, NEW_FRAME, unpack_chunk, unpack_header, zstd
from agent.blocks import SignalTable, TableSchema, concatenate
from agent.clock import MILLISECOND
from tests.benchmarks.report import Figure, parser, show
from tests.benchmarks.traffic import KONA, Traffic, decoder, sources

_CHUNK_ALLOWANCE = 20
_NOTES = (
    "1 s chunks: header, schemas, samples and footer as BatchWriter writes them, times in ms.",
    "xz of the columns: what the file's chunks hold before zstd (schemas and samples, laid out as",
    "  the format says), of the whole file, one behind the other; lzma preset 9 | EXTREME.",
    f"  ratio = file / (xz + {_CHUNK_ALLOWANCE} bytes a chunk).",
    "xz of whole columns, stricter: the same, but the columns run through the whole recording",
    "  without chunks (each in one width), and there is no schema.",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """What one recording comes to, in bytes."""

    file: int
    samples: int
    chunks: int
    xz_contents: int
    xz_whole: int

    def ratio(self, xz: int) -> float:
        return self.file / (xz + _CHUNK_ALLOWANCE * self.chunks)


def contents(data: bytes) -> list[bytes]:
    """What each chunk of a batch holds before compression; docs/batch-format.md, "file"."""
    found = []
    _, offset = unpack_header(data, "batch")
    stream = zstd.ZstdDecompressor()
    while (head := unpack_chunk(data, offset)) is not None and not head.flags & FOOTER:
        if head.flags & NEW_FRAME:
            stream = zstd.ZstdDecompressor()
        begin = offset + CHUNK_HEAD
        found.append(stream.decompress(data[begin : begin + head.size]))
        offset = begin + head.size
    return found


def measure(traffic: Traffic) -> Sizes:
    """Write a recording as one batch, and pack the same columns with xz."""
    decode = decoder(traffic).decode
    by_schema: dict[TableSchema, list[SignalTable]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drive.batch"
        with BatchWriter(path, vehicle="bench") as writer:
            for blocks in traffic.seconds():
                for table in (t for block in blocks for t in decode(block)):
                    writer.add(table)
                    by_schema.setdefault(table.schema, []).append(table)
                writer.flush()
        data = path.read_bytes()
        samples = sum(table.samples for table in read_batch(path))
        assert samples == writer.samples == sum(t.samples for p in by_schema.values() for t in p)
    chunks = contents(data)
    tables = [(i, concatenate(parts)) for i, parts in enumerate(by_schema.values())]
    whole = pack_tables(tables, {}, MILLISECOND)
    return Sizes(
        file=len(data),
        samples=samples,
        chunks=len(chunks),
        xz_contents=_xz(b"".join(chunks)),
        xz_whole=_xz(whole["columns"] + whole.get("payload", b"")),
    )


def _xz(data: bytes) -> int:
    return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def main() -> None:
    args = parser(__doc__ or "").parse_args()
    figures = []
    for name, load in sources().items():
        sizes = measure(load())
        figures += [
            Figure(
                f"{name}: bytes a sample",
                sizes.file / sizes.samples,
                "B",
                "at most",
                0.20 if name == KONA else None,
                note=f"({sizes.file:,} bytes, {sizes.samples:,} samples, {sizes.chunks} chunks)",
            ),
            Figure(
                f"{name}: against xz of the columns",
                sizes.ratio(sizes.xz_contents),
                "x",
                "at most",
                1.5,
                note=f"(xz {sizes.xz_contents:,})",
            ),
            Figure(
                f"{name}: against xz of whole columns, stricter",
                sizes.ratio(sizes.xz_whole),
                "x",
                note=f"(xz {sizes.xz_whole:,})",
            ),
        ]
    show("Bytes", figures, _NOTES, as_json=args.json)


if __name__ == "__main__":
    main()
