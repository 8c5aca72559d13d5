"""GB/T 32960.3: how a new-energy vehicle reports to a platform, in the editions of 2016 and 2025.

layout.py      the words in which an edition is described: fields, lists, tagged items
layout2016.py  the edition of 2016, as one table
layout2025.py  the edition of 2025, as one table
codec.py       one engine that reads and writes a data unit by either table: the door to these
reading.py     its reading half
writing.py     its writing half
scalars.py     times and texts
packs.py       the cell voltages of 2016, split over frames and joined again
signature.py   what a signature of 2025 covers, and the block that carries it
sample.py      a vehicle at one moment, in physical units and without an edition
report.py      a sample to the information items of an edition
envelope.py    the frame around a data unit, and frames out of a stream of bytes
"""
