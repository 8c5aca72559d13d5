"""Whatever the bytes, a reader gives blocks and a count, or a BusError, and comes to an end."""

import gzip
import lzma
import tempfile
import zlib
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.blocks import UInt8
from agent.bus import read_log
from agent.bus.logs import text
from agent.errors import BusError
from tests.bus import recordings
from tests.bus.recordings import KINDS, drive, write

EXAMPLES = 60


def _samples() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        samples = {
            kind: write(
                Path(folder) / f"a.{kind}", drive(12, kinds=kinds, channels=(0, 1))
            ).read_bytes()
            for kind, kinds in KINDS.items()
        }
    for version in ("1.1", "1.3", "2.0"):
        samples[f"{version}.trc"] = recordings.trc(version, drive(8, channels=(1,)))
    samples["blf.gz"] = gzip.compress(samples["blf"], 1)
    samples["log.xz"] = lzma.compress(samples["log"])
    return samples


SAMPLES = _samples()

edits = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 6),
        st.one_of(
            st.binary(max_size=8),
            st.sampled_from([b"\xff" * 4, b"\0" * 8, b"\n", b" ", b"#", b",", b"LOBJ", b"9" * 25]),
        ),
    ),
    min_size=1,
    max_size=6,
)


def damaged(content: bytes, changes: list[tuple[float, int, bytes]], keep: float) -> bytes:
    """Some bytes replaced, taken out or put in, and the end cut off."""
    raw = bytearray(content)
    for place, removed, put in changes:
        at = int(place * len(raw))
        raw[at : at + removed] = put
    return bytes(raw[: int(len(raw) * keep) + 1])


def read_all(name: str, content: bytes) -> int:
    """How many frames are read; -1 where the file as a whole is refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        count = 0
        try:
            with read_log(path) as reader:
                for block in reader:
                    count += len(block)
                    assert int(block.length.max()) <= block.data.shape[1]
                    beyond = np.arange(block.data.shape[1]) >= block.length[:, None]
                    assert not block.data[beyond].any()
        except BusError:
            return -1
    return count


@pytest.mark.parametrize("kind", [kind for kind in SAMPLES if kind != "mf4"])
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changes=edits, keep=st.one_of(st.just(1.0), st.floats(0, 1)))
def test_a_damaged_recording_is_read_or_refused(
    kind: str, changes: list[tuple[float, int, bytes]], keep: float
) -> None:
    read_all(f"a.{kind}", damaged(SAMPLES[kind], changes, keep))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changes=edits, keep=st.one_of(st.just(1.0), st.floats(0, 1)))
def test_a_damaged_mdf_recording_is_read_or_refused(
    changes: list[tuple[float, int, bytes]], keep: float
) -> None:
    read_all("a.mf4", damaged(SAMPLES["mf4"], changes, keep))


@settings(max_examples=EXAMPLES, deadline=None)
@given(changes=edits)
def test_damage_within_the_containers_of_a_blf_is_read_over(
    changes: list[tuple[float, int, bytes]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plain = write(Path(folder) / "a.blf", drive(12), compression_level=0).read_bytes()
    payload = damaged(plain[176:], changes, 1)
    packed = zlib.compress(payload)
    sizes = (len(packed) + 32).to_bytes(4, "little"), len(payload).to_bytes(4, "little")
    container = b"LOBJ\x10\0\x01\0" + sizes[0] + b"\x0a\0\0\0\x02" + bytes(7) + sizes[1] + bytes(4)
    assert read_all("a.blf", plain[:144] + container + packed) >= 0


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    name=st.sampled_from(
        ["a.log", "a.asc", "a.trc", "a.csv", "a.blf", "a.mf4", "a.txt", "a.log.gz"]
    ),
    content=st.binary(max_size=300),
)
def test_any_bytes_are_read_or_refused(name: str, content: bytes) -> None:
    read_all(name, content)


def test_a_file_that_unpacks_to_very_much_is_read_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "bomb.log.gz"
    path.write_bytes(gzip.compress(b"(1.0) can0 123#11\n" + bytes(48 << 20), 1))
    with read_log(path) as reader:
        assert sum(len(block) for block in reader) == 1
        assert (reader.bad, reader.notes) == (1, ["bomb.log.gz:2: a line without an end, skipped"])


def test_a_container_that_unpacks_to_very_much_is_read_in_pieces(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.blf", drive(3)).read_bytes()
    packed = zlib.compress(bytes(48 << 20), 1)
    size = (len(packed) + 32).to_bytes(4, "little")
    head = b"LOBJ\x10\0\x01\0" + size + b"\x0a\0\0\0\x02" + bytes(7) + b"\xff" * 4 + bytes(4)
    pad = bytes((len(packed) + 32) % 4)
    path = tmp_path / "bomb.blf"
    path.write_bytes(whole[:144] + head + packed + pad + whole[144:])
    with read_log(path) as reader:
        assert sum(len(block) for block in reader) == 3
        assert reader.bad > 0


def test_blocks_of_an_mdf_file_that_lead_back_to_themselves_are_refused(tmp_path: Path) -> None:
    raw = bytearray(SAMPLES["mf4"])
    first = int.from_bytes(raw[64 + 24 : 64 + 32], "little")
    assert raw[first : first + 4] == b"##DG"
    raw[first + 24 : first + 32] = first.to_bytes(8, "little")
    path = tmp_path / "loop.mf4"
    path.write_bytes(raw)
    with read_log(path) as reader, pytest.raises(BusError, match="lead back to themselves"):
        next(reader)


def test_more_channels_than_any_recorder_has_are_bad_lines(tmp_path: Path) -> None:
    path = tmp_path / "many.log"
    path.write_text("".join(f"(1.0) can{n} 123#11\n" for n in range(300)))
    with read_log(path) as reader:
        assert sum(len(block) for block in reader) == 256
        assert reader.bad == 44


def tokens(words: list[str]) -> tuple[UInt8, text.Index, text.Index]:
    """The words as a parser sees them: bytes between margins, where each starts and ends."""
    raw = b"\n" * 32 + " ".join(words).encode() + b"\n" * 160
    ends = np.cumsum([len(word) + 1 for word in words]) + 31
    starts = ends - [len(word) for word in words]
    return np.frombuffer(raw, np.uint8), starts, ends


numbers = st.from_regex(r"-?[0-9]{1,12}(\.[0-9]{0,14})?", fullmatch=True)
words = st.text("0123456789.-abcXx", min_size=1, max_size=24)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(numbers, words), min_size=1, max_size=8), st.sampled_from([3, 6, 9]))
def test_a_decimal_fraction_is_the_exact_number_or_none(written: list[str], places: int) -> None:
    value, ok = text.fixed_point(*tokens(written), places)
    for word, number, good in zip(written, value.tolist(), ok.tolist(), strict=True):
        if good:
            scaled = Decimal(word) * 10**places
            assert number == int(scaled), word
        elif numbers_fit(word, places):
            raise AssertionError(word)


def numbers_fit(word: str, places: int) -> bool:
    """A plain decimal whose value is far from the limits must be read."""
    whole, _, part = word.removeprefix("-").partition(".")
    plain = whole.isdigit() and (part.isdigit() or not part)
    return plain and len(whole) <= 18 - places - 1 and len(part) <= 18


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("0123456789abcdefABCDEFgx", min_size=1, max_size=10), min_size=1))
def test_a_hexadecimal_number_is_the_number_or_none(written: list[str]) -> None:
    value, ok = text.hex_number(*tokens(written))
    for word, number, good in zip(written, value.tolist(), ok.tolist(), strict=True):
        is_hex = len(word) <= 8 and all(letter in "0123456789abcdefABCDEF" for letter in word)
        assert good == is_hex, word
        assert not good or number == int(word, 16)
