"""The whole check of a ``#commit`` or ``#sync``: nothing unverified becomes a fact.  Pure.

Specifications: https://atproto.com/specs/sync#commit-validation and /specs/repository.  In
order: cheap fields, sizes, signature, block hashes and tree shape, ops against the tree,
inversion of the ops to ``prevData``.  Whether the commit follows the last one is decided later,
from the state of the repo (``worker/repo_state.py``).

What fails before the signature is ``Refused``; what fails after it is ``Unverifiable``, which
carries the signed revision.  Faults of the op list are cheap to see and yet told only after the
signature: the account did commit something at that revision, and a sync must fetch it.

Records are not judged here.  Their bytes have the hash that the tree names, and that is all a
commit can be blamed for.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

import libipld

from consumer.errors import Reason, Refused
from consumer.publish.envelope import Action
from consumer.verify.car import Car, parse_car
from consumer.verify.cbor import Link, decode
from consumer.verify.frames import CommitFrame, RawOp, SyncFrame
from consumer.verify.invert import Change, invert
from consumer.verify.keys import SigningKey
from consumer.verify.mst import load
from consumer.verify.verified import (
    EMPTY_TREE,
    Unverifiable,
    VerifiedCommit,
    VerifiedOp,
    VerifiedSync,
)
from procedures.syntax import cid_text, is_cid, is_path, is_tid, tid_time

__all__ = ["CommitLimits", "Unverifiable", "verify_commit", "verify_sync"]

_VERSION = 3
_FIELDS = {"did", "version", "data", "rev", "prev", "sig"}
_SHOWN = 64  # of an unexpected text, in a message


@dataclass(frozen=True, slots=True)
class CommitLimits:
    """Sizes in bytes; ``ops`` a number; ``rev_ahead`` seconds that a rev may be in the future."""

    commit_blocks: int = 2_000_000
    sync_blocks: int = 10_000
    ops: int = 200
    rev_ahead: float = 300.0


class _Signed(NamedTuple):
    """The fields of a commit block, and what its signature is over."""

    did: str
    rev: str
    data: bytes
    message: bytes
    signature: bytes


def verify_commit(
    frame: CommitFrame, key: SigningKey, limits: CommitLimits, now: float
) -> VerifiedCommit:
    """Return what ``frame`` proves; ``now`` is Unix time in seconds.

    Raises ``Refused`` for what fails up to the signature (reason ``SIGNATURE_INVALID`` if that
    is not made by ``key``), ``Unverifiable`` for what fails after it.
    """
    _check_rev(frame.rev, limits, now)
    fault = _fault_of_ops(frame, limits)
    car = parse_car(frame.blocks, limits.commit_blocks)
    signed = _read_signed(car, frame.did, frame.rev, frame.commit)
    _check_signature(signed, key)
    try:
        if fault is not None:
            raise fault
        return _verified(frame, car, signed.data)
    except Refused as error:
        raise Unverifiable(error.reason, error.detail, signed.rev) from error


def verify_sync(
    frame: SyncFrame, key: SigningKey, limits: CommitLimits, now: float
) -> VerifiedSync:
    """Return the signed head that ``frame`` announces; raises as ``verify_commit`` does."""
    _check_rev(frame.rev, limits, now)
    car = parse_car(frame.blocks, limits.sync_blocks)
    commit = car.roots[0] if car.roots else None
    if commit is None:
        raise Refused(Reason.CAR_INVALID, "no root")
    signed = _read_signed(car, frame.did, frame.rev, commit)
    _check_signature(signed, key)
    try:
        car.check_hashes()
    except Refused as error:
        raise Unverifiable(error.reason, error.detail, signed.rev) from error
    return VerifiedSync(signed.did, signed.rev, signed.data, commit)


def _check_rev(rev: str, limits: CommitLimits, now: float) -> None:
    if not is_tid(rev):
        raise Refused(Reason.COMMIT_MALFORMED, f"rev is not a TID: {rev[:_SHOWN]!r}")
    ahead = tid_time(rev) - now
    if ahead > limits.rev_ahead:
        raise Refused(Reason.REV_FUTURE, f"rev {rev} is {ahead:.0f} s ahead")


def _fault_of_ops(frame: CommitFrame, limits: CommitLimits) -> Refused | None:
    ops = frame.ops
    if len(ops) > limits.ops:
        return Refused(Reason.OPS_INVALID, f"{len(ops)} ops, at most {limits.ops}")
    if len({op.path for op in ops}) != len(ops):
        return Refused(Reason.OPS_INVALID, "a path occurs twice")
    if frame.prev_data is None and frame.since is not None:
        return Refused(Reason.PREV_DATA_MISSING, "neither prevData nor the first commit")
    for op in ops:
        problem = _problem_of(op)
        if problem is not None:
            return Refused(Reason.OPS_INVALID, problem)
    return None


def _problem_of(op: RawOp) -> str | None:
    expected = _HAS_CID_AND_PREV.get(op.action)
    if expected is None:
        return f"unknown action {op.action[:_SHOWN]!r}"
    if not is_path(op.path):
        return f"not a path: {op.path[:_SHOWN]!r}"
    if expected != (op.cid is not None, op.prev is not None):
        return f"{op.action} with a wrong combination of cid and prev: {op.path}"
    return None


_ACTIONS = {action.value: action for action in Action}
_HAS_CID_AND_PREV = {
    Action.CREATE.value: (True, False),
    Action.UPDATE.value: (True, True),
    Action.DELETE.value: (False, True),
}


def _read_signed(car: Car, did: str, rev: str, commit: bytes) -> _Signed:
    """Return the commit block, once it is what the envelope says it is."""
    if car.roots[:1] != (commit,):
        raise Refused(Reason.COMMIT_MISMATCH, "the root of blocks is another commit")
    block = car.blocks.get(commit)
    if block is None:
        raise Refused(Reason.BLOCK_MISSING, f"no block for the commit {cid_text(commit)}")
    if sha256(block).digest() != commit[4:]:
        raise Refused(Reason.BLOCK_HASH, f"commit {cid_text(commit)}")
    signed = _parse_signed(block)
    if signed.did != did:
        raise Refused(Reason.COMMIT_MISMATCH, f"signed for {signed.did[:_SHOWN]!r}")
    if signed.rev != rev:
        raise Refused(Reason.COMMIT_MISMATCH, f"signed with rev {signed.rev[:_SHOWN]!r}")
    return signed


def _parse_signed(block: bytes) -> _Signed:
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
        and type(signature) is bytes
        and (prev is None or is_cid(prev))
    ):
        raise Refused(Reason.COMMIT_MALFORMED, "a field has a wrong type")
    return _Signed(did, rev, data, libipld.encode_dag_cbor(fields), signature)


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
    return {name: value.raw if isinstance(value, Link) else value for name, value in fields.items()}


def _check_signature(signed: _Signed, key: SigningKey) -> None:
    if not key.verify(signed.message, signed.signature):
        raise Refused(Reason.SIGNATURE_INVALID, f"not signed by {key.did_key}")


def _verified(frame: CommitFrame, car: Car, data: bytes) -> VerifiedCommit:
    car.check_hashes()
    tree = load(data, car.blocks)
    ops = tuple([_verified_op(op, car.blocks) for op in frame.ops])
    root = invert(tree, [Change(op.path.encode(), op.cid, op.prev) for op in frame.ops])
    expected = EMPTY_TREE if frame.prev_data is None else frame.prev_data
    if root != expected:
        detail = f"the ops lead back to {cid_text(root)}, not to {cid_text(expected)}"
        raise Refused(Reason.INVERSION_FAILED, detail)
    return VerifiedCommit(frame.did, frame.rev, frame.since, data, root, frame.commit, ops)


def _verified_op(op: RawOp, blocks: dict[bytes, bytes]) -> VerifiedOp:
    record = None if op.cid is None else blocks.get(op.cid)
    if op.cid is not None and record is None:
        raise Refused(Reason.BLOCK_MISSING, f"no block for the record {op.path}")
    return VerifiedOp(_ACTIONS[op.action], op.path, op.cid, op.prev, record)
