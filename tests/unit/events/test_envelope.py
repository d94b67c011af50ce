from __future__ import annotations

import base64
import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import cbor2
import pytest
from jsonschema import Draft202012Validator, ValidationError

from consumer.config.settings import LimitSettings
from consumer.events import envelope
from consumer.events.envelope import (
    AccountEvent,
    Encoded,
    Event,
    IdentityEvent,
    Origin,
    RecordEvent,
    Source,
    SyncEvent,
)
from consumer.kafka.topics import Topic
from consumer.verify.verified import Action
from procedures.syntax import DAG_CBOR_PREFIX, cid_text
from tests.support import event_headers
from tests.support.schemas import load, written

MAX_RECORD = LimitSettings().record
SCHEMA = load(Topic.EVENTS)
VALIDATOR = Draft202012Validator(SCHEMA)

DID = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"
REV = "3lbcdefghijkl"
PATH = "pub.chive.eprint.submission/3lbcdefghijkl"
PDS = "https://pds.example"
CID = DAG_CBOR_PREFIX + bytes(32)
OTHER_CID = DAG_CBOR_PREFIX + b"\x01" * 32
RECORD = cbor2.dumps({"$type": "pub.chive.eprint.submission", "title": "Ü"}, canonical=True)
FLOAT_RECORD = cbor2.dumps({"$type": "pub.chive.eprint.submission", "f": 0.5}, canonical=True)

LIVE = Origin(Source.FIREHOSE, 31527015322, "2026-07-04T14:39:14.123Z", "wss://relay.example")
BACKFILL = Origin(Source.BACKFILL, 0, "2026-07-04T14:39:14.123Z", None, "op-1")

CREATE = RecordEvent(LIVE, DID, 0, PDS, REV, PATH, Action.CREATE, CID, None, RECORD)
UPDATE = replace(CREATE, action=Action.UPDATE, prev=OTHER_CID)
DELETE = replace(CREATE, action=Action.DELETE, cid=None, prev=CID, record=None)
ACCOUNT = AccountEvent(LIVE, DID, 0, PDS, REV, active=False, status="deactivated", epoch=1)
IDENTITY = IdentityEvent(LIVE, DID, 0, None, None, handle="alice.example", epoch=1)
SYNC = SyncEvent(LIVE, DID, 0, PDS, REV, state="desynchronized", reason="broken_chain")

EVENTS: list[Event] = [
    CREATE,
    UPDATE,
    DELETE,
    replace(CREATE, record=FLOAT_RECORD),
    replace(CREATE, record=b"\xff garbage"),
    replace(CREATE, origin=BACKFILL, pds=None),
    replace(DELETE, origin=replace(LIVE, source=Source.ACCOUNT), prev=None),
    ACCOUNT,
    replace(ACCOUNT, active=True, status="active", rev=None),
    IDENTITY,
    replace(IDENTITY, handle=None),
    SYNC,
    replace(SYNC, state="active", reason=None, origin=BACKFILL),
]


def encode(event: Event, max_record: int = MAX_RECORD) -> Encoded:
    return envelope.encode(event, max_record)


def decoded(event: Event, max_record: int = MAX_RECORD) -> Any:
    return json.loads(encode(event, max_record).value)


def test_the_schema_is_valid() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_satisfies_the_schema(event: Event) -> None:
    VALIDATOR.validate(decoded(event))


@pytest.mark.parametrize("event", EVENTS)
def test_readers_accept_what_may_come(event: Event) -> None:
    VALIDATOR.validate(decoded(event) | {"surprise": 1, "source": "another"})


@pytest.mark.parametrize("event", EVENTS)
def test_we_write_what_is_documented(event: Event) -> None:
    written(Topic.EVENTS).validate(decoded(event))
    for more in ({"surprise": 1}, {"source": "another"}):
        assert not written(Topic.EVENTS).is_valid(decoded(event) | more)


def missing_one(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name in value:
        yield {key: item for key, item in value.items() if key != name}


@pytest.mark.parametrize("event", EVENTS)
def test_every_member_is_required(event: Event) -> None:
    for value in missing_one(decoded(event)):
        with pytest.raises(ValidationError):
            VALIDATOR.validate(value)


@pytest.mark.parametrize(
    ("event", "change"),
    [
        (DELETE, {"cid": cid_text(CID)}),
        (DELETE, {"record": {}}),
        (CREATE, {"cid": None}),
        (CREATE, {"record": None}),
        (CREATE, {"recordCbor": "AQ=="}),
        (CREATE, {"seq": "31527015322"}),
        (CREATE, {"seq": None}),
        (CREATE, {"rev": None}),
        (CREATE, {"live": 1}),
        (SYNC, {"state": "confused"}),
        (ACCOUNT, {"type": "sync"}),
    ],
)
def test_the_schema_refuses(event: Event, change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        VALIDATOR.validate(decoded(event) | change)


def test_a_live_create_in_full() -> None:
    encoded = encode(CREATE)
    value = json.loads(encoded.value)
    assert encoded.key == f"at://{DID}/{PATH}".encode()
    assert not encoded.tombstone
    assert value.pop("id")
    assert value == {
        "v": 1,
        "type": "record",
        "seq": 31527015322,
        "time": "2026-07-04T14:39:14.123Z",
        "did": DID,
        "repo": DID,
        "rev": REV,
        "uri": f"at://{DID}/{PATH}",
        "collection": "pub.chive.eprint.submission",
        "rkey": "3lbcdefghijkl",
        "action": "create",
        "cid": cid_text(CID),
        "prev": None,
        "record": {"$type": "pub.chive.eprint.submission", "title": "Ü"},
        "live": True,
        "source": "firehose",
        "operationId": None,
        "pds": PDS,
        "relay": "wss://relay.example",
    }


def test_the_headers_of_a_live_create_in_full() -> None:
    assert encode(CREATE).headers == (
        ("type", b"record"),
        ("collection", b"pub.chive.eprint.submission"),
        ("action", b"create"),
        ("live", b"true"),
        ("source", b"firehose"),
        ("did", DID.encode()),
        ("rev", REV.encode()),
    )


def test_a_header_without_a_value_is_left_out() -> None:
    identity = encode(replace(IDENTITY, origin=BACKFILL)).headers
    assert identity == (
        ("type", b"identity"),
        ("live", b"false"),
        ("source", b"backfill"),
        ("did", DID.encode()),
    )


@pytest.mark.parametrize("event", EVENTS)
def test_headers_repeat_the_value(event: Event) -> None:
    encoded = encode(event)
    assert event_headers.read(encoded.headers) == event_headers.expected(encoded.value)


def test_a_delete_asks_for_a_tombstone_of_the_same_key() -> None:
    encoded = encode(DELETE)
    assert encoded.tombstone
    assert encoded.key == encode(CREATE).key
    value = json.loads(encoded.value)
    assert (value["cid"], value["prev"], value["record"]) == (None, cid_text(CID), None)


@pytest.mark.parametrize(
    ("event", "suffix"), [(ACCOUNT, b"#account"), (IDENTITY, b"#identity"), (SYNC, b"#sync")]
)
def test_keys_of_the_rest(event: Event, suffix: bytes) -> None:
    encoded = encode(event)
    assert encoded.key == DID.encode() + suffix
    assert not encoded.tombstone


@pytest.mark.parametrize("record", [FLOAT_RECORD, b"\xff garbage", b""])
def test_a_record_without_json_travels_as_its_bytes(record: bytes) -> None:
    value = decoded(replace(CREATE, record=record))
    assert value["record"] is None
    assert base64.b64decode(value["recordCbor"], validate=True) == record


def test_a_record_with_too_much_json_travels_as_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    record = cbor2.dumps({"t": "\x00" * 1000}, canonical=True)  # six bytes of JSON for each
    length = len(b'{"t":""}') + 6 * 1000
    monkeypatch.setattr(envelope, "MAX_RECORD_JSON", length)
    assert decoded(replace(CREATE, record=record))["record"] == {"t": "\x00" * 1000}
    monkeypatch.setattr(envelope, "MAX_RECORD_JSON", length - 1)
    value = decoded(replace(CREATE, record=record))
    assert value["record"] is None
    assert base64.b64decode(value["recordCbor"]) == record


def test_a_record_that_is_too_large_travels_as_its_bytes() -> None:
    fits = cbor2.dumps({"t": "x" * (MAX_RECORD - 8)}, canonical=True)
    assert len(fits) == MAX_RECORD
    assert decoded(replace(CREATE, record=fits))["record"] is not None
    larger = cbor2.dumps({"t": "x" * (MAX_RECORD - 7)}, canonical=True)
    assert decoded(replace(CREATE, record=larger))["record"] is None


def test_the_setting_decides_what_is_too_large() -> None:
    assert decoded(CREATE, len(RECORD))["record"] is not None
    value = decoded(CREATE, len(RECORD) - 1)
    assert value["record"] is None
    assert base64.b64decode(value["recordCbor"]) == RECORD


def test_the_largest_record_stays_below_the_limit_of_kafka() -> None:
    record = cbor2.dumps({"t": "\x00" * 1_048_000}, canonical=True)
    assert len(encode(replace(CREATE, record=record)).value) < 8 * 1024 * 1024


@pytest.mark.parametrize("event", EVENTS)
def test_a_replay_repeats_the_bytes(event: Event) -> None:
    assert encode(event) == encode(replace(event))


RECORD_CHANGES: list[dict[str, Any]] = [
    {"did": "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"},
    {"incarnation": 1},
    {"rev": "3lbcdefghijkm"},
    {"path": "pub.chive.eprint.submission/other"},
    {"action": Action.UPDATE},
    {"cid": OTHER_CID},
]


@pytest.mark.parametrize("change", RECORD_CHANGES)
def test_the_id_of_a_record_event_depends_on_what_it_says(change: dict[str, Any]) -> None:
    assert decoded(replace(CREATE, **change))["id"] != decoded(CREATE)["id"]


def test_a_record_published_again_has_another_id_each_time() -> None:
    first = replace(UPDATE, prev=CID, republished_by="op-1/1")
    events = [
        UPDATE,
        first,
        replace(first, republished_by="op-1/2"),
        replace(first, republished_by="op-2/1"),
    ]
    assert len({decoded(event)["id"] for event in events}) == 4
    assert decoded(first).keys() == decoded(UPDATE).keys()


def test_the_id_of_a_record_event_depends_on_nothing_else() -> None:
    other = replace(CREATE, origin=BACKFILL, pds=None, prev=OTHER_CID)
    assert decoded(other)["id"] == decoded(CREATE)["id"]


@pytest.mark.parametrize(
    ("event", "change"),
    [
        (ACCOUNT, {"epoch": 2}),
        (ACCOUNT, {"origin": replace(LIVE, seq=1)}),
        (ACCOUNT, {"status": "deleted"}),
        (ACCOUNT, {"incarnation": 1}),
        (IDENTITY, {"epoch": 2}),
        (IDENTITY, {"origin": replace(LIVE, seq=1)}),
        (SYNC, {"origin": replace(LIVE, time="2026-07-04T14:39:14.124Z")}),
        (SYNC, {"origin": replace(LIVE, operation="op-1")}),
        (SYNC, {"rev": None}),
        (SYNC, {"state": "active"}),
        (SYNC, {"reason": "sync_frame"}),
    ],
)
def test_the_id_of_the_rest_depends_on_epoch_and_seq(event: Event, change: dict[str, Any]) -> None:
    assert decoded(replace(event, **change))["id"] != decoded(event)["id"]


def test_ids_of_different_types_differ() -> None:
    assert len({decoded(event)["id"] for event in (CREATE, ACCOUNT, IDENTITY, SYNC)}) == 4


def test_an_event_takes_no_more_memory_than_it_has_bytes() -> None:
    """Events wait for Kafka by the thousand, and orjson's own buffers are many times as large."""
    record = cbor2.dumps({"$type": "pub.chive.eprint.submission", "text": "x" * 300})
    origin = Origin(Source.FIREHOSE, 7, "2026-01-02T03:04:05.678Z", None)
    event = RecordEvent(origin, DID, 1, PDS, REV, PATH, Action.CREATE, CID, None, record)
    encoded = envelope.encode(event, MAX_RECORD)  # what is made once is made now
    tracemalloc.start()
    try:
        kept = [envelope.encode(event, MAX_RECORD).value for _ in range(1_000)]
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 1.5 * len(encoded.value) * len(kept)
