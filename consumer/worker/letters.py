"""Dead letters: what was refused, with its reason and where it came from.  Pure.

Headers: ``reason``, ``detail``, ``source`` (topic/partition/offset), then those that the input
had itself.  The value is the input byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass

from consumer.errors import Reason
from consumer.store.rows import Headers
from consumer.worker.incoming import IncomingFrame, Record

FIREHOSE, BACKFILL = "firehose", "backfill"

_MAX_DETAIL = 1_024  # characters
# A record that we did not write may fill Kafka's limit of 8 MiB with anything.
_MAX_HEADERS = 16
_MAX_HEADER = 1_024  # bytes of a value, characters of a name
_MAX_KEY = 4_096
_MAX_VALUE = 8 * 1024 * 1024 - 131_072


@dataclass(frozen=True, slots=True)
class Letter:
    """One record of the dead letter; ``topic`` and ``offset`` say where the input lies."""

    reason: Reason
    detail: str
    topic: str
    offset: int
    key: bytes | None
    headers: Headers
    value: bytes | None

    def all_headers(self, prefix: str, partition: int) -> Headers:
        """Return the headers of the Kafka record; ``prefix`` is that of the topics."""
        detail = self.detail[:_MAX_DETAIL].encode(errors="replace")
        source = f"{prefix}{self.topic}/{partition}/{self.offset}"
        return (
            ("reason", self.reason.encode()),
            ("detail", detail),
            ("source", source.encode()),
            *self.headers,
        )


def of_arrival(arrival: IncomingFrame, reason: Reason, detail: str) -> Letter:
    """Return the letter for a frame that could be placed."""
    headers = (
        ("seq", b"%d" % arrival.seq),
        ("relay", arrival.relay.encode()),
        ("session", b"%d" % arrival.session),
    )
    key = arrival.key.encode()
    return Letter(reason, detail, FIREHOSE, arrival.offset, key, headers, arrival.frame)


def of_record(topic: str, record: Record, reason: Reason, detail: str) -> Letter:
    """Return the letter for any record of ``topic``, whoever wrote it: cut to what Kafka takes."""
    headers = tuple(
        (name[:_MAX_HEADER], (value or b"")[:_MAX_HEADER]) for name, value in record.headers
    )
    key = None if record.key is None else record.key[:_MAX_KEY]
    value = None if record.value is None else record.value[:_MAX_VALUE]
    return Letter(reason, detail, topic, record.offset, key, headers[:_MAX_HEADERS], value)
