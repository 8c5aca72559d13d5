"""The file of a scenario to its model; what is wrong is said with file, line and key.

The file is read in two strokes: its top as one model, then each step and each expectation by
itself, so that a mistake in the seventh of them is found on its line. A step is held against the
faults of the bench: an unknown fault or parameter is no surprise of the tenth minute.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.bench.scenario.actions import ACTIONS, ON_A_LIVE_BUS, can_end
from agent.bench.scenario.figures import Comparison, Figure
from agent.bench.scenario.model import (
    DEFAULT_S,
    EXPECTS,
    CountIs,
    Expect,
    Header,
    PlacedExpect,
    PlacedStep,
    Recovered,
    SameAsDecoded,
    SamplesAre,
    Scenario,
    Step,
)
from agent.errors import ConfigError
from agent.settings import find, packaged

_FOLDER: Final = "config/scenarios"
_PATH: Final = re.compile(r"^(?P<what>.*?)(?: - at `\$?\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(?P<key>.*)`")
_MISSING: Final = re.compile(r"Object missing required field `(?P<key>.*)`")
_WRONG_TAG: Final = re.compile(r"Invalid value '(?P<tag>.*)'")


def scenario_names() -> list[str]:
    """Those that come with the program."""
    return sorted(path.stem for path in packaged(_FOLDER).glob("*.toml"))


def find_scenario(name: str) -> Path:
    """A file, or a scenario that comes with the program by its name.

    Raises:
        ConfigError: there is none.
    """
    path = Path(name)
    if path.is_file():
        return path
    if re.fullmatch(r"[\w.-]+", name):
        known = packaged(f"{_FOLDER}/{name.removesuffix('.toml')}.toml")
        if known.is_file():
            return known
    raise ConfigError(
        f"{name}: there is no such scenario; name a file, or one of: {', '.join(scenario_names())}"
    )


def load_scenario(path: Path, given: Mapping[str, Mapping[str, Any]] | None = None) -> Scenario:
    """Read and check a scenario.

    Args:
        path: the file.
        given: in place of what the file says: table -> key -> value, such as those of options;
            paths in it are absolute. The table "" is the top of the file. The plan of the file is
            for its vehicle, and not for another one.

    Raises:
        ConfigError: the file cannot be read, or says something that cannot be.
    """
    text = _text(path)
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as e:
        raise ConfigError(f"{path}: is not valid TOML: {e}") from e
    _put(data, given or {})
    source = _Source(path, text)
    head = source.convert(data, Header, ())
    steps = tuple(source.step(n, each) for n, each in enumerate(head.step))
    expects = tuple(source.expect(n, each) for n, each in enumerate(head.expect))
    scenario = Scenario(str(path), head, steps, expects)
    source.together(scenario)
    _beside(source, head)
    return scenario


def _put(data: dict[str, Any], given: Mapping[str, Mapping[str, Any]]) -> None:
    vehicle = data.get("vehicle")
    before = vehicle.get("kind", "ev") if isinstance(vehicle, dict) else "ev"
    for table, values in given.items():
        target = data.setdefault(table, {}) if table else data
        if values and isinstance(target, dict):
            target.update(values)
    if given.get("vehicle", {}).get("kind", before) != before and "plan" not in given.get("", {}):
        data.pop("plan", None)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read: {e.strerror}") from e
    except UnicodeDecodeError as e:
        line = e.object[: e.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8 text; save the file as UTF-8") from e


_Place = tuple[str | int, ...]


class _Source:
    """The text of a file, to find lines in; conversion with errors that name them."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self._lines = text.splitlines()

    def wrong(self, place: _Place, words: str) -> ConfigError:
        return ConfigError(f"{self.path}:{self.line(place)}: {words}")

    def line(self, place: _Place) -> int:
        """Where ("step", 2, "at") stands: TOML libraries do not keep it."""
        begin, end = 0, len(self._lines)
        steps = list(place)
        while steps and (table := self._table(steps)) is not None:
            begin, end, used = table
            del steps[:used]
        keys = [step for step in steps if isinstance(step, str)]
        if keys:
            key = re.compile(rf"\s*[\"']?{re.escape(keys[0])}[\"']?\s*[=.]")
            return next((n + 1 for n in range(begin, end) if key.match(self._lines[n])), begin + 1)
        return begin + 1

    def _table(self, steps: Sequence[str | int]) -> tuple[int, int, int] | None:
        """First line, line after the last, and how many of the steps name the table."""
        name, number = steps[0], steps[1] if len(steps) > 1 else None
        used = 2 if isinstance(number, int) else 1
        count = number if isinstance(number, int) else 0
        brackets = 2 if isinstance(number, int) else 1
        opening, closing = (re.escape(bracket * brackets) for bracket in "[]")
        head = re.compile(rf"\s*{opening}\s*{re.escape(str(name))}\s*{closing}")
        for n, line in enumerate(self._lines):
            if head.match(line):
                if count == 0:
                    after = range(n + 1, len(self._lines))
                    end = (m for m in after if self._lines[m].lstrip().startswith("["))
                    return n, next(end, len(self._lines)), used
                count -= 1
        return None

    def convert(self, data: Any, kind: Any, place: _Place) -> Any:
        """Convert to a struct (or a union of them).

        Raises:
            ConfigError: with the line of what does not fit.
        """
        try:
            return msgspec.convert(data, kind, strict=True)
        except msgspec.ValidationError as e:
            raise self._explained(e, data, kind, place) from e

    def _explained(
        self, error: msgspec.ValidationError, data: Any, kind: Any, place: _Place
    ) -> ConfigError:
        match = _PATH.match(str(error))
        what, where = (match["what"], match["path"] or "") if match else (str(error), "")
        inside = [k or int(i) for k, i in re.findall(r"([A-Za-z_]\w*)|\[(\d+)\]", where)]
        table = _of((*place, *inside))
        if unknown := _UNKNOWN.match(what):
            key = unknown["key"]
            known = _keys(kind, data, inside)
            return self.wrong(
                (*place, *inside, key), f'unknown key "{key}"{table}{_hint(key, known)}'
            )
        if missing := _MISSING.match(what):
            return self.wrong((*place, *inside), f'the key "{missing["key"]}" is missing{table}')
        if kind is Expect and inside == ["that"] and (tag := _WRONG_TAG.match(what)):
            tags = [str(each.__struct_config__.tag) for each in EXPECTS]
            words = f'there is no expectation "{tag["tag"]}"{_hint(tag["tag"], tags)}'
            return self.wrong((*place, "that"), f"{words} (known: {', '.join(tags)})")
        last = inside[-1] if inside and isinstance(inside[-1], str) else ""
        subject = (
            f'"{last}"{_of((*place, *inside[:-1]))}: ' if last else f"{_at((*place, *inside))}: "
        )
        said = what[0].lower() + what[1:].replace("`", "")
        return self.wrong((*place, *inside), f"{subject}{said}")

    def step(self, number: int, data: Any) -> PlacedStep:
        """One `[[step]]`: its own keys, and those of its fault."""
        place: _Place = ("step", number)
        if not isinstance(data, dict):
            raise self.wrong(place, f"{_at(place)}: write it as [[step]]")
        own = {field.encode_name for field in msgspec.structs.fields(Step)}
        step: Step = self.convert({k: v for k, v in data.items() if k in own}, Step, place)
        fault = ACTIONS.get(step.do)
        if fault is None:
            raise self.wrong(
                (*place, "do"),
                f'there is no fault or action "{step.do}"{_hint(step.do, ACTIONS)} '
                f"(known: {', '.join(ACTIONS)})",
            )
        self._times(place, step)
        parameters = {k: v for k, v in data.items() if k not in own}
        known = {each.name: each for each in fault.parameters}
        for key, value in parameters.items():
            if key not in known:
                raise self.wrong(
                    (*place, key),
                    f'unknown key "{key}"{_of(place)}, which does "{step.do}"'
                    f"{_hint(key, [*known, *own])}",
                )
            self._readable(partial(known[key].checked, step.do, value), (*place, key))
        return PlacedStep(self.line(place), step, parameters)

    def _times(self, place: _Place, step: Step) -> None:
        given = [
            key for key, value in (("for", step.lasts), ("until", step.until)) if value is not None
        ]
        if len(given) > 1:
            raise self.wrong(
                (*place, given[1]), f'"{given[0]}" and "{given[1]}"{_of(place)}: one of them'
            )
        if given and not can_end(step.do):
            raise self.wrong(
                (*place, given[0]),
                f'"{given[0]}"{_of(place)}: "{step.do}" is over by itself, after "off_s"',
            )
        if step.until is not None and step.until <= step.at:
            raise self.wrong((*place, "until"), f'"until"{_of(place)}: is not after "at"')
        if step.when:
            self._readable(partial(Comparison.read, step.when), (*place, "when"))

    def expect(self, number: int, data: Any) -> PlacedExpect:
        """One `[[expect]]`."""
        place: _Place = ("expect", number)
        expect: Expect = self.convert(data, Expect, place)
        if isinstance(expect, CountIs):
            self._readable(partial(Figure.read, expect.of), (*place, "of"))
        if isinstance(expect, CountIs | SamplesAre):
            bounds = [expect.at_least, expect.at_most, expect.equals]
            if isinstance(expect, SamplesAre):
                bounds += [expect.min, expect.max]
            if all(bound is None for bound in bounds):
                raise self.wrong(place, f'{_at(place)}: needs "at_least", "at_most" or "equals"')
            if expect.by is not None and expect.at_least is None:
                raise self.wrong(
                    (*place, "by"), f'"by"{_of(place)}: is for "at_least", which is missing'
                )
        return PlacedExpect(self.line(place), expect)

    def _readable(self, read: Callable[[], object], place: _Place) -> None:
        try:
            read()
        except ConfigError as e:
            raise self.wrong(place, f'"{place[-1]}"{_of(place[:-1])}: {e}') from e

    def _vehicle(self, scenario: Scenario) -> None:
        vehicle, place = scenario.head.vehicle, ("vehicle",)
        if vehicle.kind == "log" and not vehicle.log:
            raise self.wrong(place, 'kind = "log" in [vehicle] needs "log" (or --log FILE)')
        if vehicle.kind != "log" and vehicle.log:
            raise self.wrong((*place, "log"), '"log" in [vehicle] is for kind = "log"')
        if vehicle.kind in ("log", "dbc") and not vehicle.dbc:
            raise self.wrong(
                place, f'kind = "{vehicle.kind}" in [vehicle] needs "dbc" (or --dbc FILE)'
            )
        if vehicle.kind not in ("log", "dbc") and vehicle.dbc:
            raise self.wrong((*place, "dbc"), '"dbc" in [vehicle] is for kind = "log" and "dbc"')
        if vehicle.takes_s and vehicle.speed != 1:
            raise self.wrong((*place, "takes_s"), '"speed" and "takes_s" in [vehicle]: one of them')
        if vehicle.kind == "log" and vehicle.seconds is not None and scenario.recorded:
            raise self.wrong(
                (*place, "seconds"), '"seconds" in [vehicle]: a recording is read to its end'
            )
        if vehicle.loop and (vehicle.kind != "log" or scenario.recorded):
            raise self.wrong((*place, "loop"), '"loop" in [vehicle] is for a recording on a bus')
        if vehicle.kind != "log" and vehicle.seconds is None:
            vehicle.seconds = DEFAULT_S

    def together(self, scenario: Scenario) -> None:
        """What no entry alone can say wrong."""
        self._vehicle(scenario)
        vehicle = scenario.head.vehicle
        done = {placed.step.do for placed in scenario.steps}
        for number, placed in enumerate(scenario.expects):
            expect, at = placed.expect, ("expect", number)
            if isinstance(expect, Recovered) and expect.after not in done:
                raise self.wrong((*at, "after"), f'"after"{_of(at)}: no step does "{expect.after}"')
            if isinstance(expect, SameAsDecoded) and vehicle.kind != "log":
                raise self.wrong(at, f'{_at(at)}: is for kind = "log"')
        for number, each in enumerate(scenario.steps):
            if scenario.recorded and each.step.do in ON_A_LIVE_BUS:
                raise self.wrong(
                    ("step", number, "do"),
                    f'"do"{_of(("step", number))}: "{each.step.do}" needs a live bus, and this '
                    "vehicle is a recording (bus, speed, takes_s)",
                )
        if not scenario.expects:
            raise self.wrong((), "there is no [[expect]]: nothing could go wrong")


def _beside(source: _Source, head: Header) -> None:
    """Make paths absolute: beside the file, or what comes with the program."""
    base = source.path.absolute().parent
    head.plan = _file(source, base, head.plan, ("plan",))
    vehicle = head.vehicle
    vehicle.log = _file(source, base, vehicle.log, ("vehicle", "log"))
    vehicle.dbc = [_file(source, base, each, ("vehicle", "dbc")) for each in vehicle.dbc]


def _file(source: _Source, base: Path, name: str, place: _Place) -> str:
    if not name:
        return ""
    path = base / name
    if not path.exists():
        folder = "dbc" if place[-1] == "dbc" else "config"
        path = find(Path(name), folder).absolute()
    if not path.is_file():
        raise source.wrong(place, f'"{place[-1]}": there is no file {name}')
    return str(path)


def _at(place: Iterable[str | int]) -> str:
    """`[step #2]`; empty at the top of the file."""
    names = [str(each) if isinstance(each, str) else f"#{each + 1}" for each in place]
    return f"[{' '.join(names)}]" if names else ""


def _of(place: Iterable[str | int]) -> str:
    where = _at(place)
    return f" in {where}" if where else ""


def _hint(key: str, known: Iterable[str] | Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(key, list(known), 1, 0.5)
    return f'; did you mean "{near[0]}"?' if near else ""


def _keys(kind: Any, data: Any, inside: Sequence[str | int]) -> Iterator[str]:
    """The keys that are known at a place."""
    if kind is Expect:
        tags = {str(each.__struct_config__.tag): each for each in EXPECTS}
        kind = tags[data["that"]]
    for step in inside:
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        kind = _plain(fields[str(step)])
    yield from (field.encode_name for field in msgspec.structs.fields(kind))


def _plain(annotation: Any) -> Any:
    """The type below `Annotated`."""
    return getattr(annotation, "__origin__", annotation)
