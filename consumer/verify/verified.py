"""What verification proves, as values.  Pure.

Only :mod:`consumer.verify.commit` makes them, so a reader may rely on them: the signature is the
account's, every block has its hash, the tree is well formed, and the ops are exactly the
difference between ``prev_data`` and ``data``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from consumer.errors import Reason, Refused

# The root of a repository without records: CIDv1, dag-cbor, SHA-256 of {"e": [], "l": null}
# (bafyreie5737gdxlw5i64vzichcalba3z2v5n6icifvx5xytvske7mr3hpm).
EMPTY_TREE = b"\x01\x71\x12\x20" + hashlib.sha256(b"\xa2ae\x80al\xf6").digest()


Evidence = tuple[bytes, str]
"""The CID of a commit, and which blocks of its tree were missing."""

Counts = tuple[tuple[Reason, int], ...]
"""How often each reason occurred; those that did not are left out."""


class Action(StrEnum):
    """What an op does to a record: the values of ``action`` in ``subscribeRepos#repoOp``."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class VerifiedOp:
    """One change of a commit: binary CIDs; ``prev`` as the op claims it; ``record`` is DAG-CBOR."""

    action: Action
    path: str
    cid: bytes | None
    prev: bytes | None
    record: bytes | None


@dataclass(frozen=True, slots=True)
class VerifiedCommit:
    """A signed commit whose ops turn the tree ``prev_data`` (proven) into ``data``.

    ``ops`` are those of its ops that say something of a record.  ``unknown`` are the paths of
    records that the tree has and whose bytes are missing: neither present nor absent.
    ``left_out`` counts the ops that are not about a record, by reason.
    """

    did: str
    rev: str
    since: str | None
    data: bytes
    prev_data: bytes
    commit: bytes
    ops: tuple[VerifiedOp, ...]
    unknown: tuple[str, ...] = ()
    left_out: Counts = ()


@dataclass(frozen=True, slots=True)
class VerifiedSync:
    """A signed commit without its tree: at ``rev`` the root is ``data``."""

    did: str
    rev: str
    data: bytes
    commit: bytes


class Unverifiable(Refused):
    """A fault behind a good signature; ``rev`` is signed, and may move ``gap_rev``."""

    def __init__(self, reason: Reason, detail: str, rev: str) -> None:
        super().__init__(reason, detail)
        self.rev = rev


class Incomplete(Refused):
    """Blocks are missing behind a good signature: perhaps the host wrote while it read.

    ``evidence`` is equal for two answers that hold the same ``commit`` and lack the same block.
    """

    def __init__(self, reason: Reason, detail: str, commit: bytes) -> None:
        super().__init__(reason, detail)
        self.evidence: Evidence = (commit, detail)
