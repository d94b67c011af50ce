"""Frames of ``subscribeRepos`` as a relay sends them.

``time`` is an ISO 8601 text.  Every builder takes ``fields`` that replace or add to those of
the body; a field set to ``ABSENT`` is left out.
"""

from __future__ import annotations

from typing import Any

import libipld

from simulator.repo import Commit, Op, car

ABSENT = object()
TIME = "2025-01-01T00:00:00.000Z"


def frame(kind: str, body: dict[str, Any]) -> bytes:
    """Return the frame of a message of ``kind``, such as ``#commit``."""
    body = {name: value for name, value in body.items() if value is not ABSENT}
    return bytes(libipld.encode_dag_cbor({"op": 1, "t": kind}) + libipld.encode_dag_cbor(body))


def commit_frame(seq: int, commit: Commit, time: str = TIME, **fields: Any) -> bytes:
    """Return a ``#commit``; an unknown ``prev_data`` is left out, as older servers do."""
    body = {
        "seq": seq,
        "repo": commit.did,
        "rev": commit.rev,
        "since": commit.since,
        "time": time,
        "commit": commit.cid,
        "blocks": commit.car,
        "ops": [_op(op) for op in commit.ops],
        "prevData": ABSENT if commit.prev_data is None else commit.prev_data,
        "blobs": [],
        "tooBig": False,
        "rebase": False,
    }
    return frame("#commit", body | fields)


def _op(op: Op) -> dict[str, Any]:
    shown: dict[str, Any] = {"action": op.action, "path": op.path, "cid": op.cid}
    return shown if op.prev is None else shown | {"prev": op.prev}


def sync_frame(seq: int, commit: Commit, time: str = TIME, **fields: Any) -> bytes:
    """Return a ``#sync`` that announces ``commit``, with its signed block only."""
    body = {
        "seq": seq,
        "did": commit.did,
        "rev": commit.rev,
        "time": time,
        "blocks": car(commit.cid, {commit.cid: commit.blocks[commit.cid]}),
    }
    return frame("#sync", body | fields)


def account_frame(
    seq: int, did: str, *, active: bool, status: str | None = None, time: str = TIME, **fields: Any
) -> bytes:
    body = {"seq": seq, "did": did, "time": time, "active": active}
    return frame("#account", body | ({} if status is None else {"status": status}) | fields)


def identity_frame(
    seq: int, did: str, handle: str | None = None, time: str = TIME, **fields: Any
) -> bytes:
    body = {"seq": seq, "did": did, "time": time}
    return frame("#identity", body | ({} if handle is None else {"handle": handle}) | fields)


def info_frame(name: str, message: str | None = None) -> bytes:
    return frame("#info", {"name": name, "message": ABSENT if message is None else message})


def error_frame(error: str, message: str | None = None) -> bytes:
    body = {"error": error} | ({} if message is None else {"message": message})
    return bytes(libipld.encode_dag_cbor({"op": -1}) + libipld.encode_dag_cbor(body))
