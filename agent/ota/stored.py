"""The files of the record as bytes, and what they say together. Pure; see `agent.ota.store`.

    record.json, record.copy.json   {"crc32c": "0a1b2c3d", "record": {"format": 1, "serial": 7, ..}}
    trusted.msgpack                 CRC32C (u32, little endian), then a map: format, serial, floors,
                                    time_floor, trusted (files, etag)

The checksum of a record goes over its JSON as it stands in the file. A later format may change all
but the checksum, `format` and `serial`. So damage is never taken for a newer format: it has no
right checksum.
"""

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

import google_crc32c
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from agent.clock import WallNs
from agent.errors import UpdateError
from agent.ota import record as records
from agent.ota.record import FORMAT, UNKNOWN, Record
from agent.ota.trusted import Floor, Trusted

COPIES: Final = ("record.json", "record.copy.json")
TRUSTED: Final = "trusted.msgpack"
LIMITS: Final = {**dict.fromkeys(COPIES, 1 << 20), TRUSTED: 32 << 20}
"""Bytes that a file may have."""

Content = bytes | OSError | None
"""What the disk gives of a file; None: it is not there."""

_CRC: Final = struct.Struct("<I")


class Found(Struct, frozen=True):
    """What the files say together."""

    record: Record
    order: tuple[str, ...] = COPIES
    """The copies, the one to be written first first."""
    stale: bool = False
    """Whether a copy is missing, damaged or older."""
    unread: bool = False
    """Whether the disk did not give a file."""
    trouble: str = ""
    refusal: str = ""
    """Why nothing may be written."""


class _Head(Struct, frozen=True):
    """What every format has."""

    format: int
    serial: int


class _Envelope(Struct, frozen=True):
    crc32c: str
    record: msgspec.Raw


class _Repository(Struct, frozen=True):
    format: int
    serial: int
    """Of the record from which the floors are."""
    floors: dict[str, Floor]
    time_floor: WallNs
    trusted: Trusted


class _NewerError(Exception):
    """A file is whole, and of a format that this version does not know."""


def found(folder: Path, contents: Mapping[str, Content]) -> Found:
    """The newest record that is whole, with the highest floors that anything says."""
    notes = _Notes(folder)
    copies = {name: notes.judge(name, contents[name], _record_of) for name in COPIES}
    lost = list(notes.damaged)
    repository = notes.judge(TRUSTED, contents[TRUSTED], _repository_of)
    if notes.newer:
        sentence = (
            f"{notes.newer[0]} is of a newer agent: this one runs the factory plan and leaves "
            "everything as it is; install the newer agent again"
        )
        return Found(Record(), trouble=sentence, refusal=sentence)
    serials = {name: -1 if copy is None else copy.serial for name, copy in copies.items()}
    parts: list[Record | _Repository] = [copy for copy in copies.values() if copy is not None]
    record = max((copy for copy in copies.values() if copy is not None), key=_serial, default=None)
    if repository is not None:
        parts.append(repository)
    together = _risen(record or Record(), sorted(parts, key=_serial))
    trouble, refusal = "; ".join(notes.damaged), ""
    if record is None and any(isinstance(contents[name], OSError) for name in COPIES):
        # What a disk does not give today may be there tomorrow.
        trouble = refusal = (
            f"{trouble}: the factory plan runs, and nothing is changed until the agent is started "
            "again and can read it"
        )
    elif record is None and lost:
        trouble = f"{trouble}: the factory plan runs"
        together = records.lost(together, trouble)
    return Found(
        together,
        order=tuple(sorted(COPIES, key=lambda name: serials[name])),
        stale=together != Record() and any(copy != together for copy in copies.values()),
        unread=any(isinstance(content, OSError) for content in contents.values()),
        trouble=trouble,
        refusal=refusal,
    )


def trusted_of(content: Content) -> Trusted | None:
    """What is known of the repository; None where that is not known any more."""
    repository = _Notes(Path()).judge(TRUSTED, content, _repository_of)
    return None if repository is None else repository.trusted


def record_bytes(record: Record) -> bytes:
    """The content of a copy.

    Raises:
        UpdateError: it could not be read again.
    """
    try:
        body = msgspec.json.encode(record)
    except (ValueError, OverflowError) as e:
        raise UpdateError(f"the record cannot be written: {e}") from e
    crc = f"{google_crc32c.value(body):08x}"
    data = msgspec.json.encode(_Envelope(crc, msgspec.Raw(body))) + b"\n"
    if len(data) > LIMITS[COPIES[0]]:
        raise UpdateError(f"the record cannot be written: it has {len(data)} bytes")
    return data


def trusted_bytes(record: Record, trusted: Trusted) -> bytes:
    """The content of trusted.msgpack.

    Raises:
        UpdateError: it is too large to be read again.
    """
    body = msgspec.msgpack.encode(
        _Repository(FORMAT, record.serial, record.floors, record.time_floor, trusted)
    )
    data = _CRC.pack(google_crc32c.value(body)) + body
    if len(data) > LIMITS[TRUSTED]:
        raise UpdateError(
            f"the metadata of the repository have {len(data)} bytes, and {LIMITS[TRUSTED]} is what "
            "this vehicle keeps; make the repository smaller"
        )
    return data


def _serial(part: Record | _Repository) -> int:
    return part.serial


def _risen(record: Record, parts: list[Record | _Repository]) -> Record:
    """With the serial, the floors and the floor of time that parts say, the oldest part first."""
    floors: dict[str, Floor] = {}
    for part in parts:
        floors = records.raised(floors, part.floors)
    return replace(
        record,
        serial=max((part.serial for part in parts), default=0),
        floors=floors,
        time_floor=max((part.time_floor for part in parts), default=UNKNOWN),
    )


def _record_of(data: bytes) -> Record:
    envelope = msgspec.json.decode(data, type=_Envelope)
    if envelope.crc32c != f"{google_crc32c.value(bytes(envelope.record)):08x}":
        raise ValueError("another checksum")
    if msgspec.json.decode(envelope.record, type=_Head).format > FORMAT:
        raise _NewerError
    return msgspec.json.decode(envelope.record, type=Record)


def _repository_of(data: bytes) -> _Repository:
    body = data[_CRC.size :]
    if len(data) <= _CRC.size or _CRC.unpack_from(data)[0] != google_crc32c.value(body):
        raise ValueError("another checksum")
    if msgspec.msgpack.decode(body, type=_Head).format > FORMAT:
        raise _NewerError
    return msgspec.msgpack.decode(body, type=_Repository)


_Part = TypeVar("_Part", Record, _Repository)


class _Notes:
    """What was wrong with files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.damaged: list[str] = []
        self.newer: list[Path] = []

    def judge(self, name: str, content: Content, parse: Callable[[bytes], _Part]) -> _Part | None:
        """The content of a file, if it is whole."""
        path = self._folder / name
        if content is None:
            return None
        if isinstance(content, OSError):
            self.damaged.append(f"{path} cannot be read ({content.strerror or content})")
            return None
        if len(content) <= LIMITS[name]:
            try:
                return parse(content)
            except _NewerError:
                self.newer.append(path)
                return None
            except (msgspec.MsgspecError, ValueError, RecursionError):
                pass
        self.damaged.append(f"{path} is damaged")
        return None
