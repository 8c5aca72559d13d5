"""`make test-vm`: the tests of this folder, each where it belongs.

Tests need a kernel with virtual CAN buses: they run on this machine's own where that has them, else
all together in one guest. Those marked `vm_guest` run in a guest in any case, and those marked
`vm_host` run here and boot guests of their own, meanwhile. README.md says more.

    python -m tests.vm.runner [PYTEST ARGUMENTS]
"""

import contextlib
import io
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

import pytest

from tests.vm.guest import CACHE, REPOSITORY, Guest, GuestError, prepare, runner
from tests.vm.links import why_not

LIMIT_S: Final = 15 * 60.0
SORTS: Final = {
    "vm": "vm and not vm_guest and not vm_host and not slow",
    "vm_guest": "vm_guest and not slow",
    "vm_host": "vm_host and not slow",
}
"""The sorts of tests, and how pytest is told to run only those."""

_LAST_WORDS_S: Final = 30.0
_OK: Final = 0
_FAILED: Final = 1
_MISUSE: Final = 2
_NOTHING_COLLECTED: Final = 5


def main(arguments: list[str]) -> int:
    """Run every sort where it belongs; gives the exit status of the worst."""
    end = time.monotonic() + LIMIT_S
    # A word that is the value of an option, such as of -k, is no place where tests are.
    if not any(Path(word.partition("::")[0]).exists() for word in arguments):
        arguments = ["tests/vm", *arguments]
    status, sorts = _collect(arguments)
    if status != _OK:
        return status
    missing = why_not()
    guest = None
    if missing is not None or (runner() is not None and sorts - {"vm"}):
        try:
            guest = prepare()
        except GuestError as error:
            _say(f"{error}" if missing is None else f"no virtual CAN bus here ({missing}); {error}")
            return _MISUSE
    statuses = [_OK]
    here, inside = ([], ["vm", "vm_guest"]) if missing else (["vm"], ["vm_guest"])
    for sort in sorts.intersection(here):
        _say("on this machine's kernel")
        statuses.append(_here(sort, arguments, end))
    with _Beside() as beside:
        if sorts.intersection(inside):
            beside.start(lambda: _in_guest(guest, inside, arguments, end))
        if "vm_host" in sorts:
            statuses.append(_with_guests(guest, arguments, end))
    return max(*statuses, beside.status)


class _Beside:
    """Runs one thing beside the others; what it has printed comes in one piece, at the end."""

    def __init__(self) -> None:
        self.status = _OK
        self._said = ""
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def start(self, run: Callable[[], tuple[int, str]]) -> None:
        def take() -> None:
            self.status, self._said = run()

        self.status = _FAILED
        self._thread = threading.Thread(target=take)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._thread.join()
            sys.stdout.write(self._said)
            sys.stdout.flush()


class _Sorts:
    """Notes which sorts of tests pytest has collected."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            marks = [sort for sort in ("vm_host", "vm_guest") if item.get_closest_marker(sort)]
            self.found.add(marks[0] if marks else "vm")


def _collect(arguments: list[str]) -> tuple[int, set[str]]:
    """The exit status of pytest, and the sorts of tests that are selected; says what is wrong."""
    sorts = _Sorts()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        words = ["-m", "vm", "--collect-only", "-q", *arguments]
        status = int(pytest.main(words, plugins=[sorts]))
    if status == _NOTHING_COLLECTED:
        _say(f"no test is selected by {shlex.join(arguments)}")
    elif status != _OK:
        _say(said.getvalue())
    return status, sorts.found


def _say(text: str) -> None:
    sys.stderr.write(f"test-vm: {text}\n")
    sys.stderr.flush()


def _words(marks: str, arguments: list[str], *more: str) -> list[str]:
    return ["-m", "pytest", "-q", "-m", marks, *more, *arguments]


def _here(sort: str, arguments: list[str], end: float, *more: str) -> int:
    words = [sys.executable, *_words(SORTS[sort], arguments, *more)]
    with subprocess.Popen(words, cwd=REPOSITORY) as process:
        try:
            return process.wait(max(1.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            _say(f"not done within {LIMIT_S / 60:g} minutes")
            process.send_signal(signal.SIGINT)  # it then says what has failed until now
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LAST_WORDS_S)
            process.kill()
            return _FAILED


def _in_guest(
    guest: Guest | None, sorts: list[str], arguments: list[str], end: float
) -> tuple[int, str]:
    """The exit status, and what was printed."""
    if guest is None:
        return _not_run(sorts[-1], arguments), ""
    _say("in a guest, meanwhile; what it prints comes at the end")
    marks = " or ".join(f"({SORTS[sort]})" for sort in sorts)
    # The checkout is read-only there; what pytest would remember goes, what Hypothesis found stays.
    words = shlex.join(_words(marks, arguments, "-p", "no:cacheprovider"))
    command = guest.command(
        f"HYPOTHESIS_STORAGE_DIRECTORY=/mnt/out/hypothesis exec python3 {words}",
        timeout_s=max(1.0, end - time.monotonic()),
        out=CACHE / "out",
    )
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, f"test-vm: in a guest\n{done.stdout.decode(errors='replace')}"


def _with_guests(guest: Guest | None, arguments: list[str], end: float) -> int:
    if guest is None:
        return _not_run("vm_host", arguments)
    _say("with guests of their own")
    # Much of their time they wait: for a minute's batch, a watchdog, a restart.
    return _here("vm_host", arguments, end, "-n", "2", "--dist", "loadfile")


def _not_run(sort: str, arguments: list[str]) -> int:
    """Name the tests that cannot be run here: nothing is left out in silence."""
    _say("NOT RUN, for there is no VM_RUNNER to boot guests:")
    words = _words(SORTS[sort], arguments, "--collect-only")
    subprocess.run([sys.executable, *words], cwd=REPOSITORY, check=False)
    return _OK


if __name__ == "__main__":
    os.chdir(REPOSITORY)
    sys.exit(main(sys.argv[1:]))
