from __future__ import annotations

import os
from typing import Any

import pytest
from aiokafka.record.memory_records import MemoryRecords

from consumer.config.types import Codec
from consumer.kafka.batches import Batches, gzipped

TOPIC = "chive.events"
NUMBERS: dict[Codec, int] = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
HEADERS = [("type", b"record"), ("did", b"did:plc:a")]
TEXT = [b"value %d " % n * 50 for n in range(100)]


def built(codec: Codec, values: list[bytes | None]) -> Any:
    """Return a batch as a producer sends it."""
    batch = Batches({TOPIC: codec}).empty(TOPIC)
    for value in values:
        assert batch.append(timestamp=7, key=b"key", value=value, headers=HEADERS) is not None
    batch._set_producer_state(12, 3, 40)
    first = batch._build()
    assert batch._build() is first  # as on a retry
    return first


def read(data: Any) -> Any:
    """Return the only batch in ``data``, as aiokafka's reader does."""
    records = MemoryRecords(bytes(data))
    batch = records.next_batch()
    assert batch.validate_crc()
    assert not records.has_next()
    return batch


@pytest.mark.parametrize("codec", NUMBERS)
def test_a_batch_has_the_codec_of_its_topic(codec: Codec) -> None:
    data = built(codec, [*TEXT, None])
    batch = read(data)
    assert batch.compression_type == NUMBERS[codec]
    assert batch.is_transactional
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (12, 3, 40)
    assert (len(data) < sum(map(len, TEXT)) / 4) == (codec != "none")
    found = [(record.key, record.value, record.headers, record.timestamp) for record in batch]
    assert found == [(b"key", value, HEADERS, 7) for value in [*TEXT, None]]


def test_what_gzip_does_not_make_smaller_stays_as_it_is() -> None:
    noise = os.urandom(2_000)
    plain = built("none", [noise])
    assert gzipped(plain) is plain
    batch = read(built("gzip", [noise]))
    assert batch.compression_type == 0
    assert [record.value for record in batch] == [noise]


def test_a_batch_has_a_bound_before_compression() -> None:
    for codec in NUMBERS:
        batch = Batches({TOPIC: codec}).empty(TOPIC)
        values = [bytes(1_500_000)] * 3
        taken = [
            batch.append(timestamp=None, key=None, value=value, headers=[]) is not None
            for value in values
        ]
        assert taken == [True, True, False]
