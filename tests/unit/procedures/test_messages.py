"""Commands on chive.control: what is one, what is refused and why, and the published schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from procedures import messages, syntax, times
from procedures.messages import (
    BulkSync,
    Cancel,
    Command,
    DidSync,
    Discover,
    Emit,
    Forget,
    Reconcile,
    RecordRefresh,
    Refusal,
    RefusalReason,
    RegisterHost,
    decode,
    encode,
)
from procedures.selections import By, Selection

DID = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"
URI = f"at://{DID}/pub.chive.eprint.submission/3l2s5xxv2wc2e"
TIMESTAMP = 1_783_175_954_123

SCHEMA = json.loads(Path("config/control.schema.json").read_text())
FORMATS = jsonschema.FormatChecker(formats=())


def _is_datetime(value: object) -> bool:
    return not isinstance(value, str) or times.from_text(value) is not None


FORMATS.checkers["date-time"] = (_is_datetime, ValueError)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA, format_checker=FORMATS)


def _decode(fields: object) -> Command | Refusal:
    return decode(json.dumps(fields).encode(), 7, TIMESTAMP)


def _reason(value: bytes | None) -> RefusalReason:
    refusal = decode(value, 7, TIMESTAMP)
    assert isinstance(refusal, Refusal)
    return refusal.reason


def test_a_bare_line_is_a_command() -> None:
    assert decode(f'{{"type":"didSync","did":"{DID}"}}\n'.encode(), 7, TIMESTAMP) == DidSync(
        id=f"control-7-{TIMESTAMP}", did=DID, requested_at=TIMESTAMP / 1000
    )


def test_what_a_discover_command_names() -> None:
    bare = _decode({"type": "discover", "id": "a"})
    assert isinstance(bare, Discover)
    assert (bare.collection, bare.source) == (None, None)
    assert messages.key(bare) is None
    named = _decode({"type": "discover", "collection": "a.b.c", "source": "https://a.example:444"})
    assert isinstance(named, Discover)
    assert named.subject == "collection=a.b.c source=https://a.example:444"
    for wrong in ({"collection": "a.*"}, {"source": "a.example"}, {"source": "https://a/b"}):
        refused = _decode({"type": "discover"} | wrong)
        assert isinstance(refused, Refusal)
        assert refused.reason is RefusalReason.INVALID_FIELD


@pytest.mark.parametrize(
    ("fields", "selection"),
    [
        (
            {"dids": [DID, "did:web:a.example"]},
            Selection(By.DIDS, None, (DID, "did:web:a.example")),
        ),
        ({"select": {"collection": "a.b.c"}}, Selection(By.COLLECTION, "a.b.c")),
        ({"select": {"collection": "a.b.*"}}, Selection(By.COLLECTION, "a.b.*")),
        ({"select": {"host": "pds.example:8443"}}, Selection(By.HOST, "pds.example:8443")),
        ({"select": {"failed": True}, "did": None}, Selection(By.FAILED)),
        ({"select": {"all": True}, "dids": None}, Selection(By.ALL)),
    ],
)
def test_a_sync_of_many(fields: dict[str, Any], selection: Selection) -> None:
    command = _decode({"type": "didSync", "id": "a", "emit": "all"} | fields)
    assert command == BulkSync(
        id="a", selection=selection, emit=Emit.ALL, requested_at=TIMESTAMP / 1000
    )
    assert messages.key(command) is None


@pytest.mark.parametrize(
    ("fields", "selection"),
    [
        ({"did": DID}, Selection(By.DIDS, None, (DID,))),
        ({"dids": [DID]}, Selection(By.DIDS, None, (DID,))),
        ({"select": {"host": "pds.example"}}, Selection(By.HOST, "pds.example")),
    ],
)
def test_a_reconcile(fields: dict[str, Any], selection: Selection) -> None:
    command = _decode({"type": "reconcile", "id": "a"} | fields)
    assert command == Reconcile(id="a", selection=selection, requested_at=TIMESTAMP / 1000)
    assert messages.key(command) is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, RefusalReason.MISSING_FIELD),
        ({"did": "alice.test"}, RefusalReason.INVALID_DID),
        ({"did": DID, "select": {"all": True}}, RefusalReason.INVALID_SELECTION),
        ({"did": DID, "emit": "all"}, RefusalReason.UNKNOWN_FIELD),
    ],
)
def test_what_is_no_reconcile(fields: dict[str, Any], reason: RefusalReason) -> None:
    refusal = _decode({"type": "reconcile", "id": "a"} | fields)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, RefusalReason.MISSING_FIELD),
        ({"dids": None, "select": None}, RefusalReason.MISSING_FIELD),
        ({"did": DID, "dids": [DID]}, RefusalReason.INVALID_SELECTION),
        ({"did": DID, "select": {"all": True}}, RefusalReason.INVALID_SELECTION),
        ({"dids": [DID], "select": {"all": True}}, RefusalReason.INVALID_SELECTION),
        ({"dids": []}, RefusalReason.INVALID_SELECTION),
        ({"dids": DID}, RefusalReason.INVALID_SELECTION),
        ({"dids": [DID, DID]}, RefusalReason.INVALID_SELECTION),
        ({"dids": [DID, "alice.test"]}, RefusalReason.INVALID_DID),
        ({"dids": [DID, 1]}, RefusalReason.INVALID_DID),
        ({"dids": [[]]}, RefusalReason.INVALID_DID),
        ({"select": "all"}, RefusalReason.INVALID_SELECTION),
        ({"select": {}}, RefusalReason.INVALID_SELECTION),
        ({"select": {"all": False}}, RefusalReason.INVALID_SELECTION),
        ({"select": {"all": 1}}, RefusalReason.INVALID_SELECTION),
        ({"select": {"everything": True}}, RefusalReason.INVALID_SELECTION),
        ({"select": {"dids": [DID]}}, RefusalReason.INVALID_SELECTION),
        ({"select": {"failed": True, "host": "a.example"}}, RefusalReason.INVALID_SELECTION),
        ({"select": {"host": "https://a.example"}}, RefusalReason.INVALID_SELECTION),
        ({"select": {"host": "A.example"}}, RefusalReason.INVALID_SELECTION),
        ({"select": {"collection": "*"}}, RefusalReason.INVALID_SELECTION),
        ({"select": {"collection": "a.b"}}, RefusalReason.INVALID_SELECTION),
        ({"select": {"collection": None}}, RefusalReason.INVALID_SELECTION),
    ],
)
def test_refuses_selections_that_are_none(fields: dict[str, Any], reason: RefusalReason) -> None:
    fields = {"type": "didSync"} | fields
    refusal = _decode(fields)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, len(refusal.detail) < 300) == (reason, True)
    assert not VALIDATOR.is_valid(fields)


def test_all_fields() -> None:
    fields = {
        "v": 1,
        "id": "op-1",
        "type": "didSync",
        "did": DID,
        "emit": "all",
        "requestedBy": "did:plc:someone",
        "requestedAt": "2026-07-04T14:39:14.123Z",
    }
    assert _decode(fields) == DidSync(
        id="op-1",
        did=DID,
        emit=Emit.ALL,
        requested_by="did:plc:someone",
        requested_at=1783175954.123,
    )
    assert _decode({"type": "recordRefresh", "uri": URI, "id": "a"}) == RecordRefresh(
        id="a", uri=URI, requested_at=TIMESTAMP / 1000
    )
    assert _decode({"type": "cancel", "operationId": "control-7-1", "id": "a"}) == Cancel(
        id="a", operation_id="control-7-1", requested_at=TIMESTAMP / 1000
    )


def test_the_subject_of_a_refresh_has_a_did() -> None:
    assert RecordRefresh(id="a", uri=URI, requested_at=0).did == DID


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, RefusalReason.NOT_JSON),
        (b"", RefusalReason.NOT_JSON),
        (b"sync please", RefusalReason.NOT_JSON),
        (b'{"type":"didSync"', RefusalReason.NOT_JSON),
        (b"[" * 16_000, RefusalReason.NOT_JSON),
        (b" " * (16 * 1024 + 1), RefusalReason.TOO_BIG),
        (b'{"type":"didSync","type":"cancel"}', RefusalReason.DUPLICATE_KEY),
        (b'"didSync"', RefusalReason.NOT_OBJECT),
        (b"null", RefusalReason.NOT_OBJECT),
    ],
)
def test_refuses_what_is_no_json_object(value: bytes | None, reason: RefusalReason) -> None:
    assert _reason(value) == reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"v": 2}, RefusalReason.UNKNOWN_VERSION),
        ({"v": True}, RefusalReason.UNKNOWN_VERSION),
        ({"v": "1"}, RefusalReason.UNKNOWN_VERSION),
        ({"type": "sync"}, RefusalReason.UNKNOWN_TYPE),
        ({"type": None}, RefusalReason.UNKNOWN_TYPE),
        ({"type": ["didSync"]}, RefusalReason.UNKNOWN_TYPE),
        ({"did": None}, RefusalReason.MISSING_FIELD),
        ({"did": "alice.test"}, RefusalReason.INVALID_DID),
        ({"did": DID + "\n"}, RefusalReason.INVALID_DID),
        ({"did": "did:plc:" + "a" * 2048}, RefusalReason.INVALID_DID),
        ({"did": 1}, RefusalReason.INVALID_DID),
        ({"emit": "everything"}, RefusalReason.INVALID_FIELD),
        ({"emmit": "all"}, RefusalReason.UNKNOWN_FIELD),
        ({"uri": URI}, RefusalReason.UNKNOWN_FIELD),
        ({"id": ""}, RefusalReason.INVALID_ID),
        ({"id": "a b"}, RefusalReason.INVALID_ID),
        ({"id": "control-8-1"}, RefusalReason.INVALID_ID),
        ({"id": 5}, RefusalReason.INVALID_ID),
        ({"requestedBy": "x\ny"}, RefusalReason.INVALID_FIELD),
        ({"requestedAt": "yesterday"}, RefusalReason.INVALID_FIELD),
        ({"requestedAt": "2026-02-30T00:00:00Z"}, RefusalReason.INVALID_FIELD),
    ],
)
def test_refuses_wrong_fields(change: dict[str, object], reason: RefusalReason) -> None:
    fields = {"type": "didSync", "did": DID, **change}
    assert _reason(json.dumps(fields).encode()) == reason
    assert not VALIDATOR.is_valid(fields)


@pytest.mark.parametrize(
    "uri",
    [
        f"at://{DID}",
        f"at://{DID}/pub.chive.eprint.submission",
        f"{URI}/",
        f"{URI}?x=1",
        f"{URI}#/title",
        URI.replace(DID, "alice.test"),
        URI.replace("at://", "https://"),
        f"at://{DID}/pub.chive.eprint.submission/..",
        f"at://{DID}/submission/3l2s5xxv2wc2e",
        f"at://{DID}/pub.chive.{'a.' * 160}x/3l2s5xxv2wc2e",
    ],
)
def test_refuses_uris_that_name_no_record_of_a_did(uri: str) -> None:
    fields = {"type": "recordRefresh", "uri": uri}
    assert _reason(json.dumps(fields).encode()) == RefusalReason.INVALID_URI
    assert not VALIDATOR.is_valid(fields)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("null", "null is not an object"),
        ("[[]]", "a list is not an object"),
        ("{}", "type is missing; there are didSync, "),
        ('{"type": true}', "type is true; there are didSync, "),
        ('{"type": "cancel", "v": 2.5}', "v is 2.5, not 1"),
        ('{"type": "registerHost", "host": "A.b"}', "host must be a domain in lower case, "),
        ('{"type": "registerHost", "host": {"a": 1}}', ", such as pds.example:8443, not an object"),
        ('{"type": "didSync", "did": "alice.test"}', "did must be a DID, not 'alice.test'"),
        ('{"type": "didSync", "dids": [false]}', "dids: false is not a DID"),
        ('{"type": "didSync", "select": {"all": 0}}', "select: all must be true, not 0"),
    ],
)
def test_a_refusal_says_in_words_of_json_what_would_be_right(line: str, said: str) -> None:
    refusal = decode(line.encode(), 0, 0)
    assert isinstance(refusal, Refusal)
    assert said in refusal.detail


def test_what_is_deep_or_huge_is_refused_as_well() -> None:
    deep = "[" * 1_000 + "]" * 1_000
    huge = "9" * 4_000
    for line in (
        deep,
        f'{{"type": {deep}}}',
        f'{{"type": {huge}}}',
        f'{{"type": "forget", "did": {deep}}}',
    ):
        assert isinstance(decode(line.encode(), 0, 0), Refusal)


def test_a_refusal_quotes_little_of_a_long_value() -> None:
    refusal = _decode({"type": "didSync", "did": "x" * 15_000})
    assert isinstance(refusal, Refusal)
    assert len(refusal.detail) < 300


def test_derived_ids_are_stable_and_differ_by_place() -> None:
    line = f'{{"type":"didSync","did":"{DID}"}}'.encode()
    assert decode(line, 7, 1) == decode(line, 7, 1)
    ids = {_id(decode(line, offset, time)) for offset in (1, 2, 11) for time in (1, 2, 12)}
    assert len(ids) == 9


def _id(command: Command | Refusal) -> str:
    assert not isinstance(command, Refusal)
    return command.id


_IDS = st.from_regex(messages._ID, fullmatch=True).filter(messages._is_free_id)
_BY = st.none() | st.from_regex(r"[ -~]{1,40}", fullmatch=True)
_AT = st.integers(min_value=0, max_value=4_000_000_000_000).map(lambda ms: ms / 1000)
_DIDS = st.from_regex(r"did:(plc|web):[a-zA-Z0-9._:%-]{0,30}[a-zA-Z0-9._-]", fullmatch=True)
_PATHS = st.from_regex(r"[a-z]{1,8}(\.[a-z0-9]{1,8}){1,3}\.[a-zA-Z]{1,8}/[A-Za-z0-9_~-]{1,20}")
_SELECTIONS = st.one_of(
    st.lists(_DIDS, min_size=1, max_size=9, unique=True).map(
        lambda dids: Selection(By.DIDS, dids=tuple(sorted(dids)))
    ),
    st.sampled_from(["a.b.c", "pub.chive.*", "a.*"]).map(lambda c: Selection(By.COLLECTION, c)),
    st.sampled_from(["a.example", "127.0.0.1:80"]).map(lambda host: Selection(By.HOST, host)),
    st.sampled_from([Selection(By.FAILED), Selection(By.ALL)]),
)
_COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.builds(
        BulkSync,
        id=_IDS,
        selection=_SELECTIONS,
        emit=st.sampled_from(Emit),
        requested_by=_BY,
        requested_at=_AT,
    ),
    st.builds(Reconcile, id=_IDS, selection=_SELECTIONS, requested_by=_BY, requested_at=_AT),
    st.builds(
        DidSync,
        id=_IDS,
        did=_DIDS,
        emit=st.sampled_from(Emit),
        requested_by=_BY,
        requested_at=_AT,
    ),
    st.builds(
        RecordRefresh,
        id=_IDS,
        uri=st.builds("at://{}/{}".format, _DIDS, _PATHS.filter(syntax.is_path)),
        requested_by=_BY,
        requested_at=_AT,
    ),
    st.builds(Forget, id=_IDS, did=_DIDS, requested_by=_BY, requested_at=_AT),
    st.builds(Cancel, id=_IDS, operation_id=_IDS, requested_by=_BY, requested_at=_AT),
    st.builds(
        Discover,
        id=_IDS,
        collection=st.none() | st.sampled_from(["a.b.c", "pub.chive.graph.vote"]),
        source=st.none() | st.sampled_from(["https://a.example", "http://127.0.0.1:80"]),
        requested_by=_BY,
        requested_at=_AT,
    ),
    st.builds(
        RegisterHost,
        id=_IDS,
        host=st.sampled_from(["pds.example", "a.b-c.d1:65535", "localhost:1", "127.0.0.1:2583"]),
        requested_by=_BY,
        requested_at=_AT,
    ),
)


@given(_COMMANDS)
def test_what_is_encoded_is_decoded_and_matches_the_schema(command: Command) -> None:
    value = encode(command)
    assert decode(value, 0, 0) == command
    VALIDATOR.validate(json.loads(value))


_NAMES = [
    *("v", "id", "type", "did", "dids", "select", "uri", "emit", "operationId", "host"),
    *("requestedBy", "requestedAt"),
]
_NEAR: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(1, 1.0, 2, 0, True, None, "", "1", [], {}),
        *(
            [DID],
            [DID, DID],
            [DID, "did:web:a"],
            ["a"],
            {"all": True},
            {"all": 1},
            {"failed": True},
        ),
        *({"host": "a.example"}, {"host": "a/"}, {"host": "-a"}, {"host": "a", "all": True}),
        *({"collection": "a.*"}, {"collection": "a.b.c"}, {"collection": "a.b"}),
        *(
            "didSync",
            "recordRefresh",
            "cancel",
            "discover",
            "forget",
            "registerHost",
            *(
                "a.example",
                "A.example",
                "a.example:0",
                "a.example:65536",
                "a.example\n",
                "a",
                "1.2.3.4",
            ),
            *(
                "a_b.example",
                "a.example.",
                f"{'a.' * 126}b",
                f"{'a.' * 127}bc",
                "127.0.0.1",
                "127.0.0.2",
            ),
            "https://a.example/",
            "a.b.c",
            "a..c",
            "DidSync",
            "changes",
            "all",
        ),
        *(DID, URI, DID + "\n", DID + ":", "did:plc:", "did:web:localhost%3A8099", "at://" + DID),
        *("control-1-1", "control", "a" * 128, "a" * 129, "-a", "a\n", "é"),
        *(f"at://{DID}/a.b.c/.", f"at://{DID}/a.b.c/...", f"at://{DID}/a.b.c/{'r' * 513}"),
        *(f"at://{DID}/a.b-.c/r", f"at://{DID}/1.b.c/r", f"at://{DID}/a.b.c1/r", URI + "\n"),
        *("2026-07-04T14:39:14Z", "2026-13-04T14:39:14Z", "2026-07-04T14:39:14.1-00:00"),
    ]
)
_MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from([*_NAMES, "trace"]),
        st.sampled_from(["drop", "set"]),
        _NEAR | st.text(max_size=30) | st.integers() | st.floats(allow_nan=False),
    ),
    max_size=4,
)


@given(_COMMANDS, _MUTATIONS)
def test_the_schema_accepts_exactly_what_is_decoded(
    command: Command, mutations: list[tuple[str, str, Any]]
) -> None:
    fields = json.loads(encode(command))
    for name, how, value in mutations:
        if how == "set":
            fields[name] = value
        else:
            fields.pop(name, None)
    decoded = (
        decode(json.dumps(fields, allow_nan=False).encode(), 1, 2) if _finite(fields) else None
    )
    if decoded is not None:
        assert VALIDATOR.is_valid(fields) == (not isinstance(decoded, Refusal)), decoded


def _finite(fields: dict[str, Any]) -> bool:
    return not any(
        isinstance(v, float) and v in {float("inf"), -float("inf")} for v in fields.values()
    )


@given(st.binary(max_size=200), st.integers(min_value=0), st.integers(min_value=0))
def test_no_bytes_raise(value: bytes, offset: int, timestamp: int) -> None:
    decode(value, offset, timestamp)


def test_the_key_is_the_did() -> None:
    assert messages.key(DidSync(id="a", did=DID, requested_at=0)) == DID.encode()
    assert messages.key(RecordRefresh(id="a", uri=URI, requested_at=0)) == DID.encode()
    assert messages.key(Cancel(id="a", operation_id="b", requested_at=0)) is None


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
