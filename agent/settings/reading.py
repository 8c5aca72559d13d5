"""Files of settings to their models, and errors to words that name file, line and key."""

import difflib
import os
import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import msgspec
from msgspec import Struct

from agent.errors import ConfigError
from agent.settings.buses import AnyBus, Bus, GnssBus, RecordingBus, SocketCanBus
from agent.settings.device import Device, Uplink
from agent.settings.metrics import address_of
from agent.settings.plan import Plan

_T = TypeVar("_T", Device, Plan)

_PACKAGE = Path(__file__).parent.parent
PREFIX = "EDGE_AGENT_"
KEYS_VARIABLE = "EDGE_AGENT_OTA_PASSPHRASE"
"""Of an operator's keys: the one variable that is no setting."""

_CREDENTIAL = "credential:"
_CREDENTIALS = "/run/credentials/edge-agent.service"
_FILES_OF_UPLINKS = (
    "token_file",
    "ca_file",
    "client_cert_file",
    "client_key_file",
    "proxy_auth_file",
)
_PACK_CODE = 24
_FILES_OF_OTA = ("root_file", "token_file", "ca_file", "client_cert_file", "client_key_file")


def packaged(name: str) -> Path:
    """A file that comes with the program, such as `config/bench.toml` or `dbc/ev.dbc`."""
    inside = _PACKAGE / "_data" / name
    return inside if inside.exists() else _PACKAGE.parent / name


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
        for key in _FILES_OF_UPLINKS:
            setattr(uplink, key, _secret(base, getattr(uplink, key), environment))
        if uplink.gbt32960 is not None:
            uplink.gbt32960.iccid_file = _beside(base, uplink.gbt32960.iccid_file)
    if device.ota is not None:
        for key in _FILES_OF_OTA:
            setattr(device.ota, key, _secret(base, getattr(device.ota, key), environment))
    device.link.file = _beside(base, device.link.file)
    if "/" in device.metrics.listen:
        device.metrics.listen = _beside(base, device.metrics.listen)
    device.plan = _beside(base, device.plan)
    state = device.state_dir or environment.get("STATE_DIRECTORY", "").split(":")[0]
    if not state:
        raise ConfigError(
            f"{path}: state_dir is not set: name the folder for identity and spool "
            '(state_dir = "/var/lib/edge-agent"), or let systemd set STATE_DIRECTORY'
        )
    device.state_dir = _beside(base, state)
    device.socket = _beside(base, device.socket) or str(Path(device.state_dir) / "agent.sock")
    _together(path, device)
    _unique(path, "bus", [b.name for b in device.bus])
    _unique(path, "uplink", [u.name for u in device.uplink])
    return device


def _together(path: Path, device: Device) -> None:
    """What no key alone can say wrong."""
    for bus in device.bus:
        if isinstance(bus, SocketCanBus) and bus.asks and not bus.transmit:
            raise ConfigError(
                f'{path}: bus "{bus.name}": diagnostic requests are sent on the bus: set '
                '"transmit = true" for it, or remove them'
            )
        if isinstance(bus, GnssBus) and bool(bus.device) == bool(bus.gpsd):
            raise ConfigError(f'{path}: bus "{bus.name}": set either "device" or "gpsd"')
    for uplink in device.uplink:
        if uplink.client_key_file and not uplink.client_cert_file:
            raise ConfigError(
                f'{path}: uplink "{uplink.name}": "client_key_file" is of no use without '
                '"client_cert_file"'
            )
        if wrong := _platform(uplink):
            raise ConfigError(f'{path}: uplink "{uplink.name}": {wrong}')
    try:
        address_of(device.metrics)
    except ConfigError as e:
        raise ConfigError(f"{path}: [metrics]: {e}") from e
    link = device.link
    for key, value in (("file", bool(link.file)), ("command", bool(link.command))):
        if (link.metered == key) != value:
            raise ConfigError(f'{path}: [link]: "{key}" and metered = "{key}" belong together')
    ignition = device.ignition
    if (ignition.when_done == "command") != bool(ignition.command):
        raise ConfigError(
            f'{path}: [ignition]: "command" and when_done = "command" belong together'
        )
    inputs = (bool(ignition.signal), ignition.gpio is not None, ignition.silence_s > 0)
    if sum(inputs) > 1:
        raise ConfigError(
            f'{path}: [ignition]: set one of "signal", "gpio" and "silence_s", not several'
        )


_NOT_OF_PLATFORMS = ("token_file", "proxy", "proxy_auth_file", "max_kbit_s")


def _platform(uplink: Uplink) -> str:
    """What is wrong with an uplink that takes reports; empty for nothing."""
    settings = uplink.gbt32960
    if (uplink.kind == "gbt32960") != (settings is not None):
        return '[uplink.gbt32960] and kind = "gbt32960" belong together'
    if settings is None:
        return ""
    if useless := next((key for key in _NOT_OF_PLATFORMS if getattr(uplink, key)), ""):
        return f'"{useless}" is of no use for a platform'
    if settings.iccid and settings.iccid_file:
        return 'set either "iccid" or "iccid_file"'
    if len({len(code) for code in settings.subsystem_codes}) > 1:
        return '"subsystem_codes" must all be of one length'
    if any(len(code) != _PACK_CODE for codes in settings.pack_codes for code in codes):
        return f'"pack_codes" have {_PACK_CODE} characters each'
    for_2025 = ("pack_codes", "sign")
    if settings.edition == 2016 and (
        key := next((k for k in for_2025 if getattr(settings, k)), "")
    ):
        return f'"{key}" is of edition = 2025'
    if settings.edition == 2025 and settings.subsystem_codes:
        return '"subsystem_codes" is of edition = 2016; of 2025 it is "pack_codes"'
    return ""


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
    _unique(path, "privacy", [p.name for p in plan.privacy])
    _unique(path, "budget", [b.link for b in plan.budget])
    return plan


def schema(kind: Literal["device", "plan"]) -> dict[str, Any]:
    """JSON Schema of agent.toml or of a plan."""
    return msgspec.json.schema(Device if kind == "device" else Plan)


def _beside(base: Path, name: str) -> str:
    try:
        return str((base / Path(name).expanduser()).absolute()) if name else ""
    except RuntimeError as e:
        raise ConfigError(f"{name}: there is no such home folder") from e


def _secret(base: Path, name: str, environment: Mapping[str, str]) -> str:
    """A file, or `credential:NAME`: what systemd's LoadCredential= and its kin lay aside.

    Outside the service the folder is that of the service: the file will not be there, or may not be
    read, which is said when it is needed.
    """
    if not name.startswith(_CREDENTIAL):
        return _beside(base, name)
    name = name.removeprefix(_CREDENTIAL)
    if not name or "/" in name or name in (".", ".."):
        raise ConfigError(f"credential:{name}: is not the name of a credential of systemd")
    return str(Path(environment.get("CREDENTIALS_DIRECTORY") or _CREDENTIALS) / name)


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
    except (ValueError, RecursionError) as e:  # a number of 5,000 digits, lists in lists in lists
        raise ConfigError(f"{path}: is not valid TOML: {e}") from e


def _unique(path: Path, table: str, names: list[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
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
        if not variable.startswith(PREFIX) or variable == KEYS_VARIABLE:
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


_BUSES: Mapping[str, type[Struct]] = {
    str(kind.__struct_config__.tag): kind for kind in get_args(Bus)
}


def _keys_at(kind: type[Struct], data: Any, table: list[str | int]) -> list[str]:
    """The keys that are known at a place of the model, to suggest one from."""
    model = kind
    for step in table:
        data = data[step]
        if model is AnyBus:
            model = _BUSES.get(data.get("kind", ""), AnyBus)
        elif step == "bus" and model is Device:
            model = AnyBus
        elif isinstance(step, str):
            types = {field.encode_name: field.type for field in msgspec.structs.fields(model)}
            model = _model_in(types.get(step)) or model
    return ["kind"] * (model in _BUSES.values()) + [
        f.encode_name for f in msgspec.structs.fields(model)
    ]


def _model_in(of: Any) -> type[Struct] | None:
    """The model in a type such as a list of it, where there is one."""
    if isinstance(of, type) and issubclass(of, Struct):
        return of
    return next((found for part in get_args(of) if (found := _model_in(part))), None)


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
