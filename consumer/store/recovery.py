"""Tables of a deployment made again from its topics, after PostgreSQL was restored or lost.

What consumers were told lies in ``recovered_records`` and ``recovered_accounts`` until it is taken
over: the newest event of each record and of each account.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from consumer.store.arrays import Bigints, Byteas, Texts
from consumer.store.database import Connection
from consumer.store.rows import RELEASED

_STAGE = """
DROP TABLE IF EXISTS recovered_records;
CREATE UNLOGGED TABLE recovered_records (
    did  text COLLATE "C" NOT NULL,
    path text COLLATE "C" NOT NULL,
    cid  bytea,
    rev  text COLLATE "C" NOT NULL,
    out_seq bigint NOT NULL,
    PRIMARY KEY (did, path)
);
CREATE UNLOGGED TABLE IF NOT EXISTS recovered_accounts (
    did    text COLLATE "C" PRIMARY KEY,
    status text NOT NULL
);
TRUNCATE recovered_accounts;
"""
_UNSTAGE = "DROP TABLE recovered_records, recovered_accounts"
_RECORDS = """
INSERT INTO recovered_records AS known (did, path, cid, rev, out_seq)
SELECT * FROM unnest(%s, %s, %s, %s, %s)
ON CONFLICT (did, path) DO UPDATE
SET cid = EXCLUDED.cid, rev = EXCLUDED.rev, out_seq = EXCLUDED.out_seq
WHERE EXCLUDED.out_seq > known.out_seq
"""
_ACCOUNTS = """
INSERT INTO recovered_accounts (did, status) SELECT * FROM unnest(%s, %s)
ON CONFLICT (did) DO UPDATE SET status = EXCLUDED.status
"""
_DIDS = """
SELECT did FROM (
    (SELECT DISTINCT did FROM recovered_records WHERE did > %(after)s ORDER BY did LIMIT %(limit)s)
    UNION
    (SELECT did FROM recovered_accounts WHERE did > %(after)s ORDER BY did LIMIT %(limit)s)
    UNION
    (SELECT did FROM repos WHERE did > %(after)s ORDER BY did LIMIT %(limit)s)
) AS next_dids ORDER BY did LIMIT %(limit)s
"""
_FORGET_RECORDS = "DELETE FROM records WHERE did = ANY(%s)"
_TAKE_RECORDS = """
INSERT INTO records (did, path, cid, rev)
SELECT did, path, cid, rev FROM recovered_records WHERE did = ANY(%s)
"""
# What was published of a repository may be newer than what is known of it: something at or below
# that revision was missed, and only a snapshot from there on repairs it (``repo_state``).  How
# often the account began anew since the backup is not known: a number that none of its events had
# keeps the ids of events from repeating.
_TAKE_REPOS = """
INSERT INTO repos AS known (
    did, lane, status, sync_state, reason, gap_rev, want, incarnation, scope
)
SELECT new.did, new.lane, coalesce(a.status, 'active'), 'desynchronized', 'loss_window', r.rev, 1,
    extract(epoch FROM now())::bigint, %s
FROM unnest(%s, %s) AS new (did, lane)
LEFT JOIN recovered_accounts AS a ON a.did = new.did
LEFT JOIN LATERAL (
    SELECT max(rev) AS rev FROM recovered_records WHERE did = new.did
) AS r ON true
ON CONFLICT (did) DO UPDATE SET
    status = EXCLUDED.status,
    sync_state = EXCLUDED.sync_state,
    reason = EXCLUDED.reason,
    gap_rev = greatest(known.gap_rev, known.rev, EXCLUDED.gap_rev),
    want = known.want + 1,
    incarnation = greatest(known.incarnation + 1, EXCLUDED.incarnation),
    snapshot_operation = NULL,
    snapshot_attempt = NULL,
    snapshot_rev = NULL,
    snapshot_through = NULL
"""
_TAKE_LANE = """
INSERT INTO lanes AS known (
    lane, token, firehose_offset, backfill_offset, control_offset, last_out_seq
) VALUES (%(lane)s, %(token)s, %(oldest)s, %(backfill)s, %(control)s, %(out_seq)s)
ON CONFLICT (lane) DO UPDATE SET
    token = EXCLUDED.token,
    firehose_offset = least(greatest(known.firehose_offset, %(oldest)s), %(newest)s),
    backfill_offset = EXCLUDED.backfill_offset,
    control_offset = EXCLUDED.control_offset,
    last_out_seq = EXCLUDED.last_out_seq,
    stalls = 0
"""
_CLEAR_OUTBOX = "DELETE FROM outbox_batches WHERE lane = %s"
_CLEAR_EARLIER = "DELETE FROM outbox WHERE lane = %s"
_KNOW = """
INSERT INTO outbox_batches (lane, through, rows, stamp, body) VALUES (%s, %s, 0, %s, '')
"""
# Parents and searches go with their operations, which are failed; all listings are read anew.  The
# lanes begin anew to say how far they are: they may be behind what they have said.
_DROP = """
DELETE FROM bulks; DELETE FROM searches;
DELETE FROM received; DELETE FROM progress; DELETE FROM snapshots
"""
_OPEN = "SELECT id FROM operations WHERE status IN ('queued', 'running') ORDER BY id"


@dataclass(frozen=True, slots=True)
class Told:
    """What an event said of a record: ``cid`` None, it is deleted; ``out_seq`` is the event's."""

    did: str
    path: str
    cid: bytes | None
    rev: str
    out_seq: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """Where a lane goes on: offsets of the next records, and what is published of it.

    ``firehose`` is the range of offsets that are kept.
    """

    lane: int
    firehose: tuple[int, int]
    backfill: int
    control: int
    out_seq: int
    stamp: UUID


async def stage(connection: Connection) -> None:
    """Make the tables that events are collected in, empty."""
    await connection.execute(_STAGE)


async def unstage(connection: Connection) -> None:
    """Remove the tables that events were collected in."""
    await connection.execute(_UNSTAGE)


async def collect(
    connection: Connection, records: Sequence[Told], accounts: Mapping[str, str]
) -> None:
    """Keep the newest events of a page: at most one for a record; statuses by DID."""
    if records:
        await connection.execute(
            _RECORDS,
            [
                Texts([one.did for one in records]),
                Texts([one.path for one in records]),
                Byteas([one.cid for one in records]),
                Texts([one.rev for one in records]),
                Bigints([one.out_seq for one in records]),
            ],
        )
    if accounts:
        await connection.execute(_ACCOUNTS, [Texts(list(accounts)), Texts(list(accounts.values()))])


async def dids(connection: Connection, after: str, limit: int) -> list[str]:
    """Return the next DIDs, in order, of which tables or topic know anything."""
    rows = await connection.execute(_DIDS, {"after": after, "limit": limit})
    return [did for (did,) in await rows.fetchall()]


async def take_over(connection: Connection, lanes: Mapping[str, int], scope: bytes) -> None:
    """Replace what is known of these DIDs (with their lanes) by what was published of them.

    All of them are to be synced.  ``scope`` is the digest of what is wanted, for new ones.
    """
    wanted = Texts(list(lanes))
    await connection.execute(_FORGET_RECORDS, [wanted])
    await connection.execute(_TAKE_RECORDS, [wanted])
    await connection.execute(_TAKE_REPOS, [scope, wanted, Bigints(list(lanes.values()))])


async def resume(connection: Connection, at: Resumed) -> None:
    """Let a lane go on behind what is published of it; what waited for that is dropped.

    Frames are read again from where the tables were, as far as they are kept.
    """
    oldest, newest = at.firehose
    await connection.execute(_CLEAR_OUTBOX, [at.lane])
    await connection.execute(_CLEAR_EARLIER, [at.lane])
    await connection.execute(
        _TAKE_LANE,
        {
            "lane": at.lane,
            "token": RELEASED,
            "oldest": oldest,
            "newest": newest,
            "backfill": at.backfill,
            "control": at.control,
            "out_seq": at.out_seq,
        },
    )
    if at.out_seq:
        await connection.execute(_KNOW, [at.lane, at.out_seq, at.stamp])


async def drop_open_work(connection: Connection) -> None:
    """Forget how far parents, searches and lanes were."""
    await connection.execute(_DROP)


async def open_operations(connection: Connection) -> list[str]:
    """Return the ids of the operations that have not ended."""
    return [name for (name,) in await (await connection.execute(_OPEN)).fetchall()]
