"""The worker's transactions: positions, repos, records, operations and outbox move together.

``consumer/lanes/transaction.py`` has what every transaction of a lane does; here is what the
worker decides and writes in one, beside its batches (``decision``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from consumer.events.envelope import Form, Origin
from consumer.lanes.transaction import LaneTransaction, LaneTransactions
from consumer.state.batch_state import BatchState
from consumer.state.inputs import (
    AccountLearnt,
    ForgetSeen,
    Input,
    Lost,
    ScopeChanged,
)
from consumer.state.policy import COMPARING, Policy
from consumer.state.repo_state import Repo
from consumer.store import lookups, parked, records
from consumer.store.rows import Lane, LookupRequest
from consumer.worker.loading import REPOS, by_did, held_hosts, void_operations
from consumer.worker.plan import Plan
from consumer.worker.share import BatchResult, Decide, Share
from consumer.worker.writing import add_events, write_states

_PAGE = 1_000  # repos that are marked in one transaction
_DELETED = 5_000  # records of a deleted account in one transaction


class BatchTransactions:
    """Every transaction of the worker on one lane.

    ``form`` is that of its events.  ``decide`` decides batches; all others are transactions of the
    lane alone.
    """

    def __init__(self, lane: LaneTransactions, policy: Policy, form: Form, decide: Decide) -> None:
        self._lane = lane
        self._policy = policy
        self._form = form
        self._decide = decide

    @property
    def lane(self) -> Lane:
        """The lane's row as Postgres holds it, unless a transaction has failed."""
        return self._lane.row

    async def commit(self, plan: Plan, size: int = 0) -> BatchResult:
        """Decide and write what is in ``plan``, of a batch of ``size`` bytes.

        Raises ``LaneLost``, ``Transient``, ``Fatal``.
        """
        share = Share(self._lane, self._policy, self._form, plan, size)
        result = await self._decide(share)
        await self._lane.hand_over(result.transaction)
        return result

    async def delete_in_batches(self, inputs: Iterable[Input]) -> None:
        """Delete most records of each account that ``inputs`` delete or forget and that has many.

        Each transaction deletes a batch and leaves the position: after a crash the rest is
        deleted the same way.  The repo is desynchronized meanwhile, because the account may
        return before the last batch.  Raises ``LaneLost``, ``Transient``, ``Fatal``.
        """
        for one in inputs:
            if isinstance(one, AccountLearnt | ForgetSeen):
                while await self._delete_batch(one):
                    pass

    async def _delete_batch(self, one: AccountLearnt | ForgetSeen) -> bool:
        async with self._lane.begin() as transaction:
            connection = transaction.connection
            found = await records.read_first(connection, one.did, _DELETED + 1)
            if len(found) <= _DELETED or await void_operations(connection, [one], {}):
                return False
            repos = {repo.did: repo for repo in await REPOS.read(connection, [one.did])}
            learnt = [one] if isinstance(one, AccountLearnt) else []
            held = await held_hosts(connection, self._policy, learnt, repos)
            batch_state = BatchState(repos, by_did(found), self._policy, held_hosts=held)
            if not batch_state.delete_batch(one):
                return False
            await self._write(transaction, batch_state)
        await self._lane.hand_over(transaction)
        return True

    async def mark_lost(self, origin: Origin, then: Lane) -> int:
        """Mark every repo of the lane for resync, then move to ``then``; return how many.

        Accounts with parked frames are doubted with the last of these.  The repos are taken in
        pages, each in its own transaction, and the position moves with the last: after a crash all
        of it is noticed, and done, again.  Marking twice is safe.
        Raises ``LaneLost``, ``Transient``, ``Fatal``.
        """
        count, after = 0, ""
        while True:
            async with self._lane.begin() as transaction:
                connection = transaction.connection
                page = await REPOS.page(connection, self.lane.lane, after, _PAGE)
                await self._apply(transaction, page, [Lost(repo.did, origin) for repo in page])
                if not page:
                    await parked.doubt(connection, self.lane.lane)
                    transaction.move_to(then)
            await self._lane.hand_over(transaction)
            if not page:
                return count
            count, after = count + len(page), page[-1].did

    async def match_scope(self, origin: Origin) -> int:
        """Mark the repos that were read with another scope for resync; return how many.

        In pages like ``mark_lost``.  The lane's scope says so while it lasts: after a crash every
        repo is compared again, whatever the scope is then.
        Raises ``LaneLost``, ``Transient``, ``Fatal``.
        """
        lane, digest = self.lane, self._policy.digest
        count, after = 0, ""
        while True:
            async with self._lane.begin() as transaction:
                connection = transaction.connection
                page = await REPOS.page_of_others(connection, lane.lane, after, _PAGE, digest)
                changes = [ScopeChanged(repo.did, origin) for repo in page]
                await self._apply(transaction, page, changes)
                transaction.move_to(replace(lane, scope=COMPARING if page else digest))
            await self._lane.hand_over(transaction)
            if not page:
                return count
            count, after = count + len(page), page[-1].did

    async def _apply(
        self, transaction: LaneTransaction, page: Sequence[Repo], inputs: Sequence[Input]
    ) -> None:
        """Apply ``inputs``, which make no fact, to the repos of ``page``."""
        batch_state = BatchState({repo.did: repo for repo in page}, {}, self._policy)
        for one in inputs:
            batch_state.apply(one)
        await lookups.request(transaction.connection, self._questions(batch_state))
        await self._write(transaction, batch_state)

    def _questions(self, batch_state: BatchState) -> list[LookupRequest]:
        """Return the questions about accounts that a batch without a plan asks."""
        rules, lane = self._policy.accounts, self.lane.lane
        return [
            LookupRequest(
                one.did,
                one.kind,
                lane,
                one.epoch,
                one.seq,
                one.delay,
                one.cause,
                rules.pause(one.cause),
            )
            for one in batch_state.lookups
        ]

    async def write_crash_count(self, count: int) -> None:
        """Write the crash count before a batch that could kill the process.

        Raises ``LaneLost`` and ``Transient``.
        """
        await self._lane.set_crash_count(count)

    async def _write(self, transaction: LaneTransaction, batch_state: BatchState) -> None:
        await write_states(transaction.connection, [batch_state])
        add_events(transaction, batch_state, self._form)
