"""Real recordings and DBC files that lie beside the repository and not in it."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
"""A test with this mark is listed by name as not run where the data are missing."""


def shared(path: str) -> Path:
    """A file of ../shared/data, such as `logs/savvycan_candump.log`."""
    return SHARED / path
