"""A look at a frame that cannot be decoded: whose it is, and where it stands.  Pure.

The header and the top level of the body are read, and values of any shape are skipped: what a
DAG-CBOR decoder refuses (floats, unknown tags, indefinite lengths, too many items, an end in the
middle) need not hide the account.  Steps and memory are bounded.  Nothing is proved by it: the
answer says which repository may have missed something, not what.
"""

from __future__ import annotations

import libipld

from consumer.errors import Refused
from consumer.verify import fields
from consumer.verify.frames import MAX_ITEMS, MAX_TIME, Kind, Peek, kind_of
from consumer.verify.scan import check_items
from procedures.syntax import MAX_DID, is_did

_MAX_STEPS = 100_000  # items that are read or skipped: less than 0.1 s
_BODY = frozenset({"seq", "repo", "did", "time", "rev", "ops"})
_HEADER = frozenset({"op", "t"})
_ENOUGH = frozenset({"seq", "repo", "time", "rev", "ops"})
_NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = 1, 2, 3, 4, 5, 6, 7  # major types
_INLINE, _LONGEST, _INDEFINITE = 24, 27, 31  # a head's low five bits
_OPEN = -1  # items left in a container of indefinite length

_Fields = dict[str, int | str | bytes]


class _Unreadable(Exception):
    """Nothing behind this place can be read."""


def glance(data: bytes) -> Peek | None:
    """Return what can be read of the frame in ``data``, or of its beginning; None if too little.

    An answer has a kind of frame that names an account, a seq in range and a valid DID.  ``ops``
    that can be read give ``paths``.
    """
    walk = _Walk(data)
    header = _fields_of(walk, _HEADER)
    if walk.ended:
        return None
    try:
        kind = kind_of(header)
    except Refused:
        return None
    if kind is Kind.INFO or kind is Kind.ERROR:
        return None
    body = _fields_of(walk, _BODY)
    is_commit = kind is Kind.COMMIT
    seq, did = body.get("seq"), body.get("repo" if is_commit else "did")
    if type(seq) is not int or not 0 <= seq <= fields.MAX_SEQ:
        return None
    if type(did) is not str or not is_did(did):
        return None
    paths = _paths(body.get("ops")) if is_commit else ()
    return Peek(kind, seq, did, _short(body.get("time")), paths, _short(body.get("rev")))


def _short(value: object) -> str | None:
    return value if type(value) is str and len(value) <= MAX_TIME else None


def _paths(raw: object) -> tuple[str, ...]:
    """Return the paths in ``raw``, the encoded ops, as far as it is a list of maps."""
    if type(raw) is not bytes:
        return ()
    try:
        check_items(raw, MAX_ITEMS)
        ops = libipld.decode_dag_cbor(raw)
    except (Refused, ValueError, RecursionError):
        return ()
    maps = [op for op in ops if type(op) is dict] if type(ops) is list else []
    return tuple([path for op in maps if type(path := op.get("path")) is str])


def _fields_of(walk: _Walk, wanted: frozenset[str]) -> _Fields:
    """Return the ``wanted`` entries of the map at ``walk`` that are numbers or short texts.

    ``ops`` is returned as it is encoded.  Of a name that comes twice the first one counts.
    """
    found: _Fields = {}
    try:
        left = walk.open_map()
        while left != 0 and not walk.closes(left) and not found.keys() >= _ENOUGH:
            left -= left > 0
            key = walk.item()
            start = walk.position
            value = walk.item()
            if type(key) is not str or key not in wanted:
                continue
            known = walk.since(start) if key == "ops" else value
            if known is not None:
                found.setdefault(key, known)
    except _Unreadable:
        walk.ended = True
    return found


class _Walk:
    """A position in ``data`` that moves item by item; ``ended``: it can move no further."""

    def __init__(self, data: bytes) -> None:
        self.position = 0
        self.ended = False
        self._data = data
        self._steps = 0

    def since(self, start: int) -> bytes:
        """Return the bytes from ``start`` to the position."""
        return self._data[start : self.position]

    def open_map(self) -> int:
        """Enter a map; return the number of its entries, ``_OPEN`` if it does not say."""
        major, argument = self._head()
        if major != _MAP:
            raise _Unreadable
        return argument

    def closes(self, left: int) -> bool:
        """Tell whether a container of indefinite length ends here, and leave it."""
        if left != _OPEN or self._data[self.position : self.position + 1] != b"\xff":
            return False
        self.position += 1
        return True

    def item(self) -> int | str | None:
        """Pass one item; return it if it is a number or a text no longer than a DID."""
        start = self.position
        major, argument = self._head()
        if major in {0, _NEGATIVE} and argument != _OPEN:
            return -1 - argument if major else argument
        head_end = self.position
        self.position = start
        self._pass()
        if major != _TEXT or not 0 <= argument <= MAX_DID:
            return None
        return self._data[head_end : self.position].decode(errors="replace")

    def _pass(self) -> None:
        """Pass one item of any shape."""
        left = [1]  # items to come, of each container that the position is in
        while left:
            if left[-1] == 0 or self.closes(left[-1]):
                left.pop()
                continue
            left[-1] -= left[-1] > 0
            major, argument = self._head()
            if major in {_BYTES, _TEXT} and argument != _OPEN:
                self._take(argument)
            elif major in {_BYTES, _TEXT, _ARRAY, _MAP}:
                left.append(2 * argument if major == _MAP and argument != _OPEN else argument)
            elif argument == _OPEN:
                raise _Unreadable
            elif major == _TAG:
                left.append(1)

    def _head(self) -> tuple[int, int]:
        """Read an item's head; return its major type and argument, ``_OPEN`` for no length."""
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise _Unreadable
        initial = self._take(1)[0]
        major, argument = initial >> 5, initial & 31
        if argument < _INLINE:
            return major, argument
        if argument <= _LONGEST:
            return major, int.from_bytes(self._take(1 << (argument - _INLINE)), "big")
        if argument != _INDEFINITE:
            raise _Unreadable
        return major, _OPEN

    def _take(self, length: int) -> bytes:
        start = self.position
        if length > len(self._data) - start:
            raise _Unreadable
        self.position = start + length
        return self._data[start : self.position]
