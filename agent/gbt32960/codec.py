"""One engine that reads and writes data units by the table of an edition.

A data unit is a dict of its fields by name. Numbers are raw, as on the wire: `physical` gives a
copy in units. Times are nanoseconds of UTC, texts are str, lists are lists, tagged items are
`Item`. A list whose count is "abnormal" or "invalid" is the `Code`. Counts that only say how long
a list is are no values.

What is read may be out of range, as it is somebody else's data: `Number.code` tells, and only what
makes the rest unreadable is an error. What is written must be as the standard has it, unless it is
asked otherwise (`checked`).

The work for a data unit is bounded by its bytes: a count never makes room for more than is there.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from agent.gbt32960 import reading, writing
from agent.gbt32960.layout import (
    COMMAND,
    Command,
    Field,
    GbtError,
    Item,
    Layout,
    Maybe,
    Number,
    Rows,
    Tagged,
    Text,
    Values,
)
from agent.gbt32960.layout2016 import LAYOUT2016
from agent.gbt32960.layout2025 import LAYOUT2025
from agent.gbt32960.scalars import pack_text, pack_time, unpack_text, unpack_time

__all__ = [
    "CODECS",
    "GBT2016",
    "GBT2025",
    "Codec",
    "Values",
    "pack_text",
    "pack_time",
    "unpack_text",
    "unpack_time",
]


class Codec:
    """Data units of one edition."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def fields(self, command: int, ack: int = COMMAND) -> tuple[Field, ...]:
        """How the data unit of a command, or of an answer to it, is laid out.

        Raises:
            GbtError: the edition has no such command.
        """
        known = self._command(command)
        return known.fields if ack == COMMAND else known.answer

    def decode(self, command: int, body: bytes, ack: int = COMMAND) -> Values:
        """Read a data unit that is not encrypted.

        Args:
            command: the command id.
            body: the data unit.
            ack: the ack flag; an answer is laid out differently from a command.

        Raises:
            GbtError: it is malformed, longer than it says, or holds an item that this edition does
                not know and whose length is unknown. `partial` has what was read before.
        """
        fields = self.fields(command, ack)
        reader = reading.Reader(body, self._command(command).name)
        values: Values = {}
        try:
            reading.decode(fields, reader, values, {})
            if reader.left:
                raise reader.error(f"{reader.left} bytes too many")
        except GbtError as error:
            error.partial = values
            raise
        return values

    def encode(
        self, command: int, values: Mapping[str, Any], ack: int = COMMAND, *, checked: bool = True
    ) -> bytes:
        """Write a data unit.

        Args:
            command: the command id.
            values: as `decode` gives them.
            ack: the ack flag.
            checked: refuse raw values that are neither in range nor a code, and reserved bits.
                Off, everything that `decode` gives becomes the same bytes again.

        Raises:
            GbtError: a value is missing, unknown or does not fit.
        """
        writer = writing.Writer(self._command(command).name, checked=checked)
        writing.encode(self.fields(command, ack), writer, values, {})
        return bytes(writer.data)

    def physical(self, command: int, values: Mapping[str, Any], ack: int = COMMAND) -> Values:
        """A copy of decoded values with every number in its unit, or a `Code` where it is none."""
        return _physical(self.fields(command, ack), values)

    def _command(self, command: int) -> Command:
        known = self.layout.commands.get(command)
        if known is None:
            raise GbtError(f"command 0x{command:02X} does not exist in {self.layout.name}")
        return known


GBT2016: Final = Codec(LAYOUT2016)
GBT2025: Final = Codec(LAYOUT2025)
CODECS: Final = {codec.layout.start: codec for codec in (GBT2016, GBT2025)}


def _physical(fields: Sequence[Field], values: Mapping[str, Any]) -> Values:
    result = dict(values)
    for field in fields:
        if isinstance(field, Maybe):
            result.update(_physical(field.fields, result))
            continue
        value = values.get(field.name)
        if isinstance(field, Number) and isinstance(value, int):
            result[field.name] = field.physical(value)
        elif isinstance(field, Rows) and isinstance(value, list):
            result[field.name] = [_physical_row(field.row, one) for one in value]
        elif isinstance(field, Tagged) and isinstance(value, list):
            result[field.name] = [_physical_item(field, item) for item in value]
    return result


def _physical_row(row: Number | Text | tuple[Field, ...], one: Any) -> Any:
    if isinstance(row, Number):
        return row.physical(one)
    return one if isinstance(row, Text) else _physical(row, one)


def _physical_item(field: Tagged, item: Item) -> Item:
    known = field.kinds.get(item.type, field.other)
    if known is None or not isinstance(item.values, Mapping):
        return item
    return Item(item.type, _physical(known.fields, item.values))
