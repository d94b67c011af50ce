"""Hypothesis strategies for operations in every state."""

from __future__ import annotations

from hypothesis import strategies as st

from procedures.failures import Failure
from procedures.messages import Emit
from procedures.operations import CHILD_TYPES, FINAL, Children, Operation, Phase, Status, Type

DID = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"
URI = f"at://{DID}/pub.chive.eprint.submission/3l2s5xxv2wc2e"

MOMENTS = st.integers(min_value=0, max_value=4_000_000_000_000).map(lambda ms: ms / 1000)
_COUNTS = st.integers(min_value=0, max_value=10_000)
_NAMES = st.sampled_from(["path_invalid", "record_raw", "block_missing"])
_TEXTS = st.none() | st.text(max_size=20)


def children() -> st.SearchStrategy[Children]:
    """Return what may have become of any number of children."""
    names = st.sampled_from([failure.value for failure in Failure])
    return st.builds(
        Children,
        expected=st.none() | _COUNTS,
        chosen=_COUNTS,
        completed=_COUNTS,
        failed=st.dictionaries(names, st.integers(1, 10_000), max_size=3),
        cancelled=_COUNTS,
        skipped=_COUNTS,
        in_step=st.none() | _COUNTS,
    )


@st.composite
def operations(draw: st.DrawFn, identifier: str = "op") -> Operation:
    """Any operation that keeps the invariants of the module."""
    status = draw(st.sampled_from(Status))
    waiting = status in {Status.QUEUED, Status.CANCELLED, Status.FAILED}
    attempts = draw(st.integers(min_value=0 if waiting else 1, max_value=40))
    kind = draw(st.sampled_from(Type))
    requested_at = draw(MOMENTS)
    retried = status == Status.QUEUED and attempts > 0
    return Operation(
        id=identifier,
        type=kind,
        status=status,
        did=None if kind == Type.DISCOVERY or kind in CHILD_TYPES else DID,
        uri=URI if kind == Type.RECORD_REFRESH else None,
        phase=draw(st.sampled_from(Phase)) if status == Status.RUNNING else None,
        reason=draw(_TEXTS),
        progress=draw(st.integers(min_value=0, max_value=99)),
        records_processed=draw(_COUNTS),
        total_records=draw(st.none() | _COUNTS),
        created=draw(_COUNTS),
        updated=draw(_COUNTS),
        deleted=draw(_COUNTS),
        attempts=attempts,
        requested_by=draw(_TEXTS),
        error=draw(_TEXTS),
        new_cid=None,
        version=draw(st.integers(min_value=1, max_value=1_000)),
        requested_at=requested_at,
        started_at=draw(MOMENTS) if attempts else None,
        completed_at=draw(MOMENTS) if status in FINAL else None,
        automatic=draw(st.booleans()),
        emit=draw(st.sampled_from(Emit)),
        same_as=None,
        run_after=draw(MOMENTS.filter(bool)) if retried else requested_at,
        failure=draw(st.none() | st.sampled_from(Failure)),
        warnings=draw(st.none() | st.dictionaries(_NAMES, st.integers(1, 10_000), min_size=1)),
        via=draw(st.sampled_from([None, "record", "repository", "latestCommit"])),
        parent=draw(st.sampled_from([None, "parent"])),
        children=draw(children()) if kind in CHILD_TYPES else None,
    )
