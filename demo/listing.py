"""What a PDS itself says its repositories hold: the truth of the comparison.

Accounts that are served are listed with ``listRecords``.  A deactivated one is not, but its
repository exists: the administrator reads it whole with ``getRepo``, and its tree is walked
here in the plainest way.  A deleted account is simply not there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import libipld

from consumer.scope import Scope
from demo.fold import Json
from demo.local_network import Endpoints
from demo.xrpc import Xrpc
from procedures.syntax import cid_text

_PAGE = 100
_AT_ONCE = 4


@dataclass(slots=True)
class Listing:
    """The wanted records and the accounts of a PDS.

    ``cids`` by AT-URI, with ``values`` where the PDS gives them; ``statuses`` by DID.
    """

    cids: dict[str, str] = field(default_factory=dict)
    values: dict[str, Json] = field(default_factory=dict)
    statuses: dict[str, str] = field(default_factory=dict)


async def list_pds(endpoints: Endpoints, scope: Scope) -> Listing:
    """Return what the PDS lists of the wanted collections of all its accounts."""
    listing = Listing()
    async with Xrpc.administrator(endpoints.pds, endpoints.admin_password) as pds:
        listing.statuses = await _statuses(pds)
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(did: str, status: str) -> None:
            async with turns:
                if status == "active":
                    await _list_served(pds, did, scope, listing)
                else:
                    await _list_hidden(pds, did, scope, listing)

        async with asyncio.TaskGroup() as group:
            for did, status in listing.statuses.items():
                group.create_task(one(did, status))
    return listing


async def _pages(pds: Xrpc, nsid: str, items: str, **parameters: Any) -> list[Json]:
    found: list[Json] = []
    cursor = None
    while True:
        answer = await pds.query(nsid, limit=_PAGE, cursor=cursor, **parameters)
        found += answer[items]
        cursor = answer.get("cursor")
        if not cursor or not answer[items]:
            return found


async def _statuses(pds: Xrpc) -> dict[str, str]:
    repos = await _pages(pds, "com.atproto.sync.listRepos", "repos")
    return {
        repo["did"]: "active" if repo["active"] else repo.get("status", "inactive")
        for repo in repos
    }


async def _list_served(pds: Xrpc, did: str, scope: Scope, listing: Listing) -> None:
    description = await pds.query("com.atproto.repo.describeRepo", repo=did)
    for collection in description["collections"]:
        if not scope.wants(f"{collection}/"):
            continue
        nsid = "com.atproto.repo.listRecords"
        for record in await _pages(pds, nsid, "records", repo=did, collection=collection):
            listing.cids[record["uri"]] = record["cid"]
            listing.values[record["uri"]] = record["value"]


async def _list_hidden(pds: Xrpc, did: str, scope: Scope, listing: Listing) -> None:
    header, blocks = libipld.decode_car(await pds.query("com.atproto.sync.getRepo", did=did))
    commit = blocks[header["roots"][0]]
    for path, cid in _leaves(blocks, commit["data"]):
        if scope.wants(path):
            listing.cids[f"at://{did}/{path}"] = cid_text(cid)


def _leaves(blocks: dict[bytes, Any], node: bytes | None) -> Iterator[tuple[str, bytes]]:
    """Yield every path and CID below a node of the repository's tree, in key order."""
    if node is None:
        return
    tree = blocks[node]
    yield from _leaves(blocks, tree["l"])
    key = b""
    for entry in tree["e"]:
        key = key[: entry["p"]] + entry["k"]
        yield key.decode(), entry["v"]
        yield from _leaves(blocks, entry["t"])
