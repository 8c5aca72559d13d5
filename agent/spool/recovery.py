"""What a start finds in the spool folder.

Nothing is believed: a file without a whole header goes to quarantine, one that was being written is
cut at its last whole chunk, a sealed one must end with its footer. A file that cannot be read now
is left where it is.
"""

import contextlib
import dataclasses
import logging
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.batch import BatchReader
from agent.batch.format import (
    END_MAGIC,
    END_SIZE,
    MAX_CHUNK,
    SUFFIX,
    footer_from_tail,
    unpack_header,
)
from agent.batch.reader import Scan, scan_chunks, unpack_anchor
from agent.clock import Anchor
from agent.errors import BatchError
from agent.settings import LANES, Lane
from agent.spool.ages import Born, born_of, sealed_of
from agent.spool.filesystem import FileSystem
from agent.spool.folder import Closing, SpoolFolder, passing
from agent.spool.naming import order_of
from agent.spool.parcel import Parcel
from agent.spool.positions import Positions, further
from agent.spool.shelf import Shelf
from agent.spool.tombstones import Tombstone, carried

log = logging.getLogger("edge_agent.spool")

_TAIL = 4096
_HEAD = 4096
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
UNREADABLE = "unreadable"
"""Stands for an uplink in quarantine: files of `open/` without a whole header."""


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What a start found."""

    parcels: Mapping[str, list[Parcel]]
    """By uplink, oldest first; without those that are still in `open/`."""
    left_open: tuple[Closing, ...]
    """Oldest first; to be published or removed once their positions have new keepers."""
    positions: Mapping[str, Positions]
    """By stream: how far its batches reach."""
    anchors: tuple[Anchor, ...]
    """Of the boots of these batches."""
    born: tuple[Born, ...]
    """When these batches were made and sealed."""
    spoiled: Mapping[str, list[tuple[Parcel, list[Tombstone]]]]
    """By uplink: batches that have lost their end, and are in quarantine now; with the tombstones
    that could still be read in them."""


def recover(folder: SpoolFolder, quarantine: Shelf) -> Found:
    """List what a run before left.

    Raises:
        OSError: never for one file; as the disk does for all of them.
    """
    positions: dict[str, Positions] = {}
    left: list[Closing] = []
    anchors: list[Anchor] = []
    boots: set[str] = set()
    for name in folder.names(folder.open_folder):
        path = folder.open_folder / name
        try:
            batch, reached, boot = _left_open(folder.fs, path)
        except OSError as e:
            log.warning("%s: cannot be read: %s", path, e.strerror)
            continue
        except BatchError as e:
            # Cut before its header was durable, or no batch: nothing in it was ever promised.
            log.warning("%s", e)
            with contextlib.suppress(OSError):
                quarantine.put(UNREADABLE, path)
            continue
        left.append(batch)
        anchors += batch.anchors
        boots.add(boot)
        if reached:
            positions[batch.stream] = further(positions.get(batch.stream, {}), reached)
    names = {batch.path.name for batch in left}
    parcels: dict[str, list[Parcel]] = {uplink: [] for uplink in folder.uplinks}
    spoiled: dict[str, list[tuple[Parcel, list[Tombstone]]]] = {u: [] for u in folder.uplinks}
    seen: dict[str, Born | None] = {}
    moments: list[Born | None] = [batch.born for batch in left]
    for uplink, lane in ((uplink, lane) for uplink in folder.uplinks for lane in LANES):
        for name in folder.names(folder.lane_folder(uplink, lane)):
            if name in names:
                continue  # published in part: will be again
            with passing(f"{name} cannot be read", always=True):
                path = folder.lane_folder(uplink, lane) / name
                footer = _footer(folder.fs, path)
                if footer is None:
                    spoiled[uplink].append(_spoil(folder, quarantine, uplink, lane, path))
                    continue
                if name not in seen:
                    header = _header(folder.fs, path)
                    seen[name] = born_of(header)
                    moments += [seen[name], sealed_of(header, footer)]
                    anchors += _anchors_of(footer)
                    boots.add(str(header.get("boot_id", "")))
                parcels[uplink].append(_parcel(folder.fs, lane, path, footer, seen[name]))
    for found in parcels.values():
        found.sort(key=lambda p: order_of(p.batch_id))
    known = dict.fromkeys(a for a in anchors if a.boot_id in boots)
    born = tuple(moment for moment in moments if moment is not None)
    return Found(parcels, tuple(left), positions, tuple(known), born, spoiled)


def sealed_parcel(fs: FileSystem, lane: Lane, path: Path) -> Parcel | None:
    """A sealed batch that lies at `path`; None where it has lost its end.

    Raises:
        OSError: it cannot be read.
    """
    footer = _footer(fs, path)
    return None if footer is None else _parcel(fs, lane, path, footer, made(fs, path))


def made(fs: FileSystem, path: Path) -> Born | None:
    """When a batch was made, by its header.

    Raises:
        OSError: it cannot be read.
    """
    return born_of(_header(fs, path))


def _parcel(
    fs: FileSystem, lane: Lane, path: Path, footer: Mapping[str, Any], born: Born | None
) -> Parcel:
    return Parcel(
        path.name.removesuffix(SUFFIX),
        lane,
        path,
        fs.size(path),
        _count(footer.get("samples")),
        born,
        footer.get("tombstones", 1) != 0,
    )


def _left_open(fs: FileSystem, path: Path) -> tuple[Closing, Positions, str]:
    """A file in `open/`, how far it reaches in recordings, and its boot.

    Raises:
        BatchError: it has no whole header.
    """
    data = fs.read(path)
    header, begin = unpack_header(data, str(path))
    stream, lane, uplinks = _whose(header)
    reader = BatchReader(path)
    positions: Positions = dict(header.get("positions") or {})
    samples = frames = reports = events = tombstones = 0
    for kind, value in reader.records():
        if kind == "position":
            positions.update(value)
        elif kind == "samples":
            samples += value.samples
        elif kind == "frames":
            samples += value.samples
            frames += value.samples
        elif kind == "reports":
            samples += value.samples
            reports += value.samples
        elif kind == "event":
            events += 1
        elif kind == "tombstone":
            tombstones += 1
    scan = scan_chunks(data, begin)
    sealed = footer_from_tail(data) is not None
    if scan.footer is not None and not sealed:
        # The footer is there, what must stand behind it (or its end) is not: cut before it.
        scan = _before_footer(data, begin, scan)
    batch = Closing(
        batch_id=path.name.removesuffix(SUFFIX),
        path=path,
        stream=stream,
        lane=lane,
        uplinks=uplinks,
        end=scan.end,
        chunks=scan.chunks,
        samples=samples,
        frames=frames,
        reports=reports,
        events=events,
        keep=sealed or samples > 0 or events > 0 or tombstones > 0,
        anchors=tuple(reader.anchors()),
        born=born_of(header),
        tombstones=tombstones,
        footer=sealed,
        size=len(data),
    )
    return batch, positions, str(header.get("boot_id", ""))


def _footer(fs: FileSystem, path: Path) -> dict[str, Any] | None:
    tail = fs.read_tail(path, _TAIL)
    if len(tail) == _TAIL and tail.endswith(END_MAGIC):
        size = struct.unpack_from("<I", tail, len(tail) - END_SIZE)[0]
        if len(tail) < size + END_SIZE <= MAX_CHUNK:
            tail = fs.read_tail(path, size + END_SIZE)
    return footer_from_tail(tail)


def _header(fs: FileSystem, path: Path) -> dict[str, Any]:
    """The header; empty where it is damaged."""
    with contextlib.suppress(BatchError):
        try:
            return unpack_header(fs.read_head(path, _HEAD), str(path))[0]
        except BatchError:  # a long one
            return unpack_header(fs.read(path), str(path))[0]
    return {}


def _spoil(
    folder: SpoolFolder, quarantine: Shelf, uplink: str, lane: Lane, path: Path
) -> tuple[Parcel, list[Tombstone]]:
    samples = 0
    stones: list[Tombstone] = []
    with contextlib.suppress(BatchError):
        reader = BatchReader(path)
        samples = reader.count_samples()
        stones = carried(reader.records(), uplink)
    size = folder.fs.size(path)
    quarantine.put(uplink, path)
    log.error("%s: has lost its end, and is in quarantine", path)
    return Parcel(path.name.removesuffix(SUFFIX), lane, path, size, samples), stones


def _before_footer(data: bytes, begin: int, scan: Scan) -> Scan:
    """The chunks before the footer of a file: without its last byte it is none."""
    end = scan.end - END_SIZE if data[: scan.end].endswith(END_MAGIC) else scan.end
    return scan_chunks(data[: end - 1], begin)


def _whose(header: Mapping[str, Any]) -> tuple[str, Lane, tuple[str, ...]]:
    try:
        lane, uplinks = header["lane"], tuple(header["uplinks"])
        if lane not in LANES or not uplinks or not all(_NAME.fullmatch(u) for u in uplinks):
            raise BatchError("the header names no lane or no uplink")
        return str(header["stream"]), lane, uplinks
    except (KeyError, TypeError) as e:
        raise BatchError(f"the header lacks a part: {e}") from e


def _anchors_of(footer: Mapping[str, Any]) -> list[Anchor]:
    found = footer.get("anchors")
    known = map(unpack_anchor, found if isinstance(found, list) else ())
    return [a for a in known if a is not None]


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
