"""The operator's side: keys, and the repository from which vehicles take their configuration.

A repository is a folder of plain files, for any web server or object store, as TUF lays them out
(consistent snapshots: every file but one has its version or its hash in its name, and is never
written again):

    metadata/N.root.json         which keys count: signed by the threshold of the one before, too
    metadata/N.targets.json      bundles, roll-outs, requests: the operator's word
    metadata/N.snapshot.json     which version of the operator's word is the present one
    metadata/timestamp.json      which snapshot is; good for days, so that an old state cannot be
                                 served for long; the only file that is replaced
    targets/bundles/HASH.NAME-VERSION.bundle
    targets/requests/HASH.ID.json    the same as in N.targets.json; vehicles do not fetch it

Keys of root and targets belong offline; those of snapshot and timestamp sign every day and can lie
beside the repository: whoever steals them can delay configuration, not make any.

How a change is written (`repository`):

1. Files of targets, which nothing names yet.
2. The journal, `.journal.json`: all metadata of the change, signed, in the order of writing.
3. Metadata in that order: what is named before what names it, `timestamp.json` last of all. A
   reader sees the state before the change or the one after it, each whole.
4. The journal goes.

A crash before the journal is whole changed nothing; after it, the next command that changes
something writes the rest first, and needs no key for that.

Where keys of targets, snapshot or timestamp are replaced (`rotation`), no single order of writing
is right: readers would find old metadata under the new root, or new ones under the old. Two roots
do it: the first trusts the old and the new keys, then come the metadata, signed anew, then a root
that trusts the new keys alone. Vehicles always go to the last root before they look at anything
else, so the first gives a stolen key no more time than it has anyway. A new timestamp follows the
last root: without one vehicles do not look for roots.

A folder of private keys also holds `root.json`, the last root that was made with it. A repository
whose roots do not go through it was put there by someone else, and is never signed again.
"""
