"""A set of very many DIDs, in 7 to 16 bytes each where a plain set takes 130.  Pure.

What is kept of a DID is its hash: some bits choose one of many strings of bytes, the rest is six
bytes of that string.  To grow moves nothing.  A DID that is not in the set can seem to be (with 40
million in it, one of a hundred thousand million), so it is only for what may be taken for a member
without harm.  Strings hash with a secret of the process: nobody can choose a DID that does.
"""

from __future__ import annotations

from collections.abc import Iterable

_BITS = 20
_MASK = (1 << _BITS) - 1
_REST = (1 << 44) - 1  # of 64
_BYTES = 6


class PackedDids:
    """The set; ``dids`` are in it from the beginning."""

    def __init__(self, dids: Iterable[str] = ()) -> None:
        self._buckets = [b""] * (_MASK + 1)
        self._count = 0
        self.update(dids)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, did: object) -> bool:
        digest = hash(did)
        rest = (digest >> _BITS & _REST).to_bytes(_BYTES, "little")
        return rest in self._buckets[digest & _MASK]

    def add(self, did: str) -> None:
        """Add ``did`` unless it is, or seems to be, in the set."""
        digest = hash(did)
        rest = (digest >> _BITS & _REST).to_bytes(_BYTES, "little")
        bucket = self._buckets[digest & _MASK]
        if rest not in bucket:
            self._buckets[digest & _MASK] = bucket + rest
            self._count += 1

    def update(self, dids: Iterable[str]) -> None:
        """Add each of ``dids``."""
        for did in dids:
            self.add(did)
