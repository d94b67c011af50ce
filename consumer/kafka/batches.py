"""Empty batches of records for a transactional producer, each with the codec of its topic.

aiokafka has one codec for a producer, and compresses gzip at level 9 only, which costs six times
the CPU of level 1 for a tenth of the bytes: what it has no way around is here.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Any

from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.util import calc_crc32c

from consumer.config.types import Codec

_BATCH_BYTES = 4 * 1024 * 1024  # of one partition in one produce request, before compression
_GZIP_LEVEL = 1
_GZIP_WINDOW = 31  # zlib's number for gzip's header and the largest window

# A record batch (https://kafka.apache.org/documentation/#recordbatch): from its length, which
# counts what follows it, to the attributes, whose lowest bits are the codec.  The CRC is of all
# from the attributes on; the records begin behind the header.
_HEAD = struct.Struct(">iibIh")
_HEAD_AT = 8
_CHECKED_AT = 21
_RECORDS_AT = 61
_CODECS: Mapping[Codec, int] = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


class Batches:
    """Makes batches; ``codecs`` are those of topics by their full names."""

    def __init__(self, codecs: Mapping[str, Codec]) -> None:
        self._codecs = codecs

    def empty(self, topic: str) -> BatchBuilder:
        """Return an empty batch of a transaction for a partition of ``topic``."""
        codec = self._codecs[topic]
        if codec == "gzip":
            return _GzipBatch(_BATCH_BYTES, _CODECS["none"], is_transactional=True)
        return BatchBuilder(_BATCH_BYTES, _CODECS[codec], is_transactional=True)


class _GzipBatch(BatchBuilder):  # type: ignore[misc]  # aiokafka has no types here
    """A batch whose records are compressed once it is complete."""

    _buffer: Any  # None before

    def _build(self) -> Any:
        if self._buffer is None:
            self._buffer = gzipped(super()._build())
        return self._buffer


def gzipped(batch: bytes | bytearray) -> bytes | bytearray:
    """Return a batch without compression in gzip's, or as it is if that is not smaller."""
    records = zlib.compress(memoryview(batch)[_RECORDS_AT:], _GZIP_LEVEL, _GZIP_WINDOW)
    if len(records) >= len(batch) - _RECORDS_AT:
        return batch
    found = bytearray(batch[:_RECORDS_AT]) + records
    length, epoch, magic, _, attributes = _HEAD.unpack_from(found, _HEAD_AT)
    length += len(found) - len(batch)
    attributes |= _CODECS["gzip"]
    _HEAD.pack_into(found, _HEAD_AT, length, epoch, magic, 0, attributes)
    crc = calc_crc32c(memoryview(found)[_CHECKED_AT:])
    _HEAD.pack_into(found, _HEAD_AT, length, epoch, magic, crc, attributes)
    return found
