"""The files of a bench: what a vehicle's computer would have in /etc, in one folder.

agent.toml        written at each start: addresses are those of this bench
plan-KIND.toml    written once, and yours to edit; `edge-agent reload` takes it over at once
dbc/              copies of the database files that the plan names
state/            the agent's identity and spool
cloud/            batches that arrived
ota/              a repository of configuration, and keys that protect nothing
agent.log
"""

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from agent.bench.anydbc import DatabaseVehicle
from agent.bench.charging import ChargingVehicle
from agent.bench.disturb import Disturbed
from agent.bench.driver import no_longer_than, recording_blocks, vehicle_blocks
from agent.bench.nodes import read_nodes
from agent.bench.pages import Vehicle
from agent.bench.truck import VirtualTruck
from agent.bench.vehicle import VirtualVehicle
from agent.blocks import FrameBlock
from agent.bus import read_log
from agent.clock import BootNs
from agent.errors import AgentError, ConfigError
from agent.gbt32960.layout import Edition
from agent.settings import DatabaseOfBus, find, load_plan, packaged
from agent.signals import Database
from agent.signals.health_counters import is_counter

VehicleKind = Literal["ev", "truck", "charging"]
PLATFORM: Final = "platform"
"""The uplink to a GB/T 32960 platform."""
VIN: Final = "LBENCH00000000001"
REPORT_S: Final = 10
_BUS_KINDS: Final = re.compile(r"auto|vcan[0-9]{0,6}|slcan|memory")

_BUSES: Final = {"ev": "powertrain", "charging": "powertrain", "truck": "j1939"}
_OTHER_BUS: Final = "can0"
_SOCKET_BYTES: Final = 100
"""The path of a socket may have 107 bytes (unix(7))."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What a bench is made of."""

    vehicle: VehicleKind = "ev"
    dbc: tuple[Path, ...] = ()
    """With `log`: they describe it. Alone: the vehicle is made from them."""
    log: Path | None = None
    channel: str = ""
    j1939: bool = False
    loop: bool = False
    speed: float = 1.0
    """Times as fast as real; 0 is flat out, of a recording."""
    plan: Path | None = None
    """None: that of the vehicle, or one that keeps everything."""
    seconds: float | None = None
    """The vehicle drives so long; None: until it is told to stop, or the recording ends."""
    host: str = "127.0.0.1"
    port: int = 0
    folder: Path | None = None
    """None: a temporary one, which is removed when all ended well."""
    bus: str = "auto"
    """`vcan` or an interface such as `vcan1`, `slcan`, `memory`; `auto`: the first there is."""
    seed: int = 1
    gbt32960: Edition | None = None
    """The vehicle reports to a platform, too, by this edition."""
    seal_after_s: float = 2.0
    trial_s: float = 5.0
    """How long a plan that came over the air is on trial."""

    @property
    def kind(self) -> str:
        """What drives, in a word."""
        return "log" if self.log is not None else "dbc" if self.dbc else self.vehicle

    def check(self) -> None:
        """Raise for what cannot be.

        Raises:
            ConfigError: it cannot.
            BusError: the recording is none.
        """
        if self.log is not None and not self.dbc and self.plan is None:
            raise ConfigError("name what describes the recording: --dbc FILE, or --plan PLAN")
        if self.loop and self.log is None:
            raise ConfigError("--loop is of a recording: name one with --log")
        if self.speed < 0 or (self.speed == 0 and self.log is None):
            raise ConfigError("--speed must be above 0; 0, flat out, is of a recording alone")
        if self.seconds is not None and self.seconds <= 0:
            raise ConfigError("--seconds must be above 0")
        if not _BUS_KINDS.fullmatch(self.bus):
            raise ConfigError(f"--bus {self.bus}: is none of auto, vcan, vcan0, slcan, memory")
        if self.gbt32960 and self.plan is None and (self.kind not in ("ev", "charging")):
            raise ConfigError("--gbt32960 is of the electric car; name a --plan for any other")
        for path in self.dbc:
            if not path.is_file():
                raise ConfigError(f"{path}: there is no such file")
        if self.log is not None:
            read_log(self.log).close()


class Ground:
    """The folder of a bench, with a plan in it.

    Raises:
        ConfigError: the folder cannot be used, or the plan cannot.
        AgentError: whatever is wrong with files that were named.
    """

    def __init__(self, options: Options, folder: Path) -> None:
        options.check()
        self.options = options
        self.folder = folder
        self.vehicle = f"bench-{options.kind}"
        self.config = folder / "agent.toml"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "cloud").mkdir(exist_ok=True)
            self.plan = self._plan()
        except OSError as e:
            raise ConfigError(f"{folder}: cannot be used: {e.strerror or e}") from e
        self._databases = load_plan(self.plan).database
        buses = {each.bus for each in self._databases if each.bus != "*"}
        self.bus = buses.pop() if len(buses) == 1 else _BUSES.get(options.kind, _OTHER_BUS)

    @property
    def bitrate(self) -> int:
        return 250_000 if self.options.kind == "truck" else 500_000

    @property
    def socket(self) -> Path | None:
        """Where the agent answers; None where its path would be too long."""
        path = self.folder / "agent.sock"
        return path if len(str(path).encode()) <= _SOCKET_BYTES else None

    def database(self) -> Database:
        """What the plan's database files describe.

        Raises:
            DatabaseError: one of them cannot be used.
        """
        entry = self._entry
        return Database.load(entry.files, j1939=entry.j1939)

    @property
    def _entry(self) -> DatabaseOfBus:
        for entry in self._databases:
            if entry.bus in ("*", self.bus):
                return entry
        raise ConfigError(f"{self.plan}: names no database files for bus {self.bus}")

    def disturbed(self) -> Disturbed:
        """What frames of this vehicle are disturbed with.

        Raises:
            AgentError: the plan's database files cannot be used.
        """
        senders = read_nodes(self._entry.files).senders
        return Disturbed(self.database(), self.options.seed, senders)

    def defaults(self) -> Mapping[str, Mapping[str, str]]:
        """Parameters of faults that depend on the vehicle: fault -> parameter -> value.

        The message that is sent most often, and a counter of another one where there is one.
        """
        try:
            database = self.database()
        except AgentError:
            return {}  # the agent says it better
        messages = [m for found in database.buses.values() for m in found if m.signals]
        if not messages:
            return {}
        messages.sort(key=lambda m: m.cycle_ms or 1_000_000)
        first = messages[0]
        counters = (
            f"{m.name}.{s.name}"
            for m in (*messages[1:], first)
            for s in m.signals
            if is_counter(s.schema)
        )
        counter = next(counters, f"{messages[-1].name}.{messages[-1].signals[0].name}")
        return {
            "ecu-silent": {"message": first.name},
            "stuck-counter": {"signal": counter},
            "false-value": {"signal": counter},
        }

    def blocks(self) -> Iterator[FrameBlock]:
        """The frames of the vehicle.

        Raises:
            AgentError: it cannot be made of these files.
        """
        options = self.options
        if options.log is not None:
            blocks: Iterator[FrameBlock] = recording_blocks(
                options.log, options.channel, again=options.loop
            )
        else:
            blocks = vehicle_blocks(self._vehicle())
        if options.seconds is None:
            return blocks
        return no_longer_than(blocks, options.seconds * (options.speed or 1.0))

    def _vehicle(self) -> Vehicle:
        options, start = self.options, BootNs(0)
        if options.kind == "dbc":
            return DatabaseVehicle(options.dbc, options.seed, start, self.bus, j1939=options.j1939)
        if options.kind == "truck":
            return VirtualTruck(options.seed, start)
        if options.kind == "charging":
            return ChargingVehicle(options.seed, start)
        return VirtualVehicle(options.seed, start)

    def write_device_file(
        self, *, bus: str, socket: Path, port: int, root_file: Path, platform_port: int = 0
    ) -> None:
        """The device file; `bus` is what it says of the bus, `port` that of the link.

        `platform_port` is that of the link to the platform, where there is one.

        Raises:
            ConfigError: it cannot be written.
        """
        options, address = self.options, f"http://127.0.0.1:{port}"
        text = (
            "# The device file of a bench, written at each start: edit the plan instead.\n\n"
            f"vehicle = {json.dumps(self.vehicle)}\n"
            f"plan = {json.dumps(str(self.plan))}\n"
            'state_dir = "state"\n'
            f"socket = {json.dumps(str(socket))}\n\n"
            f"[[bus]]\nname = {json.dumps(self.bus)}\n{bus}\n"
            f'[[uplink]]\nname = "cloud"\nurl = "{address}"\n\n'
            f"{self._platform(platform_port)}"
            "[spool]\nquota_mb = 256\nfree_floor_mb = 16\n\n"
            f"[batch]\nseal_after_s = {options.seal_after_s:g}\n\n"
            f'[ota]\nurl = "{address}/ota"\nroot_file = {json.dumps(str(root_file))}\n'
            f"poll_s = 1\ntrial_s = {options.trial_s:g}\n"
        )
        try:
            self.config.write_text(text, encoding="utf-8")
        except OSError as e:
            raise ConfigError(f"{self.config}: cannot be written: {e.strerror}") from e

    def _platform(self, port: int) -> str:
        """The uplink to a platform: as in a vehicle, but nobody waits long at a bench."""
        if not self.options.gbt32960:
            return ""
        return (
            f'[[uplink]]\nname = "{PLATFORM}"\nkind = "gbt32960"\n'
            f'url = "gbt32960://127.0.0.1:{port}"\n'
            f"[uplink.gbt32960]\nedition = {self.options.gbt32960}\n"
            f'vin = "{VIN}"\niccid = "89860000000000000001"\n'
            f"report_s = {REPORT_S}\nheartbeat_s = 5\nanswer_timeout_s = 5\n"
            "login_retry_s = 5\nlogin_pause_min = 1\nreissue_per_s = 100\n\n"
        )

    # -- the plan ----------------------------------------------------------------------------

    def _plan(self) -> Path:
        """The plan that was named, else one in the folder, made where there is none."""
        options = self.options
        if options.plan is not None:
            return find(options.plan, "config").absolute()
        path = self.folder / f"plan-{self._plan_kind}.toml"
        text = "\n".join(self._lines())
        files = re.findall(r"^files = .*$", text, re.MULTILINE)
        if not path.exists() or any(f not in path.read_text("utf-8") for f in files):
            path.write_text(text, encoding="utf-8")
        return path

    @property
    def _plan_kind(self) -> str:
        return "gbt32960" if self.options.gbt32960 else self.options.kind

    def _lines(self) -> Iterator[str]:
        options = self.options
        if options.kind in ("log", "dbc"):
            yield "# Everything that the database files describe. Edit it: docs/plans.md of the"
            yield "# project describes every key, and `edge-agent reload` takes it over at once."
            yield 'version = 1\nname = "bench"\n\n[[database]]\nbus = "*"'
            yield f"files = {json.dumps(self._copied(options.dbc))}"
            yield f"j1939 = {str(options.j1939).lower()}\n"
            yield '[[campaign]]\nname = "everything"\nsignals = ["*"]\n'
            return
        plan = packaged(f"config/plan-{self._plan_kind}.toml")
        for line in plan.read_text("utf-8").splitlines():
            if line.startswith("files = "):
                named = re.findall(r'"([^"]+)"', line.partition("#")[0])
                yield f"files = {json.dumps(self._copied([plan.parent / n for n in named]))}"
            else:
                yield line
        yield ""

    def _copied(self, files: Sequence[Path]) -> list[str]:
        """Copies beside the plan, so that a bundle can be made of it; their names in the plan."""
        names: list[str] = []
        for file in files:
            name = f"dbc/{file.name}"
            if name in names:
                name = f"dbc/{len(names) + 1}-{file.name}"
            names.append(name)
            copy = self.folder / name
            copy.parent.mkdir(exist_ok=True)
            if not (copy.exists() and copy.samefile(file)):
                shutil.copyfile(file, copy)
        return names
