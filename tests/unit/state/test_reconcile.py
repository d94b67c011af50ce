"""The one rule that applies every fact."""

import itertools

import pytest

from consumer.state.facts import ClaimedChange, Row, Statement
from consumer.state.reconcile import Change, reconcile
from consumer.verify.verified import Action

X, Y = b"x", b"y"


def said(
    rev: str, cid: bytes | None, *, single: bool = True, claimed: ClaimedChange | None = None
) -> Statement:
    return Statement("a/1", rev, cid, cid, single, claimed)


@pytest.mark.parametrize(
    ("row", "statement", "after", "change"),
    [
        # unknown
        (None, said("2", X), Row(X, "2"), Change(Action.CREATE, None)),
        (None, said("2", None), Row(None, "2"), None),
        (None, said("2", X, single=False), Row(X, "2"), Change(Action.CREATE, None)),
        (None, said("2", None, single=False), None, None),
        # known
        (Row(X, "1"), said("2", Y), Row(Y, "2"), Change(Action.UPDATE, X)),
        (Row(X, "1"), said("2", None), Row(None, "2"), Change(Action.DELETE, X)),
        (Row(None, "1"), said("2", X), Row(X, "2"), Change(Action.CREATE, None)),
        # equal revs apply
        (Row(X, "2"), said("2", Y), Row(Y, "2"), Change(Action.UPDATE, X)),
        # nothing new: by name the rev moves, in a chunk it does not
        (Row(X, "1"), said("2", X), Row(X, "2"), None),
        (Row(None, "1"), said("2", None), Row(None, "2"), None),
        (Row(X, "1"), said("2", X, single=False), Row(X, "1"), None),
        (Row(None, "1"), said("2", None, single=False), Row(None, "1"), None),
        # newer rows stay
        (Row(X, "3"), said("2", Y), Row(X, "3"), None),
        (Row(X, "3"), said("2", None), Row(X, "3"), None),
        (Row(None, "3"), said("2", X), Row(None, "3"), None),
    ],
)
def test_the_newest_rev_wins(
    row: Row | None, statement: Statement, after: Row | None, change: Change | None
) -> None:
    assert reconcile(row, statement, complete=True) == (after, change)


def test_nothing_to_write_gives_the_same_row_back() -> None:
    row = Row(X, "2")
    for statement in (said("2", X), said("1", Y), said("3", X, single=False)):
        assert reconcile(row, statement, complete=True)[0] is row


@pytest.mark.parametrize(
    ("cid", "claimed"),
    [
        (X, ClaimedChange(Action.CREATE, None)),
        (X, ClaimedChange(Action.UPDATE, Y)),
        (None, ClaimedChange(Action.DELETE, Y)),
    ],
)
def test_before_a_complete_snapshot_an_unknown_path_takes_the_word_of_the_op(
    cid: bytes | None, claimed: ClaimedChange
) -> None:
    statement = said("2", cid, claimed=claimed)
    assert reconcile(None, statement, complete=False)[1] == Change(claimed.action, claimed.prev)
    known = reconcile(Row(b"z", "1"), statement, complete=False)[1]
    assert known is not None
    assert known.prev == b"z"


def test_after_a_complete_snapshot_the_word_of_the_op_does_not_count() -> None:
    unknown_update = said("2", X, claimed=ClaimedChange(Action.UPDATE, Y))
    unknown_delete = said("2", None, claimed=ClaimedChange(Action.DELETE, Y))
    assert reconcile(None, unknown_update, complete=True)[1] == Change(Action.CREATE, None)
    assert reconcile(None, unknown_delete, complete=True) == (Row(None, "2"), None)


def test_any_order_gives_the_same_end() -> None:
    statements = [said("1", X), said("2", None), said("3", Y), said("4", Y), said("4", Y)]
    ends = set()
    for order in itertools.permutations(statements):
        row: Row | None = None
        for statement in order:
            row, _ = reconcile(row, statement, complete=True)
        ends.add(row)
    assert ends == {Row(Y, "4")}
