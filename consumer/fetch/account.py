"""The status of an account, as its current PDS states it.

Lexicon: com.atproto.sync.getRepoStatus.  An old host states "deleted" after a migration, so the
DID document, fetched anew, decides which host to call.  Only two sources can state that an account
is deleted: its own PDS, by status or by not having the repository, and the PLC directory, by a
tombstone of the DID.  Everything else is inconclusive.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from urllib.parse import urlencode

import orjson

from consumer.backfill import AnswerSource
from consumer.fetch import refusals
from consumer.fetch.hosts import Hosts
from consumer.fetch.http import HttpClient, HttpResponse, host_of
from consumer.fetch.identity import Directory, Inconclusive, Tombstoned

ACTIVE, DELETED, UNEXPLAINED = "active", "deleted", "inactive"

_LIMIT = 64 * 1024
_OK = 200
_SHOWN = 100
_MAX_NAME = 128
_STATUS = re.compile(r"[a-z][a-zA-Z-]{0,63}")


@dataclass(frozen=True, slots=True)
class Stated:
    """The status of an account as ``source`` states it.

    ``status`` is ``active``, a status of the lexicon, or another that the PDS states; ``inactive``
    stands for an inactive account without a usable status.  ``host`` was asked at ``asked_at``
    (Unix seconds, before the first request), ``name`` is the name of its error.
    """

    status: str
    source: AnswerSource
    host: str | None
    asked_at: float
    name: str | None = None


class Accounts:
    """The accounts of all PDSes; ``seconds`` bound one request."""

    def __init__(
        self, directory: Directory, http: HttpClient, hosts: Hosts, *, seconds: float
    ) -> None:
        self._directory = directory
        self._http = http
        self._hosts = hosts
        self._seconds = seconds

    async def ask(self, did: str) -> Stated:
        """Return the status of ``did`` as its PDS of today or the directory states it.

        Raises ``HostUnavailable``, ``Inconclusive`` or ``Refused`` when it is not known now.
        """
        asked_at = time.time()
        try:
            document = await self._directory.document(did)
        except Tombstoned:
            return Stated(DELETED, AnswerSource.DIRECTORY, None, asked_at)
        if document.pds is None:
            raise Inconclusive(f"the document of {did}: {document.no_pds}")
        url = f"{document.pds}/xrpc/com.atproto.sync.getRepoStatus?{urlencode({'did': did})}"
        host = host_of(url)
        async with self._hosts.slot(host, did):
            response = await self._http.get(url, limit=_LIMIT, seconds=self._seconds)
        status, name = status_of(did, response, url)
        return Stated(status, AnswerSource.HOST, host, asked_at, name)


def status_of(did: str, response: HttpResponse, url: str) -> tuple[str, str | None]:
    """Return the status that a response of ``getRepoStatus`` states for ``did``.

    With it, the name of the error that stands for it.  Raises ``Inconclusive`` if there is none.
    """
    if response.status == _OK:
        status = _stated(did, response.body)
        if status is not None:
            return status, None
    else:
        refusal = refusals.read(response, url)
        if refusal.status is not None:
            return refusal.status, refusal.name[:_MAX_NAME]
    raise Inconclusive(
        f"status {response.status} states nothing of {did}: {response.body[:_SHOWN]!r}"
    )


def _stated(did: str, body: bytes) -> str | None:
    try:
        stated = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    match stated:
        case {"did": str(about), "active": True} if about == did:
            return ACTIVE
        case {"did": str(about), "active": False} if about == did:
            status = stated.get("status")
            named = isinstance(status, str) and _STATUS.fullmatch(status) and status != ACTIVE
            return str(status) if named else UNEXPLAINED
    return None
