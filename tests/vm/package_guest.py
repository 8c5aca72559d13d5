"""What the life of a package is lived with: commands of the guest, and what lies on its disk."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

LIMIT_S: Final = 60.0
_FOLDERS: Final = ("/boot", "/etc", "/home", "/opt", "/root", "/srv", "/usr", "/var")
# What dpkg and systemd note for themselves, whatever is installed.
_NOTED: Final = ("/var/cache", "/var/lib/dpkg", "/var/lib/systemd", "/var/log", "/var/tmp")  # noqa: S108
_SHARED: Final = ("/var/lib/private",)  # made by systemd for the first unit with DynamicUser=


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """A command; what it prints is kept."""
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=LIMIT_S)


def dpkg(*words: str) -> None:
    """`dpkg WORDS`, as a fleet does it: nobody answers questions. No power is cut meanwhile.

    Raises:
        AssertionError: it failed.
    """
    done = subprocess.run(
        ["dpkg", "--force-unsafe-io", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
        check=False,
        timeout=2 * LIMIT_S,
    )
    assert done.returncode == 0, f"dpkg {words}: {done.stdout}{done.stderr}"


def properties(unit: str, *names: str) -> dict[str, str]:
    """What systemd knows of a unit."""
    said = run("systemctl", "show", unit, *(f"--property={name}" for name in names)).stdout
    return dict(line.split("=", 1) for line in said.splitlines())


def journal(unit: str) -> str:
    """What a unit has said, and systemd of it."""
    return run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}").stdout


def until(
    condition: Callable[[], Any],
    what: str,
    shown: Callable[[], Any] = str,
    limit_s: float = LIMIT_S,
) -> Any:
    """Wait for a condition; gives what it gave.

    Raises:
        AssertionError: it did not come; with what `shown` gives, and the journal.
    """
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError(f"waited in vain: {what}: {shown()}\n{journal('edge-agent')}")


def files() -> set[str]:
    """Every path on the guest's disk that a package may leave something at."""
    found: set[str] = set()
    for top in _FOLDERS:
        for folder, folders, names in os.walk(top):
            folders[:] = [f for f in folders if str(Path(folder, f)) not in _NOTED]
            found.update(str(Path(folder, name)) for name in (*folders, *names))
    return found.difference(_SHARED)
