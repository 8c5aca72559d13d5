"""What the agent needs beside the distribution's Python: one folder for each target.

pip chooses wheels for another Python than its own, but it judges markers ("only below 3.13") by its
own. So after each installation the closure is checked with the target's markers: what is missing is
asked for by name, what nobody needs goes.
"""

import dataclasses
import email
import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deb.target import Target

EXTRAS: Final = ("mqtt", "gnss", "gpio", "diagnostics")
"""Of the agent: what is small, and may be wanted on a vehicle."""

_ROUNDS: Final = 5
_NOT_RUN: Final = {
    "bin",
    "numpy/_core/include",
    "numpy/_core/lib",
    "numpy/_pyinstaller",
    "numpy/distutils",
    "numpy/f2py",
    "numpy/random/_examples",
    "numpy/random/lib",
}
"""Folders that no program needs which only computes: for building against, or for people."""
_SOURCES: Final = {".a", ".c", ".f", ".f90", ".h", ".pxd", ".pxi", ".pyf", ".pyi", ".pyx"}
_NOTES_OF_PIP: Final = {"INSTALLER", "RECORD", "REQUESTED", "direct_url.json"}


_ELF_MACHINE: Final = slice(18, 20)  # elf.h: e_machine, little endian on both architectures
_TAG: Final = re.compile(r"\.cpython-(\d+)-")


class SiteError(Exception):
    """What the agent needs cannot be had for a target."""


@dataclasses.dataclass(frozen=True, slots=True)
class Distribution:
    """An installed distribution of Python: its folder of metadata, and what that says."""

    folder: Path
    name: str
    version: str
    licence: str
    requires: tuple[Requirement, ...]


def make(project: Path, target: Target, folder: Path) -> Path:
    """The folder for a target, made below `folder` where it is not there yet.

    Args:
        project: the checkout: pyproject.toml says what is needed, constraints.txt in which version.
        target: the system.
        folder: where such folders are kept.

    Raises:
        SiteError: pip does not find it, or something else.
    """
    constraints = project / "constraints.txt"
    wanted = _requirements(project)
    key = "\n".join([target.name, *wanted, constraints.read_text("utf-8"), _recipe()])
    site = folder / f"{target.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another build may be making the same
        if not site.is_dir():
            _make(site, target, wanted, constraints)
    return site


def _make(site: Path, target: Target, wanted: list[str], constraints: Path) -> None:
    new = site.with_name(f"{site.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    for _ in range(_ROUNDS):
        _install(wanted, target, new, constraints)
        missing, unneeded = closure(target, distributions(new), wanted)
        if not missing:
            break
        wanted = [*wanted, *missing]
    else:
        raise SiteError(f"{target.name}: still missing after {_ROUNDS} rounds: {missing}")
    for distribution in unneeded:
        _uninstall(distribution)
    prune(new)
    if wrong := foreign(new, target):
        raise SiteError(f"{target.name}: made for another system: {', '.join(wrong)}")
    new.rename(site)


def distributions(site: Path) -> dict[str, Distribution]:
    """What is installed in a folder, by its normal name (PEP 503)."""
    found: dict[str, Distribution] = {}
    for folder in sorted(site.glob("*.dist-info")):
        said = email.message_from_string((folder / "METADATA").read_text("utf-8"))
        name = canonicalize_name(said["Name"])
        found[name] = Distribution(
            folder,
            name,
            said["Version"],
            _licence(
                said.get("License-Expression"), said.get("License"), said.get_all("Classifier")
            ),
            tuple(Requirement(line) for line in said.get_all("Requires-Dist") or ()),
        )
    return found


def closure(
    target: Target, installed: Mapping[str, Distribution], wanted: Iterable[str]
) -> tuple[list[str], list[Distribution]]:
    """What is missing on the target, as requirements; and what nothing there needs."""
    missing: dict[str, None] = {}
    needed: set[tuple[str, str]] = set()
    waiting = [(Requirement(text), "") for text in wanted]
    while waiting:
        requirement, extra = waiting.pop()
        if not target.wants(requirement, extra):
            continue
        name = canonicalize_name(requirement.name)
        if name not in installed:
            missing[str(requirement).partition(";")[0].strip()] = None
            continue
        for more in ("", *sorted(requirement.extras)):
            if (name, more) not in needed:
                needed.add((name, more))
                waiting += [(r, more) for r in installed[name].requires]
    names = {name for name, _ in needed}
    return list(missing), [d for name, d in installed.items() if name not in names]


def prune(site: Path) -> None:
    """Remove what no program needs to run: tests, headers, sources, notes of pip."""
    for name in _NOT_RUN:
        shutil.rmtree(site / name, ignore_errors=True)
    for folder in [f for name in ("tests", "test", "test_data") for f in site.rglob(name)]:
        if folder.is_dir():
            shutil.rmtree(folder)
    for file in [f for f in site.rglob("*") if f.is_file()]:
        note = file.parent.suffix == ".dist-info" and file.name in _NOTES_OF_PIP
        if note or file.suffix in _SOURCES:
            file.unlink()
    for below in sorted((f for f in site.rglob("*") if f.is_dir()), reverse=True):
        if not any(below.iterdir()):
            below.rmdir()


def foreign(site: Path, target: Target) -> list[str]:
    """Compiled modules and libraries that the target cannot load, by their header and name."""
    wrong = []
    for file in sorted(f for f in site.rglob("*.so*") if f.is_file()):
        with file.open("rb") as opened:
            header = opened.read(_ELF_MACHINE.stop)
        machine = int.from_bytes(header[_ELF_MACHINE], "little")
        tag = _TAG.search(file.name)
        if machine != target.elf_machine or (tag is not None and f"cp{tag[1]}" != target.abi):
            wrong.append(str(file.relative_to(site)))
    return wrong


def _requirements(project: Path) -> list[str]:
    said = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    extras = said["optional-dependencies"]
    return [*said["dependencies"], *(need for extra in EXTRAS for need in extras[extra])]


def _recipe() -> str:
    """A folder that was made by another version of this module is another one."""
    return Path(__file__).read_text("utf-8") + Path(__file__).with_name("target.py").read_text(
        "utf-8"
    )


def _install(wanted: Iterable[str], target: Target, folder: Path, constraints: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    bare = [re.sub(r"\s*;.*", "", need) for need in wanted if target.wants(Requirement(need))]
    done = subprocess.run(  # noqa: S603 - our own words
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-compile", "--target", str(folder), "--constraint", str(constraints)),
            *target.pip_options,
            *bare,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SiteError(f"pip cannot install what {target.name} needs:\n{done.stderr}")


def _uninstall(distribution: Distribution) -> None:
    for line in (distribution.folder / "RECORD").read_text("utf-8").splitlines():
        (distribution.folder.parent / line.split(",")[0]).unlink(missing_ok=True)


_LICENCE_OF_CLASSIFIER: Final = re.compile(r"License :: (?:OSI Approved :: )?(.+)")


def _licence(expression: str | None, text: str | None, classifiers: Iterable[str] | None) -> str:
    """What a distribution says about its licence, in one line."""
    if expression:
        return expression
    if text and "\n" not in text.strip():
        return text.strip()
    return "; ".join(_classified(classifiers or ())) or "see its files"


def _classified(classifiers: Iterable[str]) -> Iterator[str]:
    for line in classifiers:
        if match := _LICENCE_OF_CLASSIFIER.fullmatch(line):
            yield match[1]
