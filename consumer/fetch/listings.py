"""Pages of listings: of the repositories of a collection, of all repositories, and of hosts.

Lexicons: com.atproto.sync.listReposByCollection lists the repositories that have a record in a
collection, com.atproto.sync.listRepos all repositories of a relay or host, with their revs,
com.atproto.sync.listHosts the hosts that a relay reads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import orjson

from consumer.errors import Reason, Refused
from consumer.fetch.http import HostError, HostErrorKind, HttpClient, HttpResponse
from consumer.printable import escape
from consumer.scope import EVERYTHING
from consumer.state.discovery import HOSTS, SWEEP, Answer, AnswerKind
from procedures.syntax import MAX_DID, is_did, is_tid

_BYTES = 2 * 1024 * 1024
_STATUS_BYTES = 64 * 1024
_READING = ("active", "idle", "throttled")  # of a host at its relay; others: offline, banned
_MAX_CURSOR = 4_096
_WORDS = 200
_OK, _BAD_REQUEST = 200, 400
# Statuses of sources that do not have the method or do not permit it.
_ABSENT = frozenset({401, 403, 404, 405, 501})
_ABSENT_NAMES = frozenset({"MethodNotImplemented", "XRPCNotSupported"})
_GATEWAY = frozenset({502, 503, 504})  # what stands before the source answers in its place
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HOST = re.compile(r"([a-z0-9-]+(?:\.[a-z0-9-]+)*)(:[0-9]{1,5})?")
_MAX_HOST = 253
_BANNED = "banned"


@dataclass(frozen=True, slots=True)
class Listed:
    """One repository; ``rev`` and ``active`` are None if the listing does not state them."""

    did: str
    rev: str | None
    active: bool | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """What a page names, without malformed entries; ``hosts`` are origins."""

    repos: tuple[Listed, ...] = ()
    hosts: tuple[str, ...] = ()


NOTHING = Page()


class Listings:
    """Asks sources for pages; ``seconds`` bound a request."""

    def __init__(self, http: HttpClient, *, allow_loopback: bool, seconds: float) -> None:
        self._http = http
        self._loopback = allow_loopback
        self._seconds = seconds

    async def ask(
        self, source: str, listing: str, cursor: str | None, limit: int
    ) -> tuple[Answer, Page]:
        """Return what ``source`` answers, and the page if it is one; raises nothing of a host."""
        url = url_of(source, listing, cursor, limit)
        try:
            response = await self._http.get(url, limit=_BYTES, seconds=self._seconds)
        except HostError as error:
            return of_error(error), NOTHING
        except Refused as refused:
            too_big = refused.reason is Reason.FETCH_TOO_BIG
            kind = AnswerKind.BROKEN if too_big else AnswerKind.ABSENT
            return Answer(kind, _printable(str(refused))), NOTHING
        return parse(response, listing, url, allow_loopback=self._loopback)

    async def is_read_by(self, relay: str, source: str) -> bool:
        """Tell whether the relay at the origin ``relay`` says that it reads the host ``source``.

        Lexicon: com.atproto.sync.getHostStatus.  A relay that does not say so does not.
        """
        query = urlencode({"hostname": source.partition("://")[2]})
        url = f"{relay}/xrpc/com.atproto.sync.getHostStatus?{query}"
        try:
            response = await self._http.get(url, limit=_STATUS_BYTES, seconds=self._seconds)
        except (HostError, Refused):
            return False
        body = _json(response.body)
        named = response.status == _OK and isinstance(body, dict)
        return named and body.get("status") in _READING and isinstance(body.get("hostname"), str)


def origin_of(relay: str) -> str:
    """Return the origin of a relay's websocket URL."""
    parts = urlsplit(relay)
    return f"{'https' if parts.scheme == 'wss' else 'http'}://{parts.netloc}"


def url_of(source: str, listing: str, cursor: str | None, limit: int) -> str:
    """Return the URL of a page."""
    query = {"limit": str(limit)}
    if listing == HOSTS:
        method = "listHosts"
    elif listing in (EVERYTHING, SWEEP):
        method = "listRepos"
    else:
        method = "listReposByCollection"
        query = {"collection": listing} | query
    more = {} if cursor is None else {"cursor": cursor}
    return f"{source}/xrpc/com.atproto.sync.{method}?{urlencode(query | more)}"


def parse(
    response: HttpResponse, listing: str, url: str, *, allow_loopback: bool = False
) -> tuple[Answer, Page]:
    """Return what ``response`` means, and the page if it is one."""
    status, body = response.status, _json(response.body)
    words = _words(response, body, url)
    if status in _ABSENT or response.body.lstrip()[:1] == b"<":
        return Answer(AnswerKind.ABSENT, words), NOTHING
    key = "hosts" if listing == HOSTS else "repos"
    entries = body.get(key) if isinstance(body, dict) else None
    if entries is None and isinstance(body, dict) and key in body:
        entries = []  # null: an empty list of a server in Go
    if status == _OK and isinstance(entries, list):
        answer = Answer(AnswerKind.PAGE, named=len(entries), cursor=_cursor(body.get("cursor")))
        if listing == HOSTS:
            hosts = [_host(entry, allow_loopback=allow_loopback) for entry in entries]
            return answer, Page(hosts=tuple(filter(None, hosts)))
        return answer, Page(tuple(filter(None, map(_listed, entries))))
    name = _name(body) or f"status {status}"
    if status == _BAD_REQUEST and name in _ABSENT_NAMES:
        return Answer(AnswerKind.ABSENT, words), NOTHING
    return Answer(AnswerKind.REFUSED, words, name=name), NOTHING


def of_error(error: HostError) -> Answer:
    """Return what a failed request means."""
    words, wait = _printable(str(error)), error.retry_after or 0.0
    if error.status in _ABSENT:
        return Answer(AnswerKind.ABSENT, words)
    if error.status in _GATEWAY or error.kind in (HostErrorKind.AWAY, HostErrorKind.BUSY):
        return Answer(AnswerKind.AWAY, words, retry_after=wait)
    return Answer(AnswerKind.BROKEN, words, retry_after=wait)


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _words(response: HttpResponse, body: Any, url: str) -> str:
    """Return what the source said, for people."""
    said = body.get("message") if isinstance(body, dict) else None
    named = " ".join(filter(None, [_name(body), said if isinstance(said, str) else None]))
    text = named or repr(response.body[:80])
    return _printable(f"status {response.status} from {url.partition('?')[0]}: {text[:_WORDS]}")


def _printable(text: str) -> str:
    return escape(text[: 3 * _WORDS])


def _name(body: Any) -> str | None:
    match body:
        case {"error": str(name)} if _NAME.fullmatch(name):
            return name
    return None


def _listed(entry: Any) -> Listed | None:
    match entry:
        case {"did": str(did)} if len(did) <= MAX_DID and is_did(did):
            rev = entry.get("rev")
            known = rev if isinstance(rev, str) and is_tid(rev) else None
            active = entry.get("active")
            return Listed(did, known, active if isinstance(active, bool) else None)
    return None


def _host(entry: Any, *, allow_loopback: bool) -> str | None:
    match entry:
        case {"hostname": str(name)} if len(name) <= _MAX_HOST and entry.get("status") != _BANNED:
            found = _HOST.fullmatch(name.lower())
            if found is None:
                return None
            local = allow_loopback and found[1] in ("localhost", "127.0.0.1")
            return f"{'http' if local else 'https'}://{name.lower()}"
    return None


def _cursor(value: Any) -> str | None:
    """Return the cursor if Postgres can store it, else None."""
    usable = isinstance(value, str) and 0 < len(value) <= _MAX_CURSOR and "\0" not in value
    return value if usable else None
