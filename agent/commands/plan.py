"""`edge-agent plan import`: a collection plan from a mapping file of the Kuksa CAN provider."""

import argparse
import dataclasses
import difflib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import ConfigError

if TYPE_CHECKING:
    from agent.signals import Database
    from agent.signals.database import SignalPath
    from agent.signals.kuksa import Mapped
    from agent.signals.model import Message, Signal

_NEAR = Fraction(1, 2000)
"""A factor such as 1.609 for miles is the conversion that it stands for."""
_LONGEST = 160
_STAY = "values stay as the DBC gives them"


def add_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = sub.add_parser("plan", help="make collection plans from other files")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    make = actions.add_parser(
        "import",
        help="a plan from Kuksa's vss_dbc.json",
        description="Make a commented collection plan from a mapping file of the Kuksa CAN "
        "provider: VSS paths and units, and a campaign for each interval. Exit status 0: "
        "everything was taken over; 1: something was left out, which is told; 2: misuse.",
    )
    make.add_argument("mapping", type=Path, help="the mapping file, such as vss_dbc.json")
    make.add_argument(
        "--dbc",
        nargs="+",
        action="extend",
        type=Path,
        required=True,
        metavar="FILE",
        help="the database files",
    )
    make.add_argument("--name", help="the plan's name; without it, that of the mapping file")
    make.add_argument("--bus", default="*", help="the bus of the files; without it, every bus")
    make.add_argument(
        "-o", "--output", type=Path, metavar="PLAN", help="write the plan here, not to the terminal"
    )
    make.add_argument("--force", action="store_true", help="replace a plan that is there")
    make.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 everything was taken over, 1 something was left out.

    Raises:
        ConfigError: a file cannot be used, or nothing in the mapping fits the database.
        DatabaseError: a database file cannot be used.
    """
    from agent.settings import find
    from agent.signals import Database
    from agent.signals.kuksa import read

    output: Path | None = args.output
    if output is not None and output.exists() and not args.force:
        raise ConfigError(f"{output}: is there already; name another file, or use --force")
    name = _name(args.name or args.mapping.stem)
    tree = read(args.mapping)
    files = [find(path, "dbc") for path in args.dbc]
    made = _Import(Database.load({args.bus: files}))
    for entry in tree.mapped:
        made.take(entry)
    for path in tree.written:
        made.left_out.append((path, "vss2dbc writes to the bus, which this agent does not do"))
    if not made.taken:
        first = "; ".join(f"{path}: {why}" for path, why in map(_shown, made.left_out[:3]))
        raise ConfigError(f"{args.mapping}: nothing in it can be taken over. {first}")
    names = [_beside(output, file) for file in files]
    text = _text(made, name, args.bus, names, args.mapping.name)
    _write(text, output)
    if args.json:
        print(json.dumps(_result(made, name, output, text)))
    else:
        if output is None:
            print(text, end="")
        for line in _report(made, output):
            print(line, file=sys.stderr if output is None else sys.stdout)
    return 1 if made.left_out or made.not_taken_over else 0


# -- what becomes of each entry --------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Taken:
    """A `[[vss]]` entry."""

    path: str
    signal: str
    unit: str
    note: str
    interval_ms: int
    on_change: bool


class _Import:
    def __init__(self, database: "Database") -> None:
        self.taken: list[_Taken] = []
        self.left_out: list[tuple[str, str]] = []
        self.not_taken_over: list[tuple[str, str]] = []
        """Of entries that are taken all the same."""
        self._database = database
        self._signals: dict[str, list[SignalPath]] = {}
        for path in database.paths():
            for name in (path.signal, str(path)):
                self._signals.setdefault(name, []).append(path)
        self._messages: dict[tuple[str, str], Message] = {
            (bus, message.name): message
            for bus, messages in database.buses.items()
            for message in messages
        }
        self._used: dict[SignalPath, str] = {}

    def take(self, entry: "Mapped") -> None:
        """Make something of an entry, or note why not."""
        found = self._signals.get(entry.signal, [])
        if why := self._refusal(entry, found):
            self.left_out.append((entry.path, why))
            return
        (path,) = found
        self._used[path] = entry.path
        message = self._messages[path.bus, path.message]
        signal = message.by_name[path.signal]
        unit, note, lost = _meaning(entry, signal)
        if entry.on_change and entry.interval_ms:
            lost.append(f"interval_ms {entry.interval_ms} beside on_change: every change is kept")
        self.not_taken_over += [(entry.path, why) for why in lost]
        notes = "; ".join(filter(None, [note, *lost]))
        self.taken.append(
            _Taken(entry.path, str(path), unit, notes, entry.interval_ms, entry.on_change)
        )

    def _refusal(self, entry: "Mapped", found: Sequence["SignalPath"]) -> str:
        if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", entry.path, re.ASCII) is None:
            return "is no VSS path"
        if entry.path in self._used.values():
            return "is there twice"
        if not found:
            near = difflib.get_close_matches(entry.signal[:100], self._signals, 3, 0.6)
            hint = f"; near it: {', '.join(near)}" if near else ""
            return f'the database has no signal "{entry.signal}"{hint}'
        if len(found) > 1:
            names = ", ".join(map(str, found[:5]))
            return f'"{entry.signal}" is in {len(found)} messages: {names}'
        if (before := self._used.get(found[0])) is not None:
            return f"{found[0]} is {before} already, and a signal has one path"
        message = self._messages.get((found[0].bus, found[0].message))
        if message is None:
            return f"{found[0]} is no signal of a frame"
        for name, value in entry.selected_by:
            if not _selects(message, found[0].signal, name, value):
                return (
                    f'only where "{name}" is {value}, and the database does not say that it '
                    f"selects {found[0]}"
                )
        return ""


def _selects(message: "Message", signal: str, multiplexer: str, value: int) -> bool:
    """Whether the database itself gives the signal only with this value of a multiplexer."""
    while parent := message.by_name[signal].parent:
        if parent == multiplexer:
            return message.by_name[signal].selected_by == {value}
        signal = parent
    return False


def _meaning(entry: "Mapped", signal: "Signal") -> tuple[str, str, list[str]]:
    """The unit in which values are given, a note, and what could not be taken over."""
    from agent.signals.units import conversion, quantities

    ours = signal.schema.unit
    unit, note, lost = "", "", []
    factor, offset = Fraction(1), Fraction(0)
    if entry.unit not in ("", "none") and signal.schema.kind != "bytes":
        try:
            factor, offset = conversion(ours, entry.unit)
            unit = entry.unit
        except ConfigError as e:
            if quantities(ours) and quantities(entry.unit) and not entry.math:
                lost.append(f"the unit: {e}: {_STAY}")
            else:
                note = f"VSS has {entry.unit}: {e}"
    if unit and (factor != 1 or offset != 0):
        note = f"the database has {ours}"
    if entry.math and not _is_conversion(entry.math, factor, offset):
        lost.append(f'math "{entry.math}": {_STAY}')
        unit, note = "", ""
    if entry.values and not _is_value_table(entry.values, signal):
        words = ", ".join(f'{raw} "{word}"' for raw, word in signal.schema.choices[:20])
        rest = f"; its words for them: {words}" if words else ", which has no words for them"
        plural = "" if len(entry.values) == 1 else "s"
        lost.append(f"mapping of {len(entry.values)} value{plural}: {_STAY}{rest}")
    return unit, note, lost


def _is_conversion(math: str, factor: Fraction, offset: Fraction) -> bool:
    """Whether an expression does what the units do; or nothing, as if there were none."""
    from agent.signals.kuksa import linear

    line = linear(math)
    if line is None:
        return False
    a, b = line
    if a == 1 and b == 0:
        return True
    return abs(a - factor) <= _NEAR * factor and abs(b - offset) <= _NEAR * abs(offset)


def _is_value_table(values: Iterable[tuple[Any, Any]], signal: "Signal") -> bool:
    """Whether a mapping gives words of the value table the numbers that they have there."""
    schema = signal.schema
    numbers = {word: raw * schema.scale + schema.offset for raw, word in schema.choices}
    for given, wanted in values:
        number = numbers.get(given) if isinstance(given, str) else given
        if isinstance(wanted, str) and wanted == given:
            continue
        if not isinstance(wanted, int | float) or number != wanted:
            return False
    return True


# -- the plan --------------------------------------------------------------------------------


def _text(made: _Import, name: str, bus: str, files: Sequence[str], source: str) -> str:
    lines = [
        f"# A collection plan, made by `edge-agent plan import` from {_plain(source)}.",
        "# Signals have their VSS names; a campaign for each interval that the mapping has.",
    ]
    for title, entries in (
        ("Left out", made.left_out),
        ("Not taken over", made.not_taken_over),
    ):
        if entries:
            lines += ["#", f"# {title}:"]
            lines += [f"#   {path}: {why}" for path, why in map(_shown, entries)]
    lines += ["", "version = 1", f"name = {_toml(name)}", ""]
    listed = ", ".join(map(_toml, files))
    lines += ["[[database]]", f"bus = {_toml(bus)}", f"files = [{listed}]", ""]
    for entry in made.taken:
        lines += ["[[vss]]", f"path = {_toml(entry.path)}", f"signal = {_toml(entry.signal)}"]
        comment = f"# {_plain(entry.note)}" if entry.note else ""
        if entry.unit:
            lines.append(f"unit = {_toml(entry.unit)}  {comment}".rstrip())
        elif comment:
            lines.append(comment)
        lines.append("")
    groups: dict[tuple[int, bool], list[str]] = {}
    for entry in made.taken:
        groups.setdefault((entry.interval_ms, entry.on_change), []).append(entry.path)
    for (interval_ms, on_change), paths in groups.items():
        lines += ["[[campaign]]", f"name = {_toml(_campaign(interval_ms, on_change))}"]
        lines += ["signals = [", *(f"    {_toml(path)}," for path in paths), "]"]
        if on_change:
            lines.append("on_change = true")
        elif interval_ms:
            lines.append(f"every_ms = {interval_ms}")
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def _campaign(interval_ms: int, on_change: bool) -> str:
    if on_change:
        return f"on-change-{interval_ms}-ms" if interval_ms else "on-change"
    return f"every-{interval_ms}-ms" if interval_ms else "every-sample"


def _write(text: str, output: Path | None) -> None:
    """Build the plan from the text, and write it only if that works."""
    if output is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "plan.toml"
            path.write_text(text, "utf-8")
            _build(path)
        return
    beside = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        try:
            beside.write_text(text, "utf-8")
            _build(beside)
            beside.replace(output)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as e:
        raise ConfigError(f"{output}: cannot be written: {e.strerror}") from e


def _build(path: Path) -> None:
    from agent.settings import load_plan
    from agent.signals import Database
    from agent.signals.vss import resolve, with_vss

    plan = load_plan(path)
    files = {entry.bus: entry.files for entry in plan.database}
    database, vss = with_vss(Database.load(files), plan.vss)
    for campaign in plan.campaign:
        database.select(resolve(campaign.signals, vss))


def _name(text: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-")[:64]
    if not name:
        raise ConfigError(f"{_plain(text)!r} is no name for a plan; give it one with --name")
    return name


def _beside(plan: Path | None, file: Path) -> str:
    """A file as a plan names it: relative only where it lies in the plan's folder or below."""
    file = file.absolute()
    if plan is None or not file.is_relative_to(plan.absolute().parent):
        return str(file)
    return str(file.relative_to(plan.absolute().parent))


def _toml(text: str) -> str:
    """A basic string of TOML."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as e:
        raise ConfigError(f"{_plain(text)}: is no text in UTF-8; rename the file") from e
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in escaped) + '"'


def _plain(text: str) -> str:
    """Any text on one line: a comment and a terminal must not be led astray by it."""
    shown = text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."


def _shown(entry: tuple[str, str]) -> tuple[str, str]:
    return _plain(entry[0]), _plain(entry[1])


# -- what is told ----------------------------------------------------------------------------


def _result(made: _Import, name: str, output: Path | None, text: str) -> dict[str, Any]:
    campaigns: dict[str, int] = {}
    for entry in made.taken:
        campaign = _campaign(entry.interval_ms, entry.on_change)
        campaigns[campaign] = campaigns.get(campaign, 0) + 1
    return {
        "name": name,
        "file": str(output) if output else None,
        "text": None if output else text,
        "signals": len(made.taken),
        "campaigns": campaigns,
        "left_out": [{"path": p, "why": w} for p, w in map(_shown, made.left_out)],
        "not_taken_over": [{"path": p, "why": w} for p, w in map(_shown, made.not_taken_over)],
    }


def _report(made: _Import, output: Path | None) -> Iterator[str]:
    for title, entries in (
        ("left out", made.left_out),
        ("not taken over", made.not_taken_over),
    ):
        for path, why in map(_shown, entries):
            yield f"{title}: {path}: {why}"
    where = f"{output}: " if output else ""
    campaigns = len({(t.interval_ms, t.on_change) for t in made.taken})
    yield (
        f"{where}{len(made.taken):,} signals in {campaigns} campaigns; {len(made.left_out):,} left "
        f"out, {len(made.not_taken_over):,} not taken over"
    )
