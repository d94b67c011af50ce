"""Fetching a whole repository or one record from its PDS, and verifying it.

Lexicons: com.atproto.sync.getRepo and com.atproto.sync.getRecord.  A repository that is
not small is streamed to a temporary file without a name, which is gone at the end of the caller's
block or of the process.
Verification runs in a thread, and stops soon after its caller is cancelled.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import IO, Self, TypeVar
from urllib.parse import urlencode

from consumer import metrics
from consumer.config.settings import FetchSettings, LimitSettings
from consumer.fetch import refusals
from consumer.fetch.documents import Document
from consumer.fetch.failed import FetchFailed, NoProof, of_fetching
from consumer.fetch.hosts import Hosts
from consumer.fetch.http import HostError, HttpClient, HttpResponse, Timeouts, host_of
from consumer.fetch.spool import WHOLE, SpooledBlocks
from consumer.scope import Interval
from consumer.verify.keys import SigningKey
from consumer.verify.proof import Proven, verify_proof
from consumer.verify.snapshot import ChunkContent, Snapshot, SnapshotLimits
from consumer.verify.verified import Incomplete
from procedures.failures import Failure

_OK = 200
_NOT_IMPLEMENTED = 501
_NO_PROOF = {400, 404}  # an error of the record, or getRecord is not there
_PROOF_SECONDS = 20.0
_BRIEF_BYTES = 32 * 1024  # some hundred blocks, which take a few milliseconds
LARGE_AT_ONCE = 8
"""Repositories over ``LARGE_BYTES`` at a time: they need memory and room in the spool."""
LARGE_BYTES = 2 * 1024 * 1024

T = TypeVar("T")


class _Cancelled(Exception):
    """The task that waits for the thread was cancelled."""


class _Thread:
    """Runs functions in a thread; ``alive`` ends them when their caller was cancelled.

    What is ``brief`` is run at once: the way to a thread and back would take longer.
    """

    def __init__(self, *, brief: bool) -> None:
        self._brief = brief
        self._cancelled = threading.Event()

    def alive(self) -> None:
        if self._cancelled.is_set():
            raise _Cancelled

    async def run(self, work: Callable[[], T]) -> T:
        if self._brief:
            return work()
        task = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._cancelled.set()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()
            raise


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A verified snapshot; ``chunks`` may be called once."""

    snapshot: Snapshot
    _thread: _Thread

    async def chunks(self, boundaries: Sequence[str]) -> AsyncIterator[ChunkContent]:
        """Yield the wanted records, in key order; ``boundaries`` end a chunk."""
        chunks = self.snapshot.chunks(self._thread.alive, boundaries)
        while (chunk := await self._thread.run(lambda: next(chunks, None))) is not None:
            yield chunk


class _Place:
    """The place of one of the large repositories, once it is known to be one."""

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places = places
        self._taken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._taken:
            self._places.release()

    async def take(self) -> None:
        """Wait for a place, unless it is taken already."""
        if not self._taken:
            await self._places.acquire()
            self._taken = True


class RepoSource:
    """Fetches repositories and records from the PDS that the DID document names."""

    def __init__(
        self, http: HttpClient, hosts: Hosts, limits: LimitSettings, settings: FetchSettings
    ) -> None:
        self._http = http
        self._hosts = hosts
        self._limits = limits
        self._settings = settings
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)

    @asynccontextmanager
    async def snapshot(
        self,
        did: str,
        document: Document,
        intervals: Sequence[Interval],
        *,
        progress: Callable[[int], None],
        verifying: Callable[[], None],
    ) -> AsyncIterator[Downloaded]:
        """Provide the verified repository of ``did`` during the block.

        ``intervals`` (disjoint, in key order) are the wanted parts; ``progress`` is called with
        the bytes so far, ``verifying`` when all have arrived.  Raises ``FetchFailed``, and
        ``Incomplete`` if nodes of the tree are missing behind a good signature.
        """
        with (
            tempfile.SpooledTemporaryFile(WHOLE, prefix="chive-spool-") as spool,
            _Place(self._large) as place,
        ):

            async def arrived(size: int) -> None:
                progress(size)
                if size > LARGE_BYTES:
                    await place.take()

            await self._download(did, document, spool, arrived)
            size = spool.tell()
            metrics.DOWNLOADED_BYTES.inc(size)
            verifying()
            thread = _Thread(brief=size <= _BRIEF_BYTES)
            snapshot = await self._verified(did, document, spool, intervals, thread)
            try:
                yield Downloaded(snapshot, thread)
            finally:
                snapshot.close()

    async def proof(self, did: str, document: Document, path: str) -> Proven:
        """Return the record at ``path`` of the repository of ``did``, or the proof of its absence.

        Raises ``FetchFailed``: ``NoProof`` if the host states an error of the record instead of a
        proof, and ``Incomplete`` if blocks are missing behind a good signature.
        """
        collection, _, rkey = path.partition("/")
        query = urlencode({"did": did, "collection": collection, "rkey": rkey})
        url = f"{_pds(did, document)}/xrpc/com.atproto.sync.getRecord?{query}"
        limit = self._limits.commit_blocks
        with _failures():
            async with self._hosts.slot(host_of(url), did):
                try:
                    response = await self._http.get(url, limit=limit, seconds=_PROOF_SECONDS)
                except HostError as error:
                    if error.status != _NOT_IMPLEMENTED:
                        raise
                    raise NoProof(Failure.HOST_ERROR, str(error)) from error
            if response.status != _OK:
                failed = _refusal(response, url)
                if failed.failure is Failure.HOST_ERROR and response.status in _NO_PROOF:
                    raise NoProof(failed.failure, failed.detail)
                raise failed
            return verify_proof(
                response.body,
                did,
                path,
                SigningKey.from_did_key(document.signing_key),
                limit=limit,
                rev_ahead=self._limits.rev_ahead,
                now=time.time(),
            )

    async def _verified(
        self,
        did: str,
        document: Document,
        spool: IO[bytes],
        intervals: Sequence[Interval],
        thread: _Thread,
    ) -> Snapshot:
        key = SigningKey.from_did_key(document.signing_key)
        limits = SnapshotLimits(
            self._limits.repo_records, self._limits.commit_blocks, self._limits.rev_ahead
        )

        def verified() -> Snapshot:
            return Snapshot.open(
                SpooledBlocks(spool),
                did,
                key,
                limits,
                intervals,
                now=time.time(),
                alive=thread.alive,
            )

        with _failures():
            return await thread.run(verified)

    async def _download(
        self,
        did: str,
        document: Document,
        spool: IO[bytes],
        progress: Callable[[int], Awaitable[None]],
    ) -> None:
        url = f"{_pds(did, document)}/xrpc/com.atproto.sync.getRepo?{urlencode({'did': did})}"
        settings = self._settings
        timeouts = Timeouts(settings.first_byte, settings.idle, settings.total)
        with _failures():
            async with self._hosts.slot(host_of(url), did):
                response = await self._http.download(
                    url, spool, limit=self._limits.repo, timeouts=timeouts, progress=progress
                )
            if response.status != _OK:
                raise _refusal(response, url)


class _failures:  # noqa: N801 - reads as a statement
    """Turns errors of fetching and verifying into ``FetchFailed``, but for ``Incomplete``."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, Incomplete):
            failed = of_fetching(error)
            if failed is not error:
                raise failed from error


def _pds(did: str, document: Document) -> str:
    if document.pds is None:
        raise FetchFailed(Failure.DID_DOCUMENT, f"the document of {did}: {document.no_pds}")
    return document.pds


def _refusal(response: HttpResponse, url: str) -> FetchFailed:
    refusal = refusals.read(response, url)
    detail = f"status {response.status} {refusal.name} from {url}"
    return FetchFailed(refusal.failure, detail)
