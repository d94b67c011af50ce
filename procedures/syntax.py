"""Identifiers of the AT Protocol, parsed strictly.  Pure.

Specifications: https://atproto.com/specs/did, /handle, /nsid, /record-key, /tid, /at-uri-scheme
and, for CIDs, /data-model.  Every identifier is ASCII, so that order of ``str`` is order of
bytes.  The ``is_…`` functions answer for data from the network, where a wrong identifier is one
field of a larger thing; the ``parse_…`` functions raise ``SyntaxInvalid``, whose message names
what was expected, for what a person typed.

A *path* is a record's key in its repository: ``collection/rkey``.  A CID is binary (36 bytes:
version 1, dag-cbor or raw, SHA-256) everywhere but in text for people and JSON.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeGuard

import libipld
from multiformats import CID

MAX_DID = 2048
MAX_NSID = 317
MAX_HANDLE = 253
MAX_AT_URI = 8192
MAX_PATH = 1024

CID_LENGTH = 36
DAG_CBOR_PREFIX = b"\x01\x71\x12\x20"  # CIDv1, dag-cbor, SHA-256 of 32 bytes
RAW_PREFIX = b"\x01\x55\x12\x20"
CID_PREFIXES = frozenset((DAG_CBOR_PREFIX, RAW_PREFIX))

_DID = re.compile(r"did:[a-z]+:[a-zA-Z0-9._:%-]*[a-zA-Z0-9._-]")
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_TOP = r"[a-zA-Z](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_HANDLE = re.compile(rf"(?:{_LABEL}\.)+{_TOP}")
_NSID = re.compile(rf"{_TOP}(?:\.{_LABEL})+\.[a-zA-Z][a-zA-Z0-9]{{0,62}}")
_NSID_WILDCARD = re.compile(rf"{_TOP}(?:\.{_LABEL})*\.\*")
_DID_PLC = re.compile(r"did:plc:[a-z2-7]{24}")
_DID_WEB = re.compile(r"did:web:([a-zA-Z0-9.-]+)(?:%3A([0-9]{1,5}))?")
_RECORD_KEY = re.compile(r"[A-Za-z0-9._:~-]{1,512}")
_TID = re.compile(r"[234567abcdefghij][234567abcdefghijklmnopqrstuvwxyz]{12}")
_TID_DIGITS = str.maketrans("234567abcdefghijklmnopqrstuvwxyz", "0123456789abcdefghijklmnopqrstuv")
_TID_CLOCK_BITS = 10


class SyntaxInvalid(ValueError):
    """A text is not the identifier it should be."""


def is_did(text: str) -> bool:
    """Tell whether ``text`` is a DID of any method."""
    return len(text) <= MAX_DID and _DID.fullmatch(text) is not None


@lru_cache(maxsize=16_384)
def is_nsid(text: str) -> bool:
    """Tell whether ``text`` is a namespaced identifier; capitals are legal."""
    return len(text) <= MAX_NSID and _NSID.fullmatch(text) is not None


@lru_cache(maxsize=16_384)
def is_collection(text: str) -> bool:
    """Tell whether ``text`` may be the collection of a record: an NSID in its normal form.

    The authority, which is all but the last segment, is in lower case
    (https://atproto.com/specs/nsid).
    """
    authority = text.rpartition(".")[0]
    return authority == authority.lower() and is_nsid(text)


def is_nsid_wildcard(text: str) -> bool:
    """Tell whether ``text`` is ``a.b.*``: every NSID that begins with these whole segments."""
    return len(text) <= MAX_NSID and _NSID_WILDCARD.fullmatch(text) is not None


def is_plc_did(text: str) -> bool:
    """Tell whether ``text`` has the form of a did:plc."""
    return _DID_PLC.fullmatch(text) is not None


def web_host(did: str) -> str | None:
    """Return the host of a did:web without a path, with its ``:port`` if it has one; else None."""
    match = _DID_WEB.fullmatch(did)
    if match is None:
        return None
    return match[1] if match[2] is None else f"{match[1]}:{match[2]}"


def is_resolvable_did(text: str) -> bool:
    """Tell whether ``text`` has the form of a did:plc, or of a did:web of a whole host.

    A port, for development, is written ``%3A``.
    """
    return is_plc_did(text) or _DID_WEB.fullmatch(text) is not None


def is_handle(text: str) -> bool:
    """Tell whether ``text`` has the form of a handle; nothing is said about who holds it."""
    return len(text) <= MAX_HANDLE and _HANDLE.fullmatch(text) is not None


def is_record_key(text: str) -> bool:
    """Tell whether ``text`` is a record key of any kind."""
    return _RECORD_KEY.fullmatch(text) is not None and text not in {".", ".."}


def is_tid(text: str) -> bool:
    """Tell whether ``text`` is a timestamp identifier, which every ``rev`` is."""
    return _TID.fullmatch(text) is not None


def is_path(text: str) -> bool:
    """Tell whether ``text`` is ``collection/rkey``, at most 1,024 bytes long."""
    collection, slash, rkey = text.partition("/")
    return (
        bool(slash) and len(text) <= MAX_PATH and is_collection(collection) and is_record_key(rkey)
    )


def tid_time(tid: str) -> float:
    """Return the Unix time in seconds that a valid TID carries."""
    return (int(tid.translate(_TID_DIGITS), 32) >> _TID_CLOCK_BITS) / 1e6


def is_cid(raw: object) -> TypeGuard[bytes]:
    """Tell whether ``raw`` is a binary CID of the only two kinds that the data model knows."""
    return type(raw) is bytes and len(raw) == CID_LENGTH and raw[:4] in CID_PREFIXES


def cid_text(raw: bytes) -> str:
    """Return a binary CID in base32, as JSON and people see it."""
    return libipld.encode_cid(raw)


def parse_cid(text: str) -> bytes:
    """Return the binary form of a CID in base32, refusing codecs and hashes without a use.

    Raises ``SyntaxInvalid``.
    """
    try:
        raw = bytes(CID.decode(text))
    except (ValueError, KeyError) as error:
        raise SyntaxInvalid(f"not a CID: {text!r}") from error
    if not is_cid(raw) or cid_text(raw) != text:
        raise SyntaxInvalid(f"not a base32 CIDv1 of dag-cbor or raw with SHA-256: {text!r}")
    return raw


@dataclass(frozen=True, slots=True)
class AtUri:
    """``at://authority[/collection[/rkey]]``; ``authority`` is a DID or a handle."""

    authority: str
    collection: str | None = None
    rkey: str | None = None

    def __str__(self) -> str:
        parts = (self.authority, self.collection, self.rkey)
        return "at://" + "/".join(part for part in parts if part is not None)


def parse_at_uri(text: str) -> AtUri:
    """Return the parts of an AT-URI of the restricted form that records are named by.

    No query, no fragment, no trailing slash.  Raises ``SyntaxInvalid``.
    """
    scheme, separator, rest = text.partition("://")
    if scheme != "at" or not separator or len(text) > MAX_AT_URI:
        raise SyntaxInvalid(f"not an AT-URI: {text[:MAX_PATH]!r}")
    authority, *path = rest.split("/")
    good = is_did(authority) or is_handle(authority)
    good = good and (not path or is_nsid(path[0]))
    good = good and (len(path) <= 1 or is_record_key(path[1]))
    if not good or len(path) > 2:  # noqa: PLR2004 - collection and rkey
        raise SyntaxInvalid(f"not an AT-URI: {text[:MAX_PATH]!r}")
    return AtUri(authority, *path)
