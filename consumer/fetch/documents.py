"""DID documents: their URLs, and the fields that atproto uses.  Pure.

Specifications: https://atproto.com/specs/did for the two methods and the fields,
https://web.plc.directory/spec/v0.1/did-plc, https://w3c-ccg.github.io/did-method-web/.

Documents in the field break many rules of the W3C, and not in the entries that atproto uses.  So
only those are read: ``id``, the keys ``#atproto``, the service ``#atproto_pds``, and the texts in
``alsoKnownAs``.  Everything else may be any JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import orjson
from atproto_core.exceptions import AtProtocolError
from atproto_crypto.did import get_did_key

from consumer.errors import Reason, Refused
from consumer.verify.keys import SigningKey
from procedures.syntax import is_handle, is_plc_did

_LOCALHOST = re.compile(r"localhost(?:%3[Aa]([0-9]{1,5}))?")
# A host's name is stored, and goes into each event of its accounts: short ASCII.
_HOST = re.compile(r"[a-z0-9._-]{1,253}|[0-9a-f:.]{2,45}")
_SHOWN = 200
# Decoding base58 takes quadratic time, and a document may be large.
_MAX_KEY = 256
_MAX_KEYS = 16  # named #atproto; there should be one
_KEY_TYPES = (
    "Multikey",
    "EcdsaSecp256k1VerificationKey2019",
    "EcdsaSecp256r1VerificationKey2019",
)
_PDS_TYPE = "AtprotoPersonalDataServer"
_AT = "at://"

_Object = dict[str, object]


@dataclass(frozen=True, slots=True)
class Document:
    """What atproto reads in a DID document.

    ``signing_key`` is a ``did:key``, ``pds`` an origin (``https://host[:port]``), ``handle`` is
    not verified.  ``no_pds`` says why ``pds`` is None; parts of it were written by the account.
    """

    signing_key: str
    pds: str | None
    handle: str | None
    no_pds: str = ""


def is_plc(did: str) -> bool:
    """Tell whether the PLC directory answers for ``did``."""
    return is_plc_did(did)


def url_of(did: str, plc_url: str, *, allow_loopback: bool) -> str:
    """Return the URL of the document of ``did``.

    atproto allows did:web for whole domains only, and a port only for localhost in development.
    Raises ``Refused(DID_UNSUPPORTED)`` for every other DID.
    """
    method, _, name = did.removeprefix("did:").partition(":")
    if is_plc(did):
        return f"{plc_url.rstrip('/')}/{did}"
    if method == "web" and is_handle(name):
        return f"https://{name}/.well-known/did.json"
    local = _LOCALHOST.fullmatch(name) if method == "web" and allow_loopback else None
    if local is not None:
        return f"http://localhost:{local[1] or 80}/.well-known/did.json"
    raise Refused(
        Reason.DID_UNSUPPORTED,
        f"only did:plc and did:web of a whole domain are resolved, not {did[:_SHOWN]}",
    )


def parse(did: str, body: bytes, *, allow_loopback: bool) -> Document:
    """Return what the document in ``body`` states about ``did``.

    Raises ``Refused(DID_INVALID)`` if it is not that DID's document, or does not have exactly
    one usable key ``#atproto``.
    """
    document = _document(did, body)
    keys = set(_signing_keys(did, document))
    if len(keys) != 1:
        raise _invalid(
            f"the document of {did} has {len(keys)} keys #atproto that can be used, not 1"
        )
    pds, no_pds = _pds(did, document, allow_loopback=allow_loopback)
    return Document(keys.pop(), pds, _handle(document), no_pds)


def _invalid(detail: str) -> Refused:
    return Refused(Reason.DID_INVALID, detail)


def _document(did: str, body: bytes) -> _Object:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _invalid(f"the DID document is not JSON: {str(error)[:_SHOWN]}") from error
    if not isinstance(document, dict):
        raise _invalid("the DID document is not an object")
    name = document.get("id")
    if name != did:
        # What is no text is never shown: it may be nested deeper than Python can show.
        problem = f"has the id {name[:_SHOWN]}" if isinstance(name, str) else "has no id"
        raise _invalid(f"the document of {did} {problem}")
    return document


def _named(did: str, listed: object, fragment: str) -> Iterator[_Object]:
    """Yield the objects in ``listed``, a list or a single one, whose id is ``fragment`` of ``did``.

    An id is a full one or the fragment alone.
    """
    names = (fragment, did + fragment)
    for entry in listed if isinstance(listed, list) else [listed]:
        if isinstance(entry, dict) and entry.get("id") in names:
            yield entry


def _types(entry: _Object) -> list[object]:
    """Return the types of an entry: ``type`` is a text or a list of them."""
    kind = entry.get("type")
    return kind if isinstance(kind, list) else [kind]


def _signing_keys(did: str, document: _Object) -> Iterator[str]:
    named = list(_named(did, document.get("verificationMethod"), "#atproto"))
    if len(named) > _MAX_KEYS:
        raise _invalid(f"the document of {did} has {len(named)} keys #atproto")
    for method in named:
        text, types = method.get("publicKeyMultibase"), _types(method)
        if not isinstance(text, str) or not text or len(text) > _MAX_KEY:
            continue
        for kind in _KEY_TYPES:
            if kind not in types:
                continue
            try:
                did_key = get_did_key(kind, text)
                if did_key is not None:
                    yield SigningKey.from_did_key(did_key).did_key
            except (ValueError, AtProtocolError, Refused):
                continue  # not usable


def _pds(did: str, document: _Object, *, allow_loopback: bool) -> tuple[str | None, str]:
    """Return the origin of the PDS, or None and the reason why there is none."""
    for service in _named(did, document.get("service"), "#atproto_pds"):
        if _PDS_TYPE not in _types(service):
            continue
        endpoint = service.get("serviceEndpoint")
        if not isinstance(endpoint, str):  # never shown: it may be nested deeply
            return None, "its PDS endpoint is no text"
        try:
            return _origin(endpoint, allow_loopback=allow_loopback), ""
        except ValueError as error:
            return None, f"its PDS endpoint {error}: {endpoint[:_SHOWN]}"
    return None, "it names no PDS"


def _handle(document: _Object) -> str | None:
    """Return the first ``at://`` URI of ``alsoKnownAs`` as a handle, None if it is none."""
    names = document.get("alsoKnownAs")
    for name in names if isinstance(names, list) else [names]:
        if isinstance(name, str) and name.startswith(_AT):
            handle = name.removeprefix(_AT)
            return handle if is_handle(handle) else None
    return None


def _origin(endpoint: str, *, allow_loopback: bool) -> str:
    """Return ``endpoint`` as an origin.  Raises ``ValueError`` that says what else it is.

    The specification has scheme, host and port, "but no path or other components"; a slash alone
    is no path.  Requests to the origin of an endpoint with a path would reach another service.
    """
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError("is no URL") from error
    if parts.scheme not in ({"https", "http"} if allow_loopback else {"https"}):
        raise ValueError("is not https")
    if "@" in parts.netloc:
        raise ValueError("has a user name")
    if host is None or _HOST.fullmatch(host) is None:
        raise ValueError("has no usable host name")
    if parts.path not in {"", "/"}:
        raise ValueError("has a path")
    if parts.query or parts.fragment:
        raise ValueError("has a query or a fragment")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port else "")
