"""What becomes of a repository that was found, once its sync has ended.  Pure."""

from __future__ import annotations

from enum import StrEnum

from procedures.failures import Failure


class Fate(StrEnum):
    """What becomes of a repository that was found, once its sync has ended."""

    FORGET = "forget"  # it is known now, or gone
    ASK = "ask"  # its host says that it is gone: is that so?
    AGAIN = "again"


_GONE = frozenset({Failure.DID_NOT_FOUND, Failure.DID_METHOD, Failure.OUT_OF_SCOPE})
_WITHOUT_HOST = frozenset(
    {Failure.DID_NOT_FOUND, Failure.DID_METHOD, Failure.DID_DOCUMENT, Failure.DID_UNRESOLVED}
)


def fate_of(failure: Failure | None, *, known: bool, named: bool) -> Fate:
    """Return what becomes of a found repository after its sync ended with ``failure``.

    ``known``: the repository has a row.  ``named``: the settings name it, so it is never given up.
    """
    if known:
        return Fate.FORGET
    if named:
        return Fate.AGAIN
    if failure in _GONE:
        return Fate.FORGET
    return Fate.ASK if failure is Failure.REPO_NOT_FOUND else Fate.AGAIN


def is_confirmed(failure: Failure | None) -> bool:
    """Tell whether a sync that failed so has found a PDS in the DID's document."""
    return failure is not None and failure not in _WITHOUT_HOST
