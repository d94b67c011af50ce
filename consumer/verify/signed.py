"""The signed commit at the root of a CAR.  Pure.

Specification: https://atproto.com/specs/repository#commit-objects.  The signature is over the
DAG-CBOR of the commit without ``sig``.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any, NamedTuple

import libipld

from consumer.errors import Reason, Refused
from consumer.verify.cbor import Link, decode
from consumer.verify.keys import SigningKey
from procedures.syntax import DAG_CBOR_PREFIX, cid_text, is_cid, is_tid, tid_time

_MAX_BLOCK = 4_096  # bytes of a commit; its longest field, the DID, has 2,048
_VERSION = 3
_FIELDS = {"did", "version", "data", "rev", "prev", "sig"}
_SHOWN = 64  # of an unexpected text, in a message


class Signed(NamedTuple):
    """The fields of a commit block, and what its signature is over."""

    did: str
    rev: str
    data: bytes
    message: bytes
    signature: bytes


def read_signed(
    roots: tuple[bytes, ...], block_of: Callable[[bytes], bytes | None], did: str
) -> Signed:
    """Return the commit that ``roots`` begin with; its hash is checked, its signature is not.

    Raises ``Refused``, also if it is another DID's.
    """
    if not roots:
        raise Refused(Reason.CAR_INVALID, "no root")
    commit = roots[0]
    if commit[:4] != DAG_CBOR_PREFIX:
        raise Refused(Reason.COMMIT_MALFORMED, f"not a CID of DAG-CBOR: {cid_text(commit)}")
    block = block_of(commit)
    if block is None:
        raise Refused(Reason.BLOCK_MISSING, f"no block for the commit {cid_text(commit)}")
    if len(block) > _MAX_BLOCK:
        raise Refused(Reason.COMMIT_MALFORMED, f"{len(block)} bytes, at most {_MAX_BLOCK}")
    if sha256(block).digest() != commit[4:]:
        raise Refused(Reason.BLOCK_HASH, f"commit {cid_text(commit)}")
    signed = _parsed(block)
    if signed.did != did:
        raise Refused(Reason.COMMIT_MISMATCH, f"signed for {signed.did[:_SHOWN]!r}")
    return signed


def check_rev(rev: str, ahead: float, now: float) -> None:
    """Raise ``Refused`` for a rev that is no TID, or further in the future than ``ahead`` s."""
    if not is_tid(rev):
        raise Refused(Reason.COMMIT_MALFORMED, f"rev is not a TID: {rev[:_SHOWN]!r}")
    early = tid_time(rev) - now
    if early > ahead:
        raise Refused(Reason.REV_FUTURE, f"rev {rev} is {early:.0f} s ahead")


def _parsed(block: bytes) -> Signed:
    fields = _commit_fields(block)
    if fields.keys() != _FIELDS or fields["version"] != _VERSION:
        raise Refused(Reason.COMMIT_MALFORMED, "not the fields of a commit of version 3")
    did, rev, data, prev = fields["did"], fields["rev"], fields["data"], fields["prev"]
    signature = fields.pop("sig")
    if not (
        type(did) is str
        and type(rev) is str
        and type(fields["version"]) is int
        and is_cid(data)
        and data[:4] == DAG_CBOR_PREFIX
        and type(signature) is bytes
        and (prev is None or is_cid(prev))
    ):
        raise Refused(Reason.COMMIT_MALFORMED, "a field has a wrong type")
    return Signed(did, rev, data, libipld.encode_dag_cbor(fields), signature)


def _commit_fields(block: bytes) -> dict[str, Any]:
    """Return the fields of a canonical commit, links as bytes."""
    try:
        fields = libipld.decode_dag_cbor(block)
        if type(fields) is dict and libipld.encode_dag_cbor(fields) == block:
            return fields
        # One signature in a thousand looks like a CID and is not encoded as the bytes it is.
        fields = decode(block)
    except (ValueError, RecursionError) as error:
        raise Refused(Reason.COMMIT_MALFORMED, str(error)) from error
    except Refused as error:
        raise Refused(Reason.COMMIT_MALFORMED, error.detail) from error
    if not isinstance(fields, dict) or not isinstance(fields.get("data"), Link):
        raise Refused(Reason.COMMIT_MALFORMED, "not the fields of a commit of version 3")
    if type(fields.get("prev")) is bytes:  # the bytes of a CID would pass for it
        raise Refused(Reason.COMMIT_MALFORMED, "a field has a wrong type")
    return {name: value.raw if isinstance(value, Link) else value for name, value in fields.items()}


def check_signature(signed: Signed, key: SigningKey) -> None:
    """Raise ``Refused(SIGNATURE_INVALID)`` unless ``key`` has signed the commit."""
    if not key.verify(signed.message, signed.signature):
        raise Refused(Reason.SIGNATURE_INVALID, f"not signed by {key.did_key}")
