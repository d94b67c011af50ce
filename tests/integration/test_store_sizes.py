"""Statements that run by the clock, or while a decision waits, on tables of any size.

The tables of a test are small, so that their plans say little: what is asserted is that an index
gives exactly the rows that are wanted, in their order, wherever PostgreSQL chooses to use one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from consumer.state.accounts import AccountRules
from consumer.state.repo_state import Repo
from consumer.store import answers, found, lookups, searches, status
from consumer.store.arrays import Booleans, Texts
from consumer.store.database import Connection, Database
from consumer.store.operations import claims, queue, read, write
from consumer.store.repos import Repos
from consumer.store.sampling import sample_of
from procedures.retries import RetryPolicy

pytestmark = pytest.mark.services

_HOST = "pds.example"
_FILL = f"""
INSERT INTO repos (did, lane, sync_state, status, pds, gone_at, gone_host)
SELECT 'did:plc:' || md5(n::text), n %% 4, 'active',
    CASE WHEN n %% 10 = 0 THEN 'deleted' ELSE 'active' END, 'https://{_HOST}',
    CASE WHEN n %% 10 = 0 THEN CASE WHEN n %% 20 = 0 THEN 0 ELSE extract(epoch FROM now()) END END,
    CASE WHEN n %% 10 = 0 THEN '{_HOST}' END
FROM generate_series(1, %s) AS n
"""  # noqa: S608 - our own constants

_HISTORY = """
INSERT INTO operations (id, type, did, lane, status, automatic, published_version)
SELECT n::text, 'didSync', 'did:plc:' || n, 0, 'completed', true, 1 FROM generate_series(1, %s) AS n
"""


async def plan(
    connection: Connection, sql: str, parameters: Mapping[str, Any] | Sequence[Any]
) -> list[dict[str, Any]]:
    """Return the nodes of a statement's plan where no table is read from end to end."""
    await connection.execute("SET LOCAL enable_seqscan = off")
    await connection.execute("SET LOCAL enable_bitmapscan = off")
    row = await (await connection.execute(f"EXPLAIN (FORMAT JSON) {sql}", parameters)).fetchone()
    assert row is not None
    return list(_nodes(row[0][0]["Plan"]))


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for below in node.get("Plans", ()):
        yield from _nodes(below)


def scan(nodes: Sequence[dict[str, Any]], index: str) -> dict[str, Any]:
    """Return the only scan of an index."""
    (found,) = [node for node in nodes if node.get("Index Name") == index]
    return found


async def test_a_page_of_a_lane_reads_no_other_lane(database: Database) -> None:
    table = Repos(Repo)
    async with database.transaction() as connection:
        await connection.execute(_FILL, [1_000])
        nodes = await plan(connection, table._page, [3, "did:plc:5", 100])
        found = scan(nodes, "repos_by_lane")
        assert "lane" in found["Index Cond"]
        assert "did" in found["Index Cond"]
        assert "Filter" not in found
        assert not any(node["Node Type"] == "Sort" for node in nodes)
        page = await table.page(connection, 3, "did:plc:5", 100)
        assert [repo.lane for repo in page] == [3] * 100
        assert [repo.did for repo in page] == sorted(repo.did for repo in page)


async def test_what_is_due_of_one_type_is_found_behind_any_number_of_another(
    database: Database,
) -> None:
    parameters = {
        "types": Texts(["recordRefresh"]),
        "automatic": Booleans([True]),
        "behind": Booleans([True]),
        "busy": Texts([]),
        "most": 8,
    }
    async with database.transaction() as connection:
        nodes = await plan(connection, claims._DUE, parameters)
    found = scan(nodes, "operations_due")
    assert "type" in found["Index Cond"]
    assert "run_after" in found["Index Cond"]


async def test_the_next_that_is_due_is_found_before_any_number_of_later_ones(
    database: Database,
) -> None:
    async with database.transaction() as connection:
        nodes = await plan(connection, claims._NEXT_DUE, [Texts(claims._CLAIMED)])
        found = scan(nodes, "operations_due")
        assert "type" in found["Index Cond"]
        assert "run_after" in found["Index Cond"]
        assert any(node["Node Type"] == "Limit" for node in nodes)
        assert await claims.next_due(connection) is None
        for number, (seconds, behind) in enumerate([(90, True), (60, False), (-60, True)]):
            await connection.execute(
                "INSERT INTO operations (id, type, did, lane, automatic, behind, run_after)"
                " VALUES (%s, 'didSync', %s, 0, false, %s, now() + make_interval(secs => %s))",
                [str(number), f"did:plc:{number}", behind, seconds],
            )
        assert await claims.next_due(connection) == pytest.approx(60)


@pytest.mark.parametrize("sql", [read._NEEDS_CONTROLLER, write._TAKE_UNPUBLISHED % 500])
async def test_what_is_to_be_published_is_found_among_all_operations(
    database: Database, sql: str
) -> None:
    async with database.transaction() as connection:
        await connection.execute(_HISTORY, [10_000])
        await connection.execute("ANALYZE operations")
        # PostgreSQL expects a third of the rows, and may read what it likes.
        row = await (await connection.execute(f"EXPLAIN (FORMAT JSON) {sql}")).fetchone()
        assert row is not None
        scan(list(_nodes(row[0][0]["Plan"])), "operations_unpublished")


async def test_what_is_queued_is_counted_among_all_operations(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(_HISTORY, [10_000])
        await connection.execute(
            "INSERT INTO operations (id, type, did, lane, automatic)"
            " SELECT 'queued ' || n, 'didSync', 'did:plc:' || n, 0, true"
            " FROM generate_series(1, 4000) AS n"
        )
        await connection.execute("ANALYZE operations")
        row = await (
            await connection.execute(f"EXPLAIN (FORMAT JSON) {found._CROWD}", [2_000])
        ).fetchone()
        assert row is not None
        scan(list(_nodes(row[0][0]["Plan"])), "operations_due")


async def test_repositories_without_a_sync_are_repaired_portion_by_portion(
    database: Database,
) -> None:
    backoff = RetryPolicy().renewal
    async with database.transaction() as connection:
        await connection.execute(
            "INSERT INTO repos (did, lane, sync_state)"
            " SELECT 'did:plc:' || n, 0, 'desynchronized' FROM generate_series(1, 5) AS n"
        )
        nodes = await plan(connection, queue._DESYNCHRONIZED, ["", 2])
        assert "did" in scan(nodes, "repos_desynchronized")["Index Cond"]
        assert await queue.repair(connection, backoff, "", 2) == (2, "did:plc:2")
        assert await queue.repair(connection, backoff, "did:plc:2", 2) == (2, "did:plc:4")
        assert await queue.repair(connection, backoff, "did:plc:4", 2) == (1, "")
        assert await queue.repair(connection, backoff, "", 5) == (0, "did:plc:5")
        assert await queue.repair(connection, backoff, "did:plc:5", 5) == (0, "")


@pytest.mark.parametrize("directory", [True, False])
async def test_lookups_of_one_kind_are_found_behind_any_number_of_the_other(
    database: Database, directory: bool
) -> None:
    async with database.transaction() as connection:
        await connection.execute(
            "INSERT INTO lookups (did, kind, lane) VALUES ('did:plc:a', 'identity', 0),"
            " ('did:plc:a', 'account', 0), ('did:web:a', 'identity', 0)"
        )
        sql = lookups._LEASES[directory]
        nodes = await plan(connection, sql, {"limit": 8, "lease": 9.0})
        assert "at_directory" in scan(nodes, "lookups_due")["Index Cond"]
        leased = await lookups.lease(connection, 8, 9.0, directory=directory)
        assert [one.at_directory for one in leased] == ([True] if directory else [False, False])


async def test_the_next_lookup_is_found_among_any_number(database: Database) -> None:
    async with database.transaction() as connection:
        scan(await plan(connection, lookups._NEXT_DUE, []), "lookups_next")


async def test_discoveries_are_found_among_all_operations(database: Database) -> None:
    async with database.transaction() as connection:
        scan(await plan(connection, searches._RUNNING, []), "operations_discoveries")


async def test_the_accounts_of_a_host_are_counted_as_far_as_it_matters(database: Database) -> None:
    rules = AccountRules(deletion_share=0.05)
    async with database.transaction() as connection:
        await connection.execute(_FILL, [1_000])
        assert await answers.weigh(connection, [_HOST], rules) == {
            _HOST: answers.HeldHost(_HOST, gone=50, tracked=950)
        }
        few = AccountRules(deletion_share=0.2)
        assert few.enough(50) < 950
        assert await answers.weigh(connection, [_HOST], few) == {}
        nodes = await plan(connection, answers._GONE, {"host": _HOST})
        assert "gone_at" in scan(nodes, "repos_gone")["Index Cond"]
        scan(nodes, "repos_going")
        nodes = await plan(connection, answers._TRACKED, [_HOST, rules.enough(50)])
        scan(nodes, "repos_by_host")
        assert any(node["Node Type"] == "Limit" for node in nodes)


async def test_a_large_table_is_counted_in_a_sample(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(_FILL, [40_000])
        whole = await sample_of(connection, "repos")
        assert not whole.partial
        part = await sample_of(connection, "repos", read=2 * 1024 * 1024)
        assert part.partial
        rows = await status._counted(connection, status._REPOS, part)
    counts = {kind: count for kind, *_, count in rows}
    assert sum(counts.values()) == pytest.approx(40_000, rel=0.5)
    assert counts["active"] == pytest.approx(36_000, rel=0.5)
