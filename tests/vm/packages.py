"""The package of this checkout for the guest's system, built once for all tests of a run."""

import functools
import os
import platform
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Final

from tests.vm.guest import CACHE, REPOSITORY, locked

TARGET: Final = {"x86_64": "deb12-amd64", "aarch64": "deb12-arm64"}[platform.machine()]
FOLDER: Final = CACHE / "deb"
"""Where packages for guests lie; `Guest` has made `.vm`."""


def build(folder: Path, *options: str) -> Path:
    """Build the package of this checkout as it is now.

    It takes the place of an earlier one at once: a guest of another run may be reading that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as new:
        words = [sys.executable, "-m", "deb", TARGET, "--uncompressed", "--to", new, *options]
        done = subprocess.run(
            words,
            cwd=REPOSITORY,
            env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        path = Path(done.stdout.strip())
        return path.replace(folder / path.name)


@functools.cache
def present() -> Path:
    """The package of this checkout, built when it is first asked for in this run.

    Nothing built by an earlier run is taken: it might be another checkout's.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid.uuid4().hex
    told = FOLDER / "present"
    FOLDER.mkdir(parents=True, exist_ok=True)
    with locked(FOLDER / "lock"):
        if told.exists() and told.read_text("utf-8").startswith(f"{run}\n"):
            return Path(told.read_text("utf-8").splitlines()[1])
        package = build(FOLDER)
        told.write_text(f"{run}\n{package}\n", "utf-8")
        return package


def inside(package: Path) -> str:
    """Where the guest sees a package."""
    return f"/mnt/project/{package.relative_to(REPOSITORY)}"
