"""The archive of a bundle: one form only, and nothing that comes in costs more than its limits."""

import io
import tarfile
import tracemalloc
from collections.abc import Mapping
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.batch.format import zstd
from agent.errors import UpdateError
from agent.ota import archive
from agent.ota.archive import MOST_FILES, MOST_PACKED, MOST_UNPACKED

FILES: Final = (
    ("manifest.json", b"{}\n"),
    ("config/ev.toml", b"x" * 512),
    ("dbc/Straße.dbc", b"VERSION " * 200),
    ("dbc/empty.dbc", b""),
)
IN_ORDER: Final = (FILES[0], *sorted(FILES[1:]))
END: Final = bytes(1024)
MIB: Final = 1 << 20


def header(
    name: str, size: int, *, kind: bytes = b"0", fields: Mapping[int, bytes] | None = None
) -> bytes:
    """A ustar header, made by Python's tarfile; with `fields` put at offsets, and summed up."""
    info = tarfile.TarInfo(name)
    info.size = size
    info.type = kind
    made = info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")
    block = bytearray(made[:512])
    for at in (329, 337):  # numbers of a device: tarfile leaves them out of plain files
        block[at : at + 8] = b"0000000\0"
    for at, content in (fields or {}).items():
        block[at : at + len(content)] = content
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name: str, content: bytes = b"", **more: Any) -> bytes:
    return header(name, len(content), **more) + content + bytes(-len(content) % 512)


def squeezed(tar: bytes, **options: int) -> bytes:
    """A zstd frame of a tar, as quick as can be."""
    named = {"compression_level": 1, "content_size_flag": 1, "checksum_flag": 1, **options}
    parameters = {int(zstd.CompressionParameter[name]): value for name, value in named.items()}
    return zstd.ZstdCompressor(options=parameters).compress(tar, zstd.ZstdCompressor.FLUSH_FRAME)


def unpacked(data: bytes) -> list[tuple[str, bytes]]:
    return list(archive.members(data))


FIRST: Final = member("manifest.json", b"{}")


def test_what_was_packed_comes_out_again() -> None:
    assert unpacked(archive.pack(IN_ORDER)) == list(IN_ORDER)


def test_the_same_files_give_the_same_bytes() -> None:
    assert archive.pack(IN_ORDER) == archive.pack(list(IN_ORDER))


def test_the_frame_states_its_size_and_has_a_checksum() -> None:
    data = archive.pack(IN_ORDER)

    size = zstd.get_frame_info(data).decompressed_size
    assert size == len(zstd.decompress(data))
    assert data[4] & 0b100  # RFC 8878, 3.1.1.1.1.5: Content_Checksum_flag


def test_any_tar_can_read_it() -> None:
    found = []
    with tarfile.open(fileobj=io.BytesIO(zstd.decompress(archive.pack(IN_ORDER)))) as tar:
        for info in tar:
            file = tar.extractfile(info)
            assert file is not None
            found.append((info.name, file.read()))
            assert (info.mode, info.mtime, info.uid, info.gid) == (0o644, 0, 0, 0)
            assert (info.uname, info.gname) == ("", "")

    assert found == list(IN_ORDER)


def test_a_tar_of_this_form_may_be_made_by_others() -> None:
    tar = b"".join(member(name, content) for name, content in IN_ORDER)

    assert tar + END == zstd.decompress(archive.pack(IN_ORDER))
    assert unpacked(squeezed(tar + END)) == list(IN_ORDER)


@pytest.mark.parametrize(
    "name",
    [
        "a" * 100,
        "a" * 101 + "/" + "b" * 100,
        "a" * 155 + "/" + "b" * 99,
        "/".join("abcd" * 12),
        "ä" * 77 + "/" + "ö" * 50,
    ],
)
def test_long_names_are_kept(name: str) -> None:
    files = [("manifest.json", b""), (name, b"content")]

    data = archive.pack(files)

    assert unpacked(data) == files
    with tarfile.open(fileobj=io.BytesIO(zstd.decompress(data))) as tar:
        assert tar.getnames()[1] == name


@pytest.mark.parametrize("number", [0, 1, MOST_FILES])
def test_as_many_files_as_are_allowed(number: int) -> None:
    files = [("manifest.json", b""), *((f"{i:03}.dbc", b"x") for i in range(number))]

    assert unpacked(archive.pack(files)) == files


def test_a_large_file_is_unpacked_within_the_window_of_level_19() -> None:
    files = [("manifest.json", b""), ("large.dbc", b"BO_ 1 A: 8 Vector__XXX\n" * 900_000)]

    assert unpacked(archive.pack(files)) == files


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/etc/passwd", "is absolute"),
        ("../ev.dbc", 'leads upwards with ".."'),
        ("dbc/../../ev.dbc", 'leads upwards with ".."'),
        ("..", 'leads upwards with ".."'),
        ("./ev.dbc", "is no plain relative name"),
        ("dbc//ev.dbc", "is no plain relative name"),
        ("dbc/", "is no plain relative name"),
        (".", "is no plain relative name"),
        ("a\nb", "has characters that cannot be shown"),
        ("a\x7fb", "has characters that cannot be shown"),
        ("a\u202eb", "has characters that cannot be shown"),
        ("a" * 101, "is too long"),
        ("a" * 156 + "/b", "is too long"),
        ("a" * 155 + "/" + "b" * 100, "is too long"),
    ],
)
def test_a_name_that_is_not_plain(name: str, why: str) -> None:
    with pytest.raises(UpdateError) as packing:
        archive.pack([("manifest.json", b""), (name, b"")])
    assert why in str(packing.value)

    if "long" not in why:
        with pytest.raises(UpdateError) as reading:
            unpacked(squeezed(FIRST + member(name) + END))
        assert why in str(reading.value)
        assert "\n" not in str(reading.value)


def test_a_name_over_255_bytes() -> None:
    # The two fields of a header together hold one byte more.
    name = {0: b"b" * 100, 345: b"a" * 155}
    with pytest.raises(UpdateError, match="is too long"):
        unpacked(squeezed(FIRST + member("x", fields=name) + END))


HOSTILE: Final[Mapping[str, tuple[bytes, str]]] = {
    "an empty name": (member("x", fields={0: b"\0"}), "is no plain relative name"),
    "a name that is no text": (member("a\udcff"), "not UTF-8"),
    "a hard link": (member("x", kind=tarfile.LNKTYPE), "is a hard link"),
    "a symbolic link": (
        member("x", kind=tarfile.SYMTYPE, fields={157: b"/etc/shadow"}),
        "is a symbolic link",
    ),
    "a character device": (member("x", kind=tarfile.CHRTYPE), "is a character device"),
    "a block device": (member("x", kind=tarfile.BLKTYPE), "is a block device"),
    "a folder": (member("x/", kind=tarfile.DIRTYPE), "is a folder"),
    "a pipe": (member("x", kind=tarfile.FIFOTYPE), "is a named pipe"),
    "a contiguous file": (member("x", kind=tarfile.CONTTYPE), "something else than a file"),
    "a file of before ustar": (member("x", kind=tarfile.AREGTYPE), "something else than a file"),
    "a pax header": (member("x", b"18 path=/etc/x/y\n", kind=tarfile.XHDTYPE), "is a pax header"),
    "a global pax header": (member("x", b"11 size=9\n", kind=tarfile.XGLTYPE), "is a pax header"),
    "a long name of GNU": (
        member("././@LongLink", b"a" * 300, kind=tarfile.GNUTYPE_LONGNAME),
        "is a GNU header for a long name",
    ),
    "a long link of GNU": (
        member("././@LongLink", b"a" * 300, kind=tarfile.GNUTYPE_LONGLINK),
        "is a GNU header for a long link",
    ),
    "a sparse file": (member("x", kind=tarfile.GNUTYPE_SPARSE), "is a sparse file"),
    "a file with a link": (member("x", fields={157: b"y"}), "the header"),
    "a file that may be executed": (member("x", fields={100: b"0000755"}), "the header"),
    "an owner": (member("x", fields={108: b"0001750"}), "the header"),
    "a name of an owner": (member("x", fields={265: b"root"}), "the header"),
    "a time": (member("x", fields={136: b"00000000001"}), "the header"),
    "the magic of GNU": (member("x", fields={257: b"ustar  \0"}), "the header"),
    "bytes behind the name": (member("x", fields={2: b"y"}), "the header"),
    "bytes behind the header": (member("x", fields={505: b"y"}), "the header"),
    "a name in the wrong field": (member("x", fields={345: b"dbc"}), "the header"),
    "a wrong checksum": (FIRST.replace(b"manifest", b"Manifest"), "the header"),
    "the same name twice": (member("x") + member("x"), "is in it twice"),
    "the first name again": (member("manifest.json"), "is in it twice"),
    "another order": (member("y") + member("x"), "not in the order"),
    "too many files": (
        b"".join(member(f"{i:03}") for i in range(MOST_FILES + 1)),
        f"more than {MOST_FILES} files",
    ),
    "8 GiB": (member("x", fields={124: b"77777777777"}), "8589934591 bytes, which is more"),
    "a byte more than there is": (header("x", 1025), "1025 bytes, which is more"),
    "a size that takes in the end": (header("x", 1024), "ends too early"),
    "a size in base 256": (member("x", fields={124: b"\x80" + bytes(10) + b"\x01"}), "no number"),
    "a negative size": (member("x", fields={124: b"-0000000001"}), "no number"),
    "a size with blanks": (member("x", fields={124: b"          1"}), "no number"),
    "filling with bytes": (header("x", 1) + b"x" * 512, "bytes between"),
    "one block of zeros": (bytes(512) + member("x"), "one block of zeros"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive(what: str) -> None:
    blocks, why = HOSTILE[what]
    with pytest.raises(UpdateError) as caught:
        unpacked(squeezed(FIRST + blocks + END))
    assert why in str(caught.value)
    assert "publish it again" in str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 511, 512, 513, 1024, 1535])
def test_a_tar_that_was_cut_off(length: int) -> None:
    tar = (FIRST + END)[:length]
    with pytest.raises(UpdateError, match=r"ends too early|more than it has"):
        unpacked(squeezed(tar))


@pytest.mark.parametrize("more", [b"\0", bytes(512), b"x", member("x")])
def test_bytes_behind_the_end_of_the_tar(more: bytes) -> None:
    with pytest.raises(UpdateError, match="something follows the end"):
        unpacked(squeezed(FIRST + END + more))


@pytest.mark.parametrize("more", [b"\0", archive.pack(IN_ORDER), b"\x50\x2a\x4d\x18\0\0\0\0"])
def test_bytes_behind_the_frame(more: bytes) -> None:
    with pytest.raises(UpdateError, match="something follows the end"):
        unpacked(archive.pack(IN_ORDER) + more)


def test_every_shorter_archive_is_refused() -> None:
    data = archive.pack(IN_ORDER)
    for length in range(len(data)):
        with pytest.raises(UpdateError):
            unpacked(data[:length])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04" + bytes(100),
        b"\x1f\x8b" + bytes(100),
        FIRST + END,
        squeezed(FIRST + END, content_size_flag=0),
        b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + squeezed(FIRST + END),
    ],
    ids=["nothing", "zip", "gzip", "plain tar", "no size stated", "a frame to be skipped"],
)
def test_something_else(data: bytes) -> None:
    with pytest.raises(UpdateError, match="does not begin like a bundle"):
        unpacked(data)


def test_too_large_packed() -> None:
    with pytest.raises(UpdateError, match=f"{MOST_PACKED} are the most"):
        unpacked(bytes(MOST_PACKED + 1))


def test_too_large_to_pack() -> None:
    with pytest.raises(UpdateError, match=f"{MOST_UNPACKED} are the most"):
        archive.pack([("manifest.json", bytes(MOST_UNPACKED))])


def peak_of_refusing(data: bytes, why: str) -> int:
    """The most memory that Python takes for it, bytes."""
    tracemalloc.start()
    try:
        with pytest.raises(UpdateError, match=why):
            unpacked(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_bomb_that_says_its_size_is_not_unpacked() -> None:
    data = squeezed(FIRST + bytes(4 * MOST_UNPACKED))

    assert len(data) < MIB
    assert peak_of_refusing(data, f"{MOST_UNPACKED} are the most") < MIB


def test_a_bomb_that_lies_about_its_size_is_unpacked_as_far_as_it_said() -> None:
    said, true = 10 * MIB, 2 * MOST_UNPACKED
    data = squeezed(header("manifest.json", said) + bytes(true), checksum_flag=0)
    for length in (4, 8):
        data = data.replace(
            (true + 512).to_bytes(length, "little"), said.to_bytes(length, "little")
        )
    assert zstd.get_frame_info(data).decompressed_size == said

    assert peak_of_refusing(data, "which is more|is damaged") < 12 * MIB


def test_a_bomb_in_one_file_stays_below_the_limit() -> None:
    size = MOST_UNPACKED - 2048
    data = squeezed(header("manifest.json", size) + bytes(size) + b"y" * 512 + END)

    assert len(data) < MIB
    assert peak_of_refusing(data, "something else than a file") < 1.25 * MOST_UNPACKED


def test_a_size_in_a_header_takes_no_memory() -> None:
    data = squeezed(header("manifest.json", MOST_UNPACKED) + END)

    assert peak_of_refusing(data, "which is more than it has") < MIB


def test_a_frame_with_a_larger_window_than_ours_is_not_unpacked() -> None:
    data = squeezed(member("manifest.json", bytes(40 * MIB)) + END, window_log=26)

    assert peak_of_refusing(data, "cannot be unpacked") < MIB


def test_a_frame_with_a_dictionary_is_not_unpacked() -> None:
    samples = [bytes([i % 7] * 40) + b"BO_ %d" % i for i in range(2000)]
    dictionary = zstd.train_dict(samples, 4096)
    compressor = zstd.ZstdCompressor(zstd_dict=dictionary)
    data = compressor.compress(FIRST + END, zstd.ZstdCompressor.FLUSH_FRAME)

    with pytest.raises(UpdateError, match="cannot be unpacked"):
        unpacked(data)


def test_many_empty_blocks_are_gone_through_quickly() -> None:
    # 3 bytes each, not the last: RFC 8878, 3.1.1.2.
    head = squeezed(bytes(1000), checksum_flag=0)[:7]
    data = head + bytes(3) * ((MOST_PACKED - len(head)) // 3)

    assert peak_of_refusing(data, "it ends too early") < MIB


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=2000))
@example(b"\x28\xb5\x2f\xfd")
def test_random_bytes_are_refused(data: bytes) -> None:
    for attempt in (data, b"\x28\xb5\x2f\xfd" + data):
        with pytest.raises(UpdateError):
            unpacked(attempt)


PACKED: Final = archive.pack(IN_ORDER)
TAR: Final = zstd.decompress(PACKED)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Some bytes of it replaced, left out or put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from([0, 1, 2, 512]))
        data[at : at + length] = draw(
            st.one_of(st.binary(max_size=12), st.sampled_from([bytes(512), FIRST, b"00000000001"]))
        )
    return bytes(data)


@settings(max_examples=300, deadline=None)
@given(damaged(PACKED))
def test_a_damaged_frame_is_refused_or_holds_the_same(data: bytes) -> None:
    try:
        found = unpacked(data)
    except UpdateError:
        return
    assert found == list(IN_ORDER)


@settings(max_examples=500, deadline=None)
@given(damaged(TAR))
def test_a_damaged_tar_is_refused_or_is_just_what_pack_makes(tar: bytes) -> None:
    try:
        found = unpacked(squeezed(tar))
    except UpdateError:
        return
    assert zstd.decompress(archive.pack(found)) == tar
