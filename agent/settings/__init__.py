"""The typed model of `agent.toml` (the device file) and of a collection plan.

The device file belongs to whoever owns the vehicle computer: identity, buses, endpoints,
credentials, the spool. The plan may come over the air, so it can name signals, rates and uplinks,
and nothing that the device file decides. Both are TOML, checked whole before anything starts: an
unknown key, a wrong type or a value out of range is refused with file, line, key and, where one is
near, the key that was probably meant.

Relative paths stand for files beside the file that names them. Every setting of the device file can
be overridden by an environment variable: `EDGE_AGENT_SPOOL__QUOTA_MB=100`,
`EDGE_AGENT_UPLINK__CLOUD__URL=...` (the item of a list by its name).

docs/configuration.md describes every key; `edge-agent check --schema device|plan` prints the JSON
Schema.
"""

from agent.settings.buses import (
    Bus,
    GnssBus,
    PythonCanBus,
    RecordingBus,
    SlcanBus,
    SocketCanBus,
)
from agent.settings.device import Batch, Device, Gpio, Ignition, Link, Spool, Uplink
from agent.settings.gbt32960 import Gbt32960
from agent.settings.gbt32960_mapping import Gbt32960Mapping
from agent.settings.limits import Limits
from agent.settings.metrics import Metrics
from agent.settings.ota import Ota
from agent.settings.plan import (
    Budget,
    Campaign,
    CodesOfSignals,
    DatabaseOfBus,
    FramesOfBus,
    Geofence,
    Health,
    Plan,
    PolicyOfSignals,
    Privacy,
    RawValues,
    Recognise,
    Sessions,
    Trigger,
    VssOfSignal,
)
from agent.settings.reading import PREFIX, find, load_device, load_plan, packaged, schema
from agent.settings.types import LANES, Lane, Name

__all__ = [
    "LANES",
    "PREFIX",
    "Batch",
    "Budget",
    "Bus",
    "Campaign",
    "CodesOfSignals",
    "DatabaseOfBus",
    "Device",
    "FramesOfBus",
    "Gbt32960",
    "Gbt32960Mapping",
    "Geofence",
    "GnssBus",
    "Gpio",
    "Health",
    "Ignition",
    "Lane",
    "Limits",
    "Link",
    "Metrics",
    "Name",
    "Ota",
    "Plan",
    "PolicyOfSignals",
    "Privacy",
    "PythonCanBus",
    "RawValues",
    "Recognise",
    "RecordingBus",
    "Sessions",
    "SlcanBus",
    "SocketCanBus",
    "Spool",
    "Trigger",
    "Uplink",
    "VssOfSignal",
    "find",
    "load_device",
    "load_plan",
    "packaged",
    "schema",
]
