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

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from agent.errors import ConfigError

Name = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z", description="letters, digits, . _ -")
]
Lane = Literal["event", "report", "telemetry", "raw"]
LANES: tuple[Lane, ...] = ("event", "report", "telemetry", "raw")
"""Most important first."""


def _d(text: str) -> Meta:
    return Meta(description=text)


class _Bus(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    name: Annotated[Name, _d("What the bus is called everywhere: in plans, batches, status.")]
    block_ms: Annotated[
        int, Meta(ge=10, le=5000, description="A block of frames is handed on at least this often.")
    ] = 500
    transmit: Annotated[
        bool, _d("Allow this program to send on the bus. Nothing sends without it.")
    ] = False


class RecordingBus(_Bus, tag="recording", kw_only=True):
    """A recording that stands in for a bus."""

    path: Annotated[str, _d("candump, asc, blf, trc, mf4 or gvret csv; also .gz .xz .zst")]
    channel: Annotated[str, _d("Only this channel of the recording; empty means all.")] = ""
    speed: Annotated[
        float, Meta(ge=0, description="1 plays at the recorded speed, 10 ten times, 0 flat out.")
    ] = 1.0
    loop: Annotated[bool, _d("Begin again at the end.")] = False


class SlcanBus(_Bus, tag="slcan", kw_only=True):
    """A serial adapter that speaks LAWICEL ASCII."""

    device: Annotated[str, _d("The serial device, such as /dev/ttyACM0.")]
    bitrate: Annotated[
        Literal[10_000, 20_000, 50_000, 100_000, 125_000, 250_000, 500_000, 800_000, 1_000_000],
        _d("Bits a second on the bus."),
    ] = 500_000
    listen_only: Annotated[bool, _d("Open the adapter so that it does not even acknowledge.")] = (
        True
    )


class PythonCanBus(_Bus, tag="python-can", kw_only=True):
    """Any interface that python-can supports."""

    interface: Annotated[
        str, _d("python-can's name of the interface: pcan, kvaser, socketcand, ...")
    ]
    channel: Annotated[str, _d("python-can's channel.")] = ""
    options: Annotated[
        dict[str, str | int | float | bool], _d("Further options of that interface.")
    ] = msgspec.field(default_factory=dict)


Bus = RecordingBus | SlcanBus | PythonCanBus


class Uplink(Struct, kw_only=True, forbid_unknown_fields=True):
    """Where batches go."""

    name: Annotated[Name, _d("What plans and the status call this uplink.")]
    kind: Annotated[
        Literal["http", "object-store"],
        _d(
            "`http` wants a receiver that repeats the digest of what it has stored; with "
            "`object-store` any 2xx is a success."
        ),
    ] = "http"
    url: Annotated[
        str,
        Meta(
            pattern=r"^https?://[^\s]+\Z",
            description="Batches go to {url}/v1/vehicles/{vehicle}/batches/{batch_id}. "
            "An address that contains {vehicle} or {batch_id} itself is taken as a template.",
        ),
    ]
    token_file: Annotated[str, _d("A file with a bearer token; read again when refused.")] = ""
    ca_file: Annotated[str, _d("PEM certificates to trust instead of the system's.")] = ""
    connect_timeout_s: Annotated[
        float, Meta(gt=0, le=300, description="How long a connection may take to come up.")
    ] = 10.0
    stall_timeout_s: Annotated[
        float,
        Meta(gt=0, le=3600, description="A transfer that does not move for this long is given up."),
    ] = 30.0


class Spool(Struct, kw_only=True, forbid_unknown_fields=True):
    """What is kept on flash."""

    quota_mb: Annotated[
        int, Meta(ge=2, le=1_000_000, description="The most that waiting batches may take, MB.")
    ] = 512
    free_floor_mb: Annotated[
        int, Meta(ge=0, le=1_000_000, description="Free space to leave on the file system, MB.")
    ] = 64
    commit_interval_s: Annotated[
        float, Meta(ge=0.1, le=60, description="At most this much is lost at a power cut, seconds.")
    ] = 1.0
    memory_mb: Annotated[
        int, Meta(ge=1, le=4096, description="What may wait in memory while the disk fails, MB.")
    ] = 32


class Batch(Struct, kw_only=True, forbid_unknown_fields=True):
    """How samples are packed."""

    seal_after_s: Annotated[
        float,
        Meta(ge=0.5, le=86_400, description="A batch is closed and sent at this age, seconds."),
    ] = 60.0
    seal_kib: Annotated[
        int, Meta(ge=16, le=65_536, description="A batch is closed at this size, KiB.")
    ] = 1024
    time_resolution_us: Annotated[
        int,
        Meta(ge=1, le=1_000_000, description="Times are stored in steps of this, microseconds."),
    ] = 1000


class Device(Struct, kw_only=True, forbid_unknown_fields=True):
    """`agent.toml`."""

    vehicle: Annotated[Name, _d("The vehicle's name at the cloud.")]
    plan: Annotated[str, _d("The collection plan that is used while none came over the air.")]
    state_dir: Annotated[
        str, _d("Identity and spool live here. Empty: $STATE_DIRECTORY, as systemd sets it.")
    ] = ""
    socket: Annotated[
        str, _d("The Unix socket that answers `edge-agent status`. Empty: agent.sock in state_dir.")
    ] = ""
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _d("The least important line that is logged.")
    ] = "info"
    bus: Annotated[list[Bus], _d("The buses.")] = msgspec.field(default_factory=list)
    uplink: Annotated[list[Uplink], _d("The uplinks.")] = msgspec.field(default_factory=list)
    spool: Annotated[Spool, _d("What is kept on flash.")] = msgspec.field(default_factory=Spool)
    batch: Annotated[Batch, _d("How samples are packed.")] = msgspec.field(default_factory=Batch)


RawValues = Annotated[
    list[int | str], _d('Raw values: whole numbers, "0xFF" or ranges such as "0xFF00-0xFFFF".')
]


class CodesOfSignals(Struct, kw_only=True, forbid_unknown_fields=True):
    """Which raw values of signals are no measurements; in place of what J1939 says of them."""

    signals: Annotated[
        list[str],
        Meta(min_length=1, description="Message.Signal or a unique Signal; with * and ?"),
    ]
    not_available: RawValues = msgspec.field(default_factory=list)
    error: RawValues = msgspec.field(default_factory=list)
    reserved: RawValues = msgspec.field(default_factory=list)


class DatabaseOfBus(Struct, kw_only=True, forbid_unknown_fields=True):
    """The database files of one bus."""

    bus: Annotated[str, _d("The bus, or * for every bus without one of its own.")]
    files: Annotated[list[str], Meta(min_length=1, description="DBC files.")]
    j1939: Annotated[
        bool, _d("Match 29-bit ids by PGN, also where the file does not say that they are J1939.")
    ] = False
    expand: Annotated[
        list[str], _d("Lists to make rows of, which no file can describe: DM1, DM2, BMV, BMT.")
    ] = msgspec.field(default_factory=list)
    codes: Annotated[
        list[CodesOfSignals], _d("Raw values that say that there is no measurement.")
    ] = msgspec.field(default_factory=list)


class Campaign(Struct, kw_only=True, forbid_unknown_fields=True):
    """What to keep, how well, and for whom."""

    name: Annotated[Name, _d("What the ledger and the batches call this campaign.")]
    signals: Annotated[
        list[str],
        Meta(
            min_length=1,
            description="Message.Signal, bus.Message.Signal or a unique Signal; with * and ?",
        ),
    ]
    exclude: Annotated[list[str], _d("Signals to leave out of those.")] = msgspec.field(
        default_factory=list
    )
    every_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=86_400_000,
            description="At most one sample in each such interval; 0 keeps all.",
        ),
    ] = 0
    lane: Annotated[Lane, _d("How important: event, report, telemetry, raw.")] = "telemetry"
    uplinks: Annotated[list[str], _d("For whom; empty means every uplink of the device.")] = (
        msgspec.field(default_factory=list)
    )


class Plan(Struct, kw_only=True, forbid_unknown_fields=True):
    """A collection plan, as it is written."""

    version: Annotated[Literal[1], _d("The version of this kind of file.")]
    name: Annotated[Name, _d("The plan's name; every batch carries it.")]
    database: Annotated[list[DatabaseOfBus], _d("Which files describe which bus.")]
    campaign: Annotated[list[Campaign], Meta(min_length=1, description="What to keep.")]


_T = TypeVar("_T", Device, Plan)

PREFIX = "EDGE_AGENT_"


def packaged(name: str) -> Path:
    """A file that comes with the program, such as `config/bench.toml` or `dbc/ev.dbc`."""
    inside = Path(__file__).parent / "_data" / name
    return inside if inside.exists() else Path(__file__).parent.parent / name


def find(path: Path, folder: str) -> Path:
    """The file itself or, where there is none, that of this name which comes with the program."""
    if not path.exists() and not path.is_absolute():
        beside = packaged(str(path) if path.parts[0] == folder else f"{folder}/{path}")
        if beside.exists():
            return beside
    return path


def load_device(path: Path, environment: Mapping[str, str] | None = None) -> Device:
    """Read `agent.toml`; paths in it come back absolute.

    Raises:
        ConfigError: the file cannot be read, or says something that cannot be.
    """
    environment = os.environ if environment is None else environment
    data, text = _read(path)
    variables = _override(data, environment)
    device = _convert(data, Device, path, text, variables)
    base = path.parent
    for bus in device.bus:
        if isinstance(bus, RecordingBus):
            bus.path = _beside(base, bus.path)
    for uplink in device.uplink:
        uplink.token_file = _beside(base, uplink.token_file)
        uplink.ca_file = _beside(base, uplink.ca_file)
    device.plan = _beside(base, device.plan)
    state = device.state_dir or environment.get("STATE_DIRECTORY", "").split(":")[0]
    if not state:
        raise ConfigError(
            f"{path}: state_dir is not set: name the folder for identity and spool "
            '(state_dir = "/var/lib/edge-agent"), or let systemd set STATE_DIRECTORY'
        )
    device.state_dir = _beside(base, state)
    device.socket = _beside(base, device.socket) or str(Path(device.state_dir) / "agent.sock")
    _unique(path, "bus", [b.name for b in device.bus])
    _unique(path, "uplink", [u.name for u in device.uplink])
    return device


def load_plan(path: Path) -> Plan:
    """Read a collection plan; paths of database files come back absolute.

    Raises:
        ConfigError: the file cannot be read, or says something that cannot be.
    """
    data, text = _read(path)
    plan = _convert(data, Plan, path, text)
    for database in plan.database:
        database.files = [_beside(path.parent, f) for f in database.files]
    _unique(path, "campaign", [c.name for c in plan.campaign])
    _unique(path, "database", [d.bus for d in plan.database])
    return plan


def schema(kind: Literal["device", "plan"]) -> dict[str, Any]:
    """JSON Schema of agent.toml or of a plan."""
    return msgspec.json.schema(Device if kind == "device" else Plan)


def _beside(base: Path, name: str) -> str:
    try:
        return str((base / Path(name).expanduser()).absolute()) if name else ""
    except RuntimeError as e:
        raise ConfigError(f"{name}: there is no such home folder") from e


def _read(path: Path) -> tuple[dict[str, Any], str]:
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read: {e.strerror}") from e
    except UnicodeDecodeError as e:
        line = e.object[: e.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8 text; save the file as UTF-8") from e
    except ValueError as e:  # a zero byte in the name
        raise ConfigError(f"{str(path)!r}: is no name of a file") from e
    try:
        return tomllib.loads(text), text
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"{path}: is not valid TOML: {e}") from e


def _unique(path: Path, table: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f'{path}: two [[{table}]] are called "{name}"; each needs its own name'
            )


_Place = tuple[str | int, ...]
"""Keys and positions from the top of a file to a setting."""


def _override(data: dict[str, Any], environment: Mapping[str, str]) -> dict[_Place, str]:
    """Put EDGE_AGENT_A__B=value into data["a"]["b"]; an item of a list is named by its `name`.

    Gives the variable of each place that has one.
    """
    variables: dict[_Place, str] = {}
    for variable, value in sorted(environment.items()):
        if not variable.startswith(PREFIX):
            continue
        keys = variable.removeprefix(PREFIX).lower().split("__")
        place: Any = data
        steps: list[str | int] = []
        for key in keys[:-1]:
            if isinstance(place, list):
                names = [str(i.get("name", "")) if isinstance(i, dict) else "" for i in place]
                found = [n for n, name in enumerate(names) if name and name.lower() == key]
                if not found:
                    raise ConfigError(
                        f"{variable}: the configuration has no {keys[0]} with the name {key!r}"
                    )
                steps.append(found[0])
                place = place[found[0]]
            elif isinstance(place, dict):
                steps.append(key)
                place = place.setdefault(key, {})
        if not isinstance(place, dict) or not all(keys):
            raise ConfigError(f"{variable}: does not name a setting")
        variables[*steps, keys[-1]] = variable
        try:
            place[keys[-1]] = tomllib.loads(f"v = {value}")["v"]
        except tomllib.TOMLDecodeError:
            place[keys[-1]] = value
    return variables


_PATH = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<key>.*)`")
_MISSING = re.compile(r"Object missing required field `(?P<key>.*)`")


def _convert(
    data: dict[str, Any],
    kind: type[_T],
    path: Path,
    text: str,
    variables: Mapping[_Place, str] | None = None,
) -> _T:
    try:
        return msgspec.convert(data, kind, strict=True)
    except msgspec.ValidationError as e:
        match = _PATH.match(str(e))
        what, where = (match["what"], match["path"] or "$") if match else (str(e), "$")
        place, words = _explain(kind, data, what=what, where=where)
        variable = (variables or {}).get(tuple(place))
        raise ConfigError(f"{variable or f'{path}:{_line(text, place)}'}: {words}") from e


def _explain(
    kind: type[_T], data: dict[str, Any], *, what: str, where: str
) -> tuple[list[str | int], str]:
    """Where it is, and what is wrong there."""
    steps = re.findall(r"\.([A-Za-z_]\w*)|\[(\d+|\.\.\.)\]", where)
    table: list[str | int] = [k or int(i) for k, i in steps if k or i.isdigit()]
    if unknown := _UNKNOWN.match(what):
        key = unknown["key"]
        near = difflib.get_close_matches(key, _keys_at(kind, data, table), 1, 0.5)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        return [*table, key], f'unknown key "{key}"{_of(table)}{hint}'
    if missing := _MISSING.match(what):
        return table, f'the key "{missing["key"]}" is missing{_of(table)}'
    last = table[-1] if table and isinstance(table[-1], str) else ""
    subject = f'"{last}"{_of(table[:-1])}: ' if last else ""
    return table, subject + what[0].lower() + what[1:].replace("`", "")


def _of(table: list[str | int]) -> str:
    names = [str(s) if isinstance(s, str) else f"#{s + 1}" for s in table]
    return f" in [{' '.join(names)}]" if names else ""


_TABLES: Mapping[str, type[Struct]] = {
    "uplink": Uplink,
    "spool": Spool,
    "batch": Batch,
    "database": DatabaseOfBus,
    "codes": CodesOfSignals,
    "campaign": Campaign,
}
_BUSES: Mapping[str, type[Struct]] = {
    "recording": RecordingBus,
    "slcan": SlcanBus,
    "python-can": PythonCanBus,
}


def _keys_at(kind: type[Struct], data: Any, table: list[str | int]) -> list[str]:
    """The keys that are known at a place of the model, to suggest one from."""
    model = kind
    for step in table:
        data = data[step]
        if step == "bus" or model in _BUSES.values():
            model = _BUSES.get(data.get("kind", ""), _Bus) if isinstance(data, dict) else _Bus
        elif isinstance(step, str):
            model = _TABLES.get(step, model)
        elif model is _Bus:
            model = _BUSES.get(data.get("kind", ""), _Bus)
    return ["kind"] * (model in _BUSES.values()) + [
        f.encode_name for f in msgspec.structs.fields(model)
    ]


def _line(text: str, table: list[str | int]) -> int:
    """The line on which a key most likely stands: TOML libraries do not keep it."""
    lines = text.splitlines()
    begin = 0
    for i, step in enumerate(table):
        if not isinstance(step, str):
            continue
        index = table[i + 1] if i + 1 < len(table) else 0
        count = index if isinstance(index, int) else 0
        last = i == len(table) - 1
        pattern = re.compile(rf"\s*\[+\s*(?:\w+\s*\.\s*)*{re.escape(step)}\s*\]+")
        assign = re.compile(rf"\s*(?:[\w-]+\s*\.\s*)*[\"']?{re.escape(step)}[\"']?\s*[=.]")
        inline = re.compile(rf"\s*[\"']?{re.escape(step)}[\"']?\s*=\s*[\[{{]")
        for number in range(begin, len(lines)):
            if pattern.match(lines[number]):
                if count == 0:
                    begin = number
                    break
                count -= 1
            elif assign.match(lines[number]) if last else inline.match(lines[number]):
                return number + 1  # of an inline table, the line on which it begins
    return begin + 1
