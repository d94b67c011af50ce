"""Repositories, records and documents as hosts have them: what is good in them is indexed."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from consumer.kafka.topics import Topic
from simulator import tree
from simulator.repo import Repo, Write, car
from tests.field.product import Product
from tests.support.hosts import Host
from tests.support.pds import COLLECTION
from tests.support.web import Reply, response

pytestmark = pytest.mark.services

RAW = b"\x01\x55\x12\x20"
ODD_PATHS = [
    pytest.param("com.example.thread_record/one", id="collection is no NSID"),
    pytest.param(f"{COLLECTION}/good@x", id="character in a wanted key"),
    pytest.param("com.example.thing/a@b", id="character in another key"),
    pytest.param("pub.chive.Eprint.submission/one", id="capitals in the name"),
    pytest.param("PUB.chive.eprint.submission/one", id="capitals in the authority"),
]


def without(repo: Repo, *cids: bytes) -> bytes:
    """Return the whole repository without some of its blocks."""
    blocks = {cid: block for cid, block in repo.everything().items() if cid not in cids}
    return car(next(iter(blocks)), blocks)


def in_turn(repo: Repo, *replies: bytes) -> Reply:
    """Answer each of ``replies`` once, then the whole repository as it is."""
    waiting = list(replies)

    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(waiting.pop(0) if waiting else response(200, repo.whole()))
        await writer.drain()

    return reply


async def announced(product: Product, repo: Repo) -> None:
    """Break the chain, so that the repository is read, and write behind that."""
    await product.network.commit(repo, lost=True)
    await product.network.commit(repo)


async def test_a_repository_that_changes_while_it_is_read(product: Product) -> None:
    host, repo = await product.network.account("race", records=40)
    moved = response(200, without(repo, repo.records[f"{COLLECTION}/k00007"][1]))
    torn = response(200, without(repo, *[node.seal() for node in tree.nodes(repo.root)][1:]))
    host.serves(repo, in_turn(repo, moved, torn))
    await announced(product, repo)
    await product.agrees(repo)
    assert host.downloads(repo) <= 4


@pytest.mark.parametrize("path", ODD_PATHS)
async def test_a_key_that_is_no_record_path_is_left_out(product: Product, path: str) -> None:
    _, repo = await product.network.account(f"odd {path}", records=30)
    odd = Write("create", path, {"$type": "x", "n": 0})
    await product.network.commit(repo, odd, product.network.write())  # a good op beside it
    await announced(product, repo)
    await product.agrees(repo, without={path})
    await product.network.commit(repo, Write("update", path, {"$type": "x", "n": 1}))
    await product.network.commit(repo)
    await product.agrees(repo, without={path})
    downloads = await _downloads(product, repo)
    await product.network.commit(repo, Write("delete", path))
    await product.network.commit(repo)
    await product.agrees(repo)
    assert await _downloads(product, repo) == downloads  # the chain held


async def _downloads(product: Product, repo: Repo) -> int:
    sql = "SELECT count(*) FROM operations WHERE did = %s"
    ((count,),) = await product.rows(sql, [repo.account.did])
    return int(count)


async def test_a_leaf_that_is_no_record_is_left_out(product: Product) -> None:
    _, repo = await product.network.account("raw leaf", records=20)
    blob = b"these are bytes"
    cid = RAW + tree.cid_of(blob)[4:]
    path = "com.example.thing/raw"
    repo.records[path] = (blob, cid)
    repo.root = tree.put(repo.root, path, cid)
    await announced(product, repo)
    await product.agrees(repo, without={path})
    await product.network.commit(repo)
    await product.agrees(repo, without={path})


@pytest.mark.parametrize("wanted", [True, False])
async def test_a_record_without_bytes_is_left_out(product: Product, *, wanted: bool) -> None:
    host, repo = await product.network.account(f"no bytes {wanted}", records=20)
    path = f"{COLLECTION}/k00003" if wanted else "app.bsky.feed.post/one"
    missing = repo.records[path][1]

    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(response(200, without(repo, missing)))
        await writer.drain()

    host.serves(repo, reply)
    await announced(product, repo)
    await product.agrees(repo, without={path})
    await product.network.commit(repo)
    await product.agrees(repo, without={path})
    host.pds.host(repo)  # the bytes are back
    await product.done(type="didSync", did=repo.account.did)
    await product.agrees(repo)


async def test_a_record_whose_bytes_are_lost_is_not_taken_for_deleted(product: Product) -> None:
    host, repo = await product.network.account("lost bytes", records=20)
    await product.network.commit(repo)
    await product.agrees(repo)
    missing = repo.records[f"{COLLECTION}/k00003"][1]

    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(response(200, without(repo, missing)))
        await writer.drain()

    host.serves(repo, reply)
    await announced(product, repo)
    await product.agrees(repo)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, {"error": "RecordNotFound"}),
        (400, {"error": "InvalidRequest", "message": "Could not locate record: at://x"}),
        (404, {}),
    ],
)
async def test_a_refresh_without_a_proof_reads_the_repository(
    product: Product, status: int, said: dict[str, Any]
) -> None:
    host, repo = await product.network.account(f"no proof {status} {said}", records=5)
    await product.network.commit(repo)
    await product.agrees(repo)
    path = f"{COLLECTION}/k00002"
    await product.network.commit(repo, Write("delete", path), lost=True)
    host.pds.proves(repo, path, response(status, orjson.dumps(said)))
    ended = await product.done(type="recordRefresh", uri=f"at://{repo.account.did}/{path}")
    assert ended["status"] == "completed", ended
    await product.agrees(repo)


async def test_one_repository_that_fails_holds_up_no_other_of_its_host(product: Product) -> None:
    host = await product.network.host()
    sick, *well = [host.account(f"{n} of one host") for n in range(5)]
    host.serves(sick, response(500))
    await announced(product, sick)
    await product.eventually(lambda: host.downloads(sick) >= 3, what="it fails again and again")
    for repo in well:
        await announced(product, repo)
    await product.agrees(*well)
    host.pds.host(sick)
    await product.agrees(sick)


def _documents(host: Host, repo: Repo) -> dict[str, dict[str, Any]]:
    plain = repo.account.document(host.site.origin)
    (key,), (pds,), did = plain["verificationMethod"], plain["service"], repo.account.did
    key = {name: value for name, value in key.items() if name != "controller"}
    return {
        "a trailing slash": plain
        | {"service": [pds | {"serviceEndpoint": f"{host.site.origin}/"}]},
        "a full id": plain | {"service": [pds | {"id": f"{did}#atproto_pds"}]},
        "no controller": plain | {"verificationMethod": [key]},
        "a list of controllers": plain | {"verificationMethod": [key | {"controller": [did]}]},
        "other services": plain
        | {"service": [{"type": ["A", "B"]}, {"id": "#other", "type": "X"}, pds]},
        "types as a list": plain | {"service": [pds | {"type": [pds["type"]]}]},
        "numbers among the names": plain | {"alsoKnownAs": [7, *plain["alsoKnownAs"]]},
        "a name that is no list": plain | {"alsoKnownAs": "at://someone.test"},
        "other methods": plain
        | {"verificationMethod": [f"{did}#reference", {"id": "#other"}, key | {"controller": did}]},
        "one service": plain | {"service": pds},
    }


async def test_documents_of_any_make(product: Product) -> None:
    host = await product.network.host()
    shapes = _documents(host, host.account("shapes"))
    repos = []
    for shape in shapes:
        repo = host.account(f"document with {shape}")
        document = _documents(host, repo)[shape]
        reply = response(200, orjson.dumps(document))
        product.network.directory.replies[f"/{repo.account.did}"] = reply
        await announced(product, repo)
        repos.append(repo)
    await product.agrees(*repos)
    letters = await product.committed(Topic.DEAD_LETTER)
    assert not {letter.key for letter in letters} & {repo.account.did.encode() for repo in repos}


async def test_a_pds_endpoint_with_a_path_is_named(product: Product) -> None:
    host, repo = await product.network.account("endpoint with a path")
    endpoint = f"{host.site.origin}/xrpc"
    document = orjson.dumps(repo.account.document(endpoint))
    product.network.directory.replies[f"/{repo.account.did}"] = response(200, document)
    command = await product.command(type="didSync", did=repo.account.did)

    async def said() -> bool:
        rows = await product.rows("SELECT error FROM operations WHERE id = %s", [command])
        return f"its PDS endpoint has a path: {endpoint}" in str(rows)

    await product.eventually(said, what="the reason on the operation")
    host.host(repo)  # the document is right now
    await product.network.moved(repo)
    await product.network.commit(repo)
    await product.agrees(repo)
