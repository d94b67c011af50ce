"""Columns as parameters of a statement: arrays encoded once, in PostgreSQL's binary format.

A batch writes a table with one ``INSERT … SELECT FROM unnest(%s, %s, …)``.  psycopg adapts each
element of a list separately and chooses the array's type from the values: a batch of small
numbers, or of nulls only, would be another prepared statement.  These columns have a fixed type
and cost a few hundred nanoseconds per element.

Format: PostgreSQL ``array_recv`` — dimensions, has-null flag, element type, length, lower
bound, then each element as a length (-1 for null) and its bytes; all big-endian int32.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

import orjson
import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

_NULL = struct.pack("!i", -1)
_LENGTH = struct.Struct("!i")
_HEAD = struct.Struct("!iiIii")
_BIGINT = struct.Struct("!iq")
_DOUBLE = struct.Struct("!id")
_TRUE, _FALSE = b"\x00\x00\x00\x01\x01", b"\x00\x00\x00\x01\x00"

_JSONB_VERSION = b"\x01"
_EMPTY_HEAD = struct.Struct("!iiI")


class Column:
    """One encoded array; subclasses set the element type."""

    __slots__ = ("payload",)
    element_oid = 0
    array_oid = 0

    def __init__(self, parts: list[bytes], count: int) -> None:
        if count == 0:
            self.payload = _EMPTY_HEAD.pack(0, 0, self.element_oid)
        else:
            head = _HEAD.pack(1, 1, self.element_oid, count, 1)
            self.payload = head + b"".join(parts)


class Texts(Column):
    """A ``text[]``."""

    __slots__ = ()
    element_oid, array_oid = 25, 1009

    def __init__(self, values: Sequence[str | None]) -> None:
        parts: list[bytes] = []
        for value in values:
            if value is None:
                parts.append(_NULL)
            else:
                encoded = value.encode()
                parts.append(_LENGTH.pack(len(encoded)))
                parts.append(encoded)
        super().__init__(parts, len(values))


class Byteas(Column):
    """A ``bytea[]``."""

    __slots__ = ()
    element_oid, array_oid = 17, 1001

    def __init__(self, values: Sequence[bytes | None]) -> None:
        parts: list[bytes] = []
        for value in values:
            if value is None:
                parts.append(_NULL)
            else:
                parts.append(_LENGTH.pack(len(value)))
                parts.append(value)
        super().__init__(parts, len(values))


class Bigints(Column):
    """A ``bigint[]``."""

    __slots__ = ()
    element_oid, array_oid = 20, 1016

    def __init__(self, values: Sequence[int | None]) -> None:
        pack = _BIGINT.pack
        super().__init__([_NULL if v is None else pack(8, v) for v in values], len(values))


class Doubles(Column):
    """A ``double precision[]``."""

    __slots__ = ()
    element_oid, array_oid = 701, 1022

    def __init__(self, values: Sequence[float | None]) -> None:
        pack = _DOUBLE.pack
        super().__init__([_NULL if v is None else pack(8, v) for v in values], len(values))


class Booleans(Column):
    """A ``boolean[]``."""

    __slots__ = ()
    element_oid, array_oid = 16, 1000

    def __init__(self, values: Sequence[bool | None]) -> None:
        parts = [_NULL if v is None else _TRUE if v else _FALSE for v in values]
        super().__init__(parts, len(values))


class Jsons(Column):
    """A ``jsonb[]`` of JSON objects."""

    __slots__ = ()
    element_oid, array_oid = 3802, 3807

    def __init__(self, values: Sequence[Mapping[str, object] | None]) -> None:
        parts: list[bytes] = []
        for value in values:
            if value is None:
                parts.append(_NULL)
            else:
                encoded = _JSONB_VERSION + orjson.dumps(value)
                parts.append(_LENGTH.pack(len(encoded)))
                parts.append(encoded)
        super().__init__(parts, len(values))


class _ColumnDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Column) -> bytes:
        return obj.payload


def _register(columns: Iterable[type[Column]]) -> None:
    for column in columns:
        dumper = type(f"{column.__name__}Dumper", (_ColumnDumper,), {"oid": column.array_oid})
        psycopg.adapters.register_dumper(column, dumper)


_register([Texts, Byteas, Bigints, Doubles, Booleans, Jsons])
