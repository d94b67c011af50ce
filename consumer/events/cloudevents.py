"""The headers that make an event a CloudEvent as well, in Kafka's binary mode.  Pure.

CloudEvents 1.0.2 and its Kafka protocol binding: attributes are headers with the prefix ``ce_``,
the value is the data as it is.  An event without data is a record without a value, which is what a
tombstone is (3.2.2), so tombstones are CloudEvents too, of a type of their own.

- ``source`` and ``id`` together name an event: the source is the account, or the lane that speaks
  of itself; a DID is a URI, an AT-URI with a DID is none (RFC 3986: a colon begins a port).
- ``subject`` is the record's path, as the source has its repository.
"""

from __future__ import annotations

from consumer.events.envelope import Encoded, Headers

TYPE_PREFIX = "pub.chive.firehose."
TOMBSTONE = "tombstone"

_VERSION = ("ce_specversion", b"1.0")
_CONTENT_TYPE = ("content-type", b"application/json")
_RECORD = b"at://"
_LANE = b"lane/"


def headers(encoded: Encoded) -> Headers:
    """Return the attributes of an event as headers."""
    return (*_attributes(encoded, encoded.id, encoded.kind), _CONTENT_TYPE)


def tombstone_headers(encoded: Encoded) -> Headers:
    """Return those of the tombstone that follows an event; it has no content."""
    return _attributes(encoded, f"{encoded.id}/{TOMBSTONE}", f"record.{TOMBSTONE}")


def _attributes(encoded: Encoded, identifier: str, kind: str) -> Headers:
    source, subject = _source(encoded.key)
    return (
        _VERSION,
        ("ce_id", identifier.encode()),
        ("ce_source", source),
        ("ce_type", f"{TYPE_PREFIX}{kind}".encode()),
        ("ce_time", encoded.time.encode()),
        *((("ce_subject", subject),) if subject else ()),
    )


def _source(key: bytes) -> tuple[bytes, bytes]:
    """Return the source that the key of an event names, and the subject in it."""
    if key.startswith(_RECORD):
        did, _, path = key.removeprefix(_RECORD).partition(b"/")
        return did, path
    if key.startswith(_LANE):
        return b"/".join(key.split(b"/")[:2]), b""
    return key.partition(b"#")[0], b""
