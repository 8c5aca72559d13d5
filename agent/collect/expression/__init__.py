"""The language of conditions: what a plan says of signals to say when.

    BatteryTemps.PackTemp > 55 for 10 s and not Gear == "Park"
    rises(bit(Status.Flags, 3)) or rate(PackVoltage, 5 s) < -2.5 or missing(BMS.Heartbeat, 2 s)

A text becomes a tree (tree.py) in three steps, each of which refuses with the place and a reason:

    lexer.py    text -> tokens
    parser.py   tokens -> what is written; no name means anything yet
    binder.py   what is written -> the tree: names found in the database, labels in value tables,
                numbers and conditions told apart

writing.py goes the other way. Nothing is ever run as code: functions are those of a table, names
those of the database. A text comes over the air, so it is bounded: 4,096 characters, 256 parts, 32
deep, numbers of 40 characters, durations of 24 h, windows of 1 h.

The grammar; what stands lower binds stronger, and operators of one line bind from the left:

    condition   = condition "or" condition
                | condition "and" condition
                | "not" condition
                | compared [ "for" duration ]
    compared    = number ( "<" | "<=" | ">" | ">=" | "==" | "!=" ) number
                | name ( "==" | "!=" ) text                    a label of the signal's value table
                | number ["not"] "in" "(" literal { "," literal } ")"
                | name ["not"] "in" "(" text { "," text } ")"
                | "true" | "false" | "(" condition ")"
                | ("valid" | "unavailable" | "faulty" | "changed") "(" name ")"
                | "missing" "(" name "," duration ")"
                | ("rises" | "falls") "(" condition ")"
                | "bit" "(" name "," literal ")"               0 is the lowest
    number      = number ( "+" | "-" ) number
                | number ( "*" | "/" ) number
                | "-" number
                | literal | name | "(" number ")"
                | "abs" "(" number ")" | "previous" "(" name ")"
                | ("min" | "max" | "mean" | "count" | "delta" | "rate") "(" name "," duration ")"
    duration    = literal ( "ms" | "s" | "min" | "h" )
    literal     = 5, -5, 0.5, 1e-3, 0xFF
    text        = "Drive", 'Drive'; a quote in it is doubled
    name        = Signal, if only one is called so; Message.Signal; bus.Message.Signal; a VSS path;
                  any of them in backquotes: `can-1.EV Status.Gear`

Comparisons are not chained. `for` holds for the comparison or the parentheses before it. Keywords
are in lower case; functions and units are no keywords, so signals may be called like them. The bus
of files that are for every bus is written `*`: `*.Message.Signal`.
"""

from agent.collect.expression.binder import compile_condition, compile_number
from agent.collect.expression.writing import nodes_of, signals_of, unparse

__all__ = ["compile_condition", "compile_number", "nodes_of", "signals_of", "unparse"]
