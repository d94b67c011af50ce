"""The XRPC methods, and what the two procedures ask for and answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from procedures import backfills, contract, operations, refresh_record, sync_did, transitions
from procedures.contract import METHODS, ErrorName, Verb, XrpcError
from procedures.failures import Failure
from procedures.messages import DidSync, RecordRefresh
from procedures.operations import Operation, Phase, Type
from tests.unit.procedures.strategies import DID, URI
from tests.unit.procedures.strategies import operations as any_operation

CALLER = "did:plc:caller"
CID = "bafyreie5737gdxlw5i64vzichcalba3z2v5n6icifvx5xytvske7mr3hpm"
REFRESH = RecordRefresh(id="op", uri=URI, requested_by=CALLER, requested_at=1.0)


def test_the_methods() -> None:
    assert {(m.nsid.rsplit(".", 1)[1], m.verb, m.admin) for m in METHODS.values()} == {
        ("triggerDIDSync", Verb.POST, True),
        ("refreshRecord", Verb.POST, False),
        ("indexRecord", Verb.POST, False),
        ("registerPDS", Verb.POST, False),
        ("verify", Verb.GET, False),
        ("checkStaleness", Verb.GET, False),
        ("getBackfillStatus", Verb.GET, True),
        ("getBackfillHistory", Verb.GET, True),
        ("cancelBackfill", Verb.POST, True),
        ("triggerBackfill", Verb.POST, True),
        ("getFirehoseStatus", Verb.GET, True),
        ("listDLQEntries", Verb.GET, True),
        ("retryDLQEntry", Verb.POST, True),
    }


def test_every_error_has_its_status() -> None:
    assert set(contract.STATUSES) == set(ErrorName)
    bad = {name for name, status in contract.STATUSES.items() if status == 400}
    assert bad == {ErrorName.INVALID_REQUEST, ErrorName.INVALID_BACKFILL_TYPE}
    others = set(ErrorName) - bad
    assert len({contract.STATUSES[name] for name in others} - {400}) == len(others)


@pytest.mark.parametrize(
    ("nsid", "body"),
    [
        (contract.TRIGGER_DID_SYNC, {}),
        (contract.TRIGGER_DID_SYNC, None),
        (contract.TRIGGER_DID_SYNC, [DID]),
        (contract.TRIGGER_DID_SYNC, {"did": "alice.test"}),
        (contract.REFRESH_RECORD, {"uri": "https://example.com"}),
        (contract.CANCEL_BACKFILL, {"id": 1}),
    ],
)
def test_wrong_input(nsid: str, body: object) -> None:
    with pytest.raises(XrpcError) as caught:
        METHODS[nsid].input(body)
    assert (caught.value.name, caught.value.status) == (ErrorName.INVALID_REQUEST, 400)


@given(any_operation())
def test_every_operation_fits_the_lexicon(operation: Operation) -> None:
    shown = backfills.shown(operation)
    assert shown["status"] in {"running", "completed", "failed", "cancelled"}
    METHODS[contract.GET_BACKFILL_STATUS].check_output({"operation": shown})
    METHODS[contract.GET_BACKFILL_HISTORY].check_output({"operations": [shown]})


def test_trigger_did_sync() -> None:
    fields = METHODS[contract.TRIGGER_DID_SYNC].input({"did": DID, "ignored": 1})
    sync = sync_did.command(fields, "op", CALLER, 5.0)
    assert sync == DidSync(id="op", did=DID, requested_by=CALLER, requested_at=5.0)
    METHODS[contract.TRIGGER_DID_SYNC].check_output(sync_did.answer(sync))


@pytest.mark.parametrize(
    "uri",
    [f"at://{DID}", f"at://{DID}/pub.chive.eprint.submission", URI.replace(DID, "alice.test")],
)
def test_refresh_wants_one_record_of_a_did(uri: str) -> None:
    fields = METHODS[contract.REFRESH_RECORD].input({"uri": uri})
    with pytest.raises(XrpcError, match="with a DID and not a handle") as caught:
        refresh_record.command(fields, "op", CALLER, 5.0)
    assert caught.value.name == ErrorName.INVALID_REQUEST


def _running() -> Operation:
    operation = operations.queued("op", Type.RECORD_REFRESH, DID, 1.0, uri=URI)
    return transitions.start(operation, 1.0)


def _answer(operation: Operation | None) -> dict[str, object]:
    answer = refresh_record.answer(REFRESH, operation)
    METHODS[contract.REFRESH_RECORD].check_output(answer)
    assert answer.pop("uri") == URI
    return answer


def test_refreshed() -> None:
    done = transitions.complete(_running(), 2.0, new_cid=CID)
    assert _answer(done) == {"refreshed": True, "newCid": CID}


def test_refreshed_away() -> None:
    done = transitions.complete(transitions.count(_running(), deleted=1), 2.0)
    assert _answer(done) == {"refreshed": True}


def test_neither_index_nor_repository() -> None:
    with pytest.raises(XrpcError) as caught:
        _answer(transitions.complete(_running(), 2.0))
    assert (caught.value.name, caught.value.status) == (ErrorName.NOT_FOUND, 404)


def test_failed_cancelled_and_unfinished_name_the_operation() -> None:
    running = transitions.advance(_running(), Phase.DOWNLOADING)
    failed = transitions.fail(running, 2.0, Failure.REPO_TAKENDOWN, "the PDS says so")
    waiting = transitions.requeue(running, 9.0, Failure.HOST_TIMEOUT, "30 s without a byte")
    for operation, error in (
        (failed, "operation op: RepoTakendown: the PDS says so"),
        (transitions.cancel(running, 2.0), "operation op: cancelled"),
        (replace(failed, failure=None, error=None), "operation op: failed"),
        (running, "operation op: not finished yet (downloading)"),
        (
            waiting,
            (
                "operation op: not finished yet (waiting); "
                "the last attempt: HostTimeout: 30 s without a byte"
            ),
        ),
        (None, "operation op: accepted, not begun yet"),
    ):
        assert _answer(operation) == {"refreshed": False, "error": error}
