"""The blocks of a CAR in a file, found by an index.  Not for the event loop.

Memory does not grow with the file: one of more than ``whole`` bytes is read where it is needed, and
the index of more than ``in_memory`` blocks is an SQLite table in another file.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import IO

from consumer.errors import Reason, Refused
from consumer.verify.snapshot import Alive
from consumer.verify.stream import Location, checked_blocks, read_roots

IN_MEMORY = 100_000  # blocks, about 30 MiB
WHOLE = 256 * 1024  # bytes

_PORTION = 2_000  # blocks between two calls of ``alive``

_Places = dict[bytes, Location]


class SpooledBlocks:
    """The blocks of the CAR in ``file``: a ``BlockSource``, which must be closed.

    The first of several blocks with one CID counts.  ``file`` is closed with it.
    """

    def __init__(self, file: IO[bytes], in_memory: int = IN_MEMORY, whole: int = WHOLE) -> None:
        self._in_memory = in_memory
        self._file = file
        self._data = _whole(file, whole)
        self._places: _Places = {}
        self._table: _Table | None = None

    def close(self) -> None:
        """Close the files."""
        self._places = {}
        if self._table is not None:
            self._table.close()
        self._file.close()

    def index(self, largest: int, most: int, alive: Alive) -> tuple[bytes, ...]:
        """Read the whole file, check every block's hash, and return the roots.

        Raises ``Refused``, also for a block of over ``largest`` bytes and for over ``most`` blocks.
        """
        self._file.seek(0)
        stream = self._file if self._data is None else BytesIO(self._data)
        roots = read_roots(stream)
        places, most_in_memory = self._places, self._in_memory
        for count, (cid, location) in enumerate(checked_blocks(stream, largest), start=1):
            if count > most:
                raise Refused(Reason.FETCH_TOO_BIG, f"more than {most} blocks")
            places.setdefault(cid, location)
            if len(places) > most_in_memory:
                self._move_to_table()
                most_in_memory = _PORTION
            if count % _PORTION == 0:
                alive()
        if self._table is not None:
            self._move_to_table()
        return roots

    def _move_to_table(self) -> None:
        if self._table is None:
            self._table = _Table()
        self._table.add(self._places)
        self._places.clear()

    def get(self, cid: bytes) -> bytes | None:
        """Return the block of ``cid``, None if there is none."""
        location = self.locate((cid,)).get(cid)
        return None if location is None else self.read(location)

    def read(self, location: Location) -> bytes:
        """Return the block at ``location``."""
        position, size = location
        if self._data is not None:
            return self._data[position : position + size]
        return os.pread(self._file.fileno(), size, position)

    def locate(self, cids: Iterable[bytes]) -> _Places:
        """Return the locations of those of ``cids`` that have a block."""
        if self._table is not None:
            return self._table.locate(cids)
        places = self._places
        return {cid: places[cid] for cid in cids if cid in places}


def _whole(file: IO[bytes], most: int) -> bytes | None:
    """Return what is in ``file``, None if that is more than ``most`` bytes."""
    if file.seek(0, os.SEEK_END) > most:
        return None
    file.seek(0)
    return file.read()


class _Table:
    """An index in a temporary directory; only one thread at a time uses it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="chive-index-")
        path = Path(self._folder.name) / "blocks"
        self._tables = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._tables.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -32768;"
            "CREATE TABLE blocks (cid BLOB PRIMARY KEY, at INTEGER, size INTEGER) WITHOUT ROWID"
        )

    def add(self, places: _Places) -> None:
        rows = ((cid, *location) for cid, location in places.items())
        self._tables.execute("BEGIN")
        self._tables.executemany("INSERT OR IGNORE INTO blocks VALUES (?, ?, ?)", rows)
        self._tables.execute("COMMIT")

    def locate(self, cids: Iterable[bytes]) -> _Places:
        wanted = tuple(set(cids))
        marks = ", ".join("?" * len(wanted))
        rows = self._tables.execute(
            f"SELECT cid, at, size FROM blocks WHERE cid IN ({marks})",  # noqa: S608 - question marks
            wanted,
        )
        return {cid: (position, size) for cid, position, size in rows}

    def close(self) -> None:
        self._tables.close()
        self._folder.cleanup()
