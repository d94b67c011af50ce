"""Resolving DIDs: the current signing key and PDS of an account."""

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
    """The host answered, but the answer states nothing about this account."""


class Tombstoned(Refused):
    """The PLC directory has a tombstone for the DID: it was given up for good."""


class Directory:
    """Resolves DIDs; nothing is cached."""

    def __init__(
        self, settings: IdentitySettings, http: HttpClient, hosts: Hosts, *, allow_loopback: bool
    ) -> None:
        self._settings = settings
        self._http = http
        self._hosts = hosts
        self._allow_loopback = allow_loopback

    async def document(self, did: str) -> Document:
        """Return the current document of ``did``.

        Raises ``Refused`` when there is no usable document (``Tombstoned`` when the PLC directory
        has a tombstone), ``HostUnavailable`` or ``Inconclusive`` when that is not known now.
        """
        url = documents.url_of(did, self._settings.plc_url, allow_loopback=self._allow_loopback)
        async with self._hosts.slot(host_of(url)):
            response = await self._get(did, url)
        if response.status in _GONE:
            detail = f"status {response.status} from {url}"
            given_up = documents.is_plc(did) and response.status != _GONE[0]
            raise (Tombstoned if given_up else Refused)(Reason.DID_NOT_FOUND, detail)
        if response.status != _OK:
            raise Inconclusive(f"status {response.status} from {url}")
        return documents.parse(did, response.body, allow_loopback=self._allow_loopback)

    async def _get(self, did: str, url: str) -> HttpResponse:
        settings = self._settings
        try:
            return await self._http.get(
                url, limit=settings.document_limit, seconds=settings.timeout
            )
        except Refused as refused:
            if documents.is_plc(did):
                # The directory breaks no rules: a proxy or a wrong plc_url does.
                detail = f"the PLC directory cannot be reached: {refused}"
                raise HostError(HostErrorKind.AWAY, detail) from refused
            raise
