"""A bundle: a collection plan and its database files, in one file that is signed and published.

It is an archive (agent.ota.archive) with `manifest.json` first. The manifest says the name and the
version again, for whom it is, which agent it needs, and the SHA-256 of every file; what it does not
list is not in a bundle. Nothing in a bundle is executed.

The text of the plan is not changed. A plan names database files by where they lie beside it, so a
bundle keeps these places: its top is the highest folder that the plan's names climb to. From
`config/ev.toml` with `files = ["../dbc/ev.dbc"]` come `config/ev.toml` and `dbc/ev.dbc`. Names
that would mean another file on the vehicle cannot be packed: absolute ones, those that begin
with `~`, and those that climb further than four folders or climb after they went down.

What `read` gives is bounded, whole and consistent: the limits of the archive hold, every file has
its SHA-256, and the plan names every other file and no file besides. Whether the plan itself makes
sense is for `load_plan` and the rehearsal, on the working copy that `extract` makes.
"""

import fnmatch
import hashlib
import os
import re
import shutil
import stat
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

from agent.errors import AgentError, UpdateError
from agent.ota import archive
from agent.ota.archive import brief, refused, shown
from agent.ota.types import BundleId
from agent.settings import load_plan
from agent.settings.types import Name

FORMAT: Final = 1

Version = Annotated[int, Meta(ge=1, le=999_999_999)]
AgentVersion = Annotated[str, Meta(pattern=r"^([0-9]{1,9}(\.[0-9]{1,9}){0,3})?\Z")]
"""Such as 0.1.0; empty: any."""
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]

_MANIFEST: Final = "manifest.json"
_MOST_MANIFEST: Final = 1 << 18
_MOST_PLAN: Final = 1 << 20
_MOST_UP: Final = 4
# The time that tomllib takes grows with the square of the parts of a key.
_DEEP_KEY: Final = re.compile(r"""(?:\.[ \t]*(?:[\w-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')[ \t]*){32}""")


class Audience(Struct, frozen=True, forbid_unknown_fields=True):
    """Vehicles in any of the groups, and those with a name that fits any of the patterns.

    Both empty: every vehicle.
    """

    groups: tuple[str, ...] = ()
    vehicles: tuple[str, ...] = ()

    def fits(self, vehicle: str, groups: Collection[str]) -> bool:
        if not self.groups and not self.vehicles:
            return True
        return any(group in groups for group in self.groups) or any(
            fnmatch.fnmatchcase(vehicle, pattern) for pattern in self.vehicles
        )


EVERYONE: Final = Audience()


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a bundle says of itself; `files` are the SHA-256 of each of its files."""

    format: int
    name: Name
    version: Version
    minimum_agent: AgentVersion
    audience: Audience
    plan: str
    files: dict[str, Digest]


class _Format(Struct):
    format: int


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read: the files by their names, and the SHA-256 of the archive."""

    manifest: Manifest
    files: Mapping[str, bytes]
    sha256: str

    @property
    def id(self) -> BundleId:
        return BundleId(self.manifest.name, self.manifest.version, self.sha256)

    @property
    def title(self) -> str:
        """For a person: `ev 3`."""
        return self.id.title

    def extract(self, folder: Path) -> Path:
        """Make `folder` a working copy, and give the path of the plan in it.

        The folder is the bundle's own: a file that is there with the same content stays as it is,
        and everything else in it goes; no link in it is followed. Nothing is synced: it is made
        from the archive again at each start.

        Raises:
            UpdateError: the file system refuses.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            there = self._tidied(folder)
            for name, content in self.files.items():
                if name not in there:
                    path = folder / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
        except OSError as e:
            raise UpdateError(
                f"{folder}: bundle {self.title} cannot be unpacked here: {e.strerror or e}; "
                "see that the folder can be written and the disk is not full"
            ) from e
        return folder / self.manifest.plan

    def _tidied(self, folder: Path) -> set[str]:
        """Remove what is not in the bundle; give what is there already."""
        folders = {str(parent) for name in self.files for parent in PurePosixPath(name).parents}
        there: set[str] = set()
        waiting = [folder]
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    path = Path(entry.path)
                    name = path.relative_to(folder).as_posix()
                    if entry.is_dir(follow_symlinks=False):
                        if name in folders:
                            waiting.append(path)
                        else:
                            shutil.rmtree(path)
                    elif entry.is_file(follow_symlinks=False) and self._same(path, name):
                        there.add(name)
                    else:
                        path.unlink()
        return there

    def _same(self, path: Path, name: str) -> bool:
        content = self.files.get(name)
        try:
            return (
                content is not None
                and path.stat().st_size == len(content)
                and path.read_bytes() == content
            )
        except PermissionError:
            return False


def pack(
    plan: Path,
    *,
    version: int,
    minimum_agent: str = "",
    audience: Audience = EVERYONE,
    name: str = "",
) -> bytes:
    """The bundle of a plan file and the database files that it names.

    Args:
        plan: the plan file.
        version: at least 1; vehicles go to higher ones.
        minimum_agent: version of the agent that it needs, such as "0.1.0"; empty: any.
        audience: the vehicles that it is for.
        name: what it is called, the plan's own name if empty.

    Raises:
        UpdateError: the plan cannot be used (which says file and key), it names a file in a way
            that has no meaning on a vehicle, a file cannot be read, or it is all too large.
    """
    try:
        settings = load_plan(plan)
    except AgentError as e:
        raise UpdateError(f"{e}") from e
    except (ValueError, RecursionError) as e:  # of tomllib, beside its own
        raise UpdateError(f"{plan}: is not valid TOML: {e}") from e
    text = _read_file(plan, plan.name)
    databases = _databases(str(plan), text)
    folder = plan.parent.resolve()
    farthest = max(databases, key=lambda database: database.up, default=_Database("", 0, ()))
    if farthest.up > min(_MOST_UP, len(folder.parts) - 1):
        raise UpdateError(
            f"{plan}: the database file {shown(farthest.entry)} lies too far from the plan; put "
            f"both below one folder, at most {_MOST_UP} levels above the plan"
        )
    inside = folder.parts[len(folder.parts) - farthest.up :]
    place = "/".join((*inside, plan.name))
    files = {place: text}
    for database in databases:
        files[database.below(inside)] = _read_file(plan, database.entry)
    for file in files:
        if why := archive.wrong_with(file):
            raise UpdateError(f"{plan}: the name {shown(file)} {why}; rename this file")
    if _MANIFEST in files:
        raise UpdateError(f"{plan}: {_MANIFEST} is what a bundle calls its own; rename this file")
    manifest = Manifest(
        format=FORMAT,
        name=name or settings.name,
        version=version,
        minimum_agent=minimum_agent,
        audience=audience,
        plan=place,
        files={name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)},
    )
    try:
        head = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    except UnicodeEncodeError as e:
        raise UpdateError(
            f"{plan}: what the bundle is to be called, or for whom, is no text"
        ) from e
    _read_manifest(head)
    data = archive.pack([(_MANIFEST, head), *((name, files[name]) for name in sorted(files))])
    read(data)  # what a vehicle refuses is not worth publishing
    return data


def read(data: bytes) -> Bundle:
    """Unpack and check a bundle; whatever comes in, time and memory are bounded.

    Raises:
        UpdateError: it is damaged, too large, made by a newer version, or not what it says.
    """
    content = archive.members(data)
    name, head = next(content, ("", b""))
    if name != _MANIFEST:
        raise refused(f"it does not begin with {_MANIFEST}")
    manifest = _read_manifest(head)
    files: dict[str, bytes] = {}
    for name, file in content:
        if name not in manifest.files:
            raise refused(f"{shown(name)} is in it, and not in its manifest")
        if hashlib.sha256(file).hexdigest() != manifest.files[name]:
            raise refused(f"{shown(name)} has another SHA-256 than its manifest says")
        files[name] = file
    if missing := manifest.files.keys() - files.keys():
        raise refused(f"{shown(min(missing))} is in its manifest, and not in it")
    _check_places(manifest, files)
    return Bundle(manifest, MappingProxyType(files), hashlib.sha256(data).hexdigest())


def _read_manifest(head: bytes) -> Manifest:
    if len(head) > _MOST_MANIFEST:
        raise refused(f"its manifest has more than {_MOST_MANIFEST} bytes")
    try:
        number = msgspec.json.decode(head, type=_Format).format
        if number != FORMAT:
            raise UpdateError(
                f"the bundle is refused: it has format {number}, and this agent reads format "
                f"{FORMAT}; update the agent, or publish it with an older one"
            )
        manifest = msgspec.json.decode(head, type=Manifest)
    except (msgspec.DecodeError, ValueError, RecursionError) as e:
        raise refused(f"its manifest cannot be used: {brief(str(e))}") from e
    if manifest.plan not in manifest.files:
        raise refused(f"its plan {shown(manifest.plan)} is not in it")
    if len(manifest.files) > archive.MOST_FILES:
        raise refused(f"it has more than {archive.MOST_FILES} files")
    folders = {str(parent) for name in manifest.files for parent in PurePosixPath(name).parents}
    if both := folders & manifest.files.keys():
        raise refused(f"{shown(min(both))} is a file and a folder")
    return manifest


def _check_places(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """The plan names every other file of the bundle, and no file besides."""
    inside = PurePosixPath(manifest.plan).parent.parts
    where = f"the bundle is refused: {shown(manifest.plan)}"
    named = {manifest.plan}
    for database in _databases(where, files[manifest.plan]):
        file = shown(database.entry)
        if database.up > len(inside):
            raise UpdateError(f"{where}: the database file {file} lies outside of the bundle")
        if (name := database.below(inside)) not in files:
            raise UpdateError(f"{where}: the database file {file} is not in the bundle")
        named.add(name)
    if more := files.keys() - named:
        raise refused(f"{shown(min(more))} is in it, and the plan does not name it")


class _DatabaseFiles(Struct):
    files: Annotated[list[str], Meta(min_length=1)]


class _PlanFiles(Struct):
    """As much of a plan as a bundle has to know."""

    database: list[_DatabaseFiles]


class _Database(NamedTuple):
    """Where a database file lies: so many folders up from the plan, and from there down."""

    entry: str
    up: int
    down: tuple[str, ...]

    def below(self, inside: tuple[str, ...]) -> str:
        """Its name in a bundle, where the plan is in the folder `inside`."""
        return "/".join((*inside[: len(inside) - self.up], *self.down))


def _databases(where: str, text: bytes) -> list[_Database]:
    """The database files that a plan names; `where` begins the sentence when they have no place."""
    if len(text) > _MOST_PLAN:
        raise UpdateError(f"{where}: a plan in a bundle has at most {_MOST_PLAN} bytes")
    try:
        toml = text.decode()
        if _DEEP_KEY.search(toml):
            raise UpdateError(f"{where}: a key in a plan has at most 32 parts")
        plan = msgspec.convert(tomllib.loads(toml), _PlanFiles)
    except (ValueError, RecursionError, msgspec.ValidationError) as e:
        raise UpdateError(f"{where}: the plan cannot be read: {brief(str(e))}") from e
    return [_database(where, file) for database in plan.database for file in database.files]


def _database(where: str, entry: str) -> _Database:
    path = PurePosixPath(entry)
    if path.is_absolute():
        raise UpdateError(
            f"{where}: the database file {shown(entry)} is absolute; name it by where it lies "
            "beside the plan, because a vehicle has other folders"
        )
    up = next((i for i, part in enumerate(path.parts) if part != ".."), len(path.parts))
    down = path.parts[up:]
    if not down or path.parts[0].startswith("~"):
        raise UpdateError(f"{where}: {shown(entry)} does not name a database file beside the plan")
    if ".." in down:
        raise UpdateError(
            f"{where}: the database file {shown(entry)} climbs after it went down; leave out what "
            '".." takes back'
        )
    return _Database(entry, up, down)


def _read_file(plan: Path, entry: str) -> bytes:
    """A file beside the plan, for a bundle; bounded."""
    path = plan.parent / entry
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise UpdateError(f"{plan}: {shown(entry)} is no file; a bundle holds nothing else")
        if about.st_size > archive.MOST_UNPACKED:
            raise UpdateError(
                f"{plan}: {shown(entry)} has {about.st_size} bytes, and all of a bundle may have "
                f"{archive.MOST_UNPACKED}"
            )
        return path.read_bytes()
    except (OSError, ValueError) as e:
        what = e.strerror if isinstance(e, OSError) else e
        raise UpdateError(f"{plan}: the file {shown(entry)} cannot be read: {what}") from e
