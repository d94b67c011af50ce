"""What becomes of found repositories once their syncs have ended."""

from __future__ import annotations

import pytest

from consumer.state.found import Fate, fate_of, is_confirmed
from procedures.failures import Failure


@pytest.mark.parametrize(
    ("failure", "fate"),
    [
        (None, Fate.AGAIN),
        (Failure.HOST_UNREACHABLE, Fate.AGAIN),
        (Failure.REPO_INVALID, Fate.AGAIN),
        (Failure.REPO_DEACTIVATED, Fate.AGAIN),
        (Failure.DID_DOCUMENT, Fate.AGAIN),
        (Failure.REPO_NOT_FOUND, Fate.ASK),
        (Failure.DID_NOT_FOUND, Fate.FORGET),
        (Failure.OUT_OF_SCOPE, Fate.FORGET),
    ],
)
def test_what_was_found_is_remembered_until_it_is_known_or_gone(
    failure: Failure | None, fate: Fate
) -> None:
    assert fate_of(failure, known=False, named=False) is fate
    assert fate_of(failure, known=True, named=False) is Fate.FORGET
    assert fate_of(failure, known=False, named=True) is Fate.AGAIN


def test_a_document_with_a_host_confirms() -> None:
    assert is_confirmed(Failure.HOST_UNREACHABLE)
    assert not is_confirmed(Failure.DID_UNRESOLVED)
    assert not is_confirmed(None)
