"""One batch, one transaction: positions, repos, rows, operations and outbox move together.

Invariant 2: the first statement locks the lane's row and finds nothing if the token or a
position is not ours; then nothing of the batch happens.  Rows of the outbox go to the publisher
once their COMMIT is known; after an unknown one the publisher finds them in Postgres.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from consumer import dead_letters
from consumer.dead_letters import DeadLetter, Headers
from consumer.events.envelope import Event, encode
from consumer.kafka.topics import Topic
from consumer.lanes.errors import LaneLost
from consumer.metrics import BatchStep
from consumer.state import operation_outcome
from consumer.state.batch_state import Workset
from consumer.state.effects import AppliedOperation, Rejection
from consumer.state.facts import Row
from consumer.state.inputs import AccountLearnt, Input, needs
from consumer.state.policy import Policy
from consumer.state.repo_state import Repo
from consumer.store import identities, lanes, lookups, outbox, parked, records
from consumer.store.database import Connection, Database
from consumer.store.operations import queue, write
from consumer.store.repos import Repos
from consumer.store.rows import Lane, OutRow, Record, SyncWanted
from consumer.worker.plan import Plan
from consumer.worker.report import Stopwatch
from procedures.operations import Status

_PAGE = 1_000  # repos that are doubted in one transaction
_PORTION = 5_000  # records of a deleted account in one transaction

_repos = Repos(Repo)

HandOver = Callable[[Sequence[OutRow]], Awaitable[None]]
PdsOf = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a transaction decided, for the metrics."""

    workset: Workset
    rejections: list[Rejection]


class Ledger:
    """The lane's position, and every transaction that moves it.

    ``lane`` is what Postgres holds, as long as no transaction has failed; after a failure the
    ledger is dead.  ``prefix`` is that of the topics.
    """

    def __init__(
        self, database: Database, lane: Lane, policy: Policy, prefix: str, hand_over: HandOver
    ) -> None:
        self.lane = lane
        self._database = database
        self._policy = policy
        self._prefix = prefix
        self._hand_over = hand_over

    async def post(self, plan: Plan, watch: Stopwatch) -> Outcome:
        """Decide and write what is in ``plan``.  Raises ``LaneLost``, ``Transient``, ``Fatal``."""
        async with self._database.transaction() as connection:
            await self._guard(connection)
            workset = await self._load(connection, [p.input for p in plan.inputs], plan.pds_of)
            watch.lap(BatchStep.LOAD)
            refused = [(p, why) for p in plan.inputs if (why := workset.apply(p.input))]
            plan.look_up_wanted(workset.lookups)
            watch.lap(BatchStep.APPLY)
            lane = self.lane.lane
            letters = [*plan.dead, *(p.dead_letter(why, lane) for p, why in refused if why.kept)]
            letters.sort(key=attrgetter("source"))
            await _write_plan(connection, plan)
            rows = await self._write(connection, workset, letters)
            new = self._numbered(plan.position, rows)
            await self._advance(connection, new)
        watch.lap(BatchStep.WRITE)
        await self._posted(new, rows)
        return Outcome(workset, [why for _, why in refused])

    async def thin_out(self, inputs: Iterable[Input]) -> None:
        """Delete most records of the accounts that ``inputs`` delete, where those are many.

        A portion in each transaction, without moving the position: after a crash the rest goes
        the same way.  The repo is desynchronized meanwhile, for the account may return before
        the last portion.
        """
        for one in inputs:
            if isinstance(one, AccountLearnt):
                while await self._thin_out(one):
                    pass

    async def _thin_out(self, learnt: AccountLearnt) -> bool:
        async with self._database.transaction() as connection:
            await self._guard(connection)
            found = await records.read_first(connection, learnt.did, _PORTION + 1)
            if len(found) <= _PORTION:
                return False
            repos = {repo.did: repo for repo in await _repos.read(connection, [learnt.did])}
            workset = Workset(repos, _by_did(found), self._policy)
            if not workset.thin_out(learnt):
                return False
            rows = await self._write(connection, workset, ())
            new = self._numbered(self.lane, rows)
            await self._advance(connection, new)
        await self._posted(new, rows)
        return True

    async def doubt(self, doubts: Callable[[str], Input], then: Lane) -> int:
        """Apply ``doubts`` to every repo of the lane, then move to ``then``; return how many.

        The repos are taken in pages, each in its own transaction, and the position moves with
        the last: after a crash all of it is noticed, and done, again.  Doubting twice is safe.
        """
        count, after = 0, ""
        while True:
            async with self._database.transaction() as connection:
                await self._guard(connection)
                page = await _repos.page(connection, self.lane.lane, after, _PAGE)
                workset = Workset({repo.did: repo for repo in page}, {}, self._policy)
                for repo in page:
                    workset.apply(doubts(repo.did))
                rows = await self._write(connection, workset, ())
                new = self._numbered(self.lane if page else then, rows)
                await self._advance(connection, new)
            await self._posted(new, rows)
            if not page:
                return count
            count, after = count + len(page), page[-1].did

    async def note_stalls(self, stalls: int) -> None:
        """Write the count of stalls before a batch that could kill the process."""
        async with self._database.transaction() as connection:
            if not await lanes.set_stalls(connection, self.lane, stalls):
                raise LaneLost(f"lane {self.lane.lane} has another owner")
        self.lane = replace(self.lane, stalls=stalls)

    async def _guard(self, connection: Connection) -> None:
        if not await lanes.guard(connection, self.lane):
            raise LaneLost(f"lane {self.lane.lane} has another owner, or has moved on")

    async def _advance(self, connection: Connection, new: Lane) -> None:
        if not await lanes.advance(connection, self.lane, new):
            raise LaneLost(f"lane {self.lane.lane} has another owner, or has moved on")

    async def _load(
        self, connection: Connection, inputs: Sequence[Input], pds_of: PdsOf
    ) -> Workset:
        """Load what the inputs touch.

        A chunk has 1,000 records at most and speaks of about as many rows, an account that is
        deleted has few left (``thin_out``), and a batch takes few of either.
        """
        wanted = needs(inputs, self._policy.scope)
        repos = {repo.did: repo for repo in await _repos.read(connection, list(wanted.dids))}
        in_part = repos.keys() - wanted.whole_repos  # without a repo there are no rows
        paths = [key for key in wanted.paths if key[0] in in_part]
        found = await records.read(connection, paths) if paths else []
        if wanted.whole_repos:
            found += await records.read_repos(connection, list(wanted.whole_repos))
        if intervals := [one for one in wanted.intervals if one[0] in in_part]:
            found += await records.read_intervals(connection, intervals)
        return Workset(repos, _by_did(found), self._policy, pds_of)

    async def _write(
        self, connection: Connection, workset: Workset, letters: Iterable[DeadLetter]
    ) -> list[OutRow]:
        """Write what the workset decided; return the rows that were added to the outbox."""
        await _write_workset(connection, workset)
        await _write_operations(connection, self.lane.lane, workset)
        lane, out = self.lane, _Out(self.lane)
        for event in workset.events:
            out.add_event(event)
        for letter in letters:
            out.add(Topic.DEAD_LETTER, *dead_letters.encode(letter, self._prefix))
        if out.rows:
            await outbox.append(connection, lane.lane, out.rows)
        return out.rows

    def _numbered(self, position: Lane, rows: Sequence[OutRow]) -> Lane:
        return replace(position, last_out_seq=self.lane.last_out_seq + len(rows))

    async def _posted(self, new: Lane, rows: Sequence[OutRow]) -> None:
        self.lane = new
        if rows:
            await self._hand_over(rows)


def _by_did(found: Iterable[Record]) -> dict[str, dict[str, Row]]:
    rows: dict[str, dict[str, Row]] = {}
    for did, path, cid, rev in found:
        rows.setdefault(did, {})[path] = Row(cid, rev)
    return rows


class _Out:
    """Rows of the outbox, numbered on from the lane's last."""

    def __init__(self, lane: Lane) -> None:
        self.rows: list[OutRow] = []
        self._lane = lane.lane
        self._next = lane.last_out_seq + 1

    def add(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
    ) -> None:
        self.rows.append(OutRow(self._next, topic, partition, key, headers, value))
        self._next += 1

    def add_event(self, event: Event) -> None:
        encoded = encode(event)
        self.add(Topic.EVENTS, self._lane, encoded.key, encoded.value)
        if encoded.tombstone:
            self.add(Topic.EVENTS, self._lane, encoded.key, None)


async def _write_workset(connection: Connection, workset: Workset) -> None:
    if repos := workset.dirty_repos():
        await _repos.write(connection, repos)
    upserts = [(did, path, r.cid, r.rev) for did, path, r in workset.dirty_rows() if r is not None]
    gone = [(did, path) for did, path, row in workset.dirty_rows() if row is None]
    if upserts:
        await records.write(connection, upserts)
    if gone:
        await records.delete(connection, gone)
    if workset.cleared:
        through = [(cleared.did, cleared.through) for cleared in workset.cleared]
        await records.clear_tombstones(connection, through)


async def _write_operations(connection: Connection, lane: int, workset: Workset) -> None:
    """Conclude operations, drop what is moot, queue what is needed: in this order."""
    ended = await _conclude(connection, workset) if workset.applied else []
    if workset.settled:
        await queue.settle(connection, list(workset.settled))
    if workset.syncs:
        wanted = [SyncWanted(sync.did, sync.reason, sync.want) for sync in workset.syncs]
        await queue.add(connection, lane, wanted)
    if ended and workset.policy.automatic:
        await queue.renew(connection, ended)


async def _conclude(connection: Connection, workset: Workset) -> list[str]:
    """Write what chunks and proofs did; return the DIDs of syncs that have ended in vain."""
    done: dict[str, list[AppliedOperation]] = {}
    for one in workset.applied:
        done.setdefault(one.operation, []).append(one)
    before = await write.lock(connection, list(done))
    active = {did for did, repo in workset.repos.items() if repo.active}
    after = [
        operation_outcome.concluded(
            one,
            done[one.id],
            active=one.did in active,
            now=time.time(),
            jitter=random.random(),  # noqa: S311 - it spreads retries
        )
        for one in before
    ]
    heirs = [one.id for one in after if one.automatic and one.status is Status.QUEUED]
    if heirs:
        await write.replace_queued(connection, heirs)
    if after:
        await write.save(connection, after)
    vain = {Status.FAILED, Status.CANCELLED}
    return [one.did for one in after if one.did is not None and one.status in vain]


async def _write_plan(connection: Connection, plan: Plan) -> None:
    if plan.identities:
        await identities.write(connection, plan.identities.values())
    if plan.lookups:
        await lookups.request(connection, list(plan.lookups.values()))
    if plan.parks:
        await parked.append(connection, plan.position.lane, plan.parks)
    if plan.decided:
        await parked.drop(connection, plan.decided)
    if plan.touched:
        waiting = plan.cache.queues
        ready = {did: waiting[did].ready for did in plan.touched if did in waiting}
        await parked.set_ready(connection, plan.position.lane, ready)
        await parked.clear(connection, [did for did in plan.touched if did not in waiting])
