"""Bytes to flash: durable, bounded, safe at a power cut.

::

    spool/
      lock                                      held while an agent runs
      install                                   the random identity of this folder
      run                                       a counter, raised and fsynced at each start
      open/{batch_id}.batch                     being written (one a stream), or not yet published
      uplinks/{uplink}/{lane}/{batch_id}.batch  sealed ones: hard links, one for each uplink
      uplinks/{uplink}/sent/{batch_id}.batch    acknowledged ones that are kept for a while
      quarantine/{uplink}/{batch_id}.batch      what a receiver will never take; `unreadable`: files
                                                of `open/` without a whole header

A stream is a lane and the set of uplinks that its campaigns name. A file for each batch, no
database and no second source of truth: what exists is what the folder shows.

How a power cut is survived:

1. A chunk is appended and fdatasynced every commit interval. Only then do its samples count as
   spooled. What was cut while it was written is found by its checksum and cut off.
2. Sealing appends the footer, fdatasyncs, links the file into each uplink's lane, fsyncs those
   folders, and only then removes the name in `open/`. Nothing sends a batch while it has that
   name, so after a start every file in `open/` can be cut at its last whole chunk, sealed (or just
   synced: a killed process may have left a footer that is in the page cache only) and linked
   again: the links that exist already are the same file, and are not counted twice.
3. An acknowledgement removes the link of that uplink. If the cut undoes that, the batch is sent
   again, and the receiver knows it by its name.
4. `run` is part of the name of a batch and is durable before the first one is made, so that no name
   is used twice. Where the counter is damaged, or the disk does not take a new one, the run gets an
   install id that was never used instead, and the agent starts all the same.
5. Folders are made durable in the folders above them before anything is put into them.

A disk that fails (full, over a quota of its own, read-only, failing, or slow) does not stop
collection, and the thread that collects never waits for it: what a block gave stays in memory until
it is durable, whole or not at all (`memory.py`). After an error the file is left at its last
durable chunk, cut there, and the same blocks go into a new one as soon as the disk takes it
(`stream.py`). Cutting comes first: otherwise a power cut could show the samples in both. Beyond a
bound the oldest blocks are dropped and counted as lost to disk. Every step of a round (a stream, a
file to publish, the quota) fails by itself, so that one bad file holds up nothing and a full disk
is relieved by eviction.

What has to go, goes in this order (`quota.py`): sent batches that are kept, quarantine, then the
oldest batch of the least important lane of the uplink that is furthest over its share. A batch that
is given up (evicted, too old, in quarantine) is named by a tombstone in a coming batch; where that
batch is given up in turn, its tombstones come back and go into the next (`tombstones.py`). Ages
never depend on a wall clock that may be wrong (`ages.py`).

Everything that leaves `open/` goes one way, whether it was sealed, given up after an error or found
at a start: `Closing` in `folder.py` notes how far it has come. A batch that says nothing (no
samples, no tombstone, not the end of a run) is removed and leaves no gap in the chain `previous`.

When a recording stands in for a bus, each chunk also notes up to which frame it reaches, and no
file leaves `open/` before another one there keeps its stream's positions: the batches in `open/`
always know where to go on.
"""
