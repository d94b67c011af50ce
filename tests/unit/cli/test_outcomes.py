"""What the command line says about operations that have ended, and its exit code."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consumer.cli.following import exit_code, outcome
from procedures import transitions
from procedures.operations import Children, Operation, Type, queued


def ended(kind: Type, children: Children) -> Operation:
    parent = transitions.start(queued("many", kind, None, 0.0), 1.0)
    return replace(transitions.complete(parent, 2.0), children=children)


FAILED = {"AccountInactive": 2, "RepoNotFound": 1, "HostUnreachable": 4}


def test_what_a_reconcile_found() -> None:
    counts = Children(20, 20, 12, FAILED, cancelled=1, skipped=5, in_step=9)
    text = outcome([ended(Type.RECONCILE, counts)])
    assert text.startswith(
        "20 of 20 repositories: 9 in step, 3 repaired, 3 gone, "
        "4 could not be asked about (HostUnreachable 4), 1 cancelled, 5 skipped; "
    )


def test_several_reconciles_are_summed_up() -> None:
    one = ended(Type.RECONCILE, Children(2, 2, 2, in_step=2))
    other = ended(Type.RECONCILE, Children(1, 1, 1, in_step=0))
    assert "3 of 3 repositories: 2 in step, 1 repaired" in outcome([one, other])


def test_what_a_sync_of_many_came_to() -> None:
    text = outcome([ended(Type.BULK_SYNC, Children(7, 7, 0, FAILED))])
    assert "0 completed, 7 failed (AccountInactive 2, HostUnreachable 4, RepoNotFound 1)" in text


@pytest.mark.parametrize(
    ("kind", "failed", "code"),
    [
        (Type.RECONCILE, {}, 0),
        (Type.RECONCILE, {"AccountInactive": 1}, 0),
        (Type.RECONCILE, {"HostUnreachable": 1}, 1),
        (Type.BULK_SYNC, {"AccountInactive": 1}, 1),
    ],
)
def test_that_an_account_is_gone_is_a_result(kind: Type, failed: dict[str, int], code: int) -> None:
    in_step = 0 if kind is Type.RECONCILE else None
    assert exit_code([ended(kind, Children(1, 1, 0, failed, in_step=in_step))]) == code


def test_how_far_a_discovery_is() -> None:
    running = transitions.start(queued("found", Type.DISCOVERY, None, 0.0), 1.0)
    assert outcome([replace(running, records_processed=1_234)]) == "1234 entries read"
