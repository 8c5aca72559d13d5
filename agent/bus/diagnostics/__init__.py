"""Diagnostics: OBD-II and UDS requests at intervals, and their answers as signals. Opt in.

This is the one part of the agent that sends on a vehicle's bus. So:

- Without `transmit = true` for a bus a `DiagnosticsSource` cannot be made, and what sends
  (`agent.bus.diagnostics.sending` and all that only it needs) is not even imported.
- One request is outstanding on a bus at any time, with a pause after each (50 ms).
- Nothing is sent until other nodes were seen to send, and nothing once they were silent for 5 s: a
  vehicle that goes to sleep is not kept awake. The requests and answers themselves do not count.
- Who does not answer is asked less and less often, up to once a minute; what an ECU says it does
  not have is not asked for again.
- Only reading services exist here: OBD 01, 03, 07, 0A; UDS 0x22, 0x19, and where the device file
  asks for it 0x10 (a session) and 0x3E.

    requests   what is asked, and of whom: plain descriptions
    fields     where a value lies in an answer
    pids       the parameters of OBD service 01
    tables     answers as tables, and the schemas of all tables that requests can give
    messages   the bytes of requests and answers (udsoncan)
    jobs, parameters, schedule   when to ask what, as state machines that are told the time
    conversation   one request and its answers over ISO-TP (can-isotp, without its threads)
    sending    sockets, and the loop that sends and waits
    source     the thread of the daemon

The libraries' clients, threads and timers are not used: they wait by themselves and cannot be told
the time. Their codecs and state machines are.
"""

from agent.bus.diagnostics.fields import Field
from agent.bus.diagnostics.requests import (
    Did,
    ObdDtcRequest,
    ObdRequest,
    Request,
    UdsDtcRequest,
    UdsRequest,
)
from agent.bus.diagnostics.source import DiagnosticsSource
from agent.bus.diagnostics.tables import schemas

__all__ = [
    "DiagnosticsSource",
    "Did",
    "Field",
    "ObdDtcRequest",
    "ObdRequest",
    "Request",
    "UdsDtcRequest",
    "UdsRequest",
    "schemas",
]
