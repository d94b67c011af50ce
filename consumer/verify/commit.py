"""The whole check of a ``#commit`` or ``#sync``: nothing unverified becomes a fact.  Pure.

Specifications: https://atproto.com/specs/sync#commit-validation and /specs/repository.  In
order: cheap fields, sizes, signature, block hashes and tree shape, ops against the tree,
inversion of the ops to ``prevData``.  Whether the commit follows the last one is decided later,
from the state of the repo (``consumer/state/repo_state.py``).

A fault found before the signature raises ``Refused``; a fault found after it ``Unverifiable``,
which carries the signed revision.  Faults of the op list are found first and raised after the
signature: the account did commit something at that revision, and a sync must fetch it.

The content of records is not checked here, only that their bytes have the hash in the tree.

Every op takes part in the inversion.  An op that is not about a record (its path is no record
path, its value no DAG-CBOR) or whose record has no block is set aside after it; the others count.
"""

from __future__ import annotations

from dataclasses import dataclass

from consumer.errors import Reason, Refused
from consumer.verify.car import Car, parse_car
from consumer.verify.frames import CommitFrame, RawOp, SyncFrame
from consumer.verify.invert import TreeOp, invert
from consumer.verify.keys import SigningKey
from consumer.verify.mst import load
from consumer.verify.signed import Signed, check_rev, check_signature, read_signed
from consumer.verify.verified import (
    EMPTY_TREE,
    Action,
    Unverifiable,
    VerifiedCommit,
    VerifiedOp,
    VerifiedSync,
)
from procedures.syntax import DAG_CBOR_PREFIX, MAX_PATH, cid_text, is_path

__all__ = ["CommitLimits", "Unverifiable", "verify_commit", "verify_sync"]

_SHOWN = 64  # of an unexpected text, in a message


@dataclass(frozen=True, slots=True)
class CommitLimits:
    """Sizes in bytes; ``ops`` a number; ``rev_ahead`` seconds that a rev may be in the future."""

    commit_blocks: int = 2_000_000
    sync_blocks: int = 10_000
    ops: int = 200
    rev_ahead: float = 300.0


def verify_commit(
    frame: CommitFrame, key: SigningKey, limits: CommitLimits, now: float
) -> VerifiedCommit:
    """Return what ``frame`` proves; ``now`` is Unix time in seconds.

    Raises ``Refused`` for what fails up to the signature (reason ``SIGNATURE_INVALID`` if that
    is not made by ``key``), ``Unverifiable`` for what fails after it.
    """
    check_rev(frame.rev, limits.rev_ahead, now)
    fault = _fault_of_ops(frame, limits)
    car = parse_car(frame.blocks, limits.commit_blocks)
    signed = _read_envelope(car, frame.did, frame.rev, frame.commit)
    check_signature(signed, key)
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
    check_rev(frame.rev, limits.rev_ahead, now)
    car = parse_car(frame.blocks, limits.sync_blocks)
    commit = car.roots[0] if car.roots else None
    if commit is None:
        raise Refused(Reason.CAR_INVALID, "no root")
    signed = _read_envelope(car, frame.did, frame.rev, commit)
    check_signature(signed, key)
    try:
        car.check_hashes()
    except Refused as error:
        raise Unverifiable(error.reason, error.detail, signed.rev) from error
    return VerifiedSync(signed.did, signed.rev, signed.data, commit)


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
    if expected != (op.cid is not None, op.prev is not None):
        return f"{op.action} with a wrong combination of cid and prev: {op.path[:_SHOWN]!r}"
    if len(op.path) > MAX_PATH:
        return f"a path of {len(op.path)} characters, at most {MAX_PATH}"
    return None


_ACTIONS = {action.value: action for action in Action}
_HAS_CID_AND_PREV = {
    Action.CREATE.value: (True, False),
    Action.UPDATE.value: (True, True),
    Action.DELETE.value: (False, True),
}


def _read_envelope(car: Car, did: str, rev: str, commit: bytes) -> Signed:
    """Return the commit block, once it is what the envelope says it is."""
    if car.roots[:1] != (commit,):
        raise Refused(Reason.COMMIT_MISMATCH, "the root of blocks is another commit")
    signed = read_signed(car.roots, car.blocks.get, did)
    if signed.rev != rev:
        raise Refused(Reason.COMMIT_MISMATCH, f"signed with rev {signed.rev[:_SHOWN]!r}")
    return signed


def _verified(frame: CommitFrame, car: Car, data: bytes) -> VerifiedCommit:
    car.check_hashes()
    tree = load(data, car.blocks)
    root = invert(tree, [TreeOp(op.path.encode(), op.cid, op.prev) for op in frame.ops])
    expected = EMPTY_TREE if frame.prev_data is None else frame.prev_data
    if root != expected:
        detail = f"the ops lead back to {cid_text(root)}, not to {cid_text(expected)}"
        raise Refused(Reason.INVERSION_FAILED, detail)
    ops: list[VerifiedOp] = []
    unknown: list[str] = []
    left_out: dict[Reason, int] = {}
    blocks = car.blocks
    for op in frame.ops:
        cid = op.cid
        if not is_path(op.path):
            left_out[Reason.PATH_INVALID] = left_out.get(Reason.PATH_INVALID, 0) + 1
        elif cid is None:
            ops.append(VerifiedOp(Action.DELETE, op.path, None, op.prev, None))
        elif cid[:4] != DAG_CBOR_PREFIX:
            left_out[Reason.RECORD_RAW] = left_out.get(Reason.RECORD_RAW, 0) + 1
            if op.prev is not None:  # the record that was there is not there any more
                ops.append(VerifiedOp(Action.DELETE, op.path, None, op.prev, None))
        elif (record := blocks.get(cid)) is None:
            unknown.append(op.path)
        else:
            ops.append(VerifiedOp(_ACTIONS[op.action], op.path, cid, op.prev, record))
    return VerifiedCommit(
        frame.did,
        frame.rev,
        frame.since,
        data,
        root,
        frame.commit,
        tuple(ops),
        tuple(unknown),
        tuple(left_out.items()),
    )
