"""The sweep's rounds: which repositories were taken, what was found, and whose check is not over.

A page is a range of DIDs, leased while its repositories are checked, so that each of them is asked
about by one process.  ``consumer.state.sweep`` decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from consumer.state.discovery import SWEEP, SearchState
from consumer.state.sweep import Finding, Round, Tracked, Way
from consumer.store.arrays import Bigints, Doubles, Texts
from consumer.store.database import Connection
from procedures.failures import Failure

_ONE_BY_ONE = "SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || '_sweep', 0))"
_ROUND = """
SELECT way, extract(epoch FROM began_at)::float8, ended_at IS NOT NULL, total, taken FROM sweep
"""
_TRACKED = "SELECT count(*) FROM repos"
_BEGIN = """
INSERT INTO sweep (way, began_at, ended_at, total)
VALUES (%(way)s, to_timestamp(%(began_at)s), CASE WHEN %(ended)s THEN now() END, %(total)s)
ON CONFLICT (one_row) DO UPDATE SET
    way = EXCLUDED.way, began_at = EXCLUDED.began_at, ended_at = EXCLUDED.ended_at,
    total = EXCLUDED.total, taken = 0, position = '',
    before = (SELECT jsonb_object_agg(finding, repos) FROM sweep_counts)
"""
_FORGET_COUNTS = "DELETE FROM sweep_counts"
_END = "UPDATE sweep SET ended_at = now()"
_NEXT = """
SELECT s.position, max(next.did), count(next.did) FROM sweep AS s LEFT JOIN LATERAL (
    SELECT did FROM repos WHERE did > s.position ORDER BY did LIMIT %s
) AS next ON true GROUP BY s.position
"""
_MOVE = "UPDATE sweep SET position = %s, taken = taken + %s"
_LEASE = """
INSERT INTO sweep_pages (after, through, lease_until)
VALUES (%s, %s, now() + make_interval(secs => %s))
"""
_ABANDONED = """
UPDATE sweep_pages SET lease_until = now() + make_interval(secs => %s)
WHERE through = (
    SELECT through FROM sweep_pages WHERE lease_until <= now() LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING after, through
"""
_OPEN_PAGES = "SELECT EXISTS (SELECT FROM sweep_pages)"
_GIVE_BACK = "UPDATE sweep_pages SET lease_until = now() WHERE through = ANY(%s)"
_END_PAGE = "DELETE FROM sweep_pages WHERE through = %s"
_KNOWN = "r.did, r.lane, r.status, r.sync_state, r.rev, coalesce(i.pds, r.pds)"
_PAGE = f"""
SELECT {_KNOWN}, EXISTS (SELECT FROM sweep_later AS l WHERE l.did = r.did)
FROM repos AS r LEFT JOIN identities AS i ON i.did = r.did
WHERE r.did > %s AND r.did <= %s ORDER BY r.did
"""  # noqa: S608 - our own columns
_ONE = f"""
SELECT {_KNOWN} FROM repos AS r LEFT JOIN identities AS i ON i.did = r.did WHERE r.did = %s
"""  # noqa: S608 - our own columns
_COUNT = """
INSERT INTO sweep_counts AS known (finding, repos) SELECT * FROM unnest(%s, %s)
ON CONFLICT (finding) DO UPDATE SET repos = known.repos + EXCLUDED.repos
"""
_COUNTS = "SELECT finding, repos FROM sweep_counts ORDER BY finding"
# Of a newer rev the first time counts: a repository that goes on writing is settled all the same.
_LATER = """
INSERT INTO sweep_later AS known (did, rev, tries, due, failure)
SELECT did, rev, 1, now() + make_interval(secs => wait), failure
FROM unnest(%s, %s, %s, %s) AS new (did, rev, wait, failure)
ON CONFLICT (did) DO UPDATE SET
    rev = EXCLUDED.rev, due = EXCLUDED.due, failure = EXCLUDED.failure, tries = known.tries + 1,
    asked_at = CASE WHEN known.rev IS NULL THEN now() ELSE known.asked_at END
"""
_DUE = f"""
WITH due AS (
    UPDATE sweep_later SET due = now() + make_interval(secs => %s)
    WHERE did IN (
        SELECT did FROM sweep_later WHERE due <= now()
        ORDER BY due LIMIT %s FOR UPDATE SKIP LOCKED
    )
    RETURNING did, rev, tries, extract(epoch FROM asked_at)::float8 AS asked_at
)
SELECT due.did, due.rev, due.tries, due.asked_at, {_KNOWN}
FROM due LEFT JOIN repos AS r ON r.did = due.did LEFT JOIN identities AS i ON i.did = due.did
ORDER BY due.did
"""  # noqa: S608 - our own columns
_SETTLED = "DELETE FROM sweep_later WHERE did = ANY(%s)"
_FIREHOSE_AT = "SELECT extract(epoch FROM max(time))::float8 FROM cursors"
_BEFORE = "SELECT before FROM sweep"
_LATER_COUNTS = "SELECT failure, count(*) FROM sweep_later GROUP BY failure"
_LISTING = "SELECT state, found FROM searches WHERE source = %s AND listing = ANY(%s)"
_OF_LISTING = [SWEEP, "*"]


@dataclass(frozen=True, slots=True)
class Page:
    """The repositories whose DIDs follow ``after``, up to and with ``through``."""

    after: str
    through: str


@dataclass(frozen=True, slots=True)
class Postponed:
    """A check that is not over: at ``rev`` if the host has that newer one, else it was not asked.

    ``known``: None if the repository is not tracked any more.  ``asked_at``: Unix seconds.
    """

    did: str
    rev: str | None
    tries: int
    asked_at: float
    known: Tracked | None


@dataclass(frozen=True, slots=True)
class Later:
    """A check that goes on in ``wait`` seconds: a newer ``rev``, or a ``failure``."""

    did: str
    wait: float
    rev: str | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the round is.

    ``counts``: repositories by finding, ``before`` those of the round before.  ``later``: those
    whose check is not over, by the failure of asking their host; None has those with a newer
    revision.
    """

    walk: Round
    counts: Mapping[str, int]
    later: Mapping[str | None, int]
    before: Mapping[str, int]


async def one_by_one(connection: Connection) -> None:
    """Let no other process take a page until COMMIT."""
    await connection.execute(_ONE_BY_ONE)


async def current(connection: Connection) -> Round | None:
    """Return the newest round, None before the first."""
    row = await (await connection.execute(_ROUND)).fetchone()
    return None if row is None else Round(Way(row[0]), *row[1:])


async def tracked(connection: Connection) -> int:
    """Count the repositories; reads the whole index."""
    row = await (await connection.execute(_TRACKED)).fetchone()
    return int(row[0]) if row else 0


async def begin(connection: Connection, walk: Round) -> None:
    """Begin a round."""
    parameters = {
        "way": walk.way,
        "began_at": walk.began_at,
        "ended": walk.ended,
        "total": walk.total,
    }
    await connection.execute(_BEGIN, parameters)
    await connection.execute(_FORGET_COUNTS)


async def end(connection: Connection) -> bool:
    """End the round if no page is being checked; tell whether it has ended."""
    row = await (await connection.execute(_OPEN_PAGES)).fetchone()
    if row is None or row[0]:
        return False
    await connection.execute(_END)
    return True


async def take(connection: Connection, size: int, lease: float) -> Page | None:
    """Lease the next page of up to ``size`` for ``lease`` seconds; None: all were taken."""
    row = await (await connection.execute(_NEXT, [size])).fetchone()
    if row is None or row[1] is None:
        return None
    page = Page(row[0], row[1])
    await connection.execute(_LEASE, [page.after, page.through, lease])
    await connection.execute(_MOVE, [page.through, row[2]])
    return page


async def abandoned(connection: Connection, lease: float) -> Page | None:
    """Lease a page whose process has not ended it in time; None: there is none."""
    row = await (await connection.execute(_ABANDONED, [lease])).fetchone()
    return None if row is None else Page(*row)


async def give_back(connection: Connection, pages: Iterable[Page]) -> None:
    """Let others take ``pages`` at once."""
    await connection.execute(_GIVE_BACK, [Texts([page.through for page in pages])])


async def read_page(connection: Connection, page: Page) -> tuple[list[Tracked], int]:
    """Return the repositories of ``page``; those whose earlier check is not over are counted."""
    rows = await (await connection.execute(_PAGE, [page.after, page.through])).fetchall()
    fresh = [Tracked(*row[:-1]) for row in rows if not row[-1]]
    return fresh, len(rows) - len(fresh)


async def tracked_one(connection: Connection, did: str) -> Tracked | None:
    """Return what is known of the repository of ``did``, None if it is not tracked."""
    row = await (await connection.execute(_ONE, [did])).fetchone()
    return None if row is None else Tracked(*row)


async def end_page(connection: Connection, page: Page) -> None:
    """Give up the lease of a page that was checked."""
    await connection.execute(_END_PAGE, [page.through])


async def count(connection: Connection, findings: Mapping[Finding, int]) -> None:
    """Add to what the round has found."""
    ordered = sorted(findings.items())
    names, numbers = [name for name, _ in ordered], [number for _, number in ordered]
    await connection.execute(_COUNT, [Texts(names), Bigints(numbers)])


async def postpone(connection: Connection, checks: Sequence[Later]) -> None:
    """Keep checks that go on later; a DID occurs at most once."""
    ordered = sorted(checks, key=lambda one: one.did)
    parameters = [
        Texts([one.did for one in ordered]),
        Texts([one.rev for one in ordered]),
        Doubles([one.wait for one in ordered]),
        Texts([one.failure for one in ordered]),
    ]
    await connection.execute(_LATER, parameters)


async def due(connection: Connection, limit: int, lease: float) -> list[Postponed]:
    """Return up to ``limit`` checks that go on now; no other process gets them for ``lease``."""
    rows = await (await connection.execute(_DUE, [lease, limit])).fetchall()
    return [
        Postponed(did, rev, tries, asked_at, None if known[0] is None else Tracked(*known))
        for did, rev, tries, asked_at, *known in rows
    ]


async def settle(connection: Connection, dids: Sequence[str]) -> None:
    """Forget checks that are over."""
    await connection.execute(_SETTLED, [Texts(dids)])


async def firehose_at(connection: Connection) -> float | None:
    """Return the time (Unix seconds) up to which the firehose was read, None if not known."""
    row = await (await connection.execute(_FIREHOSE_AT)).fetchone()
    return row[0] if row else None


async def listing(connection: Connection, relay: str) -> tuple[int | None, bool]:
    """Return how many entries the listing of ``relay`` had, and whether it may be served.

    None: it was not read to its end, as far as is known.
    """
    rows = await (await connection.execute(_LISTING, [relay, Texts(_OF_LISTING)])).fetchall()
    sizes = [int(entries) for state, entries in rows if state == SearchState.COMPLETED]
    ends = {state for state, _ in rows}
    refused = not sizes and ends & {SearchState.UNSUPPORTED, SearchState.INCOMPLETE}
    return max(sizes, default=None), not refused


async def progress(connection: Connection) -> Progress | None:
    """Return how far the round is, None before the first."""
    walk = await current(connection)
    if walk is None:
        return None
    counts = await (await connection.execute(_COUNTS)).fetchall()
    later = await (await connection.execute(_LATER_COUNTS)).fetchall()
    before = await (await connection.execute(_BEFORE)).fetchone()
    return Progress(walk, dict(counts), dict(later), (before and before[0]) or {})
