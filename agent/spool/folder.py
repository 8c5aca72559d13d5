"""The spool folder: where things are, whose it is, and what a start finds in it."""

import contextlib
import dataclasses
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.batch import BatchReader
from agent.batch.format import SUFFIX, footer_from_tail, pack_footer
from agent.batch.reader import pack_anchor
from agent.clock import Anchor
from agent.errors import BatchError, SpoolError
from agent.settings import LANES, Lane
from agent.spool.filesystem import FileSystem, RealFileSystem
from agent.spool.outbox import Parcel

_TAIL = 4096
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
QUARANTINE_FILES = 100
"""How many files are kept aside for each uplink; the oldest goes first."""

Positions = dict[str, dict[str, Any]]
"""Bus -> where its recording was read to: `path`, `size` and `frames`."""


@dataclasses.dataclass(frozen=True, slots=True)
class LeftOpen:
    """A file that an earlier run left in `open/`, cut and sealed where it holds samples."""

    batch_id: str
    path: Path
    stream: str
    lane: Lane
    uplinks: tuple[str, ...]
    samples: int


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What a start found."""

    parcels: Mapping[str, list[Parcel]]
    """By uplink, oldest first."""
    left_open: tuple[LeftOpen, ...]
    """To be published, or removed where empty, once their positions have new keepers."""
    positions: Mapping[str, Positions]
    """By stream: how far its newest batch reaches."""
    anchors: tuple[Anchor, ...]
    quarantined: int


class SpoolFolder:
    """A spool folder that this process holds.

    Raises (all methods): OSError, as the disk does.
    """

    def __init__(self, root: Path, uplinks: list[str], fs: FileSystem | None = None) -> None:
        """Take the folder: lock it, read or make its identity, raise the run counter.

        Raises:
            SpoolError: another agent holds it, or it cannot be written.
        """
        self.fs: FileSystem = fs or RealFileSystem()
        self.root = root
        self.uplinks = uplinks
        try:
            self._make_folders()
            self._lock = self.fs.lock(root / "lock")
            self.install = self._identity()
            self.run = self._raise_run()
        except BlockingIOError as e:
            raise SpoolError(
                f"{root}: another edge-agent is using this spool; stop it, or choose another "
                "state_dir"
            ) from e
        except OSError as e:
            raise SpoolError(f"{root}: the spool cannot be written: {e.strerror}") from e

    def _make_folders(self) -> None:
        for folder in (
            self.open_folder,
            *(self.lane_folder(u, lane) for u in self.uplinks for lane in LANES),
            *(self.root / "quarantine" / u for u in self.uplinks),
        ):
            self.fs.make_folder(folder)

    def _identity(self) -> str:
        path = self.root / "install"
        with contextlib.suppress(FileNotFoundError):
            if len(text := self.fs.read(path).decode("ascii", "replace").strip()) == 16:
                return text
        install = secrets.token_hex(8)
        self.fs.replace_durably(path, f"{install}\n".encode())
        return install

    def _raise_run(self) -> int:
        """One more than any run that left a trace, should the counter be damaged."""
        runs = [0]
        path = self.root / "run"
        with contextlib.suppress(FileNotFoundError, ValueError):
            runs.append(int(self.fs.read(path)))
        runs += [run for name in self._all_names() if (run := _run_of(name)) is not None]
        run = max(runs) + 1
        self.fs.replace_durably(path, f"{run}\n".encode())
        return run

    def _all_names(self) -> Iterator[str]:
        yield from self.fs.names(self.open_folder)
        for uplink in self.uplinks:
            for lane in LANES:
                yield from self.fs.names(self.lane_folder(uplink, lane))

    @property
    def open_folder(self) -> Path:
        return self.root / "open"

    def lane_folder(self, uplink: str, lane: Lane) -> Path:
        return self.root / "uplinks" / uplink / lane

    def open_path(self, batch_id: str) -> Path:
        return self.open_folder / f"{batch_id}{SUFFIX}"

    def parcel_path(self, uplink: str, lane: Lane, batch_id: str) -> Path:
        return self.lane_folder(uplink, lane) / f"{batch_id}{SUFFIX}"

    def batch_id(self, lane: Lane, sequence: int) -> str:
        return f"{self.install}-{self.run}-{lane}-{sequence}"

    def close(self) -> None:
        self.fs.close(self._lock)

    def publish(self, batch_id: str, lane: Lane, uplinks: tuple[str, ...]) -> None:
        """Link a sealed batch into its lanes, durably, and take it out of `open/`."""
        source = self.open_path(batch_id)
        for uplink in uplinks:
            self.fs.make_folder(self.lane_folder(uplink, lane))
            with contextlib.suppress(FileExistsError):  # a start after a cut does this again
                self.fs.link(source, self.parcel_path(uplink, lane, batch_id))
            self.fs.sync_folder(self.lane_folder(uplink, lane))
        self.fs.unlink(source)
        self.fs.sync_folder(self.open_folder)

    def quarantine(self, path: Path, uplink: str) -> None:
        """Put a file aside, bounded."""
        folder = self.root / "quarantine" / uplink
        self.fs.make_folder(folder)
        names = self.fs.names(folder)
        for name in names[: max(0, len(names) + 1 - QUARANTINE_FILES)]:
            self.fs.unlink(folder / name)
        self.fs.rename(path, folder / path.name)

    def recover(self) -> Found:
        """Cut and seal what a run before left open, and list what waits."""
        positions: dict[str, Positions] = {}
        newest: dict[str, tuple[int, int]] = {}
        left: list[LeftOpen] = []
        anchors: list[Anchor] = []
        quarantined = 0
        for name in self.fs.names(self.open_folder):
            path = self.open_folder / name
            try:
                reader = BatchReader(path)
                stream, lane, uplinks, order = _whose(reader.header)
            except BatchError:
                # Cut before its header was durable, or no batch: nothing in it was ever promised.
                quarantined += 1
                self.quarantine(path, "unreadable")
                continue
            reached, samples = _read_positions(reader)
            anchors += reader.anchors()
            if reached and order > newest.get(stream, (0, 0)):
                newest[stream] = order
                positions[stream] = reached
            scan = reader.scan()
            if samples and not scan.sealed:
                self.seal_at(path, scan.end, scan.chunks, samples, reader.anchors())
            batch_id = name.removesuffix(SUFFIX)
            left.append(LeftOpen(batch_id, path, stream, lane, uplinks, samples))
        parcels = {uplink: self._parcels(uplink) for uplink in self.uplinks}
        for path in {p.path.name: p.path for found in parcels.values() for p in found}.values():
            with contextlib.suppress(BatchError):
                anchors += BatchReader(path).anchors()
        return Found(parcels, tuple(left), positions, tuple(dict.fromkeys(anchors)), quarantined)

    def seal_at(
        self, path: Path, end: int, chunks: int, samples: int, anchors: Iterable[Anchor]
    ) -> int:
        """Cut a batch behind its last whole chunk and seal it; gives its size."""
        footer = pack_footer(
            {
                "chunks": chunks,
                "samples": samples,
                "recovered": True,
                "anchors": [pack_anchor(a) for a in anchors],
            }
        )
        handle = self.fs.open_append(path)
        try:
            self.fs.write_at(handle, end, footer)
            self.fs.truncate(handle, end + len(footer))
            self.fs.sync(handle)
        finally:
            self.fs.close(handle)
        return end + len(footer)

    def _parcels(self, uplink: str) -> list[Parcel]:
        parcels = []
        for lane in LANES:
            for name in self.fs.names(self.lane_folder(uplink, lane)):
                path = self.lane_folder(uplink, lane) / name
                footer = footer_from_tail(self.fs.read_tail(path, _TAIL))
                if footer is None:
                    self.quarantine(path, uplink)
                    continue
                parcels.append(
                    Parcel(
                        batch_id=name.removesuffix(SUFFIX),
                        lane=lane,
                        path=path,
                        size=self.fs.size(path),
                        samples=int(footer.get("samples", 0)),
                    )
                )
        return sorted(parcels, key=lambda p: order_of(p.batch_id))


def order_of(batch_id: str) -> tuple[int, int]:
    """(run, sequence) of a batch: the order in which batches of a lane were made."""
    try:
        _, run, _, sequence = batch_id.split("-")
        return int(run), int(sequence)
    except ValueError:
        return 0, 0


def _run_of(name: str) -> int | None:
    return order_of(name.removesuffix(SUFFIX))[0] or None


def _whose(header: Mapping[str, Any]) -> tuple[str, Lane, tuple[str, ...], tuple[int, int]]:
    try:
        lane, uplinks = header["lane"], tuple(header["uplinks"])
        order = int(header["run"]), int(header["sequence"])
        if lane not in LANES or not uplinks or not all(_NAME.fullmatch(u) for u in uplinks):
            raise BatchError("the header names no lane or no uplink")
        return str(header["stream"]), lane, uplinks, order
    except (KeyError, TypeError, ValueError) as e:
        raise BatchError(f"the header lacks a part: {e}") from e


def _read_positions(reader: BatchReader) -> tuple[Positions, int]:
    """How far a batch reaches, and how many samples can be read from it."""
    positions: Positions = dict(reader.header.get("positions") or {})
    samples = 0
    for kind, value in reader.records():
        if kind == "position":
            positions.update(value)
        elif kind == "samples":
            samples += value.samples
    return positions, samples
