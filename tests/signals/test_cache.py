"""Compiled databases that are kept: what is found again, and what is never believed."""

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import DatabaseError
from agent.ota import load_factory_plan
from agent.settings import load_device, packaged
from agent.signals import Database, cache
from agent.signals.sound import fault
from tests.shared_data import needs_shared, shared

HEAD = 40
"""Bytes before the payload: magic and digest."""


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The file in which the demo vehicle is kept."""
    Database.load([packaged("dbc/ev.dbc")], cache=tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    return path


def sealed(payload: bytes) -> bytes:
    return cache._MAGIC + hashlib.sha256(payload).digest() + payload


def found(path: Path) -> bool:
    return cache.load(path.parent, path.stem) is not None


def changed(path: Path) -> bool:
    """Whether a second load of the demo vehicle is another one than a first."""
    again = Database.load([packaged("dbc/ev.dbc")], cache=path.parent)
    return again != Database.load([packaged("dbc/ev.dbc")])


@needs_shared
@pytest.mark.parametrize(
    "name", ["kuksa_Model3CAN", "OBD-v4.4", "vw_mqb", "multiplex_2", "floating_point", "vehicle"]
)
def test_what_is_found_again_is_what_was_kept(tmp_path: Path, name: str) -> None:
    files = {"*": [shared(f"dbc/{name}.dbc")], "gps": [shared("dbc/canmod-gps.dbc")]}
    first = Database.load(files, j1939=["gps"], cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    second = Database.load(files, j1939=["gps"], cache=tmp_path)
    assert first == second == Database.load(files, j1939=["gps"])
    scales = [
        [type(s.schema.scale) for m in d.buses["*"] for s in m.signals] for d in (first, second)
    ]
    assert scales[0] == scales[1]  # batches have the scale as it is: 1 and not 1.0


def test_another_content_option_or_name_is_another_entry(tmp_path: Path) -> None:
    folder, path = tmp_path / "cache", tmp_path / "any.dbc"
    text = packaged("dbc/ev.dbc").read_text("utf-8")
    path.write_text(text, "utf-8")
    Database.load([path], cache=folder)
    Database.load([path], j1939=True, cache=folder)
    Database.load({"can0": [path]}, cache=folder)
    path.write_text(text + "\n", "utf-8")
    Database.load([path], cache=folder)
    other = tmp_path / "other.dbc"
    other.write_text(text, "utf-8")
    Database.load([other], cache=folder)
    assert len(list(folder.iterdir())) == 5


def test_a_file_that_is_gone_is_missed_whatever_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "any.dbc"
    path.write_bytes(packaged("dbc/ev.dbc").read_bytes())
    Database.load([path], cache=tmp_path / "cache")
    path.unlink()
    with pytest.raises(DatabaseError, match="cannot be read"):
        Database.load([path], cache=tmp_path / "cache")


def test_a_cut_file_is_made_again(kept: Path) -> None:
    whole = kept.read_bytes()
    for length in (0, 7, HEAD, len(whole) // 2, len(whole) - 1):
        kept.write_bytes(whole[:length])
        assert not found(kept)
        assert not changed(kept)
        assert kept.read_bytes() == whole


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_flipped_bit_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    cache.store(folder, "key", dict(Database.load([packaged("dbc/ev.dbc")]).buses), ())
    (path,) = folder.iterdir()
    whole = bytearray(path.read_bytes())
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(whole)
    assert cache.load(folder, "key") is None


def test_an_entry_under_another_name_is_not_taken(kept: Path) -> None:
    other = kept.with_name("0" * 64 + kept.suffix)
    other.write_bytes(kept.read_bytes())
    assert not found(other)
    assert found(kept)


@pytest.mark.parametrize(
    "path_and_value",
    [
        (("buses", "*", 0, 1), -1),  # the id
        (("buses", "*", 0, 1), 1 << 40),
        (("buses", "*", 0, 3), 1 << 20),  # the length
        (("buses", "*", 0, 3), "8"),
        (("buses", "*", 0, 6, 0, 1), "object"),  # the kind of a signal
        (("buses", "*", 0, 6, 0, 1), "float64"),
        (("buses", "*", 0, 6, 0, 2), "1"),  # its scale
        (("buses", "*", 0, 6, 0, 2), float("nan")),
        (("buses", "*", 0, 6, 0, 5), 10_000),  # its table
        (("buses", "*", 0, 6, 0, 8), -1),  # its start
        (("buses", "*", 0, 6, 0, 9), 0),  # its length
        (("buses", "*", 0, 6, 0, 12), "Nobody"),  # its multiplexer
        (("buses", "*", 0, 6, 0, 0), ""),  # its name
    ],
)
def test_a_forged_entry_with_a_good_digest_is_not_believed(
    kept: Path, path_and_value: tuple[tuple[str | int, ...], object]
) -> None:
    path, value = path_and_value
    names = {"key": 0, "tables": 1, "buses": 2, "findings": 3}
    payload = msgspec.msgpack.decode(kept.read_bytes()[HEAD:])
    place = payload
    steps = [names.get(step, step) if isinstance(step, str) else step for step in path]
    for step in steps[:-1]:
        place = place[step]
    place[steps[-1]] = value
    kept.write_bytes(sealed(msgspec.msgpack.encode(payload)))
    assert not found(kept)
    assert not changed(kept)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_with_a_good_digest_are_no_entry(
    tmp_path_factory: pytest.TempPathFactory, payload: bytes
) -> None:
    path = tmp_path_factory.mktemp("cache") / "key.database"
    path.write_bytes(sealed(payload))
    assert not found(path)


def test_multiplexers_in_a_circle_are_not_believed() -> None:
    (message, *_) = Database.load([packaged("dbc/ev.dbc")]).messages("any")
    first, second = message.signals[:2]
    circle = tuple(
        dataclasses.replace(a, multiplexer=True, parent=b.name, selected_by=frozenset({1}))
        for a, b in ((first, second), (second, first))
    )
    assert "select each other" in fault(dataclasses.replace(message, signals=circle))


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    database = Database.load([packaged("dbc/ev.dbc")], cache=tmp_path / "file" / "cache")
    assert database.paths()


def test_only_the_newest_entries_stay(tmp_path: Path) -> None:
    text = packaged("dbc/ev.dbc").read_text("utf-8")
    for number in range(12):
        path = tmp_path / "any.dbc"
        path.write_text(text + "\n" * number, "utf-8")
        Database.load([path], cache=tmp_path / "cache")
        for entry in (tmp_path / "cache").iterdir():
            os.utime(entry, ns=(0, entry.stat().st_mtime_ns - 10**9))
    assert len(list((tmp_path / "cache").iterdir())) == 8
    assert cache.load(tmp_path / "cache", newest(tmp_path / "cache")) is not None


def newest(folder: Path) -> str:
    return max(folder.iterdir(), key=lambda p: p.stat().st_mtime_ns).stem


def test_the_factory_plan_keeps_its_database_in_the_state_folder(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "agent.toml").write_text('vehicle = "v"\nplan = "plan.toml"\nstate_dir = "state"\n')
    (tmp_path / "plan.toml").write_text(
        'version = 1\nname = "p"\n'
        f'[[database]]\nbus = "*"\nfiles = ["{packaged("dbc/ev.dbc")}"]\n'
        '[[campaign]]\nname = "all"\nsignals = ["*"]\n'
    )
    device = load_device(tmp_path / "agent.toml", {})
    plans = [load_factory_plan(device) for _ in range(2)]
    assert plans[0] == plans[1]
    assert len(list((tmp_path / "state" / "cache").iterdir())) == 1


def test_what_a_power_cut_left_half_written_goes(tmp_path: Path) -> None:
    (tmp_path / ".0123456789abcdef.0a1b2c3d").write_bytes(b"half")
    Database.load([packaged("dbc/ev.dbc")], cache=tmp_path)
    assert [p.suffix for p in tmp_path.iterdir()] == [".database"]


def test_neither_a_dbc_file_nor_the_cache_needs_cantools(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from agent.signals import Database\n"
        "for _ in range(2): Database.load([sys.argv[1]], cache=Path(sys.argv[2]))\n"
        "sys.exit('cantools' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(packaged("dbc/ev.dbc")), str(tmp_path)]
    assert subprocess.run(command, check=False).returncode == 0
