"""A small file, replaced whole: after a power cut it is the old one or the new one."""

import contextlib
import os
from pathlib import Path

from agent.spool.filesystem import WRITTEN


def replace_durably(path: Path, content: bytes, mode: int) -> None:
    """Put a file in place of another one.

    Written by root, it belongs to whom its folder belongs to: the agent runs as a user of its own.

    Raises:
        OSError: it is the old one.
    """
    beside = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        beside.unlink()  # of a run that was cut, perhaps with another mode
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            if os.geteuid() == 0:
                owner = path.parent.stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.write(content)
            WRITTEN.add(len(content))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
