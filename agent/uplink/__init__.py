"""Flash to cloud: one sender for each uplink, and a policy that decides what an answer means.

A batch leaves this vehicle as `PUT {base}/v1/vehicles/{vehicle}/batches/{batch_id}` and stays on
flash until a receiver has shown that it holds the same bytes. The whole design follows from three
facts: an answer can be lost after the batch was stored, a receiver can be wrong for days, and a
fleet must not fall upon a receiver that has just come back. docs/upload-protocol.md describes the
wire for those who write a receiver.

    policy.py     what an answer means: a state machine without I/O, clock or randomness
    budget.py     how often all senders together may try again, and how fast one may send
    allowance.py  what a link that costs money may still carry, by day and month
    meter.py      the same with its file, and whether the link costs money
    credentials.py  tokens and certificates that change while they are in use
    enrolment.py  a client certificate for a token
    resend.py     batches that the receiver has lost
    wire.py       addresses, digest fields, Retry-After: text in, values out
    stall.py      when a transfer does not move any more
    transport.py  HTTP: a batch in, an `Answer` out
    client.py     its half that knows aiohttp
    body.py       the file of a batch on its way out
    sender.py     the loop: outbox -> transport -> policy -> outbox and ledger

What an answer means:

    2xx that repeats our digest          the receiver has it: unlink
    2xx of an `object-store` uplink      the same, whatever it repeats
    2xx without our digest, or another   later, and the state says so
    412                                  ask with HEAD: our digest, or without any digest our
                                         length, is success; all other answers are an identity
                                         conflict and go to quarantine, except those of the rows
                                         "hold and reload" and "later", which say nothing of the
                                         batch
    400, 413, 415, 422                   the batch is bad, if the endpoint is not (below)
    401, 403                             hold, reload the credential; a changed one is tried once
    404, 410                             hold
    408, 409, 425, 429, 5xx, no answer   later
    anything else, 3xx too               slowly (7.5 to 15 min), said once for each status

**Later** is a full-jitter exponential back-off, 1 s to 15 min, with a floor of half a step after
429 and 503. A `Retry-After` from 1 s to 1 h replaces it (more counts as 1 h; less says nothing),
and up to a quarter is added, for others were told the same. A first attempt after an absence (what
waits is an hour old, or of another boot) is put off by up to a minute, for others return as well.
Trying again also takes from one budget that all senders share; first attempts and probes do not.

**Held**: the endpoint is not what it should be, so all data stays and one batch goes as a probe
every 15 to 60 min. A success ends the hold; anything else means the next probe. Nothing is
quarantined while held.

**Bad batch or bad endpoint?** A 400 looks the same for both. So a refused batch is not quarantined
but passed over: another one is sent. If that one gets a 2xx, the endpoint is well and the refused
batch goes to quarantine. If it is refused too, it is the endpoint: hold, and nothing has been
quarantined. Refused batches are remembered and passed over by probes too, so that two bad batches
in a row cannot block an uplink for ever: after a probe that got a 2xx each of them is tried again
and judged by the next one. Two things are proven by the batch alone, so it goes to quarantine at
once, but never two in a row without a 2xx between: an identity conflict, and a file that cannot be
read.

**A lost answer** costs one request: the next PUT of the same bytes is answered 412, HEAD shows
our digest, the batch is unlinked. A HEAD is no proof that the endpoint takes batches today: it
ends a hold, and judges no other batch.

**A certificate that is not yet valid**, or has expired, is reported as a fault of this computer's
clock: a board without a battery boots in the past. **Redirects** are not followed: they would take
the credential and the data to an address that the device file does not name.

**A stalled transfer** is one of which the peer's kernel has acknowledged nothing new and no piece
was taken for `stall_timeout_s`; bytes of an answer do not count, so a dripping answer ends too.

**A batch that is big** is never in memory: it is read, digested and sent in pieces.

aiohttp is slow to import, so only `client.py` imports it, in a thread, when there is something to
send.
"""

from agent.uplink.budget import RetryBudget
from agent.uplink.policy import Answer, Digest, Fault, Policy

__all__ = ["Answer", "Digest", "Fault", "Policy", "RetryBudget"]
