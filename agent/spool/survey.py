"""Looks into a spool folder without holding it: a running agent's, or one of a dead computer.

Nothing is written and no lock is taken. A running agent moves files meanwhile: places are read in
the direction in which batches move (`open/`, the lanes, what is kept), so that none is missed, and
a file that has gone when it is read is left out.
"""

import contextlib
import dataclasses
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from agent.batch import BatchReader
from agent.batch.format import SUFFIX, footer_from_tail, pack_footer
from agent.batch.reader import Scan, pack_anchor
from agent.clock import Anchor, Clock, WallNs, best_anchor
from agent.errors import BatchError
from agent.settings import LANES
from agent.spool.ages import Born, born_of
from agent.spool.naming import lane_of, order_of

State = Literal["open", "waiting", "sent", "quarantined"]


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """One name of a file in the spool."""

    state: State
    uplink: str
    """Empty of an open batch; of quarantine also `unreadable`."""
    path: Path
    inode: tuple[int, int]

    @property
    def batch_id(self) -> str:
        return self.path.name.removesuffix(SUFFIX)


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """A batch as it lies there."""

    place: Place
    size: int
    samples: int
    born: Born | None
    anchors: tuple[Anchor, ...]
    uplinks: tuple[str, ...]
    first_ns: int | None
    last_ns: int | None
    recorded: bool
    """Its times are a recording's own."""
    trouble: str
    """Why it cannot be read, a sentence."""
    tombstones: tuple[dict[str, Any], ...] = ()


def spool_of(folder: Path) -> Path:
    """The spool in a state folder, or the folder itself."""
    inside = folder / "spool"
    return inside if inside.is_dir() else folder


def places(root: Path) -> Iterator[Place]:
    """Every batch file by each of its names; of one that was just published, not the open one."""
    found = [Place("open", "", *at) for at in _files(root / "open")]
    for uplink in _folders(root / "uplinks"):
        for lane in LANES:
            found += [Place("waiting", uplink.name, *at) for at in _files(uplink / lane)]
    for uplink in _folders(root / "uplinks"):
        found += [Place("sent", uplink.name, *at) for at in _files(uplink / "sent")]
    for uplink in _folders(root / "quarantine"):
        found += [Place("quarantined", uplink.name, *at) for at in _files(uplink)]
    published = {place.inode for place in found if place.state == "waiting"}
    yield from (p for p in found if p.state != "open" or p.inode not in published)


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _files(folder: Path) -> list[tuple[Path, tuple[int, int]]]:
    found = []
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                stat = path.stat()
                if path.name.endswith(SUFFIX) and path.is_file():
                    found.append((path, (stat.st_dev, stat.st_ino)))
    return sorted(found, key=lambda at: order_of(at[0].name.removesuffix(SUFFIX)))


def look(place: Place) -> Look | None:
    """What a batch is; None where it has gone meanwhile.

    Raises:
        OSError: never.
    """
    try:
        size = place.path.stat().st_size
    except OSError:
        return None
    try:
        reader = BatchReader(place.path)
    except BatchError as e:
        if _gone(e):
            return None
        return Look(place, size, 0, None, (), (), None, None, recorded=False, trouble=str(e))
    scan = reader.scan()
    footer = scan.footer or {}
    samples = scan.samples
    times = [t for t in (footer.get("first"), footer.get("last")) if isinstance(t, int)]
    stones: list[dict[str, Any]] = []
    recorded = False
    whole = samples is None or len(times) < 2 or footer.get("tombstones", 1) != 0
    count = 0
    for kind, value in reader.records():
        if kind == "schema":
            recorded = value.get("clock") == "recorded"
            if not whole:
                break
        elif kind == "tombstone":
            stones.append(value)
        elif kind in ("samples", "frames", "reports") and len(value):
            rows = value.block if kind == "frames" else value
            count += value.samples
            moments = [*times, int(rows.time.min()), int(rows.time.max())]
            times = [min(moments), max(moments)]
            recorded = rows.clock == "recorded"
            if not whole:
                break
    trouble = ""
    if place.state != "open" and not _has_its_end(place.path):
        trouble = "it has lost its end"
    elif scan.bad_chunks:
        trouble = f"{scan.bad_chunks} chunks are damaged"
    return Look(
        place,
        size,
        count if samples is None else samples,
        born_of(reader.header),
        tuple(reader.anchors()),
        tuple(u for u in reader.header.get("uplinks") or () if isinstance(u, str)),
        first_ns=times[0] if times else None,
        last_ns=times[-1] if times else None,
        recorded=recorded,
        trouble=trouble,
        tombstones=tuple(stones),
    )


def _has_its_end(path: Path) -> bool:
    """As a start sees it: without the very last bytes, a footer is none."""
    try:
        return footer_from_tail(path.read_bytes()) is not None
    except OSError:
        return True  # gone meanwhile: nothing is wrong with it


def _gone(error: BatchError) -> bool:
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENOENT


def age_s(at: Look, anchors: list[Anchor], clock: Clock) -> float | None:
    """How long ago a batch was begun, seconds; None where no clock says it."""
    if at.born is None:
        return None
    if at.born.boot_id == clock.boot_id:
        return (clock.boot() - at.born.boot) / 1e9
    anchor = best_anchor(anchors, at.born.boot_id)
    if anchor is None:
        return None
    return max(0, clock.wall() - WallNs(at.born.boot + anchor.offset)) / 1e9


def verify(place: Place, names: list[Place]) -> tuple[list[str], int] | None:
    """What is wrong with a file, in sentences, and how many samples it holds.

    `names` are all names of it, or of others that call themselves so. None where it has gone.
    """
    try:
        reader = BatchReader(place.path)
    except BatchError as e:
        return None if _gone(e) else ([str(e)], 0)
    path, header, scan = place.path, reader.header, reader.scan()
    samples = reader.count_samples()
    wrong = list(reader.notes)
    wrong += [f"{path}: {text}" for text in _wrong(place, header, scan, samples)]
    others = {p.inode for p in names if p.batch_id == place.batch_id} - {place.inode}
    if others:
        wrong.append(f"{path}: another file has the same name: {place.batch_id} is there twice")
    twice = [p.path for p in names if p.inode == place.inode and p.batch_id != place.batch_id]
    wrong += [f"{path}: is the same file as {other}" for other in twice]
    return wrong, samples


def _wrong(place: Place, header: dict[str, Any], scan: Scan, samples: int) -> Iterator[str]:
    batch_id = place.batch_id
    if header.get("batch_id") != batch_id:
        yield f"its header says that it is {header.get('batch_id')!r}"
    lane = place.path.parent.name if place.state == "waiting" else lane_of(batch_id)
    if header.get("lane") != lane:
        yield f"its header names the lane {header.get('lane')!r}, it lies in {lane!r}"
    uplinks = header.get("uplinks")
    if place.state in ("waiting", "sent") and place.uplink not in (uplinks or ()):
        yield f"it lies at the uplink {place.uplink}, its header names {uplinks!r}"
    if place.state == "open":
        return  # being written, or cut at its last whole chunk at the next start
    if not _has_its_end(place.path):
        yield f"its end is damaged: {scan.trailing:,} bytes follow the last whole chunk"
        return
    if scan.bad_chunks:
        yield f"{scan.bad_chunks} chunks beside {scan.chunks} good ones are bad"
    elif (scan.footer or {}).get("chunks") != scan.chunks:
        yield f"the footer tells of {(scan.footer or {}).get('chunks')} chunks, not {scan.chunks}"
    if scan.samples is not None and scan.samples != samples:
        yield f"{samples:,} of {scan.samples:,} samples can be read"


def identity(root: Path, found: list[Place]) -> list[str]:
    """What is wrong with the files that name batches."""
    wrong = []
    try:
        install = (root / "install").read_text("ascii", "replace").strip()
        if not re.fullmatch("[0-9a-f]{16}", install):
            wrong.append(f"{root / 'install'}: is damaged; the next start makes a new identity")
        run = int((root / "run").read_text("ascii", "replace"))
        highest = max(
            (order_of(p.batch_id)[0] for p in found if p.batch_id.startswith(f"{install}-")),
            default=0,
        )
        if run < highest:
            wrong.append(f"{root / 'run'}: says {run}, there are batches of run {highest}")
    except (OSError, ValueError):
        wrong.append(f"{root}: `install` or `run` cannot be read; the next start makes new ones")
    return wrong


def held(root: Path) -> bool:
    """Whether an agent holds the lock of a spool, as far as this kernel tells."""
    with contextlib.suppress(OSError):
        stat = (root / "lock").stat()
        device = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
        for line in Path("/proc/locks").read_text("ascii").splitlines():
            if "FLOCK" in line and device in line.split():
                return True
    return False


def export(place: Place, target: Path) -> bool:
    """Give a batch a second name, or a copy on another file system; False where it has gone.

    An open one is cut at its last whole chunk and sealed, as a start does it.

    Raises:
        BatchError: it has no whole header.
        OSError: it cannot be read, or the target cannot be written.
    """
    if place.state == "open":
        return _sealed_copy(place, target)
    try:
        with contextlib.suppress(FileExistsError):
            try:
                os.link(place.path, target)
            except OSError as e:
                if e.errno in (errno.ENOENT, errno.EEXIST):
                    raise
                _write(target, place.path.read_bytes())
    except FileNotFoundError:
        if not target.parent.is_dir():
            raise
        return False
    return True


def _sealed_copy(place: Place, target: Path) -> bool:
    try:
        reader = BatchReader(place.path)
    except BatchError as e:
        if _gone(e):
            return False
        raise
    scan = reader.scan()
    data = place.path.read_bytes()
    if not scan.sealed:
        footer = {
            "chunks": scan.chunks,
            **reader.totals(),
            "recovered": True,
            "anchors": [pack_anchor(anchor) for anchor in reader.anchors()],
        }
        data = data[: scan.end] + pack_footer(footer)
    _write(target, data)
    return True


def _write(target: Path, data: bytes) -> None:
    """Whole or not at all."""
    temporary = target.with_name(target.name + ".new")
    temporary.write_bytes(data)
    temporary.replace(target)
