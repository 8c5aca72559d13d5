"""Bytes to flash: durable, bounded, safe at a power cut.

    spool/
      lock                             held while an agent runs install                          the
      random identity of this folder run                              a counter, raised and fsynced
      at each start before anything else open/{batch_id}.batch            batches being written, at
      most one a stream uplinks/{uplink}/{lane}/{batch_id}.batch     sealed ones: hard links, one
      for each uplink quarantine/{uplink}/{batch_id}.batch         what a receiver will never take,
      or no batch at all

A stream is a lane and the set of uplinks that its campaigns name. A file for each batch, no
database and no second source of truth: what exists is what the folder shows.

How a power cut is survived:

1. A chunk is appended and fdatasynced every commit interval. Only then do its samples count as
   spooled. What was cut while it was written is found by its checksum and cut off.
2. Sealing appends the footer, fdatasyncs, links the file into each uplink's lane, fsyncs those
   folders, and only then removes the name in `open/`. Nothing sends a batch while it has that name,
   so at a start every file in `open/` can be cut at its last whole chunk, sealed and linked again:
   the links that exist already are the same file.
3. An acknowledgement removes the link of that uplink. If the cut undoes that, the batch is sent
   again, and the receiver knows it by its name.
4. `run` is part of the name of a batch and is durable before the first one is made, so that no name
   is used twice.

A disk that fails does not stop collection. The tables of a chunk stay in memory until it is
durable; after an error the file is left at its last durable chunk, and the same tables go into a
new one as soon as the disk takes it. Beyond a bound the oldest tables are dropped and counted as
lost to disk.

When a recording stands in for a bus, each chunk also notes up to which frame it reaches, and a
batch that takes over is made before the one before is sealed: the newest batch in `open/` always
knows where to go on.
"""
