"""Checks: what a repository's host says that its latest commit is.

Lexicon: com.atproto.sync.getLatestCommit.  The host that is known is asked first.  When it refuses
by name, the DID document is fetched anew: an account that has moved is asked about where it is now.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from urllib.parse import urlencode

import orjson

from consumer.config.settings import Settings
from consumer.errors import Reason, Refused
from consumer.fetch import refusals
from consumer.fetch.failed import of_fetching, of_resolving, printable
from consumer.fetch.hosts import Hosts, HostUnavailable
from consumer.fetch.http import HttpClient, host_of
from consumer.fetch.identity import Directory, Inconclusive
from consumer.fetch.pace import Pace
from consumer.state.sweep import Told
from procedures.failures import Failure
from procedures.syntax import is_tid, tid_time

_LIMIT = 64 * 1024
_OK = 200
_REQUESTS = 24  # at once, at all hosts together
_DELETED = "deleted"


class Checker:
    """Asks hosts, each at most once in ``pace``; ``seconds`` bound one request.

    A revision that is more than ``rev_ahead`` seconds in the future is nonsense.
    """

    def __init__(
        self,
        directory: Directory,
        http: HttpClient,
        hosts: Hosts,
        pace: Pace,
        *,
        seconds: float,
        rev_ahead: float,
    ) -> None:
        self._directory = directory
        self._http = http
        self._hosts = hosts
        self._pace = pace
        self._seconds = seconds
        self._rev_ahead = rev_ahead
        self._requests = asyncio.Semaphore(_REQUESTS)

    @classmethod
    def of(
        cls, settings: Settings, directory: Directory, http: HttpClient, hosts: Hosts
    ) -> Checker:
        """Return the checker that ``settings`` describe."""
        return cls(
            directory,
            http,
            hosts,
            Pace(1.0 / settings.discovery.sweep_pace),
            seconds=settings.identity.timeout,
            rev_ahead=settings.limits.rev_ahead,
        )

    async def ask(self, did: str, pds: str | None, *, anew: bool = False) -> Told:
        """Return what is told of ``did``; ``pds`` is the origin of its known host, None without.

        ``anew``: the DID document is fetched before anything is asked.
        """
        first = None
        if pds is not None and not anew:
            first = await self._latest(did, pds)
            if first.status is None:
                return first
        today = await self._host_of_today(did)
        if isinstance(today, Told):
            return today if first is None or today.status is not None else first
        if first is not None and today == pds:
            return first
        return replace(await self._latest(did, today), moved=today != pds)

    async def _host_of_today(self, did: str) -> str | Told:
        try:
            document = await self._directory.document(did)
        except Refused as refused:
            if refused.reason is Reason.DID_NOT_FOUND:
                return Told(status=_DELETED, by_directory=True)
            return _unknown(of_resolving(refused).failure, str(refused))
        except (HostUnavailable, Inconclusive) as error:
            failed = of_resolving(error)
            wait = error.seconds if isinstance(error, HostUnavailable) else 0.0
            return _unknown(failed.failure, failed.detail, wait)
        if document.pds is None:
            return _unknown(Failure.DID_DOCUMENT, f"the document of {did}: {document.no_pds}")
        return document.pds

    async def _latest(self, did: str, pds: str) -> Told:
        url = f"{pds}/xrpc/com.atproto.sync.getLatestCommit?{urlencode({'did': did})}"
        try:
            host = host_of(url)
            await asyncio.sleep(self._pace.turn(host))
            async with self._hosts.slot(host, did), self._requests:
                response = await self._http.get(url, limit=_LIMIT, seconds=self._seconds)
        except Refused as refused:
            return _unknown(of_fetching(refused).failure, str(refused))
        except HostUnavailable as error:
            return _unknown(of_fetching(error).failure, str(error), error.seconds)
        if response.status == _OK:
            rev = _rev(response.body)
            if rev is None or tid_time(rev) > time.time() + self._rev_ahead:
                return _unknown(Failure.HOST_ERROR, f"no usable rev from {url}")
            return Told(rev=rev)
        refusal = refusals.read(response, url)
        if refusal.status is not None:
            return Told(status=refusal.status)
        return _unknown(Failure.HOST_ERROR, f"status {response.status} {refusal.name} from {url}")


def _unknown(failure: Failure, detail: str, wait: float = 0.0) -> Told:
    return Told(failure=failure, detail=printable(detail), wait=wait)


def _rev(body: bytes) -> str | None:
    try:
        stated = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    match stated:
        case {"rev": str(rev)} if is_tid(rev):
            return rev
    return None
