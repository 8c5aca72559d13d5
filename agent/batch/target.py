"""A file that appears under its name when it is whole and durable, or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from agent.errors import ConfigError


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Gives another name beside `path`, to be written there; it takes its name at the end.

    Raises:
        ConfigError: the disk refuses.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.open("xb").close()
        yield part
        _sync(part, os.O_RDONLY)
        part.replace(path)
        _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as e:
        raise ConfigError(f"{path}: cannot be written: {e.strerror or e}") from e
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _sync(path: Path, how: int) -> None:
    fd = os.open(path, how)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
