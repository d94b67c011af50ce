"""``examples/events.jsonl``: an event of every kind, as a consumer on a scripted network made them.

``make samples`` runs the scene and writes the file; the test runs it, and compares.
"""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from consumer.cli.event_stream import Span
from consumer.cli.events import Filter, as_record, events
from procedures.syntax import cid_text
from simulator.frames import identity_frame, sync_frame
from simulator.repo import Repo, Write
from simulator.tamper import FLOAT_RECORD
from tests.field.network import now
from tests.field.product import Product
from tests.support import schemas
from tests.support.deployment import PARTITIONS
from tests.support.hosts import Host
from tests.support.pds import COLLECTION

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

FILE = Path(__file__).parents[2] / "examples" / "events.jsonl"
RECIPE = FILE.parent / "parquet" / "to_parquet.py"
ACTIONS = ("create", "update", "delete")
STATUSES = ("active", "deactivated", "suspended", "takendown")
KINDS = {
    *(f"record {action} {source}" for action in ACTIONS for source in ("firehose", "refresh")),
    *(f"record {action} backfill" for action in ACTIONS),
    "record create firehose recordCbor",
    "record update backfill again",
    "record delete account",
    "record delete operator",
    "tombstone",
    *(f"account {status} firehose" for status in STATUSES),
    "account deleted account",  # its host has confirmed it
    "account deleted operator",
    "identity firehose",
    "sync desynchronized firehose",
    "sync active backfill",
    "progress",
    "snapshot_complete",
}

Sample = dict[str, Any]


def kind(sample: Sample) -> str:
    value = sample["value"]
    if value is None:
        return "tombstone"
    parts = [value["type"]]
    parts += [value[name] for name in ("action", "status", "state", "source") if name in value]
    if "recordCbor" in value:
        parts.append("recordCbor")
    if value.get("action") == "update" and value["cid"] == value["prev"]:
        parts.append("again")
    return " ".join(parts)


def at(n: int) -> str:
    return f"{COLLECTION}/k{n:05}"


def record(text: str) -> dict[str, Any]:
    return {"$type": COLLECTION, "title": text, "createdAt": "2026-07-04T14:39:14.123Z"}


async def scene(product: Product) -> None:
    """Let everything happen that is told on the topic."""
    network = product.network
    listed = [await network.account(f"sample {n}") for n in range(6)]
    source, _ = network.sources
    source.lists(COLLECTION, [repo.account.did for _, repo in listed])
    await network.commit(listed[0][1])  # where the relay is, the search can begin
    await product.agrees(*(repo for _, repo in listed))
    (_, writer), (_, behind), stale, (host, leaving), deleted, (_, forgotten) = listed
    await writes(product, writer)
    await falls_behind(product, behind)
    await refreshed(product, *stale)
    for status in ("deactivated", "suspended", "takendown"):
        host.states(leaving, status)
        await network.says(leaving, status)
        await product.has_status(leaving, status)
    host.states(leaving, "active")
    await network.says(leaving, None)
    await product.agrees(leaving)
    host, gone = deleted
    for answers in (host.refuses, host.answers):
        answers(gone, 400, {"error": "RepoNotFound"})
    await network.says(gone, "deleted")
    await product.gone(gone)
    await product.done(type="forget", did=forgotten.account.did)


async def writes(product: Product, repo: Repo) -> None:
    network = product.network
    await network.commit(repo, Write("create", at(7), record("A paper")))
    await network.commit(repo, Write("update", at(7), record("A revised paper")))
    await network.commit(repo, Write("delete", at(7)))
    await network.commit(repo, Write("create", at(8), FLOAT_RECORD))
    seq = network.next()
    frame = identity_frame(seq, repo.account.did, "sample.test", now())
    await network.relay.publish([(seq, frame)])
    await product.agrees(repo)


def lost() -> list[Write]:
    return [
        Write("create", at(7), record("A paper that no frame tells of")),
        Write("update", at(0), record("A revised paper that no frame tells of")),
        Write("delete", at(1)),
    ]


async def falls_behind(product: Product, repo: Repo) -> None:
    network = product.network
    await network.commit(repo, *lost(), lost=True)
    seq = network.next()
    await network.relay.publish([(seq, sync_frame(seq, repo.sync(), now()))])
    await product.agrees(repo)
    await product.done(type="didSync", did=repo.account.did, emit="all")


async def refreshed(product: Product, host: Host, repo: Repo) -> None:
    writes = lost()
    await product.network.commit(repo, *writes, lost=True)
    for write in writes:
        host.pds.proves(repo, write.path)
        uri = f"at://{repo.account.did}/{write.path}"
        assert (await product.done(type="recordRefresh", uri=uri))["status"] == "completed"


async def told(product: Product) -> list[Sample]:
    """Return all records of the topic, as ``consumer events --records`` prints them."""
    wanted = Filter.of((), (), {each.split()[0] for each in KINDS} - {"tombstone"})
    found = events(product.client, product.topics, wanted, Span(), tombstones=True)
    return [json.loads(as_record(event, record)) async for event, record in found]


def by_kind(samples: Iterable[Sample]) -> dict[str, Sample]:
    """Return the first of each kind, in the order of their names, without its place in Kafka."""
    found: dict[str, Sample] = {}
    for each in samples:
        found.setdefault(kind(each), {name: each[name] for name in ("key", "headers", "value")})
    return {name: found[name] for name in sorted(KINDS & found.keys())}


def shape(sample: Sample) -> dict[str, Any]:
    value = sample["value"]
    return {"headers": set(sample["headers"]), "members": value and set(value)}


def kept() -> list[Sample]:
    return [json.loads(line) for line in FILE.read_text().splitlines()]


async def test_the_samples_are_what_the_consumer_writes(fresh: Product, tmp_path: Path) -> None:
    async with fresh.running():
        await scene(fresh)

        async def whole() -> bool:
            found = await told(fresh)
            ends = [kind(each) for each in found].count("snapshot_complete")
            assert KINDS - by_kind(found).keys() == set()
            return ends == PARTITIONS

        await fresh.eventually(whole, what="every kind has come")
    everything = await told(fresh)
    await in_parquet(fresh, everything, tmp_path)
    made = by_kind(everything)
    if os.environ.get("WRITE_SAMPLES"):
        lines = [json.dumps(each, ensure_ascii=False) for each in made.values()]
        FILE.write_text("\n".join(lines) + "\n")
    assert {kind(each): shape(each) for each in kept()} == {
        name: shape(each) for name, each in made.items()
    }


async def in_parquet(product: Product, told: list[Sample], folder: Path) -> None:
    """Check that the recipe makes the tables of the deployment from what was printed."""
    lines = folder / "events.jsonl"
    lines.write_text("".join(f"{json.dumps(each)}\n" for each in told))
    to_parquet = runpy.run_path(str(RECIPE))
    to_parquet["convert"](lines, folder)
    with duckdb.connect() as database:
        shown = database.read_parquet(f"{folder}/records.parquet").project("uri, cid").fetchall()
        ids = database.read_parquet(f"{folder}/events.parquet").project("id").fetchall()
    assert sorted(ids) == sorted((each["value"]["id"],) for each in told if each["value"])
    assert dict(shown) == {
        f"at://{did}/{path}": cid_text(cid)
        for did, path, cid in await product.rows(
            "SELECT did, path, cid FROM records JOIN repos USING (did)"
            " WHERE cid IS NOT NULL AND status = 'active'"
        )
    }


def test_the_samples_are_of_every_kind_that_the_schema_has() -> None:
    samples = kept()
    assert {kind(each) for each in samples} == KINDS
    assert len(samples) == len(KINDS)
    schema = schemas.load("events")
    types = {each["$ref"].rpartition("/")[2] for each in schema["oneOf"]}
    values = [each["value"] for each in samples if each["value"]]
    assert {each["type"] for each in values} == {
        "snapshot_complete" if each == "snapshotComplete" else each for each in types
    }
    for name, known in (
        ("action", schema["$defs"]["record"]["properties"]["action"]["enum"]),
        ("state", schema["$defs"]["sync"]["properties"]["state"]["enum"]),
        ("source", schema["$defs"]["source"]["examples"]),
    ):
        assert {each[name] for each in values if name in each} == set(known)
    for each in values:
        schemas.written("events").validate(each)


def test_a_sample_is_named_by_its_headers() -> None:
    for each in kept():
        value = each["value"]
        if value is None:
            assert each["headers"]["action"] == "delete"
            assert each["key"].startswith(f"at://{each['headers']['did']}/")
        else:
            assert each["headers"]["type"] == value["type"]
