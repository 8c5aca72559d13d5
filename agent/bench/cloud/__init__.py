"""The reference cloud: takes batches, over HTTP or from a broker, and says what is missing.

It is the other end of docs/upload-protocol.md, for the bench, for tests and for a small fleet on
one machine. It has no database: the files are the truth, and everything else is read from them.
What was read is kept beside them, in files that may be removed at any time.

What an acknowledgement means
    201 is answered when the file has been checked against the digest of the sender, is a batch of
    that vehicle with that id, has only whole chunks, and has been made durable: fsync of the file,
    rename, fsync of the folder, in this order, and the answer last. The agent unlinks its copy on
    this word.

Files
    {data}/vehicles/{vehicle}/{day of receipt, UTC}/{batch_id}.batch
    {data}/shelves/{vehicle}/{batch_id}.shelf
                                what was read out of a batch, see shelf.py; made again when missing
    {data}/incoming/            half uploads; whatever is here at a start is removed, of a shared
                                folder what is older than an hour
    {data}/lock                 held while a cloud runs: a folder has one owner, or several that
                                were all started to share it
    The time of receipt is the modification time of the file, so a restart knows it. Digests are
    computed when they are first asked for and kept in memory.

Rooms
    store.py         the files: temporary, checked, durable, found again. No HTTP.
    uploads.py       PUT: limits, checks, statuses; all work on files is done in threads.
    mqtt.py          the same from a broker, beside any number of other clouds.
    server.py        the application: its addresses, and batches as they are.
    questions.py     GET: what is asked about vehicles; threads, ETags.
    answers.py       JSON and refusals.
    digest.py        Content-Digest fields, RFC 9530.
    summary.py       one batch -> what queries need of it, in one pass.
    shelf.py         what was read out of one batch, kept as columns.
    state.py         what is known of one vehicle, and where its samples lie.
    queries.py       the answers, from the states; batches are taken in as they arrive.
    columns.py       decoded columns of shelves, within a bound.
    latest.py        the newest value of each signal.
    series.py        signals over time for charts; thinning.py makes few points of many samples.
    completeness.py  pure: summaries -> which runs and streams are complete, and the gaps by name.
    gaps.py          a gap, and the sentences about it.
    updates.py       what vehicles made of configuration over the air.
    repository.py    the files of a repository of configuration, for vehicles to fetch.
    static.py        the files of the page (web/), for a browser;
    stream.py        tells open pages what arrives.

Answers to a PUT
    201  stored; `Content-Digest` and the JSON repeat the digest
    200  was already here with the same digest (only without `If-None-Match: *`)
    412  is already here (`If-None-Match: *`); HEAD tells the digest, so that the sender can judge
    409  with code `identity-conflict`: here with other content (only without `If-None-Match: *`)
    409  with code `digest-mismatch`: the bytes that arrived are not those that the sender digested.
         That happened on the way, the batch itself may be good, so the status is one that the
         sender tries again later; a 400 would make it put a good batch aside.
    400  a malformed batch id or header field
    404  a vehicle name that cannot be one: the address is wrong, not the batch
    408  the upload stopped moving
    411, 413, 415  no length, over 64 MiB, or not of the type of a batch
    422  it arrived as it was sent, and is no batch, not this one, or damaged
    503  too many uploads at once, or stopping; 507 the disk is full or fails: later

An early answer to `Expect: 100-continue` spares the body of a batch that is already here.
"""

from agent.bench.cloud.server import create_app, serve
from agent.bench.cloud.store import Store

__all__ = ["Store", "create_app", "serve"]
