"""A scripted PDS: simulated repositories, served as they are or as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlencode

import orjson

from simulator.account import Account
from simulator.repo import Repo, Write
from tests.support.web import Reply, Web, response, web

COLLECTION = "pub.chive.eprint.submission"


class Pds:
    """Accounts whose documents are in ``directory``."""

    def __init__(self, directory: Web, site: Web) -> None:
        self.site = site
        self._directory = directory

    def account(self, name: str, records: int = 0) -> Repo:
        """Host a new account with ``records`` wanted records, and one that is not wanted."""
        repo = Repo(Account.from_seed(name))
        writes = [
            Write("create", f"{COLLECTION}/k{n:05}", {"$type": COLLECTION, "n": n})
            for n in range(records)
        ]
        repo.commit([*writes, Write("create", "app.bsky.feed.post/one", {"text": name})])
        self.host(repo)
        return repo

    def host(self, repo: Repo) -> None:
        """Serve ``repo`` as it is when it is asked for, and let its document say so."""
        account = repo.account
        document = orjson.dumps(account.document(self.site.origin))
        self._directory.replies[f"/{account.did}"] = response(200, document)

        async def whole(writer: asyncio.StreamWriter) -> None:
            writer.write(response(200, repo.whole()))
            await writer.drain()

        self.site.replies[repo_path(account.did)] = whole

    def says(self, repo: Repo, reply: Reply) -> None:
        """Answer ``reply`` to requests for the whole of ``repo``."""
        self.site.replies[repo_path(repo.account.did)] = reply

    def proves(self, repo: Repo, path: str, reply: Reply | None = None) -> None:
        """Prove what ``repo`` has now at ``path``, or answer ``reply`` to who asks for it."""
        did = repo.account.did
        self.site.replies[record_path(did, path)] = reply or response(200, repo.proof(path))


def repo_path(did: str) -> str:
    """Return the path and query by which the repository of ``did`` is asked for."""
    return f"/xrpc/com.atproto.sync.getRepo?{urlencode({'did': did})}"


def record_path(did: str, path: str) -> str:
    """Return the path and query by which the proof of a record is asked for."""
    collection, _, rkey = path.partition("/")
    query = urlencode({"did": did, "collection": collection, "rkey": rkey})
    return f"/xrpc/com.atproto.sync.getRecord?{query}"


async def silence(_writer: asyncio.StreamWriter) -> None:
    """Answer nothing, until the other side gives up."""
    await asyncio.Event().wait()


def trickle(body: bytes, *, every: float, size: int = 1) -> Reply:
    """Send ``body`` in portions of ``size`` bytes, one each ``every`` seconds."""

    async def reply(writer: asyncio.StreamWriter) -> None:
        head = response(200, body)
        writer.write(head[: len(head) - len(body)])
        for start in range(0, len(body), size):
            writer.write(body[start : start + size])
            await writer.drain()
            await asyncio.sleep(every)

    return reply


def cut_off(body: bytes, after: int) -> bytes:
    """Return a response that announces ``body``, and ends after ``after`` bytes of it."""
    whole = response(200, body)
    return whole[: len(whole) - len(body) + after]


@asynccontextmanager
async def pds(directory: Web) -> AsyncIterator[Pds]:
    """Serve during the block, on a free port."""
    async with web() as site:
        yield Pds(directory, site)
