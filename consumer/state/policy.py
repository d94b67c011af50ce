"""What the settings decide for one lane: which repos are tracked, what is automatic.  Pure.

Each repo has the digest of the scope that it was read with, and so has the lane, of the scope that
all its repos were compared with.  While they are compared with another one, page by page, the lane
has none of both: after a crash, whatever scope comes next, every repo is compared again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from consumer.scope import History, Repos, Scope
from consumer.state.accounts import DEFAULT as ACCOUNT_RULES
from consumer.state.accounts import AccountRules
from consumer.state.repo_state import Repo
from procedures.retries import RetryPolicy

COMPARING = b""
"""The scope of a lane while its repos are compared with another one."""


@dataclass(frozen=True)
class Policy:
    """The scope as seen from ``lane``, and the rules of retries and of questions."""

    lane: int
    scope: Scope
    retries: RetryPolicy
    accounts: AccountRules = ACCOUNT_RULES

    @cached_property
    def digest(self) -> bytes:
        """The hash of the wanted collections."""
        return self.scope.digest

    def is_other(self, scope: bytes | None) -> bool:
        """Tell whether a lane of ``scope`` may have repos of another scope; None: it has none."""
        return scope is not None and scope != self.digest

    @property
    def automatic(self) -> bool:
        """Whether gaps are repaired without being asked."""
        return self.scope.history is History.FULL

    @property
    def searches(self) -> bool:
        """Whether a repo is looked for of which is not known whether it has a wanted record."""
        return self.automatic and self.scope.repos is Repos.COLLECTIONS

    def tracks(self, did: str, paths: Iterable[str]) -> bool:
        """Tell whether an unknown repo is tracked from a frame on that touches ``paths``."""
        match self.scope.repos:
            case Repos.ALL:
                return True
            case Repos.LISTED:
                return did in self.scope.dids
            case Repos.COLLECTIONS:
                return any(map(self.scope.wants, paths))

    @property
    def tracks_all(self) -> bool:
        """Whether frames that touch no path make a repo known too."""
        return self.scope.repos is Repos.ALL

    def new_repo(self, did: str, pds: str | None, incarnation: int = 0) -> Repo:
        """Return the state of a repo that nothing is known of but its ``incarnation``."""
        return Repo(did, self.lane, scope=self.digest, pds=pds, incarnation=incarnation)
