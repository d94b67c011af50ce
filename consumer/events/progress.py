"""What a partition of ``chive.events`` says of itself: how far it is, and that it is whole.  Pure.

These events are of a lane and of no account: they have neither ``did`` nor ``source``, and their
keys are ``lane/N`` and ``lane/N/snapshot``, so that compaction keeps the newest of each lane.
``config/events.schema.json`` has their form.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import orjson

from consumer.events.envelope import VERSION, Encoded
from procedures import times

_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Progress:
    """Every frame of the lane's partition up to ``seq`` of ``epoch`` is decided and published.

    ``relay`` is the one whose seq that is; ``time`` is ISO 8601.  ``as_of``: until then everything
    that the relay had sent is among these frames; ``now``: when that was so; both in Unix seconds.
    ``parked`` frames wait for a key.
    """

    lane: int
    relay: str
    epoch: int
    seq: int
    time: str
    as_of: float
    now: float
    parked: int


@dataclass(frozen=True, slots=True)
class SnapshotComplete:
    """The initial search has ended, and all syncs that it led to in the lane's partition.

    ``snapshot`` names it, the same for all lanes; times are Unix seconds.  Of the partition,
    ``repositories`` are known, of which ``desynchronized`` are not in step; ``failed`` were listed
    and could not be fetched.  The listings of ``unread_hosts`` could not be read.
    """

    lane: int
    snapshot: str
    began_at: float
    searched_at: float
    now: float
    repositories: int
    desynchronized: int
    failed: int
    unread_hosts: int


def encode_progress(progress: Progress) -> Encoded:
    """Return the Kafka record of ``progress``."""
    fields = {
        "seq": progress.seq,
        "time": progress.time,
        "lane": progress.lane,
        "relay": progress.relay,
        "epoch": progress.epoch,
        "asOf": times.to_text(progress.as_of),
        "lag": round(max(0.0, progress.now - progress.as_of), 3),
        "parked": progress.parked,
    }
    stamp = (progress.epoch, progress.seq, progress.as_of, progress.now)
    key = f"lane/{progress.lane}"
    return _encoded("progress", progress.lane, key, progress.time, stamp, fields)


def encode_snapshot(snapshot: SnapshotComplete) -> Encoded:
    """Return the Kafka record of ``snapshot``."""
    time = times.to_text(snapshot.now)
    fields = {
        "snapshot": snapshot.snapshot,
        "time": time,
        "lane": snapshot.lane,
        "beganAt": times.to_text(snapshot.began_at),
        "searchedAt": times.to_text(snapshot.searched_at),
        "repositories": snapshot.repositories,
        "desynchronized": snapshot.desynchronized,
        "failed": snapshot.failed,
        "unreadHosts": snapshot.unread_hosts,
    }
    key = f"lane/{snapshot.lane}/snapshot"
    return _encoded("snapshot_complete", snapshot.lane, key, time, (snapshot.snapshot,), fields)


def _encoded(
    kind: str,
    lane: int,
    key: str,
    time: str,
    stamp: tuple[object, ...],
    fields: dict[str, object],
) -> Encoded:
    text = "\0".join(map(str, (kind, lane, *stamp)))
    identifier = blake2b(text.encode(), digest_size=_ID_BYTES).hexdigest()
    value = {"v": VERSION, "type": kind, "id": identifier} | fields
    headers = (("type", kind.encode()),)
    return Encoded(key.encode(), orjson.dumps(value), headers, identifier, time, kind)
