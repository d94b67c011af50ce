"""The status of an account, as its current PDS states it.

Lexicon: com.atproto.sync.getRepoStatus.  An old host states "deleted" after a migration, so the
DID document decides which host to call.  Only two sources can state that an account is deleted:
its own PDS, by status or by not having the repository, and the PLC directory, by a tombstone of
the DID.  Everything else is inconclusive.
"""

from __future__ import annotations

import re
from urllib.parse import urlencode

import orjson

from consumer.fetch.hosts import Hosts
from consumer.fetch.http import HttpClient, HttpResponse, host_of
from consumer.fetch.identity import Directory, Inconclusive, Tombstoned

ACTIVE, DELETED, UNEXPLAINED = "active", "deleted", "inactive"

_LIMIT = 64 * 1024
_STATUS = re.compile(r"[a-z][a-zA-Z-]{0,63}")
# Errors of com.atproto.sync.* that stand for a status.
_ERRORS = {
    "RepoNotFound": DELETED,
    "RepoTakendown": "takendown",
    "RepoSuspended": "suspended",
    "RepoDeactivated": "deactivated",
}


class Accounts:
    """The accounts of all PDSes; ``seconds`` bound one request."""

    def __init__(
        self, directory: Directory, http: HttpClient, hosts: Hosts, *, seconds: float
    ) -> None:
        self._directory = directory
        self._http = http
        self._hosts = hosts
        self._seconds = seconds

    async def status(self, did: str) -> str:
        """Return ``active``, a status of the lexicon, or another that the PDS states.

        ``inactive`` stands for an inactive account without a usable status.  Raises
        ``HostUnavailable``, ``Inconclusive`` or ``Refused`` when the status is not known now.
        """
        try:
            document = await self._directory.document(did)
        except Tombstoned:
            return DELETED
        if document.pds is None:
            raise Inconclusive(f"the document of {did} names no PDS")
        url = f"{document.pds}/xrpc/com.atproto.sync.getRepoStatus?{urlencode({'did': did})}"
        async with self._hosts.slot(host_of(url)):
            response = await self._http.get(url, limit=_LIMIT, seconds=self._seconds)
        return status_of(did, response)


def status_of(did: str, response: HttpResponse) -> str:
    """Return the status that a response of ``getRepoStatus`` states for ``did``.

    Raises ``Inconclusive`` if it states none.
    """
    try:
        stated = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        stated = None
    match response.status, stated:
        case 200, {"did": str(about), "active": True} if about == did:
            return ACTIVE
        case 200, {"did": str(about), "active": False} if about == did:
            status = stated.get("status")
            named = isinstance(status, str) and _STATUS.fullmatch(status) and status != ACTIVE
            return str(status) if named else UNEXPLAINED
        case 400 | 404, {"error": str(error)} if error in _ERRORS:
            return _ERRORS[error]
    raise Inconclusive(f"status {response.status} states nothing of {did}: {response.body[:100]!r}")
