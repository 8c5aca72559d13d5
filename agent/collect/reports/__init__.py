"""Reports to a platform: complete samples of the vehicle by the plan's mapping, each second.

fields.py, values.py, parts.py, mapping_values.py
             what a field of the plan may be: signals, constants, tables, expressions, conditions
extremes.py  the highest and the lowest cell
mapping.py   the whole mapping, and the sample that it makes of what is held
held.py      the last values of signals
heard.py     up to where all buses have come, and conditions over time
schedule.py  which samples become reports: the period, alarms, the time after power-off
maker.py     samples of signals to the bytes of reports
tuning.py    what a platform may change while the agent runs
"""
