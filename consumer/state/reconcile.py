"""The one rule that applies every fact: per path, the newest ``rev`` wins.  Pure.

``reconcile`` takes what is known of a path and what a statement says of it, and returns
what is known afterwards and which change, if any, became visible.  It is idempotent, and
gives the same end state in any order of its inputs.

- Equal revs apply; a newer row stays as it is.
- An absent path keeps a tombstone, so that an older snapshot cannot bring the record back.  A
  statement by name leaves a tombstone even if the path was unknown.
- A statement by name that repeats what the row holds moves the row's rev.  An unchanged entry
  of a chunk writes nothing: the floor guards its rev.
- Action and prev come from the row.  Only if the path is unknown and the repo never had a
  complete snapshot do they come from the op's claim, so that the delete of a record from before
  our time is an event too.
"""

from __future__ import annotations

from dataclasses import dataclass

from consumer.state.facts import ClaimedChange, Row, Statement
from consumer.verify.verified import Action


@dataclass(frozen=True, slots=True)
class Change:
    """A change that consumers see; ``prev`` is the record it replaces, if known."""

    action: Action
    prev: bytes | None


Reconciled = tuple[Row | None, Change | None]
"""The row afterwards, and the change that became visible."""


def reconcile(row: Row | None, said: Statement, *, complete: bool) -> Reconciled:
    """Return the row after ``said``, and the change it makes.

    ``complete``: the repo once had a complete snapshot.  If there is nothing to write, the same
    ``row`` object is returned.
    """
    if row is None:
        return _unknown(said, None if complete else said.claimed)
    if row.rev > said.rev:
        return row, None
    if row.cid == said.cid:
        moves = said.single and row.rev != said.rev
        return (Row(row.cid, said.rev) if moves else row), None
    return Row(said.cid, said.rev), Change(_action(row, said), row.cid)


def _unknown(said: Statement, claimed: ClaimedChange | None) -> Reconciled:
    row = Row(said.cid, said.rev) if said.cid is not None or said.single else None
    if claimed is not None:
        return row, Change(claimed.action, claimed.prev)
    return row, None if said.cid is None else Change(Action.CREATE, None)


def _action(row: Row, said: Statement) -> Action:
    if said.cid is None:
        return Action.DELETE
    return Action.CREATE if row.cid is None else Action.UPDATE
