"""Checksums by what DBC files say in words: the sentences, and a recording of a real car."""

import numpy as np
import pytest

from agent.bench.checksums import Rule, rule_of
from agent.bench.encode import Encoder
from agent.bench.nodes import read_nodes
from agent.bus import read_log
from agent.settings import packaged
from agent.signals import Database, Decoder
from tests.shared_data import needs_shared, shared


@pytest.mark.parametrize(
    ("comment", "rule"),
    [
        ("XOR of bytes 0 to 6.", Rule(xor=True, nibbles=False, last=6)),
        ("8 bits; sum over bytes 1-3", Rule(xor=False, nibbles=False, first=1, last=3)),
        ("Sum of all other nibbles in the message", Rule(xor=False, nibbles=True)),
        ("xor of all the bytes", Rule(xor=True, nibbles=False)),
        ("Sum of all payments", None),
        ("CRC-8, polynomial 0x1D", None),
        ("", None),
    ],
)
def test_what_a_comment_says(comment: str, rule: Rule | None) -> None:
    assert rule_of(comment) == rule


def test_files_say_it_of_the_signals_that_they_mean() -> None:
    nodes = read_nodes([packaged("dbc/ev.dbc")])

    assert nodes.checksums[False, 160] == {"Checksum": Rule(xor=True, nibbles=False, last=6)}
    assert nodes.senders[False, 160]


@needs_shared
def test_rules_of_a_file_hold_for_every_frame_that_the_car_sent() -> None:
    path = shared("dbc/kona_pcan_fixed.dbc")
    name = "logs/kona_230112-7-2019-pcan-ccan-power-off-on-ready-off.csv"
    nodes, database = read_nodes([path]), Database.load([path])
    blocks = list(read_log(shared(name)))
    compared = 0
    for (extended, identifier), rules in nodes.checksums.items():
        message = next(
            m for m in database.messages("p") if (m.extended, m.id) == (extended, identifier)
        )
        for signal, rule in rules.items():
            decoder = Decoder(database, [f"{message.name}.{signal}"])
            for block in blocks:
                mine = block[(block.id == identifier) & (block.length == message.length)]
                for table in decoder.decode(mine):
                    sent = table.raw[signal]
                    own = Encoder(message).encode({signal: sent})
                    payload = (mine.data[:, :8] ^ own)[:, : message.length]
                    made = rule.raw(message.by_name[signal], payload)
                    assert made.tolist() == sent.tolist()
                    compared += len(np.atleast_1d(sent))
    assert compared > 3000
