"""Guests: throwaway Linux machines in which this checkout is installed as the program.

A guest is booted by the runner that `VM_RUNNER` names, a program with the command line of `can-vm`
(README.md says which part of it). It sees the checkout read-only at /mnt/project. What the program
needs is installed once on the host, into `.vm/site-*` of the checkout, in the versions that
constraints.txt pins; so a guest needs no network, and a boot costs nothing for it.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[2]
CACHE: Final = REPOSITORY / ".vm"
RUNNER: Final = REPOSITORY.parent / "shared" / "vm" / "can-vm"
POWER_CUT: Final = 137
TIME_LIMIT: Final = 124

_EXTRAS: Final = ("gnss", "diagnostics")
_TEST_TOOLS: Final = ("pytest", "pytest-timeout", "pytest-randomly", "hypothesis")
# pip judges the markers of what a package needs by the Python that runs it, not by the guest's.
_OF_PYTHON_3_11: Final = ("typing_extensions",)
_RUNNER_FAILED: Final = 125
_BOOT_LIMIT_S: Final = 300.0


class GuestError(Exception):
    """No guest can be had, or it broke down by itself."""


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """How a command in a guest ended: its exit status, and what it printed on both streams.

    `POWER_CUT` is the status where the power was cut as asked for, `TIME_LIMIT` where it took too
    long.
    """

    exit: int
    output: str


@dataclasses.dataclass(frozen=True, slots=True)
class Guest:
    """Boots guests, one for each `run`.

    Args:
        runner: the program that boots them.
        site: the folder of installed packages, inside the checkout.
    """

    runner: Path
    site: Path

    def command(
        self,
        command: str,
        *,
        disk: str | None = None,
        kill_after_s: float | None = None,
        kill_on: str | None = None,
        timeout_s: float = 120.0,
        out: Path | None = None,
    ) -> list[str]:
        """The words that boot a guest and run a shell command in it; see `run`."""
        options = ["--share", str(REPOSITORY), "--timeout", f"{timeout_s:g}"]
        if disk is not None:
            options += ["--disk-persistent", disk]
        if kill_after_s is not None:
            options += ["--kill-after", f"{kill_after_s:g}"]
        if kill_on is not None:
            options += ["--kill-on", kill_on]
        if out is not None:
            options += ["--out", str(out)]
        site = Path("/mnt/project") / self.site.relative_to(REPOSITORY)
        return [str(self.runner), "run", *options, "--", f". tests/vm/enter.sh {site}\n{command}"]

    def run(
        self,
        command: str,
        *,
        disk: str | None = None,
        kill_after_s: float | None = None,
        kill_on: str | None = None,
        timeout_s: float = 120.0,
        out: Path | None = None,
    ) -> Result:
        """Boot, run a shell command as root in /mnt/project, and power off.

        Args:
            command: for bash; `edge-agent` and `python3` are this checkout's.
            disk: name of a disk at /mnt/data that outlives the guest (the fixture `disk` gives
                one).
            kill_after_s: cut the power so long after the command has started.
            kill_on: cut the power when the command prints a line that matches.
            timeout_s: for the command; the boot is not counted.
            out: a folder that the guest sees, and may write, at /mnt/out.

        Raises:
            GuestError: the guest did not come up, or ended by itself.
        """
        words = self.command(
            command,
            disk=disk,
            kill_after_s=kill_after_s,
            kill_on=kill_on,
            timeout_s=timeout_s,
            out=out,
        )
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s + _BOOT_LIMIT_S,
            check=False,
        )
        output = done.stdout.decode(errors="replace")
        if done.returncode == _RUNNER_FAILED:
            words_of_runner = done.stderr.decode(errors="replace")
            raise GuestError(f"the guest broke down\n{words_of_runner}\n{output}")
        return Result(done.returncode, output)

    def remove_disk(self, name: str) -> None:
        """Forget a disk that outlived its guests."""
        subprocess.run([self.runner, "disk-rm", name], check=True, timeout=60)


def runner() -> Path | None:
    """The program that boots guests, if there is one; VM_RUNNER may be empty to say that."""
    named = os.environ.get("VM_RUNNER")
    if named is None:
        return RUNNER if RUNNER.exists() else None
    return Path(named).resolve() if named else None


def prepare() -> Guest:
    """Install what guests need, where that has not been done yet.

    Raises:
        GuestError: there is no runner, or the packages cannot be installed.
    """
    program = runner()
    if program is None or not os.access(program, os.X_OK):
        found = f"{program} cannot be run" if program else "there is no runner for guests"
        raise GuestError(f"{found}: set VM_RUNNER to a program like can-vm (tests/vm/README.md)")
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n", encoding="ascii")
    with locked(CACHE / "lock"):
        _copy_recordings(REPOSITORY.parent / "shared" / "data", CACHE / "shared" / "data")
        return Guest(program, _site())


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _requirements() -> list[str]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [need for extra in _EXTRAS for need in project["optional-dependencies"][extra]]
    bare = [need.partition(";")[0].strip() for need in (*project["dependencies"], *extras)]
    return [*bare, *_TEST_TOOLS, *_OF_PYTHON_3_11]


def _site() -> Path:
    """The folder of packages for the guest's Python, made where it is not there yet."""
    constraints = REPOSITORY / "constraints.txt"
    wanted = "\n".join((*_requirements(), constraints.read_text("utf-8"), sys.version))
    site = CACHE / f"site-{hashlib.sha256(wanted.encode()).hexdigest()[:10]}"
    if site.is_dir():
        return site
    sys.stderr.write("Installing what the guest needs (once; half a minute) ...\n")
    folder = CACHE / "site.new"
    shutil.rmtree(folder, ignore_errors=True)  # of an installation that was interrupted
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    guests_python = ["--python-version", "3.11", "--implementation", "cp"]
    done = subprocess.run(
        [
            *(*pip, *guests_python, "--only-binary", ":all:"),
            *("--target", str(folder), "--constraint", str(constraints), *_requirements()),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise GuestError(f"pip could not install what the guest needs:\n{done.stderr}")
    folder.rename(site)
    return site


def _copy_recordings(source: Path, target: Path) -> None:
    """Recordings beside the checkout; a guest sees nothing outside of it."""
    for file in source.rglob("*"):
        copy = target / file.relative_to(source)
        if not file.is_file() or (copy.exists() and _same(copy, file)):
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.unlink(missing_ok=True)
        shutil.copy2(file, copy)


def _same(one: Path, other: Path) -> bool:
    a, b = one.stat(), other.stat()
    return (a.st_size, int(a.st_mtime)) == (b.st_size, int(b.st_mtime))
