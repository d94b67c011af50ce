"""Why an operation failed, or has to be tried again: a closed set.  Pure.

The name is for programs (``errorName`` of an operation), the message beside it for people.
No failure deletes anything: a record goes only by proof.
"""

from __future__ import annotations

from enum import StrEnum


class Failure(StrEnum):
    """What stood in the way; the comment groups say who has to act."""

    # the account
    DID_NOT_FOUND = "DidNotFound"  # the directory knows no such DID, or it is tombstoned
    DID_METHOD = "DidMethodUnsupported"  # neither did:plc nor a did:web of a whole domain
    DID_DOCUMENT = "DidDocumentUnusable"  # no PDS or no signing key in it
    DID_UNRESOLVED = "DidUnresolved"  # the directory or host did not answer
    # the host
    HOST_UNREACHABLE = "HostUnreachable"
    HOST_TIMEOUT = "HostTimeout"  # too long to the first byte, between bytes, or in all
    HOST_ERROR = "HostError"  # 5xx, or an answer that is none
    HOST_FORBIDDEN = "HostForbidden"  # a private address, plain http, too many redirects
    RATE_LIMITED = "RateLimited"  # 429
    # the repository
    REPO_NOT_FOUND = "RepoNotFound"
    REPO_TAKENDOWN = "RepoTakendown"
    REPO_SUSPENDED = "RepoSuspended"
    REPO_DEACTIVATED = "RepoDeactivated"
    REPO_TRUNCATED = "RepoTruncated"  # the transfer ended early
    REPO_INVALID = "RepoInvalid"  # a wrong hash, a missing block, a broken tree
    REPO_INCOMPLETE = "RepoIncomplete"  # blocks were missing, each time others: a race
    REPO_FOREIGN = "RepoForeign"  # the commit is another DID's
    REPO_TOO_BIG = "RepoTooBig"
    SIGNATURE_INVALID = "SignatureInvalid"  # not signed by the current key
    OLDER_THAN_KNOWN = "OlderThanKnown"  # the host went back in time
    # ourselves
    OUT_OF_SCOPE = "OutOfScope"  # a collection that is not wanted here
    OTHER_SHARD = "OtherShard"  # an account that another deployment has
    ACCOUNT_INACTIVE = "AccountInactive"
    INTERNAL = "Internal"


GONE = frozenset(
    {
        Failure.DID_NOT_FOUND,
        Failure.REPO_NOT_FOUND,
        Failure.REPO_TAKENDOWN,
        Failure.REPO_SUSPENDED,
        Failure.REPO_DEACTIVATED,
        Failure.ACCOUNT_INACTIVE,
    }
)
"""The account is not active, or not there at all."""

PERMANENT = frozenset(
    {
        Failure.DID_NOT_FOUND,
        Failure.DID_METHOD,
        Failure.DID_DOCUMENT,
        Failure.HOST_FORBIDDEN,
        Failure.REPO_NOT_FOUND,
        Failure.REPO_TAKENDOWN,
        Failure.REPO_SUSPENDED,
        Failure.REPO_DEACTIVATED,
        Failure.REPO_INVALID,
        Failure.REPO_FOREIGN,
        Failure.REPO_TOO_BIG,
        Failure.SIGNATURE_INVALID,
        Failure.OUT_OF_SCOPE,
        Failure.OTHER_SHARD,
        Failure.ACCOUNT_INACTIVE,
    }
)
"""Trying again would give the same answer: the operation fails at once."""
