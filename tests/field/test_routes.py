"""Routes of events that change: said until every record is in its topic of today."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from consumer.cli import questions, status
from consumer.cli.event_stream import Span
from consumer.cli.events import Filter, events
from consumer.services import read_only
from simulator.repo import Repo, Write
from tests.field.product import Product, folded
from tests.field.test_recovery import recovered
from tests.support.backup import Backups
from tests.support.kafka import committed
from tests.support.pds import COLLECTION

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

NODE = "pub.chive.graph.node"
ROUTES = {"pub.chive.eprint.*": "eprints"}


async def events_of(product: Product, topic: str) -> list[dict[str, Any]]:
    name = product.topics.name(topic)
    records = await committed(product.client, name, range(product.topics.partitions))
    return [orjson.loads(record.value) for record in records if record.value is not None]


async def several(product: Product) -> list[Repo]:
    repos = [(await product.network.account(f"routed {n}", records=4))[1] for n in range(3)]
    for repo in repos:
        await product.network.commit(repo, product.network.write(), product.network.write(NODE))
    return repos


async def changed_at(product: Product) -> str | None:
    """Return what ``consumer status`` says, without asking Kafka for anything."""
    async with read_only(product.settings) as services:
        seen = await status.read(services)
    said: str | None = seen["routesChangedAt"]
    return said


async def test_a_change_is_said_until_all_is_published_again(fresh: Product) -> None:
    product = fresh
    with capture_logs() as logs:
        async with product.running():
            repos = await several(product)
            await product.agrees(*repos)
            assert await changed_at(product) is None
    assert not [log for log in logs if log["event"] == "routes_changed"]
    assert (await questions.routes(product.settings)).ok is True

    product.route(ROUTES)
    assert "will change" in (await questions.routes(product.settings)).detail
    with capture_logs() as logs:
        async with product.running():
            await product.network.commit(
                repos[0], Write("delete", f"{COLLECTION}/k00001"), product.network.write(NODE)
            )
            await product.agrees(*repos)
            assert await changed_at(product) is not None
            answer = await questions.routes(product.settings)
            assert (answer.ok, "have changed" in answer.detail) == (None, True)
            assert "docs/consumers.md" in answer.detail
            for repo in repos[1:]:
                await product.done(type="didSync", did=repo.account.did, emit="all")
            assert await changed_at(product) is not None  # it was not all of them
            parent = await product.done(type="didSync", select={"all": True}, emit="all")
            assert parent["status"] == "completed"
            assert await changed_at(product) is None
            assert (await questions.routes(product.settings)).ok is True
    (said,) = [log for log in logs if log["event"] == "routes_changed"]
    assert said["log_level"] == "warning"
    assert "docs/consumers.md" in said["meaning"]

    printed = events(product.client, product.topics, Filter.of((), (), ()), Span())
    ids = [event["id"] async for event, _ in printed if "did" in event]
    assert sorted(ids) == sorted(event["id"] for event in await product.events())

    routed = await events_of(product, "eprints")
    assert {event["collection"] for event in routed if event["type"] == "record"} == {COLLECTION}
    for repo in repos:
        did = repo.account.did
        expected = {p: c for p, c in (await product.stored(repo)).items() if COLLECTION in p}
        assert folded([event for event in routed if event.get("did") == did])[1] == expected
        assert expected


async def test_a_lost_database_is_made_again_from_all_topics(
    fresh: Product, backups: Backups
) -> None:
    """What was last said of a record counts, in whichever topic; the newest is read first here."""
    product = fresh
    product.route(ROUTES)
    async with product.running():
        repos = await several(product)
        await product.agrees(*repos)
    product.route({"pub.chive.graph.*": "eprints"})
    text = {"$type": COLLECTION, "text": "later"}
    async with product.running():
        await product.network.commit(repos[0], Write("update", f"{COLLECTION}/k00001", text))
        await product.network.commit(repos[1], Write("delete", f"{COLLECTION}/k00002"))
        await product.agrees(*repos)
    await product.network.commit(repos[2], Write("delete", f"{COLLECTION}/k00003"))
    before = {event["id"] for event in await product.events()}
    await backups.empty()
    await recovered(product)
    async with product.running():
        await product.agrees(*repos)
    assert [
        (event["did"], event["rkey"], event["action"])
        for event in await product.events()
        if event["id"] not in before and event["type"] == "record"
    ] == [(repos[2].account.did, "k00003", "delete")]
