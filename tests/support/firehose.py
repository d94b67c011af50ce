"""What must hold of ``chive.firehose`` whatever happened: every frame once, in order, chained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from consumer.kafka.client import Client
from consumer.kafka.reader import Record
from consumer.kafka.topics import Topic, Topics
from consumer.notices import EPOCH_NOTICE, NOTICE
from simulator.frames import identity_frame
from tests.support.kafka import committed

SPREAD = 40


@dataclass(frozen=True, slots=True)
class Forwarded:
    """One record of ``chive.firehose``."""

    partition: int
    seq: int
    epoch: int
    prev_seq: int
    relay: str
    did: str
    frame: bytes


def numbered(first: int, last: int, padding: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield frames that every tailer forwards, with these seqs, of several DIDs in turn."""
    for seq in range(first, last + 1):
        yield seq, identity_frame(seq, f"did:plc:{seq % SPREAD}", padding="x" * padding)


async def forwarded(client: Client, topics: Topics) -> list[Forwarded]:
    """Return the frames that a ``read_committed`` reader finds in the topic."""
    records = await committed(client, topics.name(Topic.FIREHOSE))
    return [_parsed(r) for r in records if not _is_notice(r)]


async def announced(client: Client, topics: Topics) -> list[tuple[int, int]]:
    """Return the notices in the topic: partition and epoch of each.

    Checks that each lies before every frame of its epoch and behind those of the epochs before.
    """
    newest: dict[int, int] = {}
    found = []
    for record in await committed(client, topics.name(Topic.FIREHOSE)):
        epoch = int(dict(record.headers)["session"])
        if _is_notice(record):
            assert epoch > newest.get(record.partition, 0), record
            found.append((record.partition, epoch))
        newest[record.partition] = epoch
    return found


def _is_notice(record: Record) -> bool:
    return (NOTICE, EPOCH_NOTICE) in record.headers


def _parsed(record: Record) -> Forwarded:
    headers = dict(record.headers)
    assert record.key is not None
    assert record.value is not None
    return Forwarded(
        record.partition,
        int(headers["seq"]),
        int(headers["session"]),
        int(headers["prev_seq"]),
        headers["relay"].decode(),
        record.key.decode(),
        record.value,
    )


def assert_whole(records: Sequence[Forwarded], expected: Iterable[tuple[int, bytes]]) -> None:
    """Check that ``records`` are ``expected``: no duplicate, no gap, in order, chained."""
    wanted = dict(expected)
    seqs = sorted(record.seq for record in records)
    assert seqs == sorted(wanted), _difference(seqs, wanted)
    assert all(record.frame == wanted[record.seq] for record in records)
    assert_chained(records)


def assert_chained(records: Sequence[Forwarded]) -> None:
    """Check each partition: epochs rise, seqs rise in an epoch, each names the one before."""
    newest: dict[int, tuple[int, int]] = {}
    for record in records:
        epoch, seq = newest.get(record.partition, (0, 0))
        assert record.epoch >= epoch, record
        assert record.prev_seq == (seq if record.epoch == epoch else 0), record
        assert record.seq > record.prev_seq, record
        newest[record.partition] = record.epoch, record.seq


def _difference(seqs: Sequence[int], wanted: Iterable[int]) -> str:
    missing = sorted(set(wanted) - set(seqs))
    twice = sorted({seq for seq, next_ in pairwise(seqs) if seq == next_})
    return f"missing {len(missing)}: {missing[:10]}, twice {len(twice)}: {twice[:10]}"
