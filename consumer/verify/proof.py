"""The check of a record proof, as ``com.atproto.sync.getRecord`` answers it.  Pure.

A CAR with the signed commit, the nodes of the tree on the way to the record's key, and the
record's block if there is one (https://atproto.com/specs/repository).  Absence is proven by the
node that would have to name the key: a link without a block on the way proves nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from consumer.errors import Reason, Refused
from consumer.verify.car import read_car
from consumer.verify.keys import SigningKey
from consumer.verify.mst import Node, load
from consumer.verify.signed import Signed, check_rev, check_signature, read_signed
from consumer.verify.verified import Incomplete
from procedures.syntax import DAG_CBOR_PREFIX, cid_text


@dataclass(frozen=True, slots=True)
class Proven:
    """At ``rev`` the record was ``cid``, whose DAG-CBOR is ``record``; both None: absent.

    A value that is no DAG-CBOR is no record.
    """

    rev: str
    cid: bytes | None
    record: bytes | None


def verify_proof(
    data: bytes, did: str, path: str, key: SigningKey, *, limit: int, rev_ahead: float, now: float
) -> Proven:
    """Return what the CAR ``data`` of at most ``limit`` bytes proves of ``path``.

    ``rev_ahead`` is in seconds, ``now`` Unix time.  Raises ``Refused``, ``Incomplete`` if it is
    signed but proves nothing of ``path``.
    """
    car = read_car(data, limit)
    signed = read_signed(car.roots, car.blocks.get, did)
    check_rev(signed.rev, rev_ahead, now)
    check_signature(signed, key)
    try:
        return _proven(signed, car.blocks, path)
    except Refused as error:
        if error.reason in {Reason.TREE_PARTIAL, Reason.BLOCK_MISSING}:
            raise Incomplete(error.reason, error.detail, car.roots[0]) from error
        raise


def _proven(signed: Signed, blocks: dict[bytes, bytes], path: str) -> Proven:
    cid = _find(load(signed.data, blocks), path.encode())
    if cid is None or cid[:4] != DAG_CBOR_PREFIX:
        return Proven(signed.rev, None, None)
    record = blocks.get(cid)
    if record is None:
        raise Refused(Reason.BLOCK_MISSING, f"no block for the record {cid_text(cid)}")
    return Proven(signed.rev, cid, record)


def _find(node: Node, key: bytes) -> bytes | None:
    """Return the CID at ``key``, None if it is proven absent."""
    while True:
        at = bisect_left(node.keys, key)
        if at < len(node.keys) and node.keys[at] == key:
            return node.values[at]
        child = node.children[at]
        if child is None:
            return None
        if not isinstance(child, Node):
            raise Refused(Reason.TREE_PARTIAL, f"no block for the node {cid_text(child)}")
        node = child
