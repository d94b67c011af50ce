"""A scripted network on loopback: a relay, sources of listings, a directory, and many hosts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
from websockets.asyncio.server import ServerConnection

from simulator.frames import account_frame, commit_frame, error_frame, identity_frame, info_frame
from simulator.repo import Commit, Repo, Write
from tests.support.hosts import Host
from tests.support.pds import COLLECTION
from tests.support.relay import ScriptedRelay
from tests.support.web import Reply, Web, response, web

SOURCES = 2


class Relay(ScriptedRelay):
    """A relay that says so when it has no such position, or has forgotten what lies behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.newest = 0
        self._forgotten = 0

    async def publish(self, frames: Iterable[tuple[int, bytes]]) -> None:
        """Add frames to the log, and send them to all connections."""
        frames = list(frames)
        self.newest = frames[-1][0]
        await super().publish(frames)

    def forget(self) -> None:
        """Keep nothing of what was sent so far."""
        self._forgotten = self.newest
        self.log.clear()

    def become(self, frames: Iterable[tuple[int, bytes]] = ()) -> None:
        """Begin a sequence anew, or carry another one."""
        self.log[:] = frames
        self.newest = self.log[-1][0] if self.log else 0
        self._forgotten = 0

    async def play(self, connection: ServerConnection, cursor: int | None) -> None:
        """Behave as relays do."""
        if cursor is not None and cursor > self.newest:
            await connection.send(error_frame("FutureCursor", "Cursor in the future."))
            return
        if cursor is not None and cursor < self._forgotten:
            await connection.send(info_frame("OutdatedCursor", "Requested cursor exceeded limit"))
        await super().play(connection, cursor)


class Source(dict[str, Reply]):
    """A source of listings; what it is not told to list is empty.  Cursors are numbers."""

    def __init__(self, site: Web) -> None:
        super().__init__()
        self.site = site
        self._listed: dict[str, Sequence[str]] = {}
        self._sizes: dict[str, int] = {}
        self._poison: set[str] = set()
        self._said: dict[str, Reply] = {}
        site.replies = self

    @property
    def origin(self) -> str:
        return self.site.origin

    def lists(
        self,
        collection: str,
        dids: Iterable[str],
        *,
        size: int = 1_000,
        poison: Collection[str] = (),
    ) -> None:
        """List ``dids``, at most ``size`` on a page; a page with one of ``poison`` is a 500."""
        self._said.pop(collection, None)
        self._listed[collection] = list(dids)
        self._sizes[collection] = size
        self._poison |= set(poison)

    def says(self, collection: str, reply: Reply) -> None:
        """Answer ``reply`` to every request for ``collection``."""
        self._said[collection] = reply

    def asked(self, collection: str) -> int:
        """Count the requests for ``collection``."""
        return sum(_listing(path)[0] == collection for path in self.site.paths)

    def get(self, path: str, default: Any = None) -> Any:
        """Return the answer to a request, as ``Web`` looks it up."""
        listing, start, limit = _listing(path)
        if listing is None:
            return default
        if listing in self._said:
            return self._said[listing]
        end = start + min(limit, self._sizes.get(listing, limit))
        listed = self._listed.get(listing, ())
        if self._poison.intersection(listed[start:end]):
            return response(500)
        page: dict[str, Any] = {"repos": [{"did": did} for did in listed[start:end]]}
        return response(
            200, orjson.dumps(page | ({"cursor": str(end)} if end < len(listed) else {}))
        )


def _listing(path: str) -> tuple[str | None, int, int]:
    """Return the collection that is asked for, from which entry on, and how many."""
    parts = urlsplit(path)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    method = parts.path.rpartition(".")[2]
    listing = query.get("collection") if method == "listReposByCollection" else None
    cursor, limit = query.get("cursor", "0"), int(query.get("limit", 500))
    return listing, int(cursor) if cursor.isdecimal() else 0, limit


@dataclass
class Network:
    """The relay sends frames with ``seq`` that rises; ``sources`` are in order of preference."""

    relay: Relay
    directory: Web
    sources: Sequence[Source]
    stack: AsyncExitStack
    seq: int = 1_000
    _records: int = field(default=0)

    @classmethod
    @asynccontextmanager
    async def opened(cls) -> AsyncIterator[Network]:
        """Serve during the block."""
        async with AsyncExitStack() as stack:
            relay = await stack.enter_async_context(Relay())
            directory, *sites = [await stack.enter_async_context(web()) for _ in range(1 + SOURCES)]
            yield cls(relay, directory, [Source(site) for site in sites], stack)

    async def host(self) -> Host:
        """Start one more host, at an origin of its own."""
        return Host(self.directory, await self.stack.enter_async_context(web()))

    async def account(self, name: str, records: int = 3) -> tuple[Host, Repo]:
        """Start a host with one account, which nobody has heard of yet."""
        host = await self.host()
        return host, host.account(name, records)

    def next(self) -> int:
        """Return the seq of the next frame."""
        self.seq += 1
        return self.seq

    async def commit(self, repo: Repo, *writes: Write, lost: bool = False) -> Commit:
        """Commit ``writes``, one new record by default; if ``lost``, no frame tells of it."""
        commit = repo.commit(writes or [self.write()])
        if not lost:
            seq = self.next()
            await self.relay.publish([(seq, commit_frame(seq, commit, now()))])
        return commit

    def write(self, collection: str = COLLECTION) -> Write:
        """Return the creation of a record that nothing else creates."""
        self._records += 1
        record = {"$type": collection, "n": self._records}
        return Write("create", f"{collection}/new{self._records:05}", record)

    async def says(self, repo: Repo, status: str | None) -> None:
        """Send an ``#account``; None is active."""
        seq, did = self.next(), repo.account.did
        frame = account_frame(seq, did, active=status is None, status=status, time=now())
        await self.relay.publish([(seq, frame)])

    async def moved(self, repo: Repo) -> None:
        """Send an ``#identity``, as after a change of the account's document."""
        seq = self.next()
        await self.relay.publish([(seq, identity_frame(seq, repo.account.did, time=now()))])


def now() -> str:
    """Return the time as frames have it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
