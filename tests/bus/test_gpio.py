"""An input line: its level, its changes, and clear words for whatever is wrong with it.

No machine of a developer has GPIO lines, so the chip is a double with the interface of gpiod's own
classes; what a real library says without a chip is tested with the library itself.
"""

import errno
import os
import select
import sys
import types
from collections.abc import Iterator
from typing import Any

import gpiod
import pytest
from gpiod.line import Direction, Edge, Value

from agent.bus.gpio import Chip, GpioLine, Request
from agent.errors import BusError


class FakeLine:
    """A line of a chip: a voltage, and a pipe for the changes that the kernel has noticed."""

    def __init__(self) -> None:
        self.high = False
        self.settings: gpiod.LineSettings | None = None
        self.gone = False
        self._read, self._write = os.pipe()

    def change(self, *, high: bool) -> None:
        self.high = high
        os.write(self._write, b"e")

    def unplug(self) -> None:
        self.gone = True
        os.write(self._write, b"e")

    def check(self) -> gpiod.LineSettings:
        if self.settings is None:
            raise gpiod.RequestReleasedError
        if self.gone:
            raise OSError(errno.ENODEV, "No such device")
        return self.settings

    def fileno(self) -> int:
        self.check()
        return self._read

    def get_value(self, line: int | str) -> Value:
        assert line == 4
        return Value(int(self.high != self.check().active_low))

    def read_edge_events(self, max_events: int | None = None) -> list[gpiod.EdgeEvent]:
        self.check()
        return [
            gpiod.EdgeEvent(gpiod.EdgeEvent.Type.RISING_EDGE.value, 0, 4, number, number)
            for number in os.read(self._read, max_events or 64)
        ]

    def release(self) -> None:
        self.settings = None

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


class FakeChip:
    """A chip with one useful line: number 4, "IGN"."""

    def __init__(self, line: FakeLine, refusal: OSError | None = None) -> None:
        self.opened = False
        self._line = line
        self._refusal = refusal

    def open(self, path: str) -> "FakeChip":
        if path != "/dev/gpiochip0":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        self.opened = True
        return self

    def line_offset_from_id(self, id: int | str) -> int:  # noqa: A002 - the library's name
        if isinstance(id, int):
            if id >= 8:
                raise ValueError("line offset of out range")
            return id
        if id != "IGN":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return 4

    def get_line_info(self, line: int | str) -> gpiod.LineInfo:
        plain = gpiod.LineSettings()
        return gpiod.LineInfo(
            offset=self.line_offset_from_id(line),
            name="IGN",
            used=True,
            consumer="cooling fan",
            direction=Direction.OUTPUT.value,
            active_low=False,
            bias=plain.bias.value,
            drive=plain.drive.value,
            edge_detection=plain.edge_detection.value,
            event_clock=plain.event_clock.value,
            debounced=False,
            debounce_period_us=0,
        )

    def request_lines(self, config: Any, consumer: str | None = None) -> FakeLine:
        if self._refusal:
            raise self._refusal
        ((offset, settings),) = config.items()
        assert offset == 4
        assert settings.direction == Direction.INPUT
        assert settings.edge_detection == Edge.BOTH
        self._line.settings = settings
        return self._line

    def close(self) -> None:
        self.opened = False


def test_the_library_has_the_interface_that_is_relied_on() -> None:
    """For the type checker: the real classes fit where the doubles do."""
    chip: type[Chip] = gpiod.Chip
    request: type[Request] = gpiod.LineRequest

    assert (chip, request) == (gpiod.Chip, gpiod.LineRequest)


@pytest.fixture
def wire() -> Iterator[FakeLine]:
    made = FakeLine()
    yield made
    made.close()


@pytest.fixture
def ignition(wire: FakeLine) -> Iterator[GpioLine]:
    with GpioLine("/dev/gpiochip0", 4, open_chip=FakeChip(wire).open) as line:
        yield line


class TestLevel:
    def test_it_is_on_when_the_line_is_high(self, wire: FakeLine, ignition: GpioLine) -> None:
        levels = []
        for high in (False, True, False):
            wire.high = high
            levels.append(ignition.read())

        assert levels == [False, True, False]

    def test_active_low_is_on_when_the_line_is_low(self, wire: FakeLine) -> None:
        with GpioLine("gpiochip0", 4, active_low=True, open_chip=FakeChip(wire).open) as line:
            assert line.read() is True
            wire.high = True
            assert line.read() is False

    def test_a_line_can_be_named_and_the_chip_given_without_its_folder(
        self, wire: FakeLine
    ) -> None:
        chip = FakeChip(wire)

        with GpioLine("gpiochip0", "IGN", open_chip=chip.open) as line:
            wire.high = True
            assert line.read() is True
            assert not chip.opened, "the line stays, the chip is not needed any more"

    @pytest.mark.parametrize("milliseconds", [0, 20, 1500])
    def test_bouncing_is_left_to_the_kernel(self, wire: FakeLine, milliseconds: int) -> None:
        with GpioLine("gpiochip0", 4, debounce_ms=milliseconds, open_chip=FakeChip(wire).open):
            assert wire.settings is not None
            assert wire.settings.debounce_period.total_seconds() == milliseconds / 1000


class TestChanges:
    def test_nothing_has_changed(self, ignition: GpioLine) -> None:
        assert ignition.wait(0) is None
        assert ignition.wait(0.01) is None
        assert ignition.wait(-1) is None

    def test_a_change_gives_the_level(self, wire: FakeLine, ignition: GpioLine) -> None:
        wire.change(high=True)
        on = ignition.wait(10)
        wire.change(high=False)
        off = ignition.wait(10)

        assert (on, off) == (True, False)
        assert ignition.wait(0) is None

    def test_of_many_changes_the_last_level_counts(
        self, wire: FakeLine, ignition: GpioLine
    ) -> None:
        for number in range(301):
            wire.change(high=number % 2 == 0)

        assert ignition.wait(10) is True
        assert ignition.wait(0) is None

    def test_changes_can_be_waited_for_with_select(
        self, wire: FakeLine, ignition: GpioLine
    ) -> None:
        before = select.select([ignition], [], [], 0)[0]
        wire.change(high=True)
        after = select.select([ignition], [], [], 10)[0]

        assert (before, after) == ([], [ignition])

    def test_a_chip_that_is_unplugged_ends_the_wait(
        self, wire: FakeLine, ignition: GpioLine
    ) -> None:
        descriptor = ignition.fileno()
        wire.unplug()

        assert select.select([descriptor], [], [], 10)[0]
        with pytest.raises(BusError, match="GPIO line 4 of /dev/gpiochip0 is gone"):
            ignition.wait(10)
        with pytest.raises(BusError, match="is gone"):
            ignition.read()

    def test_a_closed_line_says_so(self, ignition: GpioLine) -> None:
        ignition.close()
        ignition.close()

        for use in (ignition.read, ignition.fileno, lambda: ignition.wait(0)):
            with pytest.raises(BusError, match="is closed"):
                use()


class TestRefusals:
    @pytest.mark.parametrize(
        ("path", "words"),
        [
            ("/dev/no-such-chip", "there is no /dev/no-such-chip; `gpiodetect` lists"),
            ("no-such-chip", "there is no /dev/no-such-chip"),
            ("", "/dev/ is no GPIO chip"),
            ("/dev/null", "/dev/null is no GPIO chip"),
            (__file__, "is no GPIO chip"),
            ("/dev/null\0", "cannot be opened"),
        ],
    )
    def test_what_the_library_says_of_a_wrong_chip(self, path: str, words: str) -> None:
        with pytest.raises(BusError, match=words):
            GpioLine(path, 0)

    def test_no_permission_names_the_group(self) -> None:
        def refuse(path: str) -> Chip:
            raise PermissionError(errno.EACCES, "Permission denied", path)

        with pytest.raises(BusError, match=r"its group \(often gpio\) must include"):
            GpioLine("gpiochip0", 4, open_chip=refuse)

    @pytest.mark.parametrize(
        ("number", "words"),
        [
            (errno.EBUSY, "GPIO line 4 of /dev/gpiochip0 is in use by cooling fan"),
            (errno.ENXIO, "cannot tell of changes"),
            (errno.EPERM, "no permission to use GPIO line 4"),
            (errno.EIO, r"cannot be used \(\[Errno 5\] Input/output error\)"),
        ],
    )
    def test_a_line_that_is_refused_says_why(self, wire: FakeLine, number: int, words: str) -> None:
        chip = FakeChip(wire, OSError(number, os.strerror(number)))

        with pytest.raises(BusError, match=words):
            GpioLine("gpiochip0", 4, open_chip=chip.open)
        assert not chip.opened

    @pytest.mark.parametrize("line", [8, "DOOR", -1])
    def test_no_such_line(self, wire: FakeLine, line: int | str) -> None:
        chip = FakeChip(wire)

        with pytest.raises(BusError, match=f"GPIO line {line} of /dev/gpiochip0"):
            GpioLine("gpiochip0", line, open_chip=chip.open)
        assert not chip.opened


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (None, r"need the Python package gpiod; install it with: .*\[gpio\]"),
        (types.ModuleType("gpiod"), "need version 2"),
    ],
)
def test_a_missing_or_old_library_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, module: types.ModuleType | None, words: str
) -> None:
    monkeypatch.setitem(sys.modules, "gpiod", module)  # as Python itself marks a missing one

    with pytest.raises(BusError, match=words):
        GpioLine("gpiochip0", 4)
