"""What a plan writes for a field, compiled: names found, words and units checked, all or an error.

    total_voltage = "PackPower.PackVoltage"             a signal, converted to the field's unit
    run_mode = "electric"                               a word of the standard, or a number
    total_current = "-PackPower.PackCurrent"            an expression of numbers
    dc_dc = { signal = "DcDcState", values = { Running = "working", 0 = 2 }, otherwise = "off" }
    vehicle_state = { when = { started = "DriveReady == 1" }, otherwise = "off" }

A signal whose unit is empty or unknown is taken for the unit of the field, as `unit` says it
explicitly. In an expression each signal stands in its own unit, and the result is in the field's;
where its signals tell that it is in another one, `unit` has to say what is meant. Expressions are
of last values; what looks back (mean, previous, ...) is for conditions only.

Conditions are evaluated by agent.collect.conditions, by names such as `gbt32960 alarms.soc_low`.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from agent.blocks import SignalSchema
from agent.collect.expression import compile_condition, compile_number, nodes_of, unparse
from agent.collect.expression.labels import raws_of, shown
from agent.collect.expression.lexer import PLAIN_NAME
from agent.collect.expression.names import Names
from agent.collect.expression.tree import (
    Arithmetic,
    Condition,
    Function,
    Missing,
    Number,
    Numeric,
    Previous,
    Signal,
    Window,
)
from agent.collect.measures import Column, Measures
from agent.collect.reports.fields import FieldSpec
from agent.collect.reports.held import Slots
from agent.collect.reports.values import (
    NAN,
    Case,
    Computed,
    Constant,
    Decided,
    Flag,
    Looked,
    Read,
    Series,
    Term,
    computation,
)
from agent.errors import ConfigError
from agent.settings.gbt32960_mapping import FieldTable
from agent.signals.database import Database, SignalPath
from agent.signals.units import conversion, quantities

_UNITS: Final[Mapping[str, str]] = {"% vol": "%", "mg/kg": "ppm"}
"""Units of the standard by a name that agent.signals.units has."""
_EXACT: Final = 1 << 53


@contextlib.contextmanager
def at(where: str) -> Iterator[None]:
    """Say in errors which key they are about."""
    try:
        yield
    except ConfigError as e:
        raise ConfigError(f"{where}: {e}") from e


CONDITIONS: Final = "gbt32960 "
"""What the names of conditions begin with; the field follows, such as alarms.soc_low."""


class Values:
    """Compiles values, and collects the slots and conditions that they need."""

    def __init__(self, database: Database, vss: Mapping[str, SignalPath]) -> None:
        self._database = database
        self._vss = vss
        self._names = Names.of(database)
        self._measures = Measures(database, vss)
        self.slots = Slots()
        self.conditions: dict[str, Condition] = {}

    def term(
        self, where: str, written: float | str | FieldTable, spec: FieldSpec, stale_ns: int
    ) -> Term:
        """A value.

        Raises:
            ConfigError: it names what does not exist, measures something else or is out of range.
        """
        with at(where):
            if isinstance(written, str):
                return self._named(written, "", spec, stale_ns)
            if not isinstance(written, FieldTable):
                return Constant(spec.constant(written))
            if written.stale_after_s is not None:
                stale_ns = round(written.stale_after_s * 1e9)
            _check(written)
            if written.when:
                return self._decided(where, written, spec, stale_ns)
            if written.values:
                return self._looked(written, spec, stale_ns)
            return self._named(written.signal, written.unit, spec, stale_ns)

    def series(self, where: str, patterns: Sequence[str], spec: FieldSpec, stale_ns: int) -> Series:
        """Many signals of one quantity.

        Raises:
            ConfigError: a pattern names nothing, or a signal measures something else.
        """
        with at(where):
            columns = [
                self._column(path, self._measures.schema(path), "", spec)
                for path in self._measures.many(patterns)
            ]
        return Series.of(columns, stale_ns)

    def flag(self, where: str, text: str) -> Flag:
        """A condition.

        Raises:
            ConfigError: it is none.
        """
        with at(where):
            name, _ = self._condition(where, text)
        return Flag(name)

    def _condition(self, where: str, text: str) -> tuple[str, Condition]:
        if not text.strip():
            raise ConfigError("the condition is empty: write one, or leave the key out")
        found = compile_condition(text, self._database, vss=self._vss)
        name = f"{CONDITIONS}{where}"
        self.conditions[name] = found
        self._slots_of(found)
        return name, found

    def _slots_of(self, node: Condition) -> list[int]:
        signals = [n for n in nodes_of(node) if isinstance(n, Signal) and n.schema.kind != "bytes"]
        return [self.slots.of(signal.path) for signal in signals]

    def _named(self, text: str, unit: str, spec: FieldSpec, stale_ns: int) -> Term:
        """A word, a signal or an expression."""
        if not text.strip():
            raise ConfigError("it is empty: name a signal, or leave the key out")
        word = spec.word(text)
        if word is not None and not unit:
            return Constant(word)
        try:
            found = self._found(text)
        except ConfigError as e:
            words = f"; and it is not a word of this field, {spec.allowed()}" if spec.words else ""
            raise ConfigError(f"{e}{words}") from e
        if found is None:
            return self._computed(text, unit, spec, stale_ns)
        path, schema = found
        if schema.choices and spec.is_state:
            raise ConfigError(
                f"{path} has a value table of its own: say what its states are here, such as "
                f'{{ signal = "{text}", values = {{ "{schema.choices[0][1]}" = '
                f'"{next(iter(spec.words))}" }} }}'
            )
        return Read(self._column(path, schema, unit, spec), stale_ns)

    def _found(self, text: str) -> tuple[SignalPath, SignalSchema] | None:
        """The signal of this name; None where it must be an expression."""
        try:
            path, schema = self._names.find(text, self._vss)
        except ConfigError:
            if PLAIN_NAME.fullmatch(text):
                raise
            return None
        if schema.kind == "bytes":
            raise ConfigError(f"{path} holds bytes, not a number")
        return path, schema

    def _column(self, path: SignalPath, schema: SignalSchema, unit: str, spec: FieldSpec) -> Column:
        above, below, offset = 1.0, 1.0, 0.0
        if unit or quantities(schema.unit):
            with at(str(path)):
                above, below, offset = _converted(unit or schema.unit, spec, explicit=bool(unit))
        return Column(self.slots.of(path), above, below, offset)

    def _computed(self, text: str, unit: str, spec: FieldSpec, stale_ns: int) -> Term:
        try:
            tree = compile_number(text, self._database, vss=self._vss)
        except ConfigError as e:
            raise self._no_number(text, e, spec) from e
        if isinstance(tree, Number):
            return Constant(spec.constant(tree.value))
        for node in nodes_of(tree):
            if isinstance(node, Window | Previous):
                raise ConfigError(
                    f"{unparse(node)} looks back, and a report takes last values only: leave it "
                    "out, or use it in a condition"
                )
        above, below, offset = 1.0, 1.0, 0.0
        if unit:
            above, below, offset = _converted(unit, spec, explicit=True)
        elif spec.unit:
            _check_unit(text, _unit_of(tree), spec)
        compute = computation(tree, lambda signal: self.slots.of(signal.path))
        return Computed(compute, above, below, offset, stale_ns)

    def _no_number(self, text: str, error: ConfigError, spec: FieldSpec) -> ConfigError:
        """Why it is none; a condition or a pattern may be what is meant."""
        if set("*?") & set(text):
            with contextlib.suppress(ConfigError):
                count = len(self._measures.many([text]))
                return ConfigError(
                    f'"{text}" is a pattern of {count} signals, and a field is one signal; only '
                    "lists such as cells and probes take patterns"
                )
        try:
            compile_condition(text, self._database, vss=self._vss)
        except ConfigError:
            return error
        word = next(iter(spec.words), "1")
        return ConfigError(
            "it is a condition, not a number: say which value it stands for, such as "
            f"{{ when = {{ \"{word}\" = '{text}' }}, otherwise = ... }}"
        )

    def _looked(self, written: FieldTable, spec: FieldSpec, stale_ns: int) -> Term:
        found = self._found(written.signal)
        if found is None:
            raise ConfigError('"values" are those of a signal, not of an expression')
        path, schema = found
        if schema.kind not in ("int64", "uint64"):
            raise ConfigError(f"{path} is no whole number and has no table of values")
        table: dict[float, float] = {}
        for key, constant in written.values.items():
            with at(f'values "{key}"'):
                value = spec.constant(constant)
                for raw in _raws(path, schema, key):
                    if raw in table:
                        raise ConfigError(f"the raw value {raw} is given twice")
                    table[raw] = value
        slot = self.slots.of(path, raw=True)
        return Looked(slot, table, _otherwise(written, spec), stale_ns)

    def _decided(self, where: str, written: FieldTable, spec: FieldSpec, stale_ns: int) -> Term:
        cases = []
        for key, text in written.when.items():
            with at(f'when "{key}"'):
                value = spec.constant(_constant(key))
                name, condition = self._condition(f"{where} {key}", text)
            slots = np.array(self._slots_of(condition), np.intp)
            asks = any(isinstance(node, Missing) for node in nodes_of(condition))
            cases.append(Case(name, value, slots, asks or not len(slots)))
        return Decided(tuple(cases), _otherwise(written, spec), stale_ns)


def _check(written: FieldTable) -> None:
    """Does it say one thing?"""
    if bool(written.signal) == bool(written.when):
        raise ConfigError('give either "signal" or "when"')
    if written.values and written.when:
        raise ConfigError('"values" go with "signal", not with "when"')
    if written.otherwise is not None and not (written.values or written.when):
        raise ConfigError('"otherwise" goes with "values" or "when"')
    if written.unit and (written.values or written.when):
        raise ConfigError('"unit" is of no use with "values" or "when"')


def _otherwise(written: FieldTable, spec: FieldSpec) -> float:
    if written.otherwise is None:
        return NAN
    with at("otherwise"):
        return spec.constant(written.otherwise)


def _constant(key: str) -> float | str:
    """A key of TOML is always a text."""
    try:
        return float(int(key, 0))
    except ValueError:
        return key


def _raws(path: SignalPath, schema: SignalSchema, key: str) -> Sequence[int]:
    """The raw values that a key means: a label, else a number."""
    if labelled := raws_of(schema, key):
        return sorted(labelled)
    try:
        raw = int(key, 0)
    except ValueError:
        have = f"has: {shown(schema, key)}" if schema.choices else "has no value table"
        raise ConfigError(f"no label and no raw value of {path}, which {have}") from None
    span = 1 << schema.bits
    low = -span // 2 if schema.kind == "int64" else 0
    if not low <= raw < low + span or abs(raw) > _EXACT:
        raise ConfigError(f"{path} has {schema.bits} bits and is never {raw}")
    return [raw]


def _converted(unit: str, spec: FieldSpec, *, explicit: bool) -> tuple[float, float, float]:
    """Factor above, factor below and offset from a unit to that of the field.

    `explicit`: the plan says the unit, so it must be known.
    """
    wanted = _UNITS.get(spec.unit, spec.unit)
    if not wanted:
        if explicit:
            raise ConfigError('"unit" is of no use: the field has none')
        return 1.0, 1.0, 0.0
    if unit == spec.unit:
        return 1.0, 1.0, 0.0
    scale, offset = conversion(unit, wanted)
    return float(scale.numerator), float(scale.denominator), float(offset)


def _check_unit(text: str, unit: str, spec: FieldSpec) -> None:
    """Refuse an expression that is plainly in another unit."""
    if not quantities(unit):
        return
    try:
        same = _converted(unit, spec, explicit=False) == (1.0, 1.0, 0.0)
    except ConfigError as e:
        raise ConfigError(
            f'"{text}" is in {unit}: {e}; if it is not, say so: {{ signal = "{text}", '
            f'unit = "{spec.unit}" }}'
        ) from e
    if not same:
        raise ConfigError(
            f'"{text}" is in {unit}, and the field in {spec.unit}: write {{ signal = "{text}", '
            f'unit = "{unit}" }} to have it converted, or unit = "{spec.unit}" where it already is'
        )


def _unit_of(node: Numeric) -> str:
    """The unit in which an expression is; empty where it is not plain.

    Raises:
        ConfigError: it adds what is in different units.
    """
    match node:
        case Signal():
            return node.schema.unit
        case Function():
            return _unit_of(node.of)
        case Arithmetic(operator="+" | "-" | "*") if isinstance(node.left, Number):
            return _unit_of(node.right)
        case Arithmetic() if isinstance(node.right, Number):
            return _unit_of(node.left)
        case Arithmetic(operator="+" | "-"):
            return _unit_of_sum(_unit_of(node.left), _unit_of(node.right))
        case _:
            return ""


def _unit_of_sum(left: str, right: str) -> str:
    if not quantities(left) or not quantities(right):
        return ""
    try:
        scale, offset = conversion(left, right)
        same = scale == 1 and offset == 0
    except ConfigError:
        same = False
    if not same:
        raise ConfigError(
            f"it adds or subtracts {left} and {right}; if that is meant, say in which unit the "
            'result is: { signal = "...", unit = "..." }'
        )
    return left
