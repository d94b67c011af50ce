"""Ways to break a rule: each takes the rule and returns one that lacks a clause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from consumer.backfill import Cause
from consumer.state import accounts, repo_state
from consumer.state.repo_state import Repo, Transition

Rule = Callable[..., Any]


def keeping(*fields: str) -> Callable[[Rule], Rule]:
    """Forget to move some fields of the repo."""

    def broken(original: Rule) -> Rule:
        def rule(repo: Repo, *args: Any, **kwargs: Any) -> Any:
            outcome = original(repo, *args, **kwargs)
            kept = {field: getattr(repo, field) for field in fields}
            if isinstance(outcome, Transition):
                return replace(outcome, repo=replace(outcome.repo, **kept))
            return replace(outcome, **kept)

        return rule

    return broken


def blind_to(**fields: Any) -> Callable[[Rule], Rule]:
    """Decide as if some fields of the repo had other values, without changing them."""

    def broken(original: Rule) -> Rule:
        def rule(repo: Repo, *args: Any, **kwargs: Any) -> Any:
            seen = replace(repo, **fields)
            outcome = original(seen, *args, **kwargs)
            if not isinstance(outcome, Transition):
                return outcome
            after = outcome.repo
            true = {
                field: getattr(repo, field)
                for field in fields
                if getattr(after, field) == getattr(seen, field)
            }
            return replace(outcome, repo=replace(after, **true))

        return rule

    return broken


def agreeing(field: str, own: str) -> Callable[[Rule], Rule]:
    """Believe that a field of the input equals the repo's own."""

    def broken(original: Rule) -> Rule:
        def rule(repo: Repo, told: Any, *args: Any) -> Any:
            return original(repo, replace(told, **{field: getattr(repo, own)}), *args)

        return rule

    return broken


def always(outcome: Any) -> Callable[[Rule], Rule]:
    return lambda _original: lambda *_args, **_kwargs: outcome


def transitioning(change: Callable[[Repo, Transition], Transition]) -> Callable[[Rule], Rule]:
    """Change the transition that a rule returns."""
    return lambda original: (
        lambda repo, *args, **kwargs: change(repo, original(repo, *args, **kwargs))
    )


def still_active(repo: Repo, transition: Transition) -> Transition:
    if not repo.active:
        return transition
    kept = replace(transition.repo, sync_state=repo.sync_state, reason=repo.reason)
    return replace(transition, repo=kept, trigger=None)


def untriggered(_repo: Repo, transition: Transition) -> Transition:
    return replace(transition, trigger=None)


def applying(_repo: Repo, transition: Transition) -> Transition:
    return replace(transition, applies=True)


def ignoring(repo: Repo, _step: Transition) -> Transition:
    return Transition(repo)


def active_at_once(_original: Rule) -> Rule:
    return lambda repo, commit: Transition(
        repo_state._activated(replace(repo, rev=commit.rev, data=commit.data)), applies=True
    )


def without_tombstones(original: Rule) -> Rule:
    def rule(row: Any, said: Any, *, complete: bool) -> Any:
        gone = row is not None and row.cid is None
        return original(None if gone else row, said, complete=complete)

    return rule


def no_tombstone_of_unknown(original: Rule) -> Rule:
    def rule(said: Any, claim: Any) -> Any:
        row, change = original(said, claim)
        return (None if said.cid is None else row), change

    return rule


def older_wins(original: Rule) -> Rule:
    def rule(row: Any, said: Any, *, complete: bool) -> Any:
        if row is not None and row.rev > said.rev:
            row = replace(row, rev=said.rev)
        return original(row, said, complete=complete)

    return rule


def repeats_leave_the_rev(original: Rule) -> Rule:
    def rule(row: Any, said: Any, *, complete: bool) -> Any:
        after, change = original(row, said, complete=complete)
        return (row if row is not None and change is None else after), change

    return rule


def all_ops(original: Rule) -> Rule:
    return lambda commit, _wants: original(commit, lambda _path: True)


def unrefused(original: Rule) -> Rule:
    return lambda message, _rejection: original(message, None)


def nothing_absent(original: Rule) -> Rule:
    return lambda chunk, _known: original(chunk, ())


def absent_everywhere(_original: Rule) -> Rule:
    return lambda self, chunk: list(self.rows.get(chunk.did, {}))


def clearing_all(original: Rule) -> Rule:
    return lambda self, did, _through: original(self, did, "9999")


def deleted_unasked(original: Rule) -> Rule:
    def rule(self: Any, seen: Any) -> Any:
        rejection = original(self, seen)
        if self.lookups and self.lookups[-1].did == seen.did:
            self._delete_account(self.repos[seen.did], seen.epoch, seen)
        return rejection

    return rule


def rows_stay(_original: Rule) -> Rule:
    return lambda _self, _did, _paths: None


def sure_while_comparing(original: Rule) -> Rule:
    return lambda self, scope: bool(scope) and original(self, scope)


def silent_about(cause: Cause) -> Callable[[Rule], Rule]:
    return lambda original: (
        lambda self, repo, question: (
            None if question.cause is cause else original(self, repo, question)
        )
    )


def forgetful(_original: Rule) -> Rule:
    return lambda _before, noted, status: accounts.with_status(noted, status)
