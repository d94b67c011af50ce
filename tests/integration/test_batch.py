"""One batch, one transaction, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from uuid import uuid4

import pytest

from consumer.config.settings import LimitSettings
from consumer.errors import Fatal
from consumer.events.envelope import Form, Origin, Source
from consumer.lanes import owner as lanes
from consumer.lanes.errors import LaneLost
from consumer.lanes.transaction import LaneTransactions
from consumer.scope import Scope
from consumer.state.policy import Policy
from consumer.state.repo_state import Repo
from consumer.store import database as sessions
from consumer.store import lanes as store
from consumer.store import outbox, parked
from consumer.store.database import Connection, Database
from consumer.store.errors import CommitUnknown
from consumer.store.repos import Repos
from consumer.store.rows import Lane, OutRow
from consumer.worker import verdicts
from consumer.worker.cache import LaneCache
from consumer.worker.decision import Together
from consumer.worker.incoming import EpochNotice, IncomingFrame
from consumer.worker.lane import rules_of
from consumer.worker.plan import Plan
from consumer.worker.transaction import BatchTransactions
from consumer.worker.verdicts import Rules
from procedures.retries import RetryPolicy
from tests.unit.worker.frames import NOW, Author, identity

pytestmark = pytest.mark.services

LANE = 3


@dataclass
class Bench:
    """The transactions of a lane, and what they hand to the publisher."""

    database: Database
    lane: LaneTransactions
    transactions: BatchTransactions
    cache: LaneCache
    rules: Rules
    handed: list[OutRow] = field(default_factory=list)

    def plan(self, *frames: IncomingFrame) -> Plan:
        plan = Plan(self.lane.row, self.cache, self.rules, NOW)
        for frame in frames:
            plan.frame(verdicts.read(frame, self.rules))
        return plan

    async def post(self, *frames: IncomingFrame) -> None:
        await self.transactions.commit(self.plan(*frames))

    async def stored(self) -> tuple[Lane | None, int, list[OutRow]]:
        """Return the lane, the number of records and the outbox."""
        async with self.database.transaction() as connection:
            lane = await store.read(connection, LANE)
            row = await (await connection.execute("SELECT count(*) FROM records")).fetchone()
            rows = await outbox.read(connection, LANE, 0, max_rows=99, max_bytes=10**7)
        assert row is not None
        return lane, row[0], rows


def policy_of(lane: int) -> Policy:
    return Policy(lane, Scope(("pub.chive.*",)), RetryPolicy())


def transactions_of(lane: LaneTransactions, policy: Policy) -> BatchTransactions:
    return BatchTransactions(lane, policy, Form(1024**2), Together(400, 2**20).decide)


@pytest.fixture
async def author() -> Author:
    return Author.of()


@pytest.fixture
async def bench(database: Database, author: Author) -> Bench:
    policy = policy_of(LANE)
    cache = LaneCache()
    cache.learn(identity(author.account))
    handed: list[OutRow] = []

    async def hand_over(rows: Sequence[OutRow]) -> None:
        handed.extend(rows)

    claimed = await lanes.claim(database, LANE, uuid4())
    lane = LaneTransactions(database, claimed.row, "test.", hand_over)
    rules = rules_of(policy, LimitSettings(), 60.0)
    return Bench(database, lane, transactions_of(lane, policy), cache, rules, handed)


async def test_everything_moves_together(bench: Bench, author: Author) -> None:
    await bench.post(author.commit(), author.commit())
    lane, records, rows = await bench.stored()
    assert lane is not None
    assert lane == bench.lane.row
    assert (lane.firehose_offset, lane.last_seq, records) == (3, 2, 2)
    assert [row.out_seq for row in rows] == [1, 2, 3] == list(range(1, lane.last_out_seq + 1))
    assert bench.handed == rows, "what is handed over is what was written"


async def test_another_owner_makes_everything_void(bench: Bench, author: Author) -> None:
    await bench.post(author.commit())
    before = await bench.stored()
    await lanes.claim(bench.database, LANE, uuid4())
    with pytest.raises(LaneLost):
        await bench.post(author.commit())
    lane, *rest = await bench.stored()
    assert rest == list(before[1:])
    assert lane is not None
    assert lane.firehose_offset == 2
    assert len(bench.handed) == len(before[2])


async def test_a_position_that_moved_makes_everything_void(bench: Bench, author: Author) -> None:
    await bench.post(author.commit())
    believed = bench.lane.row
    await bench.post(author.commit())
    before = await bench.stored()
    bench.lane.row = believed
    with pytest.raises(LaneLost):
        await bench.post(author.commit())
    assert await bench.stored() == before


async def test_our_own_mistakes_are_fatal_and_write_nothing(
    bench: Bench, author: Author, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nonsense(connection: Connection, *_: object) -> None:
        await connection.execute("INSERT INTO outbox_batches (lane) VALUES (NULL)")

    monkeypatch.setattr(outbox, "append", nonsense)
    before = await bench.stored()
    with pytest.raises(Fatal):
        await bench.post(author.commit())
    assert await bench.stored() == before


async def test_a_commit_without_an_answer_is_found_in_postgres(
    bench: Bench, author: Author, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = sessions._commit

    async def unanswered(connection: Connection, bound: float) -> None:
        await commit(connection, bound)
        raise CommitUnknown("the answer was lost")

    with monkeypatch.context() as patch:
        patch.setattr(sessions, "_commit", unanswered)
        with pytest.raises(CommitUnknown):
            await bench.post(author.commit())
    assert bench.handed == []
    lane = await lanes.resume(bench.database, bench.lane.row)
    assert (lane.firehose_offset, lane.last_out_seq) == (2, 2)
    _, records, rows = await bench.stored()
    assert (records, len(rows)) == (1, 2)


async def test_a_mark_reaches_every_repo_of_the_lane(
    bench: Bench, author: Author, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.worker.transaction._PAGE", 2)
    authors = [author, *(Author.of(f"author{n}") for n in range(4))]
    for each in authors:
        bench.cache.learn(identity(each.account))
        await bench.post(replace(each.commit(), offset=bench.lane.row.firehose_offset))
    before = bench.lane.row
    origin = bench.plan(author.commit()).inputs[0].input.origin
    then = replace(before, epoch=2, last_seq=0)
    assert await bench.transactions.mark_lost(origin, then) == 5
    lane, _, rows = await bench.stored()
    assert lane == bench.lane.row == replace(then, last_out_seq=len(rows))
    async with bench.database.transaction() as connection:
        query = "SELECT sync_state, reason, want FROM repos"
        states = await (await connection.execute(query)).fetchall()
        queued = await (await connection.execute("SELECT did FROM operations")).fetchall()
    assert states == [("desynchronized", "loss_window", 1)] * 5
    assert {did for (did,) in queued} == {each.did for each in authors}
    assert bench.handed == rows


async def test_a_loss_doubts_accounts_whose_frames_are_parked(bench: Bench) -> None:
    stranger = Author.of("stranger")
    await bench.post(stranger.commit())
    origin = Origin(Source.FIREHOSE, 1, "2026-07-04T14:39:14.123Z", None)
    await bench.transactions.mark_lost(origin, replace(bench.lane.row, epoch=2, last_seq=0))
    async with bench.database.transaction() as connection:
        [parking] = await parked.read(connection, LANE)
    assert (parking.did, parking.doubted) == (stranger.did, True)


NARROW, WIDE = (
    Policy(LANE, Scope(collections), RetryPolicy())
    for collections in (("pub.chive.*",), ("pub.chive.*", "site.standard.*"))
)


class Killed(Exception):
    """Stands for the death of a process."""


async def test_a_change_of_scope_that_is_interrupted_can_be_taken_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    repos = Repos(Repo)
    active = replace(NARROW.new_repo("", None), sync_state="active", reason=None, rev="3a")
    known = [replace(active, did=f"did:plc:{n:04}") for n in range(2_500)]
    async with bench.database.transaction() as connection:
        await repos.write(connection, known)
    await bench.post()
    origin = Origin(Source.BACKFILL, 0, "2026-07-04T14:39:14.123Z", None)

    async def dies(_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(bench.lane, "hand_over", dies)
        with pytest.raises(Killed):
            await transactions_of(bench.lane, WIDE).match_scope(origin)
    row = await lanes.resume(bench.database, bench.lane.row)
    changed = await _scopes(bench)
    assert changed == {WIDE.digest: 1_000, NARROW.digest: 1_500}, "one page was marked"

    assert NARROW.is_other(row.scope)
    lane = LaneTransactions(bench.database, row, "test.", bench.lane._take_rows)
    assert await transactions_of(lane, NARROW).match_scope(origin) == 1_000
    assert await _scopes(bench) == {NARROW.digest: 2_500}
    assert not NARROW.is_other(lane.row.scope)
    async with bench.database.transaction() as connection:
        query = "SELECT count(*) FROM operations WHERE status = 'queued'"
        [(queued,)] = await (await connection.execute(query)).fetchall()
        untouched = await repos.page(connection, LANE, known[1_000 - 1].did, 2_500)
    assert queued == 1_000, "the others were read with this scope, and are not fetched again"
    assert untouched == known[1_000:]


async def _scopes(bench: Bench) -> dict[bytes, int]:
    async with bench.database.transaction() as connection:
        query = "SELECT scope, count(*) FROM repos GROUP BY scope"
        return dict(await (await connection.execute(query, binary=True)).fetchall())


async def test_lanes_that_are_decided_together_move_all_or_none(
    bench: Bench, author: Author
) -> None:
    other = (await lanes.claim(bench.database, LANE + 1, uuid4())).row
    second = LaneTransactions(bench.database, other, "test.", bench.lane._take_rows)
    together = Together(400, 2**20)
    both = [
        BatchTransactions(lane, policy_of(lane.row.lane), Form(1024**2), together.decide)
        for lane in (bench.lane, second)
    ]
    notice = EpochNotice(epoch=0, offset=4, log_time=0, relay="wss://relay.test")
    empty = Plan(second.row, LaneCache(), bench.rules, NOW)
    empty.notice(notice)
    await asyncio.gather(both[0].commit(bench.plan(author.commit())), both[1].commit(empty))
    decided = bench.lane.row.last_out_seq
    assert decided > 0
    assert second.row.firehose_offset == 5
    stored, _, _ = await bench.stored()
    assert stored == bench.lane.row

    await lanes.claim(bench.database, LANE + 1, uuid4())
    late = Plan(second.row, LaneCache(), bench.rules, NOW)
    late.notice(replace(notice, offset=9))
    done = await asyncio.gather(
        both[0].commit(bench.plan(author.commit())), both[1].commit(late), return_exceptions=True
    )
    assert isinstance(done[1], LaneLost)
    assert bench.lane.row.last_out_seq > decided, "the other lane is decided without it"
    stored, _, _ = await bench.stored()
    assert stored == bench.lane.row
    async with bench.database.transaction() as connection:
        taken = await store.read(connection, LANE + 1)
    assert taken is not None
    assert taken.firehose_offset == 5
