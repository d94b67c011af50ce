"""Resolving DIDs: which key signs for an account today, and which PDS holds it."""

from __future__ import annotations

from consumer.config.settings import IdentitySettings
from consumer.errors import Reason, Refused, Transient
from consumer.fetch import documents
from consumer.fetch.documents import Document
from consumer.fetch.hosts import Hosts
from consumer.fetch.http import HostError, HostErrorKind, HttpClient, HttpResponse, host_of

_OK = 200
_GONE = (404, 410)


class Inconclusive(Transient):
    """The host answers, but not in a way that settles the question of this account."""


class Tombstoned(Refused):
    """The PLC directory says that the DID was given up for good."""


class Directory:
    """The documents of all DIDs, fetched anew for each question."""

    def __init__(
        self, settings: IdentitySettings, http: HttpClient, hosts: Hosts, *, allow_loopback: bool
    ) -> None:
        self._settings = settings
        self._http = http
        self._hosts = hosts
        self._allow_loopback = allow_loopback

    async def document(self, did: str) -> Document:
        """Return what the document of ``did`` says today.

        Raises ``Refused`` when there is none, or none that can be used; ``HostUnavailable`` or
        ``Inconclusive`` when nobody can tell at the moment.
        """
        url = documents.url_of(did, self._settings.plc_url, allow_loopback=self._allow_loopback)
        async with self._hosts.slot(host_of(url)):
            answer = await self._get(did, url)
        if answer.status in _GONE:
            detail = f"status {answer.status} from {url}"
            given_up = documents.is_plc(did) and answer.status != _GONE[0]
            raise (Tombstoned if given_up else Refused)(Reason.DID_NOT_FOUND, detail)
        if answer.status != _OK:
            raise Inconclusive(f"status {answer.status} from {url}")
        return documents.parse(did, answer.body, allow_loopback=self._allow_loopback)

    async def _get(self, did: str, url: str) -> HttpResponse:
        settings = self._settings
        try:
            return await self._http.get(
                url, limit=settings.document_limit, seconds=settings.timeout
            )
        except Refused as refused:
            if documents.is_plc(did):
                # The directory cannot break our rules: something between us and it does.
                detail = f"the PLC directory cannot be asked: {refused}"
                raise HostError(HostErrorKind.AWAY, detail) from refused
            raise
