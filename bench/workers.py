"""``python -m bench.workers``: what each added worker process costs, and what commits leave behind.

The main load, at full speed, with more and more worker processes: CPU of each group, memory, the
connections to Kafka and PostgreSQL, and what they take while nothing happens.  On a machine with
few cores this shows the price of a process, not the gain.

Beside it what the model of a whole network rests on (``bench.model``): bytes on Kafka's topics and
in PostgreSQL's write-ahead log for a record that is synced and for a commit, the bytes of a row
with its indexes, what scattered changes write to the log, what a small repository costs, and a
frame that is not forwarded.  ``--record``
writes it all to ``bench/workers.json``.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import psutil
import psycopg
from rich.console import Console
from rich.table import Table

from bench import network, tailing
from bench.deployment import deployed
from bench.measured import APART, Measured, typical
from bench.network import Run
from bench.population import Population, Spec, population
from bench.quiet import Quiet
from bench.traffic import Spec as TrafficSpec
from bench.traffic import traffic
from consumer import compiled
from consumer.config.settings import LogSettings
from consumer.embedded import EmbeddedStack
from consumer.kafka.topics import Topic
from consumer.runtime import logs
from consumer.scope import Scope
from consumer.store.schema import schema_of
from consumer.tail.relevance import Relevance

RECORDED = Path(__file__).with_name("workers.json")

_WORKERS = (1, 2, 4, 8)
_TABLES = ("repos", "identities", "records")
_ROWS = 500_000
_FEW = 5_000
_WIDTH = 120  # of the table in a file
_DIDS = 8_000_000
_SMALL = Spec(500, 10, 500)  # the commits are for the floor
_UNRELATED = TrafficSpec(300, 200, 10_000, related=False)
_OTHER = "1/1024"  # a shard that has none of the accounts, or a few
# What the fetcher has written of an account that it was asked about.
_IDENTITIES = """
INSERT INTO identities (did, signing_key, pds, handle, fetched_at)
SELECT did, 'did:key:zQ3sh' || left(md5(did) || md5(did), 44), pds, left(md5(did), 10) || '.host.example',
    now() FROM repos ORDER BY md5(did)
"""  # noqa: E501

# What commits change, one in each account that is chosen, far apart in tables and indexes: the
# repository's row, a new record, and in every fifth a tombstone.  Tables are as after a while of
# changes before: there is room on their pages.
_BEFORE = (
    "UPDATE repos SET updated_at = now() WHERE hashtext(did) % 5 = 0",
    "VACUUM repos",
    "CHECKPOINT",
)
_CHOSEN = "hashtext(did) % 200 = 7"
_CHANGES = (
    f"UPDATE repos SET rev = rev || '2', updated_at = now() WHERE {_CHOSEN}",  # noqa: S608
    f"""
INSERT INTO records (did, path, cid, rev)
SELECT did, 'app.bsky.feed.post/3l' || left(md5(did), 11), data, rev FROM repos WHERE {_CHOSEN}
""",  # noqa: S608
    "UPDATE records SET cid = NULL, rev = rev || '2' WHERE hashtext(path) % 1000 = 7",
)

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: the network, the commits of a step, seconds of nothing, rows."""

    accounts: int = 100
    records: int = 200
    commits: int = 20_000
    idle_seconds: float = 10.0
    frames: int = 100_000
    rows: int = _ROWS


_USUAL = Size()


@dataclass(frozen=True, slots=True)
class Written:
    """Bytes in the topics by name, and in PostgreSQL's log; transactions of the database."""

    topics: Mapping[str, int]
    wal: int
    transactions: int

    def since(self, before: Written, count: int) -> Figures:
        """Return what was written since ``before``, for each of ``count``."""
        topics = {name: size - before.topics.get(name, 0) for name, size in self.topics.items()}
        return {
            "kafka": {name: round(size / count, 1) for name, size in topics.items() if size},
            "wal": round((self.wal - before.wal) / count, 1),
            "transactions": round((self.transactions - before.transactions) / count, 4),
        }


async def _written(run: Run) -> Written:
    """Return what is on the disks now; the log of PostgreSQL is that of the whole server."""
    prefix = run.deployment.services.topics.prefix
    data = run.deployment.stack.kafka.server.log.parent / "data"
    topics: Counter[str] = Counter()
    for topic in Topic:
        segments = data.glob(f"{prefix}{topic}-[0-9]*/*.log")
        topics[topic.value] = sum(segment.stat().st_size for segment in segments)
    ((wal, transactions),) = await run.deployment.rows(
        "SELECT pg_current_wal_lsn() - '0/0', xact_commit FROM pg_stat_database"
        " WHERE datname = current_database()"
    )
    return Written(topics, int(str(wal)), int(str(transactions)))


def _connections(run: Run) -> dict[str, dict[str, int]]:
    """Return how many connections each process has to Kafka and to PostgreSQL."""
    stack = run.deployment.stack
    ports = {
        int(stack.bootstrap_servers.rpartition(":")[2]): "kafka",
        int(stack.dsn.rpartition(":")[2].partition("/")[0]): "postgres",
    }
    found: dict[str, dict[str, int]] = {}
    for name, server in run.servers.items():
        open_ = psutil.Process(server.pid).net_connections("tcp")
        to = [ports.get(each.raddr.port) for each in open_ if each.raddr]
        found[name] = dict(Counter(filter(None, to)))
    return found


async def _step(
    stack: EmbeddedStack,
    directory: Path,
    people: Population,
    workers: int,
    size: Size,
    name: str = "workers",
) -> Figures:
    """Measure with ``workers`` worker processes."""
    names = ("tailer", *(f"worker-{number}" for number in range(1, workers + 1)), "fetcher")
    records = size.accounts * size.records
    async with (
        network.placed(stack, directory, people, f"{name}-{workers}") as run,
        network.consuming(run, names),
    ):
        begun = await _written(run)
        synced = await run.sync()
        after = await _written(run)
        await run.through(network.WARM)
        between = await _written(run)
        commits = await run.through(size.commits)
        ended = await _written(run)
        await run.check()
        idle = await run.idle(size.idle_seconds)
        return {
            "workers": workers,
            "sync": _costs(synced) | {"written": after.since(begun, records)},
            "commit": _costs(commits) | {"written": ended.since(between, size.commits)},
            "idle_ms_per_s": {name: round(spent, 1) for name, spent in _grouped(idle).items()},
            "memory_mib": {name: round(mib) for name, mib in sorted(commits.memory.items())},
            "connections": _connections(run),
        }


def _grouped(cpu: Mapping[str, float]) -> dict[str, float]:
    """Return the sum of each role, of whose processes there may be several."""
    found: Counter[str] = Counter()
    for name, spent in cpu.items():
        if name not in APART:
            found[name.partition("-")[0]] += spent  # type: ignore[assignment]  # a sum of floats
    return dict(found)


def _costs(one: Measured) -> Figures:
    assert one.floor is not None
    return {
        "us": {name: round(spent, 1) for name, spent in _grouped(one.cpu).items()},
        "all_us": round(one.total, 1),
        "floor_us": round(one.floor, 1),
        "floors": round(one.total / one.floor, 2),
        "per_second": round(one.rate),
    }


async def _frames(stack: EmbeddedStack, directory: Path, size: Size) -> Figures:
    """Return what a frame costs the tailer that it does not forward, in µs."""
    found = {}
    for name, forward, shard in (("irrelevant", "relevant", "1/1"), ("other_shard", "all", _OTHER)):
        rounds = await tailing.measure(
            stack, directory, traffic(_UNRELATED), forward, size.frames, 3, shard
        )
        found[name] = round(typical(rounds).own, 2)
    return found


async def _small(stack: EmbeddedStack, directory: Path, people: Population) -> Figures:
    """Return what the sync of a small repository costs."""
    found = network.Findings()
    await network.small(stack, directory, people, found)
    return {"records": people.spec.records} | _costs(found.steps["small"])


def _tracked() -> float:
    """Return the bytes that one of many tracked repositories takes in the memory of the tailer."""
    relevance = Relevance(Scope(("*",)), forward_all=False, most_plain=0)
    tracemalloc.start()
    relevance.track(f"did:plc:{number:024}" for number in range(_DIDS))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return round(used / _DIDS, 1)


async def _rows(stack: EmbeddedStack, directory: Path, rows: int) -> tuple[Figures, float]:
    """Return the bytes of a row of each large table: all, and those of its indexes alone.

    And what ``_scattered`` measures.
    """
    async with deployed(stack, directory, "rows") as deployment:
        schema = schema_of(deployment.services.topics.prefix)
        quiet = Quiet(stack.dsn, schema)
        await quiet.add_repos(0, rows, lanes=8, scope=b"\0" * 32)
        await quiet.add_records(0, rows, accounts=max(1, rows // 500))
        found: Figures = {}
        async with await psycopg.AsyncConnection.connect(
            stack.dsn, options=f"-c search_path={schema}", autocommit=True
        ) as connection:
            await connection.execute(_IDENTITIES)
            for table in _TABLES:
                sql = f"SELECT pg_total_relation_size('{table}'), pg_indexes_size('{table}')"
                row = await (await connection.execute(sql)).fetchone()
                assert row is not None
                found[table] = {"all": round(row[0] / rows), "indexes": round(row[1] / rows)}
            scattered = await _scattered(connection)
    return found, scattered


async def _scattered(connection: psycopg.AsyncConnection[Any]) -> float:
    """Return the bytes of log of a commit whose changes are each the first of their page."""
    for statement in _BEFORE:
        await connection.execute(statement)
    begun, commits = await _log(connection), 0
    for statement in _CHANGES:
        commits = max(commits, (await connection.execute(statement)).rowcount)
    return round((await _log(connection) - begun) / commits, 1)


async def _log(connection: psycopg.AsyncConnection[Any]) -> int:
    row = await (await connection.execute("SELECT pg_current_wal_lsn() - '0/0'")).fetchone()
    assert row is not None
    return int(row[0])


async def _measure(size: Size, workers: tuple[int, ...], console: Console) -> Figures:
    spec = Spec(size.accounts, size.records, network.WARM + size.commits)
    people, few = [await asyncio.to_thread(population, each) for each in (spec, _SMALL)]
    directory = Path(tempfile.mkdtemp(prefix="chive-workers-"))
    steps = []
    try:
        async with EmbeddedStack(directory) as stack:
            with console.status("warming up"):  # the JVM compiles what it does often
                await _step(
                    stack,
                    directory,
                    people,
                    1,
                    replace(size, commits=min(_FEW, size.commits)),
                    "warm",
                )
            for count in workers:
                with console.status(f"{count} worker processes"):
                    steps.append(await _step(stack, directory, people, count, size))
            with console.status("small repositories, frames and rows"):
                small = await _small(stack, directory, few)
                frames = await _frames(stack, directory, size)
                rows, scattered = await _rows(stack, directory, size.rows)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return {
        "measured": time.strftime("%Y-%m-%d", time.gmtime()),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "core": compiled.FORM,
        "size": asdict(size),
        "repository_bytes": round(people.repos.stat().st_size / size.accounts),
        "frame_bytes": round(sum(map(len, people.traffic.frames)) / len(people.traffic.frames)),
        "steps": steps,
        "small": small,
        "frame_us": frames,
        "tracked_bytes": _tracked(),
        "row_bytes": rows,
        "scattered_log": scattered,
    }


def _shown(found: Figures) -> Table:
    table = Table(title="worker processes: CPU µs of a commit, at full speed", padding=0)
    groups = ("tailer", "worker", "fetcher", "kafka", "postgres")
    heads = (*groups, "all", "floors", "per s", "idle ms/s", "MiB", "to Kafka", "to PostgreSQL")
    for head in ("", *heads):
        table.add_column(head, justify="right", no_wrap=True)
    for step in found["steps"]:
        commit, idle, memory = step["commit"], step["idle_ms_per_s"], step["memory_mib"]
        own = {name: mib for name, mib in memory.items() if name.startswith("worker")}
        to = {
            server: sum(each.get(server, 0) for each in step["connections"].values())
            for server in ("kafka", "postgres")
        }
        table.add_row(
            str(step["workers"]),
            *(f"{commit['us'].get(group, 0):.0f}" for group in groups),
            f"{commit['all_us']:.0f}",
            f"{commit['floors']:.1f}",
            str(commit["per_second"]),
            f"{sum(idle.values()):.0f}",
            f"{sum(own.values()) / len(own):.0f}",
            *map(str, to.values()),
        )
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--workers", default=_WORKERS, multiple=True, type=click.IntRange(1))
@click.option("--accounts", default=_USUAL.accounts, show_default=True, type=click.IntRange(2))
@click.option("--records", default=_USUAL.records, show_default=True, type=click.IntRange(1))
@click.option("--commits", default=_USUAL.commits, show_default=True, type=click.IntRange(1))
@click.option("--rows", default=_USUAL.rows, show_default=True, type=click.IntRange(1_000))
@click.option("--record", is_flag=True, help=f"Write {RECORDED.name}, which the model reads.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write the figures there.")
def main(
    workers: tuple[int, ...],
    accounts: int,
    records: int,
    commits: int,
    rows: int,
    file: Path | None,
    *,
    record: bool,
) -> None:
    """Measure what each added worker process costs, and what records and commits leave behind."""
    logs.configure(LogSettings(level="error"))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    size = Size(accounts, records, commits, rows=rows)
    found = asyncio.run(_measure(size, workers, console))
    console.print(_shown(found))
    for path in filter(None, (file, RECORDED if record else None)):
        path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
