"""Which accounts a deployment takes where several share a network.  Pure.

An account belongs to the shard ``h mod n + 1`` of ``n``, where ``h`` are the first four bytes of
the SHA-256 of its DID in UTF-8, as a big-endian number.  That must never change: what is in the
tables and topics of a deployment would be another's.  Kafka's partitions go by another hash
(murmur2), so that each shard has accounts on all of its partitions.

Shard k of n has exactly the accounts of shards k and k + n of 2n.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256

MAX_SHARDS = 1024
_FORM = re.compile(r"([1-9][0-9]{0,3})/([1-9][0-9]{0,3})")


@dataclass(frozen=True, slots=True)
class Shard:
    """Shard ``number``, counted from 1, ``of`` so many; as text ``1/4``."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard that ``text`` names.  Raises ``ValueError``."""
        match = _FORM.fullmatch(text)
        if match is None or not int(match[1]) <= int(match[2]) <= MAX_SHARDS:
            raise ValueError(
                f"'{text}' is not NUMBER/OF, such as 1/4: the first of four, {MAX_SHARDS} at most"
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def is_whole(self) -> bool:
        """True if it has every account."""
        return self.of == 1

    def has(self, did: str) -> bool:
        """Tell whether the account ``did`` belongs to this shard."""
        return self.of == 1 or shard_of(did, self.of) == self.number

    def elsewhere(self, did: str) -> str | None:
        """Return for people who has ``did`` if this shard does not, None if it does."""
        if self.has(did):
            return None
        other = Shard(shard_of(did, self.of), self.of)
        return f"{did} belongs to shard {other}, this is {self}: ask the deployment that has it"


WHOLE = Shard()


def shard_of(did: str, count: int) -> int:
    """Return the number, from 1, of the shard of ``count`` that the account ``did`` belongs to."""
    return int.from_bytes(sha256(did.encode()).digest()[:4], "big") % count + 1
