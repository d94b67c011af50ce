"""``python -m bench.model``: from what was measured to a whole network: tables of docs/scaling.md.

Costs per commit, record, repository and frame are those of ``bench/workers.json`` (``--measured``
takes another file, as ``python -m bench.workers`` writes it on your machine).  What is assumed of
the network and of the servers are the fields of ``Network`` and ``Servers``; ``--set NAME=VALUE``
changes one.  A core is one of the machine that was measured on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import click

from bench.workers import RECORDED

_DAY = 86_400.0
_HOUR = 3_600.0
_HISTORY_DAYS = 10.5  # between min. and max.compaction.lag.ms of the events
_FIREHOSE_DAYS = 3.0  # retention.ms of the firehose
_LISTED = 1_000  # repositories on a page of a relay's listing


@dataclass(frozen=True, slots=True)
class Network:
    """What is followed; every collection is wanted.

    ``hosts`` share the repositories evenly; each lets one address make ``host_requests`` a second
    (the reference PDS: 3,000 in five minutes).
    """

    repos: float = 40e6
    records: float = 20e9
    commits: float = 2_000.0  # a second, sustained
    burst: float = 10.0  # times as many
    burst_seconds: float = 600.0
    hosts: float = 100.0
    host_requests: float = 10.0
    operations: float = 1.2  # of a commit


@dataclass(frozen=True, slots=True)
class Servers:
    """What a server is made of, and how much of it is used.

    ``bloat``: a table and its indexes after years of writes, compared with those just built.
    """

    cores: float = 32.0
    disk: float = 8e12  # bytes
    log: float = 200e6  # bytes a second that PostgreSQL's log may take
    reads: float = 50e3  # pages a second from the disk
    network: float = 1.25e9  # bytes a second
    used: float = 0.6  # at the sustained rate
    bloat: float = 1.4
    replicas: float = 3.0  # of Kafka's partitions


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured: µs of CPU by group, bytes, MiB."""

    commit: Mapping[str, float]
    commit_kafka: Mapping[str, float]
    commit_log: float
    scattered_log: float
    record: Mapping[str, float]
    record_kafka: Mapping[str, float]
    record_log: float
    record_download: float
    repository: float
    frame: float
    other_shard: float
    tracked: float
    frame_bytes: float
    rows: Mapping[str, float]
    worker_memory: float

    @classmethod
    def of(cls, measured: Mapping[str, Any]) -> Costs:
        """Return the costs in what ``bench.workers`` has written; those with one worker."""
        one = min(measured["steps"], key=lambda step: int(step["workers"]))
        commit, record, small = one["commit"], one["sync"], measured["small"]
        size = measured["size"]
        return cls(
            commit["us"],
            commit["written"]["kafka"],
            commit["written"]["wal"],
            measured["scattered_log"],
            record["us"],
            record["written"]["kafka"],
            record["written"]["wal"],
            measured["repository_bytes"] / size["records"],
            max(0.0, small["all_us"] - small["records"] * record["all_us"]),
            measured["frame_us"]["irrelevant"],
            measured["frame_us"]["other_shard"],
            measured["tracked_bytes"],
            measured["frame_bytes"],
            {table: sizes["all"] for table, sizes in measured["row_bytes"].items()},
            one["memory_mib"]["worker-1"],
        )


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: of the whole network in one deployment, and of each shard."""

    what: str
    whole: str
    shard: str = ""


@dataclass(frozen=True, slots=True)
class Model:
    """What a network takes, in one deployment and in as many shards as its servers need."""

    network: Network
    servers: Servers
    costs: Costs

    @property
    def table_bytes(self) -> float:
        """Bytes of PostgreSQL's large tables with their indexes."""
        rows, network = self.costs.rows, self.network
        fresh = network.repos * (rows["repos"] + rows["identities"])
        return (fresh + network.records * rows["records"]) * self.servers.bloat

    @property
    def pages(self) -> float:
        """Pages of large tables that a commit reads if none is in memory.

        Of the repository, and of each record that it touches, a leaf of the index and the row's.
        """
        return 2 * self.network.operations + 2

    @property
    def commit_log(self) -> float:
        """Bytes that a commit writes to PostgreSQL's log.

        The first change of a page behind a checkpoint puts the whole page there: with tables far
        larger than what is written between two checkpoints that is nearly every change.
        """
        return self.costs.commit_log + self.costs.scattered_log

    @property
    def rates(self) -> dict[str, float]:
        """How much of one server each resource takes at the sustained rate."""
        servers, commits = self.servers, self.network.commits
        return {
            "cores": self.cores("postgres") / servers.cores,
            "log": commits * self.commit_log / servers.log,
            "reads from disk": commits * self.pages / servers.reads,
        }

    @property
    def limits(self) -> dict[str, float]:
        """How many PostgreSQL servers each resource asks for."""
        used = self.servers.used
        rates = {name: rate / used for name, rate in self.rates.items()}
        return {"disk": self.table_bytes / (self.servers.disk * used), **rates}

    @property
    def shards(self) -> int:
        """As many PostgreSQL servers as are enough at the sustained rate."""
        return max(1, math.ceil(max(self.limits.values())))

    def capacity(self, shards: int) -> float:
        """Return the rate that ``shards`` servers take, as a multiple of the sustained one."""
        return shards / max(self.rates.values())

    @property
    def workers(self) -> float:
        """Cores of worker processes that keep up with a burst."""
        return self.cores("worker") * self.network.burst

    def cores(self, group: str) -> float:
        """Cores that a group of processes keeps busy at the sustained rate."""
        return self.network.commits * self.costs.commit[group] / 1e6

    def tailer(self, shards: int) -> float:
        """Return the share of a core that the tailer of one of ``shards`` takes."""
        own = 1 / shards
        of_a_frame = own * self.costs.commit["tailer"] + (1 - own) * self.costs.other_shard
        return self.network.commits * of_a_frame / 1e6

    def kafka_per_day(self, topic: str) -> float:
        """Bytes a day that come to a topic, as they are on the disk of one broker."""
        return self.network.commits * _DAY * self.costs.commit_kafka.get(topic, 0.0)

    @property
    def kafka_kept(self) -> dict[str, float]:
        """Bytes that a topic keeps, on all replicas."""
        table = self.network.records * self.costs.record_kafka["events"]
        kept = {
            "firehose": self.kafka_per_day("firehose") * _FIREHOSE_DAYS,
            "events": table + self.kafka_per_day("events") * _HISTORY_DAYS,
        }
        return {topic: size * self.servers.replicas for topic, size in kept.items()}

    @property
    def cold_start(self) -> dict[str, float]:
        """Seconds that the first sync of everything takes, by what bounds it.

        The cores are those that keep up with a burst; of PostgreSQL and Kafka each shard has a
        server.
        """
        network, servers, costs, shards = self.network, self.servers, self.costs, self.shards
        ours = {name: spent for name, spent in costs.record.items() if name in _OURS}
        spent = network.records * sum(ours.values()) + network.repos * costs.repository
        return {
            "the cores of our processes": spent / 1e6 / self.workers,
            "the cores of PostgreSQL": self._seconds("postgres") / (shards * servers.cores),
            "the cores of Kafka": self._seconds("kafka") / (shards * servers.cores),
            "the log of PostgreSQL": network.records * costs.record_log / (servers.log * shards),
            "the network": network.records * costs.record_download / (servers.network * shards),
            "the limits of the hosts": network.repos / (network.hosts * network.host_requests),
        }

    def _seconds(self, group: str) -> float:
        return self.network.records * self.costs.record[group] / 1e6

    def recovery(self, shards: int) -> float:
        """Return the seconds after a burst until ``shards`` servers have caught up."""
        network, capacity = self.network, self.capacity(shards)
        if capacity <= 1:
            return math.inf
        behind = max(0.0, network.burst - capacity) * network.burst_seconds
        return behind / (capacity - 1)


_OURS = ("tailer", "worker", "fetcher")


def rows(model: Model) -> Iterator[Row]:
    """Yield the lines of the table."""
    network, costs, n = model.network, model.costs, model.shards
    yield Row(
        "commits a second, sustained / in a burst",
        f"{_count(network.commits)} / {_count(network.commits * network.burst)}",
        f"{_count(network.commits / n)} / {_count(network.commits * network.burst / n)}",
    )
    yield Row("repositories", _count(network.repos), _count(network.repos / n))
    yield Row("records", _count(network.records), _count(network.records / n))
    yield _both("worker: cores busy, sustained", model.cores("worker"), n)
    yield Row(
        "worker: processes that keep up with a burst",
        _count(math.ceil(model.workers)),
        _count(math.ceil(model.workers / n)),
    )
    memory = model.workers * costs.worker_memory / 1024
    yield Row("worker: memory of these", _gibibytes(memory), _gibibytes(memory / n))
    partitions = 2 ** math.ceil(math.log2(model.workers))
    yield Row(
        "partitions: at least one for each process",
        _count(partitions),
        _count(2 ** math.ceil(math.log2(max(1.0, model.workers / n)))),
    )
    yield Row(
        "tailer: of one core, sustained / in a burst",
        _busy(model.tailer(1), network.burst),
        _busy(model.tailer(n), network.burst),
    )
    tracked = network.repos * costs.tracked / 2**30
    yield Row(
        "tailer: memory for the tracked DIDs, unless all are wanted",
        _gibibytes(tracked),
        _gibibytes(tracked / n),
    )
    yield _both("Kafka: cores busy, sustained", model.cores("kafka"), n)
    for topic, kept in model.kafka_kept.items():
        per_day = model.kafka_per_day(topic)
        yield Row(
            f"Kafka: `{topic}`, written a day / kept, {model.servers.replicas:g} replicas",
            f"{_bytes(per_day)} / {_bytes(kept)}",
            f"{_bytes(per_day / n)} / {_bytes(kept / n)}",
        )
    plain = network.commits * _DAY * costs.frame_bytes
    yield Row("Kafka: `firehose`, a day, not compressed", _bytes(plain), _bytes(plain / n))
    yield _both("PostgreSQL: cores busy, sustained", model.cores("postgres"), n)
    size = model.table_bytes
    yield Row("PostgreSQL: tables with indexes", _bytes(size), _bytes(size / n))
    log = network.commits * model.commit_log
    yield Row(
        "PostgreSQL: log a second, sustained / in a burst",
        f"{_bytes(log)} / {_bytes(log * network.burst)}",
        f"{_bytes(log / n)} / {_bytes(log * network.burst / n)}",
    )
    reads = network.commits * model.pages
    yield Row(
        "PostgreSQL: pages read a second, none in memory, sustained / in a burst",
        f"{_count(reads)} / {_count(reads * network.burst)}",
        f"{_count(reads / n)} / {_count(reads * network.burst / n)}",
    )
    for bound, servers in model.limits.items():
        yield Row(f"PostgreSQL: servers needed for {bound}", _number(servers))
    yield Row(
        "PostgreSQL: times the sustained rate that it takes",
        f"{model.capacity(1):.1f}",
        f"{model.capacity(n):.1f}",
    )
    yield Row(
        f"a burst of {_time(network.burst_seconds)}: caught up after",
        _time(model.recovery(1)),
        _time(model.recovery(n)),
    )
    for bound, seconds in model.cold_start.items():
        yield Row(f"cold start, bounded by {bound}", "", _time(seconds))
    yield Row("cold start: downloads", _bytes(network.records * costs.record_download))
    yield Row("daily sweep, by the relay's listing: pages", _count(network.repos / _LISTED))
    yield Row(
        "daily sweep, at the hosts: requests a second, of each host",
        f"{_count(network.repos / _DAY)}, {network.repos / _DAY / network.hosts:.1f}",
    )


def markdown(model: Model) -> str:
    """Return the table."""
    head = f"| | one deployment | each of {model.shards} shards |\n|---|---|---|\n"
    lines = (f"| {row.what} | {row.whole} | {row.shard} |\n" for row in rows(model))
    return head + "".join(lines)


def processes(measured: Mapping[str, Any]) -> str:
    """Return what was measured with more and more worker processes, as Markdown."""
    groups = {"worker": "workers", "tailer": "tailer", "kafka": "Kafka", "postgres": "PostgreSQL"}
    head = [
        "workers",
        "commits/s",
        "a commit, floors",
        *(f"{name}, µs" for name in groups.values()),
        "idle, ms of CPU a second: workers / Kafka / PostgreSQL",
        "MiB of a worker",
        "connections to Kafka / PostgreSQL",
    ]
    lines = [head, ["---"] * len(head)]
    for step in measured["steps"]:
        commit, idle = step["commit"], step["idle_ms_per_s"]
        sizes = [mib for name, mib in step["memory_mib"].items() if name.startswith("worker")]
        joined = step["connections"].values()
        lines.append(
            [
                str(step["workers"]),
                f"{commit['per_second']:,}",
                f"{commit['floors']:.1f}",
                *(f"{commit['us'][group]:.0f}" for group in groups),
                " / ".join(f"{idle[group]:.0f}" for group in ("worker", "kafka", "postgres")),
                f"{sum(sizes) / len(sizes):.0f}",
                " / ".join(
                    str(sum(each.get(server, 0) for each in joined))
                    for server in ("kafka", "postgres")
                ),
            ]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _both(what: str, value: float, shards: int) -> Row:
    return Row(what, _number(value), _number(value / shards))


def _number(value: float) -> str:
    digits = 0 if value >= 10 else 1 if value >= 1 else 2
    return f"{value:,.{digits}f}"


def _busy(share: float, burst: float) -> str:
    return f"{share:.0%} / {share * burst:.0%}"


def _count(value: float) -> str:
    for unit, name in ((1e9, " billion"), (1e6, " million")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:,.0f}"


def _bytes(value: float) -> str:
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value / 1e3:.3g} kB"


def _gibibytes(value: float) -> str:
    return f"{value:.3g} GiB"


def _time(seconds: float) -> str:
    if math.isinf(seconds):
        return "never"
    for unit, name in ((_DAY, "days"), (_HOUR, "hours"), (60.0, "minutes")):
        if seconds >= unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} s"


def model_of(measured: Mapping[str, Any], changes: Mapping[str, float] | None = None) -> Model:
    """Return the model of what was measured, with ``changes`` to what is assumed.

    Raises ``ValueError`` for a name that is none.
    """
    model, changes = Model(Network(), Servers(), Costs.of(measured)), dict(changes or {})
    for part in ("network", "servers"):
        before = getattr(model, part)
        names = {each.name for each in fields(before)} & changes.keys()
        after = replace(before, **{name: changes.pop(name) for name in names})
        model = replace(model, **{part: after})
    if changes:
        known = ", ".join(each.name for part in (Network, Servers) for each in fields(part))
        raise ValueError(f"{min(changes)} is none of {known}")
    return model


def _changes(_context: click.Context, _parameter: click.Parameter, given: Sequence[str]) -> Any:
    try:
        pairs = [text.split("=", 1) for text in given]
        return {name: float(value) for name, value in pairs}
    except ValueError:
        raise click.BadParameter("write NAME=NUMBER, such as commits=500") from None


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--measured",
    default=RECORDED,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="What 'python -m bench.workers' has measured.",
)
@click.option("--set", "changes", metavar="NAME=NUMBER", multiple=True, callback=_changes)
def main(measured: Path, changes: Mapping[str, float]) -> None:
    """Print what worker processes cost, and what a network takes, as Markdown."""
    found = json.loads(measured.read_text())
    try:
        model = model_of(found, changes)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    click.echo(f"{processes(found)}\n{markdown(model)}", nl=False)


if __name__ == "__main__":
    main()
