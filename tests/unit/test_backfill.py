from __future__ import annotations

from typing import Any

import cbor2
import libipld
import pytest

from consumer import backfill
from consumer.backfill import (
    AccountAnswer,
    AnswerSource,
    Chunk,
    Entry,
    Forget,
    IdentityAnswer,
    Message,
    Proof,
    Via,
)
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
    unknown=("pub.chive.eprint.submission/0",),
    warnings=(("block_missing", 1), ("path_invalid", 3)),
)

FORGET = Forget(DID, "op", 2)
MESSAGES: list[Message] = [
    FORGET,
    IDENTITY,
    IdentityAnswer(DID, 0.0, error="not found"),
    AccountAnswer(DID, 1, 31527015322, "deleted"),
    CHUNK,
    Proof(DID, "op", 1, REV, ENTRY.path, ENTRY, Via.REPOSITORY),
    Proof(DID, "op", 1, REV, ENTRY.path, None),
    AccountAnswer(
        DID, 1, 2, "deleted", AnswerSource.HOST, "pds.example", 1.5, "refused", "RepoNotFound"
    ),
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
    data = backfill.encode(message)
    assert data == bytes.fromhex(
        "ab617602636469646d6469643a706c633a616c69636563736571186464686f7374f6646b696e6467"
        "6163636f756e74646e616d65f66563617573656066736f7572636564686f73746673746174757367"
        "64656c657465646773657373696f6e036861736b65645f6174fb0000000000000000"
    )
    assert cbor2.loads(data)["session"] == 3
    assert backfill.decode(data) == message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            (
                "a6617601636469646d6469643a706c633a616c696365637365711864646b696e64676163636f756e74"
                "667374617475736764656c657465646773657373696f6e03"
            ),
            AccountAnswer("did:plc:alice", 3, 100, "deleted"),
        ),
        (
            (
                "a8617601636469646d6469643a706c633a616c696365637064737368747470733a2f2f7064732e65"
                "78616d706c65646b696e64686964656e74697479656572726f72f66668616e646c6566612e746573"
                "746a666574636865645f6174fb3ff80000000000006b7369676e696e675f6b6579696469643a6b65"
                "793a7a"
            ),
            IdentityAnswer("did:plc:alice", 1.5, "did:key:z", "https://pds.example", "a.test"),
        ),
        (
            (
                "b0617601636469646d6469643a706c633a616c696365637265766d336c62636465666768696a6b6c"
                "64646174615824017112200000000000000000000000000000000000000000000000000000000000"
                "000000646b696e64656368756e6b646c617374f46477616e7403656166746572f66573636f706544"
                "0000000066636f6d6d69745824017112200000000000000000000000000000000000000000000000"
                "00000000000000000067617474656d70740267656e7472696573818367612e622e632f6158240171"
                "1220000000000000000000000000000000000000000000000000000000000000000041a067746872"
                "6f75676867612e622e632f6168656d69745f616c6cf569696e74657276616c73818261616162696f"
                "7065726174696f6e626f70"
            ),
            Chunk(
                did="did:plc:alice",
                operation="op",
                attempt=2,
                rev=REV,
                data=CID,
                commit=CID,
                scope=bytes(4),
                resync_generation=3,
                after=None,
                through="a.b.c/a",
                last=False,
                intervals=(Interval("a", "b"),),
                entries=(Entry("a.b.c/a", CID, b"\xa0"),),
                emit_all=True,
            ),
        ),
        (
            (
                "a8617601636469646d6469643a706c633a616c696365637265766d336c62636465666768696a6b6c"
                "646b696e646570726f6f66647061746867612e622e632f6165656e7472798367612e622e632f6158"
                "2401711220000000000000000000000000000000000000000000000000000000000000000041a067"
                "617474656d707401696f7065726174696f6e626f70"
            ),
            Proof("did:plc:alice", "op", 1, REV, "a.b.c/a", Entry("a.b.c/a", CID, b"\xa0")),
        ),
    ],
)
def test_version_1_is_read(data: str, message: Message) -> None:
    assert backfill.decode(bytes.fromhex(data)) == message


def test_version_1_has_none_of_the_fields_of_version_2() -> None:
    assert refusal(changed(CHUNK, v=1)) == Reason.BACKFILL_MALFORMED


@pytest.mark.parametrize("message", MESSAGES)
def test_the_bytes_are_dag_cbor(message: Message) -> None:
    value = libipld.decode_dag_cbor(backfill.encode(message))  # refuses keys out of order
    assert value["v"] == (3 if message is FORGET else 2)


def test_an_earlier_process_cannot_pass_over_what_it_does_not_know() -> None:
    assert refusal(changed(FORGET, v=2)) == Reason.BACKFILL_MALFORMED
    assert refusal(changed(IDENTITY, v=3)) == Reason.BACKFILL_MALFORMED


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
        (IDENTITY, {"v": True}),
        (CHUNK, {"attempt": "2"}),
        (CHUNK, {"last": None}),
        (CHUNK, {"intervals": None}),
        (CHUNK, {"intervals": [["a"]]}),
        (CHUNK, {"intervals": [["a", 1]]}),
        (CHUNK, {"entries": [["path", "cid", b""]]}),
        (CHUNK, {"entries": [1]}),
        (CHUNK, {"unknown": [1]}),
        (CHUNK, {"unknown": 1}),
        (CHUNK, {"warnings": [["block_missing", "1"]]}),
        (CHUNK, {"warnings": [["block_missing"]]}),
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
