"""Asking an account's PDS of today what has become of the account.

An old host says "deleted" after a migration, so the DID document says whom to ask.  Deleted is
what only these say: the account's own PDS, by status or by not knowing the repository, and the
PLC directory, by the tombstone of the DID.  Everything else leaves the question open.
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
# What com.atproto.sync.* answer instead of a status, by the name of the error.
_ERRORS = {
    "RepoNotFound": DELETED,
    "RepoTakendown": "takendown",
    "RepoSuspended": "suspended",
    "RepoDeactivated": "deactivated",
}


class Accounts:
    """The accounts of all PDSes."""

    def __init__(
        self, directory: Directory, http: HttpClient, hosts: Hosts, *, seconds: float
    ) -> None:
        self._directory = directory
        self._http = http
        self._hosts = hosts
        self._seconds = seconds

    async def status(self, did: str) -> str:
        """Return ``active``, or one of the lexicon's statuses, or another that the PDS says.

        Raises ``HostUnavailable``, ``Inconclusive`` or ``Refused`` when it is not known now.
        """
        try:
            document = await self._directory.document(did)
        except Tombstoned:
            return DELETED
        if document.pds is None:
            raise Inconclusive(f"the document of {did} names no PDS")
        url = f"{document.pds}/xrpc/com.atproto.sync.getRepoStatus?{urlencode({'did': did})}"
        async with self._hosts.slot(host_of(url)):
            answer = await self._http.get(url, limit=_LIMIT, seconds=self._seconds)
        return status_of(did, answer)


def status_of(did: str, answer: HttpResponse) -> str:
    """Return the status that an answer of ``getRepoStatus`` states; raise ``Inconclusive``."""
    try:
        stated = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        stated = None
    match answer.status, stated:
        case 200, {"did": str(about), "active": True} if about == did:
            return ACTIVE
        case 200, {"did": str(about), "active": False} if about == did:
            status = stated.get("status")
            named = isinstance(status, str) and _STATUS.fullmatch(status) and status != ACTIVE
            return str(status) if named else UNEXPLAINED
        case 400 | 404, {"error": str(error)} if error in _ERRORS:
            return _ERRORS[error]
    raise Inconclusive(f"status {answer.status} without a meaning for {did}: {answer.body[:100]!r}")
