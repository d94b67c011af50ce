"""Errors, sorted by what the operator should do about them.  Pure.

``ChiveError``
├── ``Refused``    upstream's fault: counted by reason, kept in the dead letter or as a
│                  desynchronized repo; processing goes on
├── ``Transient``  outage of the infrastructure: waited out with backoff, never dead-lettered
└── ``Fatal``      our own corruption or misconfiguration: the process stops loudly

Driver exceptions (aiokafka, psycopg, httpx, websockets) do not leave the package that
uses the driver; they are translated into one of these three.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why input was refused: a closed set, and the only values of the metric label ``reason``.

    The comment groups name the stage that refuses.
    """

    # framing
    FRAME_TOO_BIG = "frame_too_big"
    FRAME_TEXT = "frame_text"
    FRAME_MALFORMED = "frame_malformed"
    FRAME_UNKNOWN_TYPE = "frame_unknown_type"
    # DAG-CBOR and CAR
    CBOR_INVALID = "cbor_invalid"
    CAR_INVALID = "car_invalid"
    CAR_TOO_BIG = "car_too_big"
    CAR_TRUNCATED = "car_truncated"
    BLOCK_HASH = "block_hash"
    BLOCK_MISSING = "block_missing"
    # single records of a tree, which are left out
    PATH_INVALID = "path_invalid"
    RECORD_RAW = "record_raw"
    # commits
    COMMIT_MALFORMED = "commit_malformed"
    COMMIT_MISMATCH = "commit_mismatch"
    REV_FUTURE = "rev_future"
    SIGNATURE_INVALID = "signature_invalid"
    KEY_UNAVAILABLE = "key_unavailable"
    TREE_INVALID = "tree_invalid"
    TREE_PARTIAL = "tree_partial"
    OPS_INVALID = "ops_invalid"
    OPS_MISMATCH = "ops_mismatch"
    INVERSION_FAILED = "inversion_failed"
    PREV_DATA_MISSING = "prev_data_missing"
    # chain
    REPLAY = "replay"
    EQUIVOCATION = "equivocation"
    ACCOUNT_INACTIVE = "account_inactive"
    UNTRACKED = "untracked"
    # snapshots and proofs
    SNAPSHOT_STALE = "snapshot_stale"
    SNAPSHOT_OUTDATED = "snapshot_outdated"
    SNAPSHOT_HOLE = "snapshot_hole"
    SNAPSHOT_SCOPE = "snapshot_scope"
    # fetching
    FETCH_FORBIDDEN = "fetch_forbidden"
    FETCH_TOO_BIG = "fetch_too_big"
    DID_NOT_FOUND = "did_not_found"
    DID_INVALID = "did_invalid"
    DID_UNSUPPORTED = "did_unsupported"
    # worker
    BACKFILL_MALFORMED = "backfill_malformed"
    PARKED_OVERFLOW = "parked_overflow"
    STALLED = "stalled"


class ChiveError(Exception):
    """Root of every error raised by this project."""


class Refused(ChiveError):
    """Input from the network that breaks a rule.

    ``reason`` is the metric label; ``detail`` is for people and may quote the input.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail


class Transient(ChiveError):
    """Kafka, Postgres, a relay, a PDS or the PLC directory is away: wait and try again.

    ``service`` names what is away (``kafka``, ``postgres``, …), so that everything that waits
    for it shares one line in the log.
    """

    def __init__(self, text: str = "", service: str | None = None) -> None:
        super().__init__(text)
        self.service = service


class Fatal(ChiveError):
    """Our own corruption or misconfiguration: stop the process and say why."""
