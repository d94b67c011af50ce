"""The newest dead letters, read from their topic for administrators.

Of each partition the newest offsets are read, 500 or fewer where letters are large, and of each
letter only key and headers are kept.  What was read serves for a few seconds, so that pages of one
list, and the entry that is then named by its place, mostly are of the same list.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

import structlog

from consumer.errors import ChiveError
from consumer.kafka.client import Client
from consumer.kafka.reader import PartitionReader, Record, TopicPartition
from consumer.kafka.topics import Topic, Topics
from consumer.printable import escape
from procedures import syntax
from procedures.client import Unavailable
from procedures.dead_letters import Letter

# Offsets of a partition, markers of transactions among them: one window after the other, as long
# as ten times what was read is no more than these bytes.
_WINDOWS = (5, 50, 500)
_BYTES = 16 * 1024 * 1024
_KEPT_SECONDS = 5.0
_PAGE_SECONDS = 0.5  # to wait for records that are there
_SHOWN = 1_024  # characters of a reason or detail that a stranger may have written

_log = structlog.get_logger()


class StoredLetters:
    """The topic ``chive.dead-letter``; ``kept`` seconds what was read serves."""

    def __init__(self, client: Client, topics: Topics, kept: float = _KEPT_SECONDS) -> None:
        self._client = client
        name = topics.name(Topic.DEAD_LETTER)
        self._places = [TopicPartition(name, number) for number in range(topics.partitions)]
        self._kept = kept
        self._reading = asyncio.Lock()
        self._found: tuple[Letter, ...] = ()
        self._until = 0.0

    async def newest(self) -> Sequence[Letter]:
        """Return those that can be listed, newest first.  Raises ``Unavailable``."""
        async with self._reading:
            if time.monotonic() >= self._until:
                try:
                    self._found = await self._read()
                except ChiveError as error:
                    _log.warning("dead_letters_unreadable", error=str(error))
                    raise Unavailable(str(error)) from error
                self._until = time.monotonic() + self._kept
            return self._found

    async def _read(self) -> tuple[Letter, ...]:
        found: list[Letter] = []
        positions = dict.fromkeys(self._places)
        async with await PartitionReader.open(self._client, positions, shared=True) as reader:
            bounds = await reader.bounds()
            ends = {place: end for place, (oldest, end) in bounds.items() if oldest < end}
            starts = {place: bounds[place][1] for place in ends}
            for window in _WINDOWS:
                reader.pause()
                for place in ends:
                    starts[place] = max(bounds[place][0], bounds[place][1] - window)
                    reader.seek(place, starts[place])
                reader.resume(*ends)
                sizes = await _take(reader, ends, found)
                ends = {
                    place: starts[place]
                    for place in ends
                    if starts[place] > bounds[place][0] and sizes[place] * 10 <= _BYTES
                }
                if not ends:
                    break
        return tuple(sorted(found, key=lambda letter: letter.created, reverse=True))


async def _take(
    reader: PartitionReader, ends: Mapping[TopicPartition, int], found: list[Letter]
) -> dict[TopicPartition, int]:
    """Read each partition up to its end, and add its letters; return the bytes of each."""
    sizes = dict.fromkeys(ends, 0)
    short = set(ends)
    while short:
        for record in await reader.fetch(*short, wait=_PAGE_SECONDS):
            place = TopicPartition(record.topic, record.partition)
            sizes[place] += len(record.key or b"") + len(record.value or b"")
            if record.offset < ends[place]:
                found.append(_letter(record))
        for place in list(short):
            if await reader.position(place) >= ends[place]:
                short.discard(place)
                reader.pause(place)
    return sizes


def _letter(record: Record) -> Letter:
    headers: dict[str, bytes] = {}
    for name, value in record.headers:
        headers.setdefault(name, value)
    return Letter(
        f"{record.partition}/{record.offset}",
        _did(record.key),
        _text(headers.get("reason")),
        _text(headers.get("detail")),
        record.timestamp / 1000,
    )


def _did(key: bytes | None) -> str | None:
    text = (key or b"").decode(errors="replace")
    return text if len(text) <= syntax.MAX_DID and syntax.is_did(text) else None


def _text(value: bytes | None) -> str:
    return escape((value or b"").decode(errors="replace")[:_SHOWN])
