"""Compare what tap, at-kafka or Jetstream delivered with ``chive.events``.

``python compare.py OURS THEIRS``: two files of JSON, one event a line.  OURS is what
``python -m consumer events --json --type record`` prints, taken after THEIRS.  Each record that
THEIRS names must be in OURS with the same CID, or be deleted in both; what only OURS has is
counted: it is the history before THEIRS began.  Needs Python alone.  Exit code 1: they differ.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

State = dict[str, str | None]
"""The CID of each record by its AT-URI; None: deleted."""


def change(event: dict[str, Any]) -> tuple[str, str | None] | None:
    """Return the AT-URI and the CID that an event of any of the four says; None: no record's."""
    match event:
        case {"v": 1, "type": "record", "uri": uri, "cid": cid}:  # chive.events
            return uri, cid
        case {"type": "record", "record": {"did": did} as record}:  # tap
            return _uri(did, record), record.get("cid")
        case {"data": {"data": {"operation": {"uri": uri, "cid": cid}}}}:  # at-kafka, for Osprey
            return uri, cid or None
        case {"operation": {"uri": uri, "cid": cid}}:  # at-kafka
            return uri, cid or None
        case {"kind": "commit", "did": did, "commit": commit}:  # Jetstream
            return _uri(did, commit), commit.get("cid")
    return None


def _uri(did: str, record: dict[str, Any]) -> str:
    return f"at://{did}/{record['collection']}/{record['rkey']}"


def fold(lines: Iterable[str]) -> State:
    """Return the last state of each record."""
    changes = (change(json.loads(line)) for line in lines if line.strip())
    return dict(one for one in changes if one is not None)


def differences(ours: State, theirs: State) -> list[str]:
    """Return a line for each record of ``theirs`` that ``ours`` does not have so."""
    return [
        f"{uri}: ours {ours.get(uri)}, theirs {cid}"
        for uri, cid in sorted(theirs.items())
        if ours.get(uri) != cid
    ]


def main(ours: str, theirs: str) -> int:
    """Compare two files; return the exit code."""
    with Path(ours).open() as one, Path(theirs).open() as other:
        here, there = fold(one), fold(other)
    found = differences(here, there)
    for line in found:
        sys.stdout.write(f"{line}\n")
    same, more = len(there) - len(found), len(here.keys() - there.keys())
    sys.stdout.write(f"{same} the same, {len(found)} differ, {more} in ours alone\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
