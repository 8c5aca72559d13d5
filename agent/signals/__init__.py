"""Frames to values: database files, the compiled decoder, J1939.

`Database.load` reads DBC files (and what cantools reads besides) once and says in `findings` what
was wrong and what was done about it. `Decoder` compiles them into tables of shifts: per message the
signals are grouped by the 8-byte window of the payload in which they lie, and a block is decoded
message by message, all rows and all signals of a window in two array operations:

    bits  = window[None, :] << left[:, None]      puts each signal's top bit at bit 63
    value = bits >> (64 - length)[:, None]        arithmetic for signed, logical for unsigned

Invariants:

- Values are raw integers (or the float's own bits); nothing is scaled here.
- Raw values that are no measurements ("not available", "error") are decoded like all others; the
  schema says which they are (`codes`).
- Of a short frame, the signals that lie wholly inside it are decoded; of a long one, all.
- A multiplexer value without a branch still gives the plain signals and the multiplexer.
- A 29-bit id is never taken for an 11-bit one. With J1939, messages match by PGN, and the source
  address is an attribute of the table.
- A frame that is in the database but too short for any signal is undecodable, and counted.
- A message of several frames (`transport`) is decoded once it is whole, or it is counted as lost;
  its frames count as parts. Lists, which no file can describe, become rows (`expand`).
"""

from agent.signals.database import Database
from agent.signals.decoder import Counts, Decoder

__all__ = ["Counts", "Database", "Decoder"]
