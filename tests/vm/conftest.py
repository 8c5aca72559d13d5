"""What tests on a real kernel are given."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm import guest as guests
from tests.vm.links import Links

_HOST_TIMEOUT_S = 300  # several boots


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever stands in this folder is for `make test-vm` only."""
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        item.add_marker("vm")
        if item.get_closest_marker("vm_host") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_HOST_TIMEOUT_S))


@pytest.fixture
def vcan() -> Iterator[Links]:
    """Makes virtual buses: `vcan()` is the name of a new one, up, classic and FD."""
    links = Links()
    yield links
    links.close()


@pytest.fixture(scope="session")
def guest() -> guests.Guest:
    """Boots guests, one for each `guest.run(command)`."""
    return guests.prepare()


@pytest.fixture
def disk(guest: guests.Guest) -> Iterator[str]:
    """The name of a disk that outlives guests, for `guest.run(..., disk=disk)`."""
    name = f"edge-agent-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    yield name
    guest.remove_disk(name)
