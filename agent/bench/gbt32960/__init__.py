"""A GB/T 32960 platform for the bench, what came to it, and light vehicles that report to it.

behaviour.py    how it answers, and what it does wrong
mischief.py     the bytes of a hostile platform
outlet.py       answers on their way out: late, in pieces, together
connection.py   one vehicle's connection
platform.py     the server
journal.py      the file of one vehicle
vehicle.py      what came from it, in memory; gaps.py: what is missing in that
record.py       all vehicles, kept and read again
view.py         the same as JSON, for the page
faults.py       what can be pressed at a bench
verdict.py      how a bench with a platform ended
fleet.py        light vehicles that report; load.py: many of them against one platform
"""
