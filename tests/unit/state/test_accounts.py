"""The account status machine."""

import pytest

from consumer.state import accounts
from consumer.state.effects import SyncReason
from consumer.state.repo_state import Repo, Transition
from tests.unit.worker.values import known


@pytest.mark.parametrize(
    ("active", "status", "stated"),
    [
        (True, None, "active"),
        (True, "throttled", "active"),
        (False, "takendown", "takendown"),
        (False, "some-new-status", "some-new-status"),
        (False, None, accounts.UNEXPLAINED),
    ],
)
def test_active_decides_and_status_explains(active: bool, status: str | None, stated: str) -> None:
    assert accounts.stated_status(active=active, status=status) == stated


def test_frames_are_ordered_by_epoch_then_seq() -> None:
    repo = accounts.ratcheted(known(), 2, 10)
    news = [(2, 11), (3, 1)]
    old = [(2, 10), (2, 9), (1, 99)]
    assert all(accounts.is_news(repo, *at) for at in news)
    assert not any(accounts.is_news(repo, *at) for at in old)
    assert [accounts.answers_newest(repo, *at) for at in ((2, 10), (2, 9), (2, 11))] == [
        True,
        False,
        False,
    ]


def test_leaving_keeps_everything_as_it_is() -> None:
    assert accounts.with_status(known(), "suspended") == Transition(known(status="suspended"))
    assert accounts.with_status(known(), "active") == Transition(known())


def test_returning_marks_for_resync() -> None:
    transition = accounts.with_status(known(status="suspended"), "active")
    assert (transition.repo.active, transition.repo.resync_generation) == (False, 1)
    assert transition.trigger is SyncReason.REACTIVATED


@pytest.mark.parametrize(
    "repo",
    [known("5", gap_rev="9"), known("5", proof_rev="9"), known("9", gap_rev="7")],
    ids=["gap", "proof", "head"],
)
def test_deletion_forgets_the_root_and_raises_everything_to_the_newest_rev(repo: Repo) -> None:
    gone = accounts.deleted(repo)
    assert (gone.status, gone.active, gone.complete) == ("deleted", False, False)
    assert (gone.rev, gone.data, gone.floor_rev) == ("9", None, "9")
    assert gone.incarnation == repo.incarnation + 1
