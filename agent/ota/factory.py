"""The plan that `agent.toml` names: used while none came over the air, and what always remains."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from agent.blocks import TableSchema
from agent.bus.factory import tables_of
from agent.collect import Plan
from agent.collect.budget import REPORT
from agent.errors import ConfigError
from agent.settings import Device, load_plan
from agent.signals import Database
from agent.signals.health import schemas as health_schemas


def load_factory_plan(device: Device) -> Plan:
    """Read, compile and check the plan and its database files.

    Raises:
        ConfigError: the plan, or a bus of the device file, says something that cannot be.
        DatabaseError: a database file cannot be used.
    """
    return plan_for(device, Path(device.plan))


def plan_for(device: Device, path: Path) -> Plan:
    """Read, compile and check a plan for this device.

    Raises:
        ConfigError: the plan, or a bus of the device file, says something that cannot be.
        DatabaseError: a database file cannot be used.
    """
    return build_plan(
        path,
        buses=[bus.name for bus in device.bus],
        uplinks=device.receivers,
        platforms=list(device.platforms),
        tables=[table for bus in device.bus for table in tables_of(bus)],
        cache=Path(device.state_dir) / "cache" if device.state_dir else None,
    )


def build_plan(
    path: Path,
    *,
    buses: Sequence[str],
    uplinks: Sequence[str],
    platforms: Sequence[str] = (),
    tables: Sequence[TableSchema] = (),
    cache: Path | None = None,
) -> Plan:
    """A plan file for a device with these buses, uplinks and platforms.

    `tables` are what its sources make.

    Raises:
        ConfigError: the plan says something that cannot be.
        DatabaseError: a database file cannot be used.
    """
    settings = load_plan(path)
    for entry in settings.database:
        if entry.bus != "*" and entry.bus not in buses:
            raise ConfigError(
                f'{path}: [[database]] bus "{entry.bus}" is no bus of agent.toml, which has: '
                f"{', '.join(buses) or 'none'}"
            )
    try:
        database = Database.load(
            {entry.bus: entry.files for entry in settings.database},
            j1939=[entry.bus for entry in settings.database if entry.j1939],
            expand={entry.bus: entry.expand for entry in settings.database},
            cache=cache,
        )
        for entry in settings.database:
            database = database.with_codes(entry.bus, entry.codes)
        telling = [schema for bus in buses for schema in health_schemas(bus)]
        database = dataclasses.replace(database, tables=tuple(tables), telling=(*telling, REPORT))
        return Plan.build(settings, database, uplinks, platforms)
    except ConfigError as e:
        raise ConfigError(f"{path}: {e}") from e
