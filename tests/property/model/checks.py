"""What must be true after every batch, and at rest.

Everything is compared with the network itself or with the fold of what was emitted; nothing
is taken from the rules under test.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from consumer.backfill import Proof
from consumer.events.envelope import (
    AccountEvent,
    Event,
    RecordEvent,
    Source,
    SyncEvent,
)
from consumer.scope import Scope
from consumer.state.batch_state import Rows
from consumer.state.facts import Row
from consumer.state.inputs import (
    AccountLearnt,
    AccountSeen,
    CommitSeen,
    CommitUnverifiable,
    Input,
    Lost,
    ScopeChanged,
    SyncSeen,
)
from consumer.state.repo_state import Repo
from tests.property.model.fetching import Operations
from tests.property.model.network import Account, Heard, ModelNetwork, Version

# Reasons that no frame of the account gives.
UNHEARD = ("account_deleted", "scope_changed")


class Violation(AssertionError):
    """The rules broke a promise."""


def require(holds: bool, *told: object) -> None:
    """Raise what was ``told`` unless it ``holds``."""
    if not holds:
        raise Violation(*told)


@dataclass
class Told:
    """What the consumer was told of one account, and what it must come to know by that."""

    at: tuple[int, int] = (0, 0)
    status: str = "active"
    stated: str | None = None  # by the newest frame
    since: bool = False  # a newer signed rev came while it was not active
    gone: bool = False  # its host said once, and alone, that it is deleted
    deletions: int = 0
    signed: str = ""  # revs that signed input named: to be reached whatever the host serves
    marked: str = ""  # to be reached by a snapshot that began after the mark and is fresh

    def hear_status(self, one: AccountSeen) -> None:
        at = (one.epoch, one.origin.seq)
        if at <= self.at:
            return
        self.at = at
        stated = "active" if one.active else one.status
        self.stated = stated
        if stated is not None and stated not in ("deleted", self.status):
            self.take(stated)

    def learn_status(self, one: AccountLearnt) -> None:
        if (one.answer.epoch, one.answer.seq) != self.at:
            return
        said = one.answer.status
        if said == "deleted":
            self._learn_deletion()
            return
        self.gone = False
        measure = self.status in ("takendown", "suspended") and self.stated == self.status
        if said != self.status and not (measure and not (said == "active" and self.since)):
            self.stated = None
            self.take(said)

    def _learn_deletion(self) -> None:
        if self.status == "deleted":
            return
        if self.stated == "deleted" or self.gone:
            self.deletions += 1
            self.status, self.since = "deleted", False
        else:
            self.gone = True

    def take(self, status: str) -> None:
        self.status, self.since, self.gone = status, False, False


def _is_newer(one: Input, repo: Repo) -> bool:
    """Tell whether an input proves a rev above all that is known of ``repo``."""
    known = max(r or "" for r in (repo.rev, repo.gap_rev, repo.floor_rev, repo.proof_rev))
    match one:
        case CommitSeen() | SyncSeen():
            return one.verified.rev > known
        case CommitUnverifiable(signed=True, rev=str(rev)):
            return rev > known
    return False


@dataclass
class Checks:
    """The consumer's view, folded from events, against the rows and the network."""

    network: ModelNetwork
    folded: dict[str, dict[str, bytes]] = field(default_factory=dict)
    sync_states: dict[str, str] = field(default_factory=dict)
    revs: dict[tuple[str, str], str] = field(default_factory=dict)
    ids: set[tuple[object, ...]] = field(default_factory=set)
    told: dict[str, Told] = field(default_factory=lambda: defaultdict(Told))
    chain: dict[str, str] = field(default_factory=dict)

    def hear(self, one: Input, repo: Repo | None, *, born: bool) -> None:
        """Take note of an input about to be applied to ``repo``, or that is ``born`` by it."""
        told = self.told[one.did]
        if repo is not None and told.status != "active":
            told.since = told.since or _is_newer(one, repo)
        match one:
            case AccountSeen() | AccountLearnt() if repo is not None or born:
                self._hear_status(told, one)
            case CommitSeen() | SyncSeen() if told.status == "active":
                told.signed = max(told.signed, one.verified.rev)
            case CommitUnverifiable(signed=True, rev=str(rev)) if told.status == "active":
                told.signed = max(told.signed, rev)
            case CommitUnverifiable(rev=rev) if told.status == "active":
                if rev is None or repo is None or rev > (repo.rev or ""):
                    self._mark(one.did)
            case Lost() | ScopeChanged() if told.status == "active":
                self._mark(one.did)
            case _:
                pass

    def _hear_status(self, told: Told, one: AccountSeen | AccountLearnt) -> None:
        before, stated = told.status, told.stated
        if isinstance(one, AccountSeen):
            told.hear_status(one)
        else:
            told.learn_status(one)
        again = told.stated == "active" and stated not in (None, "active")
        if told.status == "active" and (before != "active" or again):
            self._mark(one.did)

    def _mark(self, did: str) -> None:
        versions = self.network.accounts[did].versions
        self.told[did].marked = versions[-1].rev if versions else ""

    def untold(self, did: str) -> None:
        """Forget what was said of a repo that is not tracked."""
        self.told[did].signed = self.told[did].marked = ""

    def present(self, repo: Repo) -> None:
        """Forget what a host said alone of an account that it turned out to have."""
        if repo.gone_at is None:
            self.told[repo.did].gone = False

    def begun(self, version: Version) -> None:
        """Take note of a download: a stale one may answer a mark, and legally so."""
        told = self.told[version.did]
        if version.rev < told.marked:
            told.marked = ""

    def events(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case RecordEvent():
                    self._record(event)
                case SyncEvent():
                    known = self.sync_states.get(event.did)
                    require(known != event.state, "sync state repeated", event)
                    idle = known is not None and self.told[event.did].status != "active"
                    require(not idle or event.reason in UNHEARD, "state of an idle repo", event)
                    self.sync_states[event.did] = event.state
                case AccountEvent():
                    origin = event.origin
                    where = (event.epoch, origin.source, origin.seq, origin.time)
                    self._identify("account", event.did, *where)
                case _:
                    pass

    def _record(self, event: RecordEvent) -> None:
        did, path = event.did, event.path
        self._identify(did, event.incarnation, event.rev, path, event.action, event.cid)
        require(self.revs.get((did, path), "") <= event.rev, "rev fell", event)
        self.revs[did, path] = event.rev
        if event.origin.source is Source.ACCOUNT:
            deletions = self.told[did].deletions
            require(event.incarnation < deletions, "deleted without proof", event)
        else:
            require(self.told[did].status == "active", "account not active", event)
            self._require_true(event)
        fold = self.folded.setdefault(did, {})
        if event.cid is None:
            fold.pop(path, None)
        else:
            fold[path] = event.cid

    def _identify(self, *identity: object) -> None:
        require(identity not in self.ids, "id repeated", identity)
        self.ids.add(identity)

    def _require_true(self, event: RecordEvent) -> None:
        version = self.network.at(event.did, event.rev)
        require(version is not None, "event at no rev", event)
        if version is not None:
            require(version.records.get(event.path) == event.cid, "event not true", event)

    def proven(self, proof: Proof, repo: Repo, row: Row | None) -> None:
        """Check that a record just refreshed is exact, as of all that is known of the repo."""
        rev = max(proof.rev, repo.rev or "", row.rev if row else "")
        version = self.network.at(proof.did, rev)
        exact = version is not None and version.records.get(proof.path) == (row and row.cid)
        require(exact, "refreshed, not exact", proof, repo, row)

    def state(
        self, repos: Mapping[str, Repo], rows: Rows, operations: Operations, scope: Scope
    ) -> None:
        """Check every repo and its rows."""
        for did, repo in repos.items():
            self._rows(did, rows)
            self._account(repo)
            self._chain(repo)
            require(self.sync_states.get(did) == repo.sync_state, "sync state not told", repo)
            if repo.account_active and not repo.active:
                require(operations.is_open(did), "desynchronized without an operation", repo)
            if repo.active:
                self._complete(repo, rows, scope)

    def _rows(self, did: str, rows: Rows) -> None:
        live = {path: row.cid for path, row in rows.get(did, {}).items() if row.cid}
        require(live == self.folded.get(did, {}), "rows and events differ", live)
        for path, row in rows.get(did, {}).items():
            version = self.network.at(did, row.rev)
            require(version is not None, "row at no rev", did, path, row)
            if version is not None:
                require(version.records.get(path) == row.cid, "row not true", did, path, row)

    def _account(self, repo: Repo) -> None:
        told = self.told[repo.did]
        require(repo.status == told.status, "status differs", repo, told)
        require(repo.incarnation == told.deletions, "incarnation differs", repo, told)

    def _chain(self, repo: Repo) -> None:
        require((repo.rev or "") >= self.chain.get(repo.did, ""), "chain fell", repo)
        self.chain[repo.did] = repo.rev or ""
        require((repo.rev or "") >= (repo.floor_rev or ""), "floor above chain", repo)

    def _complete(self, repo: Repo, rows: Rows, scope: Scope) -> None:
        """Check that an active repo's rows are the network's, at its rev (a proof may be newer)."""
        version = self.network.at(repo.did, repo.rev)
        require(repo.complete and repo.scope == scope.digest, "active, not complete", repo)
        require(version is not None and version.data == repo.data, "root differs", repo)
        if version is None:
            return
        known = {p: r for p, r in rows.get(repo.did, {}).items() if scope.wants(p)}
        newer = {p for p, row in known.items() if row.rev > version.rev}
        ours = {p: row.cid for p, row in known.items() if row.cid and p not in newer}
        theirs = {p: c for p, c in version.records.items() if scope.wants(p) and p not in newer}
        require(ours == theirs, "active, not exact", repo, ours, theirs)

    def noticed(self, account: Account, repo: Repo) -> None:
        """Check, when nothing more is due, that every cause for a sync was followed."""
        told = self.told[account.did]
        measure = account.heard is Heard.LOST and repo.status == repo.frame_status == "suspended"
        if account.heard is not Heard.NO and not measure:
            require(repo.status == account.status, "status missed", account.status, repo)
        if account.status == "active" and repo.account_active and not account.reborn:
            require(repo.active, "not active, and nothing due", repo)
            require((repo.rev or "") >= told.signed, "signed rev missed", repo, told)
            require((repo.rev or "") >= told.marked, "mark forgotten", repo, told)

    def at_rest(self, account: Account, repo: Repo, scope: Scope) -> None:
        """Check that the consumer ended where the network is."""
        require(repo.status == account.status, "status at rest", repo, account.status)
        fold = self.folded.get(account.did, {})
        if account.status == "deleted":
            require(not fold, "records of a deleted account", fold)
        elif account.status == "active":
            require(repo.active, "not active at rest", repo)
            require(repo.rev == account.versions[-1].rev, "behind at rest", repo)
            ours = {p: c for p, c in fold.items() if scope.wants(p)}
            theirs = {p: c for p, c in account.records.items() if scope.wants(p)}
            require(ours == theirs, "records at rest", ours, theirs)
