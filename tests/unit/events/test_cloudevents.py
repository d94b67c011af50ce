from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary
from cloudevents.core.formats.json import JSONFormat

from consumer.events import cloudevents
from consumer.events.envelope import Encoded, Event, encode
from consumer.events.progress import Progress, SnapshotComplete, encode_progress, encode_snapshot
from tests.unit.events.test_envelope import (
    ACCOUNT,
    CREATE,
    DELETE,
    DID,
    EVENTS,
    IDENTITY,
    MAX_RECORD,
    PATH,
    SYNC,
    UPDATE,
)

PROGRESS = encode_progress(
    Progress(3, "wss://relay.example", 2, 8123456, "2026-07-04T14:39:14.123Z", 1.0, 2.0, 0)
)
SNAPSHOT = encode_snapshot(
    SnapshotComplete(3, "3f2c6f0e", 1.0, 2.0, 1_783_175_954.123, 40, 1, 2, 5)
)


def encoded(event: Event) -> Encoded:
    return encode(event, MAX_RECORD)


def as_read(one: Encoded, headers: dict[str, bytes], value: bytes | None) -> Any:
    """Return the record as the SDK reads it."""
    return from_binary(KafkaMessage(headers, one.key, value), JSONFormat())  # type: ignore[arg-type]


def read(one: Encoded) -> Any:
    headers = (*one.headers, *cloudevents.headers(one))
    assert len(dict(headers)) == len(headers)
    return as_read(one, dict(headers), one.value)


@pytest.mark.parametrize("one", [*map(encoded, EVENTS), PROGRESS, SNAPSHOT])
def test_the_sdk_reads_every_event_with_its_value_as_data(one: Encoded) -> None:
    value = json.loads(one.value)
    event = read(one)
    assert event.get_data() == value
    assert event.get_id() == value["id"]
    assert event.get_specversion() == "1.0"
    assert event.get_datacontenttype() == "application/json"
    assert event.get_time() == datetime(2026, 7, 4, 14, 39, 14, 123_000, UTC)


@pytest.mark.parametrize(
    ("one", "kind", "source", "subject"),
    [
        (encoded(CREATE), "record.create", DID, PATH),
        (encoded(UPDATE), "record.update", DID, PATH),
        (encoded(DELETE), "record.delete", DID, PATH),
        (encoded(ACCOUNT), "account", DID, None),
        (encoded(IDENTITY), "identity", DID, None),
        (encoded(SYNC), "sync", DID, None),
        (PROGRESS, "progress", "lane/3", None),
        (SNAPSHOT, "snapshot_complete", "lane/3", None),
    ],
)
def test_type_source_and_subject(one: Encoded, kind: str, source: str, subject: str | None) -> None:
    event = read(one)
    assert event.get_type() == f"pub.chive.firehose.{kind}"
    assert event.get_source() == source
    assert event.get_subject() == subject


def test_the_source_of_an_account_is_a_uri() -> None:
    assert urlsplit(read(encoded(CREATE)).get_source()).scheme == "did"


def test_a_tombstone_is_an_event_without_data_of_its_own_id_and_type() -> None:
    one = encoded(DELETE)
    headers = dict(cloudevents.tombstone_headers(one))
    event = as_read(one, headers, None)
    deleted = read(one)
    assert event.get_type() == "pub.chive.firehose.record.tombstone"
    assert event.get_id() == f"{deleted.get_id()}/tombstone"
    assert (event.get_source(), event.get_subject()) == (DID, PATH)
    assert event.get_time() == deleted.get_time()
    assert event.get_datacontenttype() is None
    assert not event.get_data()
