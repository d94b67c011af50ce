"""The blocks of a CAR in a file, found by an index in another file beside it.

Memory does not grow with the file: the index is a SQLite table.  Not for the event loop.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from consumer.errors import Reason, Refused
from consumer.verify.snapshot import Alive
from consumer.verify.stream import Location, checked_blocks, read_roots

_PORTION = 2_000  # blocks between two calls of ``alive``


class SpooledBlocks:
    """The blocks of the CAR in the file ``spool``: a ``BlockSource``, which must be closed."""

    def __init__(self, spool: Path) -> None:
        self._file: BinaryIO = spool.open("rb")
        # The index goes with its directory; only one thread at a time uses it.
        self._index = sqlite3.connect(
            spool.with_suffix(".index"), isolation_level=None, check_same_thread=False
        )
        self._index.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -32768;"
            "CREATE TABLE blocks (cid BLOB PRIMARY KEY, at INTEGER, size INTEGER) WITHOUT ROWID"
        )

    def close(self) -> None:
        """Close both files."""
        self._index.close()
        self._file.close()

    def index(self, largest: int, most: int, alive: Alive) -> tuple[bytes, ...]:
        """Read the whole file, check every block's hash, and return the roots.

        Raises ``Refused``, also for a block of over ``largest`` bytes and for over ``most`` blocks.
        """
        rows: list[tuple[bytes, int, int]] = []
        self._index.execute("BEGIN")
        roots = read_roots(self._file)
        for count, (cid, location) in enumerate(checked_blocks(self._file, largest), start=1):
            if count > most:
                raise Refused(Reason.FETCH_TOO_BIG, f"more than {most} blocks")
            rows.append((cid, *location))
            if len(rows) >= _PORTION:
                self._add(rows)
                alive()
        self._add(rows)
        self._index.execute("COMMIT")
        return roots

    def _add(self, rows: list[tuple[bytes, int, int]]) -> None:
        self._index.executemany("INSERT OR IGNORE INTO blocks VALUES (?, ?, ?)", rows)
        rows.clear()

    def get(self, cid: bytes) -> bytes | None:
        """Return the block of ``cid``, None if there is none."""
        location = self.locate((cid,)).get(cid)
        return None if location is None else self.read(location)

    def read(self, location: Location) -> bytes:
        """Return the block at ``location``."""
        position, size = location
        self._file.seek(position)
        return self._file.read(size)

    def locate(self, cids: Iterable[bytes]) -> dict[bytes, Location]:
        """Return the locations of those of ``cids`` that have a block."""
        wanted = tuple(set(cids))
        marks = ", ".join("?" * len(wanted))
        rows = self._index.execute(
            f"SELECT cid, at, size FROM blocks WHERE cid IN ({marks})",  # noqa: S608 - question marks
            wanted,
        )
        return {cid: (position, size) for cid, position, size in rows}
