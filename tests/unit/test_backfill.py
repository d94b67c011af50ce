from __future__ import annotations

from typing import Any

import cbor2
import libipld
import pytest

from consumer import backfill
from consumer.backfill import AccountAnswer, Chunk, Entry, IdentityAnswer, Message, Proof
from consumer.errors import Fatal, Reason, Refused
from consumer.scope import Interval
from procedures.syntax import DAG_CBOR_PREFIX

DID = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"
REV = "3lbcdefghijkl"
CID = DAG_CBOR_PREFIX + bytes(32)
ENTRY = Entry("pub.chive.eprint.submission/a", CID, b"\xa0")
IDENTITY = IdentityAnswer(DID, 1_783_175_954.123, "did:key:zQ3sh", "https://pds.example", "a.test")
CHUNK = Chunk(
    did=DID,
    operation="op",
    attempt=2,
    rev=REV,
    data=CID,
    commit=CID,
    scope=bytes(32),
    resync_generation=3,
    after=None,
    through="pub.chive.eprint.submission/a",
    last=False,
    intervals=(Interval("pub.chive.", "pub.chive/"), Interval("z", None)),
    entries=(ENTRY, ENTRY),
    emit_all=True,
)

MESSAGES: list[Message] = [
    IDENTITY,
    IdentityAnswer(DID, 0.0, error="not found"),
    AccountAnswer(DID, 1, 31527015322, "deleted"),
    CHUNK,
    Proof(DID, "op", 1, REV, ENTRY.path, ENTRY),
    Proof(DID, "op", 1, REV, ENTRY.path, None),
]


def changed(message: Message, **change: object) -> bytes:
    return cbor2.dumps(cbor2.loads(backfill.encode(message)) | change)


def refusal(data: bytes) -> Reason:
    with pytest.raises(Refused) as caught:
        backfill.decode(data)
    return caught.value.reason


@pytest.mark.parametrize("message", MESSAGES)
def test_round_trip(message: Message) -> None:
    assert backfill.decode(backfill.encode(message)) == message


def test_the_form_of_an_answer_about_an_account_stays() -> None:
    message = AccountAnswer("did:plc:alice", 3, 100, "deleted")
    data = bytes.fromhex(
        "a6617601636469646d6469643a706c633a616c696365637365711864646b696e64676163636f756e74"
        "667374617475736764656c657465646773657373696f6e03"
    )
    assert backfill.encode(message) == data
    assert cbor2.loads(data)["session"] == 3
    assert backfill.decode(data) == message


@pytest.mark.parametrize("message", MESSAGES)
def test_the_bytes_are_dag_cbor(message: Message) -> None:
    value = libipld.decode_dag_cbor(backfill.encode(message))  # refuses keys out of order
    assert value["v"] == backfill.VERSION


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\x01", b"\x80", b"\xa0", b"\xa1\x61v\x01", bytes(100), b"\x81" * 9999]
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    assert refusal(data) == Reason.BACKFILL_MALFORMED


@pytest.mark.parametrize("message", MESSAGES)
def test_every_truncation_is_refused(message: Message) -> None:
    data = backfill.encode(message)
    for length in range(len(data)):
        assert refusal(data[:length]) == Reason.BACKFILL_MALFORMED


@pytest.mark.parametrize(
    ("message", "change"),
    [
        (IDENTITY, {"did": 1}),
        (IDENTITY, {"fetched_at": "yesterday"}),
        (IDENTITY, {"pds": b"x"}),
        (IDENTITY, {"surprise": 1}),
        (MESSAGES[2], {"epoch": 1}),
        (IDENTITY, {"kind": "rumour"}),
        (IDENTITY, {"kind": [1]}),
        (IDENTITY, {"v": 0}),
        (IDENTITY, {"v": "1"}),
        (CHUNK, {"attempt": "2"}),
        (CHUNK, {"last": None}),
        (CHUNK, {"intervals": None}),
        (CHUNK, {"intervals": [["a"]]}),
        (CHUNK, {"intervals": [["a", 1]]}),
        (CHUNK, {"entries": [["path", "cid", b""]]}),
        (CHUNK, {"entries": [1]}),
        (MESSAGES[4], {"entry": [1, 2, 3]}),
    ],
)
def test_wrong_fields_are_refused(message: Message, change: dict[str, Any]) -> None:
    assert refusal(changed(message, **change)) == Reason.BACKFILL_MALFORMED


def test_a_missing_field_is_refused() -> None:
    members = cbor2.loads(backfill.encode(IDENTITY))
    del members["handle"]
    assert refusal(cbor2.dumps(members)) == Reason.BACKFILL_MALFORMED


def test_a_newer_version_stops_the_process() -> None:
    with pytest.raises(Fatal):
        backfill.decode(changed(IDENTITY, v=backfill.VERSION + 1))
