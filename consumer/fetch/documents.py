"""DID documents: their URLs, and the fields that atproto uses.  Pure.

Specifications: https://atproto.com/specs/did for the two methods and the fields,
https://web.plc.directory/spec/v0.1/did-plc, https://w3c-ccg.github.io/did-method-web/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import orjson
from atproto_core.did_doc import DidDocument
from atproto_core.exceptions import AtProtocolError
from atproto_crypto.did import get_did_key
from pydantic import ValidationError

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


@dataclass(frozen=True, slots=True)
class Document:
    """What atproto reads in a DID document.

    ``signing_key`` is a ``did:key``, ``pds`` an origin (``https://host[:port]``), ``handle`` is
    not verified.
    """

    signing_key: str
    pds: str | None
    handle: str | None


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
    document = _document(body)
    if document.id != did:
        raise _invalid(f"the document of {did} has the id {document.id[:_SHOWN]}")
    keys = set(_signing_keys(document))
    if len(keys) != 1:
        raise _invalid(
            f"the document of {did} has {len(keys)} keys #atproto that can be used, not 1"
        )
    handle = document.get_handle()
    return Document(
        signing_key=keys.pop(),
        pds=_pds(document, allow_loopback=allow_loopback),
        handle=handle if handle and is_handle(handle) else None,
    )


def _invalid(detail: str) -> Refused:
    return Refused(Reason.DID_INVALID, detail)


def _document(body: bytes) -> DidDocument:
    try:
        value = orjson.loads(body)
        if not isinstance(value, dict):
            raise _invalid("the DID document is not an object")
        return DidDocument.from_dict(value)
    except (orjson.JSONDecodeError, ValidationError) as error:
        raise _invalid(f"not a DID document: {str(error)[:_SHOWN]}") from error


def _signing_keys(document: DidDocument) -> Iterator[str]:
    names = ("#atproto", f"{document.id}#atproto")
    named = [method for method in document.verification_method or () if method.id in names]
    if len(named) > _MAX_KEYS:
        raise _invalid(f"the document of {document.id} has {len(named)} keys #atproto")
    for method in named:
        text = method.public_key_multibase
        if not text or len(text) > _MAX_KEY:
            continue
        try:
            did_key = get_did_key(method.type, text)
            if did_key is not None:
                yield SigningKey.from_did_key(did_key).did_key
        except (ValueError, AtProtocolError, Refused):
            continue  # not usable


def _pds(document: DidDocument, *, allow_loopback: bool) -> str | None:
    names = ("#atproto_pds", f"{document.id}#atproto_pds")
    for service in document.service or ():
        if service.id in names and service.type == "AtprotoPersonalDataServer":
            return _origin(service.service_endpoint, allow_loopback=allow_loopback)
    return None


def _origin(endpoint: object, *, allow_loopback: bool) -> str | None:
    """Return ``endpoint`` as an origin, None if it is anything else."""
    if not isinstance(endpoint, str):  # never shown: it may be nested deeply
        return None
    try:
        parts = urlsplit(endpoint)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ({"https", "http"} if allow_loopback else {"https"}):
        return None
    if parts.path not in {"", "/"} or parts.query or parts.fragment or "@" in parts.netloc:
        return None
    if parts.hostname is None or _HOST.fullmatch(parts.hostname) is None:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port else "")
