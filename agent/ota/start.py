"""Which plan a process begins with: the bundle that the record names, if it still can be used."""

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from agent.clock import WallNs
from agent.collect import Plan
from agent.errors import AgentError, UpdateError
from agent.ota.bundle import Bundle, read
from agent.ota.factory import load_factory_plan, plan_for
from agent.ota.record import Record, running, without
from agent.ota.store import Store
from agent.ota.types import BundleId
from agent.settings import Device

log = logging.getLogger("edge_agent.ota")

PLANS = "plans"


Check = Callable[[Plan], object]
"""Raises ConfigError where this device cannot run a plan for a reason beyond the plan."""


def load_running_plan(
    device: Device, store: Store, wall: WallNs, check: Check = lambda _plan: None
) -> tuple[Plan, BundleId | None]:
    """The plan to begin with, and the bundle that it is of; None is the factory plan.

    A start in the middle of a trial counts as one try of it before the plan is even read. A bundle
    that cannot be used any more is given up for the one before it. `wall` is the time where it is
    known for certain.

    Raises:
        ConfigError: the factory plan is all that is left, and cannot be used.
        DatabaseError: the same of its database files.
    """
    return load_current(device, store, store.begin(wall), wall, check)


def load_current(
    device: Device, store: Store, record: Record, wall: WallNs, check: Check = lambda _plan: None
) -> tuple[Plan, BundleId | None]:
    """The plan that a record names, or where that cannot be used the one before it.

    Raises:
        ConfigError: the factory plan is all that is left, and cannot be used.
        DatabaseError: the same of its database files.
    """
    while (bundle := running(record)) is not None:
        try:
            plan = load_bundle(device, store, bundle)
            check(plan)
        except Exception as e:  # noqa: BLE001 - whatever it is, it would end every start
            why = str(e) if isinstance(e, AgentError) else f"{type(e).__name__}: {e}"
            log.warning("bundle %s cannot be used: %s", bundle.title, why)
            record = without(record, bundle.sha256, why, wall)
            store.attempt(record)
        else:
            return plan, bundle
    return load_factory_plan(device), None


def load_bundle(device: Device, store: Store, bundle: BundleId) -> Plan:
    """The plan of a bundle that is kept, compiled.

    Raises:
        UpdateError: it is damaged, or gone.
        ConfigError: its plan says what cannot be here.
        DatabaseError: a database file cannot be used.
        OSError: no disk takes its working copy.
    """
    return plan_of(device, read(store.bundle(bundle.sha256)))


def plan_of(device: Device, bundle: Bundle) -> Plan:
    """The plan of a bundle, compiled.

    Raises:
        ConfigError: its plan says what cannot be here.
        DatabaseError: a database file cannot be used.
        OSError: no disk takes its working copy, which is no fault of the bundle.
    """
    folder = Path(device.state_dir) / "ota" / PLANS / bundle.sha256[:16]
    try:
        return plan_for(device, bundle.extract(folder))
    except UpdateError as e:
        log.warning("%s: until then the plan is read from a temporary folder", e)
    with tempfile.TemporaryDirectory(prefix="edge-agent-") as name:
        try:
            path = bundle.extract(Path(name) / "plan")
        except UpdateError as e:
            raise OSError(str(e)) from e
        return plan_for(device, path)


def forget_plans(device: Device, store: Store) -> None:
    """Remove the working copies of bundles that nothing names any more."""
    record: Record = store.record
    kept = {
        bundle.sha256[:16]
        for bundle in (record.current, record.previous, running(record))
        if bundle is not None
    }
    folder = Path(device.state_dir) / "ota" / PLANS
    with contextlib.suppress(OSError):
        for entry in folder.iterdir():
            if entry.name not in kept:
                shutil.rmtree(entry, ignore_errors=True)
