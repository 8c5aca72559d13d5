"""Whatever a file holds, reading it ends soon and gives what the decoder can rely on."""

import random
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.settings import packaged
from agent.signals.dbc import read
from agent.signals.sound import fault
from tests.signals.dbc.test_as_cantools import ATTRIBUTES

ANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SIZE = 300_000

REAL = packaged("dbc/ev.dbc").read_bytes()[:6000]
EXTENDED = b"""BO_ 7 Mux: 8 A
 SG_ A M : 0|8@1+ (1,0) [0|0] "" A
 SG_ B m1M : 8|8@1+ (1,0) [0|0] "" A
 SG_ C m2 : 16|32@1- (.5,0) [0|0] "" A
SG_MUL_VAL_ 7 B A 1-3, 5-5;
SG_MUL_VAL_ 7 C B 2-2;
SIG_VALTYPE_ 7 C : 1;
CM_ SG_ 7 C "of \\"two\\"
lines";
"""
SEEDS = [REAL, ATTRIBUTES.encode(), EXTENDED, ATTRIBUTES.encode() + EXTENDED]
PIECES = [
    b'"',
    b";",
    b"\n",
    b":",
    b"\\",
    b"\0",
    b"BO_ 7 X: 8 A\n",
    b" SG_ ",
    b"M",
    b"m9",
    b"|",
    b"@",
]
PIECES += [
    b'CM_ "',
    b"VAL_ ",
    b"99999999999999999999",
    b"-1",
    b"1e999",
    b"0",
    b"\xff",
    b"\xc4\xe3",
    b",",
]


def check(data: bytes) -> None:
    reading = read(data)
    assert [why for message in reading.messages if (why := fault(message))] == []
    keys = [(m.extended, m.id) for m in reading.messages]
    names = [m.name for m in reading.messages]
    assert len(set(keys)) == len(keys)
    assert len(set(names)) == len(names)
    assert all(note.line >= 0 and "\n" not in str(note) for note in reading.notes)


@ANY
@given(st.sampled_from(SEEDS), st.integers(0, 1 << 32), st.integers(1, 12))
def test_a_file_with_faults_at_random_gives_sound_messages(
    data: bytes, seed: int, faults: int
) -> None:
    choose = random.Random(seed)
    for _ in range(faults):
        at = choose.randrange(len(data))
        cut = choose.choice((0, 0, 1, 3, 40))
        data = data[:at] + choose.choice([*PIECES, b""]) + data[at + cut :]
    check(data)


@ANY
@given(st.lists(st.sampled_from([*PIECES, *EXTENDED.split()]), max_size=200), st.booleans())
def test_words_in_any_order_give_sound_messages(words: list[bytes], spaced: bool) -> None:
    check((b" " if spaced else b"\n").join(words))


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=2000))
def test_bytes_give_sound_messages(data: bytes) -> None:
    check(data)


def signals(lines: list[str]) -> str:
    return "BO_ 5 M: 8 A\n" + "\n".join(lines)


def numbered(line: str) -> str:
    count = SIZE // len(line)
    return signals([line.replace("#", str(n)) for n in range(count)])


HOSTILE = {
    "quotes": 'CM_ "' + '"' * SIZE,
    "escaped quotes": 'CM_ "' + '\\"' * (SIZE // 2),
    "escaped quotes in lines": 'CM_ \\"\n' * (SIZE // 7),
    "values without an end": 'VAL_ 5 A 0 "' + '\\"' * (SIZE // 2),
    "keywords": "SG_ " * (SIZE // 4),
    "one word": "SG_" + "x" * SIZE,
    "one line": 'BO_ 5 A: 8 X SG_ A : 0|8@1+ (1,0) [0|0] "" X ' * (SIZE // 50),
    "one name": numbered(' SG_ A : #|8@1+ (#,0) [0|0] "" X'),
    "one place": numbered(' SG_ A# : 0|8@1+ (1,0) [0|0] "" X'),
    "a chain of multiplexers": numbered(' SG_ A# m1M : 0|8@1+ (1,0) [0|0] "" X')
    + "\n".join(f"SG_MUL_VAL_ 5 A{n + 1} A{n} 1-1;" for n in range(SIZE // 40)),
    "wide ranges": numbered(' SG_ A# m1M : 0|32@1+ (1,0) [0|0] "" X\nSG_MUL_VAL_ 5 A# A0 0-65000;'),
    "messages of one id": 'BO_ 5 A: 8 X\n SG_ A : 0|8@1+ (1,0) [0|0] "" X\n' * (SIZE // 47),
    "more messages than the decoder numbers": "".join(
        f"BO_ {2**31 + n} M{n}: 8 X\n" for n in range(35_000)
    ),
    "digits": "BO_ " + "9" * SIZE,
    "white space": "BO_" + " " * SIZE,
    "empty lines": "\n" * SIZE,
    "prose": "these are words\n" * (SIZE // 16),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_read_in_time_proportional_to_its_size(name: str) -> None:
    begin = time.process_time()
    check(HOSTILE[name].encode())
    # 10 MB in 20 s is 0.6 s; what grows with the square would take minutes here.
    assert time.process_time() - begin < 10
