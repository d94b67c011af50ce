"""DAG-CBOR read byte by byte: how many items there are, and what they are.  Pure.

``check_items`` comes before the fast decoder, ``Reader`` after it: the plain reader, slow,
exact, and the judge wherever the fast path cannot tell.  It accepts nothing that a canonical
writer would not have written; see ``cbor.py`` for the rules.  Work is linear in the input,
recursion is bounded by ``max_depth``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from consumer.errors import Reason, Refused
from procedures.syntax import is_cid

SMALL = 1_024  # bytes, in which no claims cost much

# The first bytes of a link: tag 42, a byte string of 37, the zero that stands for multibase.
LINK_HEAD = b"\xd8\x2a\x58\x25\x00"

_TEXT, _MAP, _SIMPLE = 3, 5, 7  # major types, in the high three bits of a head
_STRING, _CONTAINER, _IS_MAP = 1, 2, 0x20  # in the high two, and the bit that tells a map
_SIMPLE_VALUES = {0xF4: False, 0xF5: True, 0xF6: None}
_INLINE = 24  # a head's low five bits hold values below this themselves
# A long run of heads with nothing behind them; what such containers claim does not add up.
_RUN = re.compile(rb"[\x00-\x17\x20-\x37\x40\x60\x80-\x97\xa0-\xb7\xf4-\xf6]+")
_LONGEST = 27  # 24 to this announce 1, 2, 4, 8 bytes


@dataclass(frozen=True, slots=True)
class Link:
    """A CID as a value inside DAG-CBOR; ``raw`` is its binary form, 36 bytes."""

    raw: bytes


def check_items(data: bytes, most: int) -> None:
    """Raise ``Refused(CBOR_INVALID)`` if ``data`` has, or claims to have, over ``most`` items.

    libipld makes room for what a container claims before it has read any of it, and claims
    inside claims add up to gigabytes.  A link counts as two items.  Where the input is no CBOR
    the count ends, since the decoder comes no further.
    """
    position, size, items, claimed = 0, len(data), 0, 0
    while position < size:
        initial = data[position]
        argument = initial & 31
        position += 1
        items += 1
        if argument >= _INLINE:
            if argument > _LONGEST:
                return
            end = position + (1 << (argument - _INLINE))
            argument = int.from_bytes(data[position:end], "big")
            position = end
        family = initial >> 6
        if family == _STRING:
            position += argument
        elif family == _CONTAINER:
            claimed += 2 * argument if initial & _IS_MAP else argument
            if argument >= _INLINE and (run := _RUN.match(data, position)):
                items += run.end() - position
                position = run.end()
        if items > most or claimed > most:
            raise Refused(Reason.CBOR_INVALID, f"more than {most} items")


class Reader:
    """A position in ``data`` that reads items in order."""

    __slots__ = ("data", "depth", "max_depth", "position")

    def __init__(self, data: bytes, max_depth: int) -> None:
        self.data = data
        self.position = 0
        self.depth = 0
        self.max_depth = max_depth

    @property
    def finished(self) -> bool:
        return self.position == len(self.data)

    def item(self) -> object:
        """Read one item; raise ``Refused(CBOR_INVALID)`` where a rule is broken."""
        kind, argument = self._head()
        match kind:
            case 0 | 1:
                return -1 - argument if kind else argument
            case 2 | 3:
                return self._text(argument) if kind == _TEXT else self._take(argument)
            case 4 | 5:
                return self._container(kind, argument)
            case 6:
                return self._link(argument)
        return _SIMPLE_VALUES[self.data[self.position - 1]]

    def _fail(self, problem: str) -> NoReturn:
        raise Refused(Reason.CBOR_INVALID, f"{problem} at byte {self.position}")

    def _take(self, length: int) -> bytes:
        start = self.position
        if length > len(self.data) - start:
            self._fail("end of data")
        self.position = start + length
        return self.data[start : self.position]

    def _head(self) -> tuple[int, int]:
        initial = self._take(1)[0]
        kind, info = initial >> 5, initial & 31
        if kind == _SIMPLE and initial not in _SIMPLE_VALUES:
            self._fail("float, undefined or unknown simple value")
        if info < _INLINE or kind == _SIMPLE:
            return kind, info
        if info > _LONGEST:
            self._fail("indefinite or reserved length")
        size = 1 << (info - _INLINE)
        argument = int.from_bytes(self._take(size), "big")
        if argument < (_INLINE if size == 1 else 1 << (4 * size)):
            self._fail("number not in its shortest form")
        return kind, argument

    def _text(self, length: int) -> str:
        try:
            return self._take(length).decode()
        except UnicodeDecodeError:
            self._fail("text is not UTF-8")

    def _link(self, tag: int) -> Link:
        if tag != 42 or self._take(2) != LINK_HEAD[2:4]:  # noqa: PLR2004 - the only tag
            self._fail("tag other than a CID")
        zero, raw = self._take(1), self._take(36)
        if zero != b"\x00" or not is_cid(raw):
            self._fail("CID that is not version 1, dag-cbor or raw, SHA-256")
        return Link(raw)

    def _container(self, kind: int, length: int) -> list[object] | dict[str, object]:
        if self.depth == self.max_depth:
            self._fail(f"nested deeper than {self.max_depth}")
        self.depth += 1
        items: list[object] | dict[str, object]
        items = self._map(length) if kind == _MAP else self._array(length)
        self.depth -= 1
        return items

    def _array(self, length: int) -> list[object]:
        items = []
        for _ in range(length):  # an overlong claim ends at the end of the data
            items.append(self.item())  # noqa: PERF401 - range() of a claim must not allocate
        return items

    def _map(self, length: int) -> dict[str, object]:
        items: dict[str, object] = {}
        previous = b""
        for _ in range(length):
            start = self.position
            key = self.item()
            if not isinstance(key, str):
                self._fail("map key is not text")
            encoded = self.data[start : self.position]  # a longer key has a greater head
            if encoded <= previous:
                self._fail("map keys not in order, or repeated")
            previous = encoded
            items[key] = self.item()
        return items
