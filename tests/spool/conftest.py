"""Folders for tests that make and remove thousands of small files: in memory where that is large.

What is tested here is what the spool asks of a disk, and the disk is a simulated one: a real one
below it would only make it slow.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOM = 1 << 30
MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it


def fast_folder() -> str | None:
    """Where such folders are made; None: where all temporary ones are."""
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > _ROOM:
        return str(MEMORY)
    return None


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=fast_folder()) as folder:
        path = Path(folder) / "test"
        path.mkdir()
        yield path
