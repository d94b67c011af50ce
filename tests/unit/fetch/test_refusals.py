"""What hosts' errors by name mean."""

from __future__ import annotations

import json

import pytest
from structlog.testing import capture_logs

from consumer import metrics
from consumer.fetch import refusals
from consumer.fetch.http import HttpResponse
from consumer.fetch.refusals import ACCOUNT_FAILURES, Meaning, Refusal
from procedures.failures import Failure

URL = "https://pds.example/xrpc/com.atproto.sync.getRepo?did=did:plc:x"

KNOWN = [
    (400, "RepoNotFound", "", Meaning.GONE),
    (404, "RepoNotFound", "Repository not found for DID: did:plc:x", Meaning.GONE),
    (400, "AccountNotFound", "", Meaning.GONE),
    (400, "HeadNotFound", "Could not find root for DID: did:plc:x", Meaning.GONE),
    (400, "RepoTakendown", "Repo has been takendown: did:plc:x", Meaning.TAKENDOWN),
    (400, "AccountTakedown", "Account has been taken down", Meaning.TAKENDOWN),
    (400, "RepoSuspended", "", Meaning.SUSPENDED),
    (400, "AccountSuspended", "", Meaning.SUSPENDED),
    (400, "RepoDeactivated", "Repo has been deactivated", Meaning.DEACTIVATED),
    (400, "AccountDeactivated", "Account is deactivated", Meaning.DEACTIVATED),
    (400, "RecordNotFound", "", Meaning.RECORD_ABSENT),
    (400, "NotFound", "Repo not found", Meaning.GONE),
    (404, "NotFound", "Repository was not found", Meaning.GONE),
    (400, "InvalidRequest", "Could not find repo for DID: did:plc:x", Meaning.GONE),
    (400, "InvalidRequest", "Could not find repo: did:web:x", Meaning.GONE),
    (400, "InvalidRequest", "Could not find root for DID: did:plc:x", Meaning.GONE),
    (404, "InvalidRequest", "Could not locate record: at://x/y/z", Meaning.RECORD_ABSENT),
]
UNKNOWN = [
    (400, "NotFound", "Blob not found"),
    (400, "NotFound", ""),
    (400, "InvalidRequest", "Error: Params must have the property did; could not find repo"),
    (400, "BadRequest", "failed to proxy to upstream relay"),
    (401, "RepoNotFound", ""),
    (403, "RepoTakendown", ""),
    (501, "MethodNotImplemented", "Could not find repo"),
    (200, "RepoNotFound", ""),
]


def response(status: int, **body: object) -> HttpResponse:
    return HttpResponse(status, json.dumps(body).encode())


@pytest.mark.parametrize(("status", "name", "message", "expected"), KNOWN)
def test_names_and_messages_have_a_meaning(
    status: int, name: str, message: str, expected: Meaning
) -> None:
    found = refusals.meaning(response(status, error=name, message=message))
    assert found == Refusal(expected, name, message)


@pytest.mark.parametrize(("status", "name", "message"), UNKNOWN)
def test_what_is_not_in_the_table_says_nothing(status: int, name: str, message: str) -> None:
    found = refusals.meaning(response(status, error=name, message=message))
    assert (found.meaning, found.status, found.failure) == (
        Meaning.OTHER,
        None,
        Failure.HOST_ERROR,
    )


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b'{"error":{"a":[]}}', b'{"error":null}'])
def test_what_is_no_error_by_name_says_nothing(body: bytes) -> None:
    assert refusals.meaning(HttpResponse(400, body)) == Refusal(Meaning.OTHER, "", "")


def test_failures_raise_the_question_if_they_speak_of_the_account() -> None:
    assert Failure.REPO_NOT_FOUND in ACCOUNT_FAILURES
    assert Failure.DID_NOT_FOUND in ACCOUNT_FAILURES
    assert Failure.HOST_ERROR not in ACCOUNT_FAILURES
    named = [refusals.meaning(response(s, error=n, message=m)) for s, n, m, *_ in KNOWN]
    for found in named:
        assert (found.status is not None) == (found.failure in ACCOUNT_FAILURES)


def test_unknown_refusals_are_counted_and_one_in_a_minute_is_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(refusals, "_samples", refusals._Samples(60.0, lambda: now[0]))
    before = metrics.by_label(metrics.HOST_REFUSALS)
    with capture_logs() as logs:
        for second in (0.0, 1.0, 59.0, 60.0):
            now[0] = second
            refusals.read(response(400, error="Odd\0", message="no idea"), URL)
        refusals.read(response(400, error="RepoNotFound"), URL)
    assert [entry["event"] for entry in logs] == ["refusal_unknown"] * 2
    assert logs[0]["name"] == r"Odd\x00"
    after = metrics.by_label(metrics.HOST_REFUSALS)
    assert after["other"] - before["other"] == 4
    assert after["gone"] - before["gone"] == 1
