"""The outbox: rows that are decided and not yet known to be in Kafka.

``out_seq`` counts the rows of a lane from 1 without gaps.  ``topic`` is the topic's short name
(``events``, ``operations``, ``dead-letter``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from consumer.store.arrays import Byteas
from consumer.store.database import Connection
from consumer.store.rows import Headers, OutRow

_NO_HEADERS = Byteas(())


_APPEND = """
COPY outbox (lane, out_seq, topic, partition, key, headers, value) FROM STDIN (FORMAT BINARY)
"""
_TYPES = ["int4", "int8", "text", "int4", "bytea", "bytea[]", "bytea"]

# The first row is always read, further ones while their sum is below the bound.
_READ = """
SELECT out_seq, topic, partition, key, headers, value
FROM (
    SELECT *, sum(coalesce(octet_length(value), 0)) OVER earlier AS bytes_before
    FROM (
        SELECT * FROM outbox WHERE lane = %(lane)s AND out_seq > %(after)s
        ORDER BY out_seq LIMIT %(rows)s
    ) AS next_rows
    WINDOW earlier AS (ORDER BY out_seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
) AS measured
WHERE coalesce(bytes_before, 0) < %(bytes)s
ORDER BY out_seq
"""
_TRIM = "DELETE FROM outbox WHERE lane = %s AND out_seq <= %s"
_DEPTH = "SELECT lane, count(*) FROM outbox GROUP BY lane"


async def append(connection: Connection, lane: int, rows: Iterable[OutRow]) -> None:
    """Add rows, whose ``out_seq`` continue from the lane's ``last_out_seq``."""
    async with connection.cursor() as cursor, cursor.copy(_APPEND) as copy:
        copy.set_types(_TYPES)
        for row in rows:
            await copy.write_row(
                (
                    lane,
                    row.out_seq,
                    row.topic,
                    row.partition,
                    row.key,
                    Byteas(flattened(row.headers)) if row.headers else _NO_HEADERS,
                    row.value,
                )
            )


async def read(
    connection: Connection, lane: int, after: int, *, max_rows: int, max_bytes: int
) -> list[OutRow]:
    """Return the rows after ``out_seq`` ``after``: at most ``max_rows``, about ``max_bytes``.

    The bytes are those of the values; the last row may exceed the bound.
    """
    bounds = {"lane": lane, "after": after, "rows": max_rows, "bytes": max_bytes}
    cursor = await connection.execute(_READ, bounds, binary=True)
    return [
        OutRow(out_seq, topic, partition, key, paired(headers), value)
        for out_seq, topic, partition, key, headers, value in await cursor.fetchall()
    ]


async def trim(connection: Connection, lane: int, through: int) -> int:
    """Delete the rows up to ``through``, the lane's committed marker; return their number."""
    return (await connection.execute(_TRIM, [lane, through])).rowcount


async def depth(connection: Connection) -> dict[int, int]:
    """Return the number of rows by lane."""
    return dict(await (await connection.execute(_DEPTH)).fetchall())


def flattened(headers: Headers) -> list[bytes]:
    """Return names and values in turn: the form of the column."""
    flat: list[bytes] = []
    for name, value in headers:
        flat.append(name.encode())
        flat.append(value)
    return flat


def paired(flat: Sequence[bytes]) -> Headers:
    """Return the headers from which ``flattened`` made ``flat``."""
    return tuple((name.decode(), value) for name, value in zip(flat[::2], flat[1::2], strict=True))
