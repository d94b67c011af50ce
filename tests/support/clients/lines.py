"""What the programs in Python print."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

END = b"end"
"""The key of the last record of every partition."""


def line(
    partition: int,
    offset: int,
    key: bytes,
    value: bytes | None,
    headers: Iterable[tuple[str, bytes]],
) -> str:
    """Return what a program prints of a record."""
    digest = "-" if value is None else hashlib.sha256(value).hexdigest()
    named = [f"{name}={text.decode()}" for name, text in headers]
    return " ".join([str(partition), str(offset), key.decode(), digest, *named])
