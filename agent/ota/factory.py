"""The plan that `agent.toml` names: used while none came over the air, and what always remains."""

import dataclasses
from pathlib import Path

from agent.bus.factory import tables_of
from agent.collect import Plan
from agent.errors import ConfigError
from agent.settings import Device, load_plan
from agent.signals import Database


def load_factory_plan(device: Device) -> Plan:
    """Read, compile and check the plan and its database files.

    Raises:
        ConfigError: the plan, or a bus of the device file, says something that cannot be.
        DatabaseError: a database file cannot be used.
    """
    path = Path(device.plan)
    settings = load_plan(path)
    buses = [bus.name for bus in device.bus]
    for entry in settings.database:
        if entry.bus != "*" and entry.bus not in buses:
            raise ConfigError(
                f'{path}: [[database]] bus "{entry.bus}" is no bus of agent.toml, which has: '
                f"{', '.join(buses) or 'none'}"
            )
    tables = tuple(table for bus in device.bus for table in tables_of(bus))
    try:
        database = Database.load(
            {entry.bus: entry.files for entry in settings.database},
            j1939=[entry.bus for entry in settings.database if entry.j1939],
            expand={entry.bus: entry.expand for entry in settings.database},
            cache=Path(device.state_dir) / "cache" if device.state_dir else None,
        )
        for entry in settings.database:
            database = database.with_codes(entry.bus, entry.codes)
        database = dataclasses.replace(database, tables=tables)
        return Plan.build(settings, database, [uplink.name for uplink in device.uplink])
    except ConfigError as e:
        raise ConfigError(f"{path}: {e}") from e
