"""The blocks of a CAR that lies in a file, found by an index in another file beside it.

Memory does not grow with the file.  Every block's hash is checked when the index is made.  Not
for the event loop.  Specification: https://ipld.io/specs/transport/car/carv1/.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from consumer.errors import Reason, Refused
from consumer.verify.car import MAX_HEADER, read_header
from procedures.syntax import CID_LENGTH, CID_PREFIXES

Alive = Callable[[], None]
_Place = tuple[int, int]  # of a block in the file: position and size
_Row = tuple[bytes, int, int]  # CID, position and size

_HEAD = MAX_HEADER + 9  # bytes; the header and its length
_MAX_VARINT = 9
_MORE = 0x80
_PORTION = 2_000  # blocks between two signs of life


class SpooledBlocks:
    """The blocks of the CAR in the file ``spool``.  ``index`` comes first; always close."""

    def __init__(self, spool: Path) -> None:
        self._file: BinaryIO = spool.open("rb")
        # The file goes with its directory; no other thread uses it at the same time.
        self._index = sqlite3.connect(
            spool.with_suffix(".index"), isolation_level=None, check_same_thread=False
        )
        self._index.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -32768;"
            "CREATE TABLE blocks (cid BLOB PRIMARY KEY, at INTEGER, size INTEGER) WITHOUT ROWID"
        )

    def close(self) -> None:
        """Release the files."""
        self._index.close()
        self._file.close()

    def index(self, largest: int, most: int, alive: Alive) -> tuple[bytes, ...]:
        """Read the whole file, check every block's hash, and return the roots.

        Raises ``Refused``, also for a block of over ``largest`` bytes and for over ``most`` blocks.
        """
        rows: list[_Row] = []
        self._index.execute("BEGIN")
        roots, position = self._header()
        for count, row in enumerate(self._checked(position, largest), start=1):
            if count > most:
                raise Refused(Reason.FETCH_TOO_BIG, f"more than {most} blocks")
            rows.append(row)
            if len(rows) >= _PORTION:
                self._add(rows)
                alive()
        self._add(rows)
        self._index.execute("COMMIT")
        return roots

    def _header(self) -> tuple[tuple[bytes, ...], int]:
        head = self._file.read(_HEAD)
        if not head:
            raise Refused(Reason.CAR_TRUNCATED, "the file is empty")
        return read_header(head)

    def _checked(self, position: int, largest: int) -> Iterator[_Row]:
        self._file.seek(position)
        while (length := _varint(self._file)) is not None:
            if not CID_LENGTH <= length <= largest + CID_LENGTH:
                raise Refused(Reason.CAR_INVALID, f"a block of {length} bytes")
            data = self._file.read(length)
            if len(data) < length:
                raise Refused(Reason.CAR_TRUNCATED, "the file ends inside a block")
            cid, size = data[:CID_LENGTH], length - CID_LENGTH
            if cid[:4] not in CID_PREFIXES:
                raise Refused(Reason.CAR_INVALID, "a block with a CID of another kind")
            if sha256(memoryview(data)[CID_LENGTH:]).digest() != cid[4:]:
                raise Refused(Reason.BLOCK_HASH, f"block {cid.hex()}")
            yield cid, self._file.tell() - size, size

    def _add(self, rows: list[_Row]) -> None:
        self._index.executemany("INSERT OR IGNORE INTO blocks VALUES (?, ?, ?)", rows)
        rows.clear()

    def get(self, cid: bytes) -> bytes | None:
        """Return the block of ``cid``, whose hash was checked."""
        place = self.places((cid,)).get(cid)
        return None if place is None else self.at(place)

    def at(self, place: _Place) -> bytes:
        """Return the block at ``place``."""
        position, size = place
        self._file.seek(position)
        return self._file.read(size)

    def places(self, cids: Iterable[bytes]) -> dict[bytes, _Place]:
        """Return where the blocks of ``cids`` are, as far as they are there."""
        asked = tuple(set(cids))
        places = ", ".join("?" * len(asked))
        rows = self._index.execute(
            f"SELECT cid, at, size FROM blocks WHERE cid IN ({places})",  # noqa: S608 - question marks
            asked,
        )
        return {cid: (position, size) for cid, position, size in rows}


def _varint(file: BinaryIO) -> int | None:
    """Read the length before a block; None at the end of the file."""
    value = 0
    for index in range(_MAX_VARINT):
        read = file.read(1)
        if not read:
            if index:
                raise Refused(Reason.CAR_TRUNCATED, "the file ends inside a length")
            return None
        byte = read[0]
        value |= (byte & 0x7F) << (7 * index)
        if byte < _MORE:
            if byte == 0 and index:
                raise Refused(Reason.CAR_INVALID, "length not in its shortest form")
            return value
    raise Refused(Reason.CAR_INVALID, "length does not end")
