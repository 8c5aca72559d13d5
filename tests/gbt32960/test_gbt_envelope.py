"""The frame around a data unit; packs over several frames; signatures."""

from typing import Any

import pytest

from agent.gbt32960 import signature
from agent.gbt32960.codec import GBT2016, GBT2025
from agent.gbt32960.envelope import Frame, parse, request
from agent.gbt32960.layout import Code, GbtError, Item
from agent.gbt32960.packs import Pack, join_packs, split_packs

VIN = "11111111111111111"
# 07 ^ FE ^ 31 (an odd number of times) ^ 01 ^ 00 ^ 00 = C9
HEARTBEAT = bytes.fromhex("2323 07 fe" + "31" * 17 + "01 0000 c9")
TIME = bytes.fromhex("1a070707370f")
ENGINE = bytes.fromhex("04 0bb8")


def test_a_heartbeat_byte_by_byte() -> None:
    frame = request(GBT2016, 0x07, VIN)
    assert frame.to_bytes() == HEARTBEAT
    assert parse(HEARTBEAT) == frame
    assert frame.decode() == {}


def test_the_mark_tells_the_edition_and_a_short_vin_is_padded() -> None:
    # 07 ^ FE ^ 41 ^ 42 ^ 01 = FB
    frame = parse(bytes.fromhex("2424 07 fe 4142" + "00" * 15 + "01 0000 fb"))
    assert (frame.codec, frame.vin) == (GBT2025, "AB")


def test_a_vin_that_is_no_text_is_kept() -> None:
    raw = Frame(GBT2016, 0x07, 0xFE, "\udcff" * 17).to_bytes()
    assert raw[4:21] == b"\xff" * 17
    assert parse(raw).to_bytes() == raw


@pytest.mark.parametrize(
    ("frame", "offset", "message"),
    [
        (b"", 0, "no frame"),
        (HEARTBEAT[:-1], 0, "shorter than 25 bytes"),
        (b"#$" + HEARTBEAT[2:], 0, "no start mark"),
        (HEARTBEAT + b"\0", 22, "a length of 0 in a frame of 26 bytes"),
        (HEARTBEAT[:22] + b"\xff\xfc" + bytes(65533), 22, "a length of 65532"),
        (HEARTBEAT[:-1] + b"\xc8", 24, "BCC is 0xC8 and should be 0xC9"),
    ],
)
def test_no_frame(frame: bytes, offset: int, message: str) -> None:
    with pytest.raises(GbtError, match=message) as caught:
        parse(frame)
    assert caught.value.offset == offset


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (Frame(GBT2016, 0x07, 0xFE, "1" * 18), "has 18 bytes, and 17 fit"),
        (Frame(GBT2016, 0x07, 0xFE, "电"), "is not ASCII"),
        (Frame(GBT2016, 0x100, 0xFE, VIN), "command = 256 is no byte"),
        (Frame(GBT2016, 0x07, -1, VIN), "ack = -1 is no byte"),
        (Frame(GBT2016, 0x07, 0xFE, VIN, b"", 256), "encryption = 256 is no byte"),
        (Frame(GBT2016, 0xC0, 0xFE, VIN, bytes(65532)), "at most 65531 bytes, not 65532"),
    ],
)
def test_a_frame_that_cannot_be_sent(frame: Frame, message: str) -> None:
    with pytest.raises(GbtError, match=message):
        frame.to_bytes()


@pytest.mark.parametrize(("encryption", "name"), [(3, "AES-128"), (0xFF, "invalid"), (9, "unk")])
def test_what_is_encrypted_stays_shut(encryption: int, name: str) -> None:
    frame = parse(Frame(GBT2016, 0x02, 0xFE, VIN, b"??", encryption).to_bytes())
    assert (frame.body, frame.encryption) == (b"??", encryption)
    with pytest.raises(GbtError, match=f"encrypted .0x{encryption:02X}, {name}"):
        frame.decode()


# Packs of 2016


def pack(number: int, cells: int) -> Pack:
    return Pack(number, 3600, 10000, {n: 3000 + n for n in range(1, cells + 1)}, cells)


def test_a_small_vehicle_needs_one_frame() -> None:
    [part] = split_packs([pack(1, 200), pack(2, 96)])
    assert [row["first_cell"] for row in part["packs"]] == [1, 1]
    assert [len(row["cells"]) for row in part["packs"]] == [200, 96]


def test_more_than_200_cells_go_in_several_frames_and_come_together_again() -> None:
    packs = [pack(1, 450), pack(2, 201), pack(3, 1)]
    parts = list(split_packs(packs))
    shape = [
        [(row["number"], row["first_cell"], len(row["cells"])) for row in part["packs"]]
        for part in parts
    ]
    assert shape == [
        [(1, 1, 200), (2, 1, 200), (3, 1, 1)],
        [(1, 201, 200), (2, 201, 1)],
        [(1, 401, 50)],
    ]
    bodies = [
        GBT2016.encode(0x02, {"time": 0x1A << 56, "items": [Item(8, part)]}) for part in parts
    ]
    read = [GBT2016.decode(0x02, body)["items"][0].values for body in bodies]
    assert join_packs(reversed(read)) == [packs[0], packs[1], packs[2]]


def test_as_many_packs_as_there_can_be_and_more() -> None:
    packs = [pack(n % 250 + 1, 1) for n in range(251)]
    assert [len(part["packs"]) for part in split_packs(packs)] == [250, 1]
    sizes = [len(part["packs"]) for part in split_packs([pack(n, 200) for n in range(1, 11)], 1640)]
    assert sizes == [4, 4, 2]


@pytest.mark.parametrize("cells", [{}, {1: 3000, 3: 3000}, {2: 3000, 1: 3000, 3: 1}])
def test_a_pack_with_a_hole_is_not_split(cells: dict[int, int]) -> None:
    with pytest.raises(GbtError, match="pack 1 has not all of its 3 cells"):
        list(split_packs([Pack(1, 0, 0, cells, 3)]))


def row(**changes: Any) -> dict[str, Any]:
    values = {"number": 1, "voltage": 1, "current": 1, "total_cells": 4, "first_cell": 1}
    return {"packs": [values | {"cells": [1, 2]} | changes]}


def test_a_part_that_did_not_come_is_missing() -> None:
    [whole] = join_packs([row(first_cell=3), row(first_cell=3), {"packs": Code.INVALID}])
    assert (whole.cells, whole.total, whole.missing) == ({3: 1, 4: 2}, 4, 2)
    [none] = join_packs([row(cells=Code.ABNORMAL, total_cells=65531)])
    assert (none.cells, none.missing) == ({}, 65531)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([row(), row(total_cells=5)], "pack 1 has 4 cells in one part, 5 in one"),
        ([row(first_cell=4)], "pack 1 has 4 cells, and cells 4 to 5 came"),
        ([row(first_cell=0)], "cells 0 to 1 came"),
    ],
)
def test_parts_that_do_not_fit(parts: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(GbtError, match=message):
        join_packs(parts)


# Signatures of 2025


def test_a_signature_covers_everything_before_it() -> None:
    unsigned = TIME + ENGINE + bytes.fromhex("a0 0001 ff")
    assert signature.covered(unsigned) == unsigned
    assert signature.covered(unsigned, marker=True) == unsigned + b"\xff"
    signed = signature.append(unsigned, 1, b"r" * 32, b"s" * 32)
    block = bytes.fromhex("ff 01 0020") + b"r" * 32 + b"\0\x20" + b"s" * 32
    assert signed == unsigned + block
    covered, item = signature.split(signed)
    assert covered == unsigned
    assert item is not None
    assert item.values == {"signature_kind": 1, "signature_r": b"r" * 32, "signature_s": b"s" * 32}
    assert signature.split(signed, marker=True)[0] == unsigned + b"\xff"


def test_a_report_without_a_signature() -> None:
    assert signature.split(TIME + ENGINE) == (TIME + ENGINE, None)
    assert signature.split(TIME) == (TIME, None)


@pytest.mark.parametrize(
    ("unsigned", "kind", "r", "message"),
    [
        (TIME + b"\x09", 1, b"", "unknown"),
        (TIME + bytes.fromhex("ff 01 0000 0000"), 1, b"", "has a signature already"),
        (TIME, 4, b"", "signature_kind = 4 is out of range"),
        (TIME, 1, bytes(65536), "signature_r has 65536"),
    ],
)
def test_what_cannot_be_signed(unsigned: bytes, kind: int, r: bytes, message: str) -> None:
    with pytest.raises(GbtError, match=message):
        signature.append(unsigned, kind, r, b"")
