"""The format of ``chive.dead-letter``: refused input, its reason and its source.  Pure.

Tailer, worker and controller write it; ``config/dead-letter.schema.json`` publishes it and
``docs/dead-letters.md`` describes it.

- The value is the input, byte for byte, and the key is the input's key.
- The partition is that of the input's record; a message of the relay has none and goes to 0.
- The input's own headers follow ours, except those with a name of ours: a header that we set
  occurs once.
- The input may come from any writer: what could exceed Kafka's limits is cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

Headers = tuple[tuple[str, bytes], ...]

MAX_DETAIL = 1_024  # characters
MAX_KEY = 4_096  # bytes
# Bytes of key, value and headers together: the topic's limit of 8 MiB, with room for Kafka's own
# fields and the publisher's headers.  The largest frame that the settings allow fits uncut.
MAX_RECORD = 8 * 1024 * 1024 - 32 * 1024
# A command has at most 16 KiB, and one transaction of the controller may refuse hundreds.
MAX_COMMAND_VALUE = 1024 * 1024  # bytes
MAX_OWN_HEADERS = 16
MAX_OWN_HEADER = 1_024  # characters of a name, bytes of a value
_SET_BY_THE_PUBLISHER = frozenset({"lane", "out_seq"})


class InputTopic(StrEnum):
    """The topics whose records can be refused, without the deployment's prefix."""

    FIREHOSE = "firehose"
    BACKFILL = "backfill"
    CONTROL = "control"


@dataclass(frozen=True, slots=True, order=True)
class InputRecord:
    """The Kafka record that was refused."""

    topic: InputTopic
    partition: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One refused input.

    ``source`` is None for a message that the relay sent and that never reached a topic.
    ``seq``, ``relay`` and ``epoch`` are those of a frame, as far as they are known.
    ``own_headers`` are the headers that the input had itself.
    """

    reason: StrEnum
    detail: str
    source: InputRecord | None
    key: bytes | None
    value: bytes | None
    seq: int | None = None
    relay: str | None = None
    epoch: int | None = None
    own_headers: Sequence[tuple[str, bytes | None]] = ()


class EncodedLetter(NamedTuple):
    """The Kafka record of a dead letter, beside its topic."""

    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers


def encode(letter: DeadLetter, prefix: str) -> EncodedLetter:
    """Return the Kafka record of ``letter``; ``prefix`` is that of the deployment's topics."""
    ours = tuple(_our_headers(letter, prefix))
    taken = _SET_BY_THE_PUBLISHER.union(name for name, _ in ours)
    headers = ours + _own_headers(letter.own_headers, taken)
    key = None if letter.key is None else letter.key[:MAX_KEY]
    used = len(key or b"") + sum(len(name.encode()) + len(value) for name, value in headers)
    source = letter.source
    longest = MAX_RECORD - used
    if source is not None and source.topic is InputTopic.CONTROL:
        longest = min(longest, MAX_COMMAND_VALUE)
    value = None if letter.value is None else letter.value[:longest]
    return EncodedLetter(0 if source is None else source.partition, key, value, headers)


def _our_headers(letter: DeadLetter, prefix: str) -> Iterable[tuple[str, bytes]]:
    source = letter.source
    yield "reason", letter.reason.encode()
    yield "detail", letter.detail[:MAX_DETAIL].encode(errors="replace")
    if source is None:
        yield "source", b"relay"
    else:
        yield "source", f"{prefix}{source.topic}/{source.partition}/{source.offset}".encode()
    if letter.seq is not None:
        yield "seq", b"%d" % letter.seq
    if letter.relay is not None:
        yield "relay", letter.relay.encode()
    if letter.epoch is not None:
        yield "session", b"%d" % letter.epoch  # the name that consumers of the topic know


def _own_headers(headers: Sequence[tuple[str, bytes | None]], taken: frozenset[str]) -> Headers:
    kept = [
        (name[:MAX_OWN_HEADER], (value or b"")[:MAX_OWN_HEADER])
        for name, value in headers
        if name not in taken
    ]
    return tuple(kept[:MAX_OWN_HEADERS])
