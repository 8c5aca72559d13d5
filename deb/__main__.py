"""`python -m deb`: build the packages."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from deb import control, site, tree
from deb.target import TARGETS, Target, debian_version

PROJECT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Build; prints the packages. Exit status 1 where one cannot be built."""
    parser = argparse.ArgumentParser(prog="python -m deb", description="Build packages for dpkg.")
    names = [target.name for target in TARGETS]
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"which ones (default: all of {names})"
    )
    parser.add_argument("--to", type=Path, default=PROJECT / "dist", help="default: dist/")
    parser.add_argument("--version", help="in place of the one in pyproject.toml")
    parser.add_argument(
        "--uncompressed", action="store_true", help="for tests: built and installed in less time"
    )
    args = parser.parse_args(arguments)
    if unknown := set(args.targets) - set(names):
        parser.error(
            f"there is no target {', '.join(sorted(unknown))}; there is {', '.join(names)}"
        )
    wanted = [t for t in TARGETS if t.name in (args.targets or names)]
    try:
        for path in build(wanted, args.to, args.version, compressed=not args.uncompressed):
            sys.stdout.write(f"{path}\n")
    except (site.SiteError, BuildError) as e:
        sys.stderr.write(f"deb: {e}\n")
        return 1
    return 0


class BuildError(Exception):
    """A package cannot be built."""


def build(
    targets: Sequence[Target], folder: Path, version: str | None = None, *, compressed: bool = True
) -> list[Path]:
    """Build a package for each target into a folder; gives their paths.

    Raises:
        BuildError: a tool is missing or fails, or the version is none.
        SiteError: what the agent needs cannot be had.
    """
    if shutil.which("dpkg-deb") is None:
        raise BuildError("there is no dpkg-deb; on Debian or Ubuntu it is in dpkg")
    said = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]
    epoch = _epoch()
    folder.mkdir(parents=True, exist_ok=True)
    cache = PROJECT / "build/deb"
    cache.mkdir(parents=True, exist_ok=True)
    made = []
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        program = _program(Path(scratch))
        for target in targets:
            try:
                number = debian_version(version or said["version"], target)
            except ValueError as e:
                raise BuildError(str(e)) from e
            root = Path(scratch) / target.name
            parts = site.make(PROJECT, target, cache)
            tree.lay_out(root, target, PROJECT, program, parts)
            describe(root, target, number, said["description"])
            tree.set_modes_and_times(root, epoch)
            path = folder / f"{tree.PACKAGE}_{number}_{target.architecture}.deb"
            _pack(root, path, epoch, compressed=compressed)
            made.append(path)
    return made


def describe(root: Path, target: Target, version: str, summary: str) -> None:
    """Write DEBIAN/ and the file `copyright` for what lies in a folder."""
    parts = site.distributions(root / tree.CODE).values()
    documents = root / "usr/share/doc" / tree.PACKAGE
    (documents / "copyright").write_text(control.copyright_of(parts), "utf-8")
    about = {
        "control": control.control(target, version, summary, tree.installed_kib(root)).encode(),
        "conffiles": "".join(f"{f}\n" for f in tree.configuration(root)).encode(),
        "md5sums": tree.checksums(root).encode(),
        **tree.scripts(target),
    }
    (root / "DEBIAN").mkdir()
    for name, data in about.items():
        (root / "DEBIAN" / name).write_bytes(data)


def _epoch() -> int:
    """The time that everything in a package has: SOURCE_DATE_EPOCH, or that of the last commit."""
    if said := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(said)
    done = subprocess.run(  # noqa: S603 - our own words
        ["git", "-C", str(PROJECT), "log", "-1", "--format=%ct"],  # noqa: S607 - the path's git
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError("this is no checkout of git; set SOURCE_DATE_EPOCH to a time in seconds")
    return int(done.stdout)


def _program(scratch: Path) -> Path:
    """The agent as its wheel installs it, made anew: it holds what the checkout holds now."""
    wheels, program = scratch / "wheel", scratch / "program"
    _run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels)])
    (wheel,) = wheels.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--no-deps", "--no-index", "--no-compile", "--target", str(program), str(wheel)])
    site.prune(program)
    return program


def _pack(root: Path, path: Path, epoch: int, *, compressed: bool) -> None:
    # A sixth more than xz would make of it, in a tenth of the time, and unpacked in less.
    # One thread: how a stream is cut for several ones may depend on their number.
    how = ["-Zzstd", "-z10", "--threads-max=1"] if compressed else ["-Znone"]
    _run(
        ["dpkg-deb", "--root-owner-group", *how, "--build", str(root), str(path)],
        {"SOURCE_DATE_EPOCH": str(epoch)},
    )


def _run(words: Sequence[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(  # noqa: S603 - our own words
        words,
        cwd=PROJECT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(f"{' '.join(words[:4])} ... failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
