"""The outbox: Kafka records that are decided and not yet known to be in Kafka.

``out_seq`` counts the records of a lane from 1 without gaps.  One row of ``outbox_batches`` holds
the records of one transaction, as CBOR, and a random stamp.  The batch of the newest published
marker stays, emptied: its stamp proves that these tables decided what was published.

The table ``outbox``, a row per record, is of earlier versions: ``adopt_earlier`` makes batches of
its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import cbor2

from consumer.store.arrays import Byteas
from consumer.store.database import Connection
from consumer.store.rows import Headers, OutRow

_APPEND = """
INSERT INTO outbox_batches (lane, through, rows, stamp, body)
SELECT * FROM unnest(%s::integer[], %s::bigint[], %s::integer[], %s::uuid[], %s)
"""
# The first batch is always read, further ones while their sum is below the bound.
_READ = """
SELECT through, rows, stamp, body
FROM (
    SELECT *, sum(octet_length(body)) OVER earlier AS bytes_before
    FROM (
        SELECT * FROM outbox_batches WHERE lane = %(lane)s AND through > %(after)s
        ORDER BY through LIMIT %(rows)s
    ) AS next_batches
    WINDOW earlier AS (ORDER BY through ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
) AS measured
WHERE coalesce(bytes_before, 0) < %(bytes)s
ORDER BY through
"""
_TAKE_EARLIER = """
WITH taken AS (DELETE FROM outbox WHERE lane = %s RETURNING *)
SELECT out_seq, topic, partition, key, headers, value FROM taken ORDER BY out_seq
"""
_TRIM = """
DELETE FROM outbox_batches AS batch
USING unnest(%s::integer[], %s::bigint[]) AS marker (lane, through)
WHERE batch.lane = marker.lane AND batch.through < marker.through
"""
_EMPTY = """
UPDATE outbox_batches AS batch SET rows = 0, body = ''
FROM unnest(%s::integer[], %s::bigint[]) AS marker (lane, through)
WHERE batch.lane = marker.lane AND batch.through = marker.through AND batch.rows > 0
"""
_NEWEST = "SELECT lane, max(through) FROM outbox_batches WHERE lane = ANY(%s) GROUP BY lane"
_DEPTH = "SELECT lane, sum(rows)::bigint FROM outbox_batches GROUP BY lane HAVING sum(rows) > 0"
_STAMP = """
SELECT stamp FROM outbox_batches WHERE lane = %s AND through >= %s ORDER BY through LIMIT 1
"""
_TRIMMED = "SELECT coalesce(max(through), 0) FROM outbox_batches WHERE lane = %s AND rows = 0"

_EARLIER_ROWS = 1_000  # of one batch


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What the tables know of a published ``out_seq``.

    ``stamp`` is that of the batch that holds it, None if there is none; ``trimmed`` the newest
    ``out_seq`` that was known to be published.
    """

    stamp: UUID | None
    trimmed: int


async def append(connection: Connection, batches: Mapping[int, Sequence[OutRow]]) -> None:
    """Add the rows of one transaction by lane; their ``out_seq`` continue from the lane's last."""
    last = [rows[-1] for rows in batches.values()]
    columns = [
        list(batches),
        [row.out_seq for row in last],
        [len(rows) for rows in batches.values()],
        [row.stamp for row in last],
        Byteas([packed(rows) for rows in batches.values()]),
    ]
    await connection.execute(_APPEND, columns)


async def read(
    connection: Connection, lane: int, after: int, *, max_rows: int, max_bytes: int
) -> list[OutRow]:
    """Return the rows after ``out_seq`` ``after``: at most ``max_rows``, about ``max_bytes``.

    The bytes are those of the values; the last row may exceed the bound.
    """
    bounds = {"lane": lane, "after": after, "rows": max_rows, "bytes": max_bytes}
    batches = await (await connection.execute(_READ, bounds, binary=True)).fetchall()
    rows = (
        row
        for through, count, stamp, body in batches
        if count
        for row in unpacked(body, through, stamp)
        if row.out_seq > after
    )
    return _bounded(rows, max_rows, max_bytes)


def _bounded(rows: Iterable[OutRow], max_rows: int, max_bytes: int) -> list[OutRow]:
    taken: list[OutRow] = []
    size = 0
    for row in rows:
        if len(taken) == max_rows or size >= max_bytes:
            break
        taken.append(row)
        size += len(row.value or b"")
    return taken


async def trim(connection: Connection, through: Mapping[int, int]) -> None:
    """Forget the rows of each lane up to its committed marker, but for the marker's stamp."""
    markers = [list(through), list(through.values())]
    await connection.execute(_TRIM, markers)
    await connection.execute(_EMPTY, markers)


async def newest(connection: Connection, lanes: Sequence[int]) -> dict[int, int]:
    """Return the newest ``out_seq`` of each of ``lanes`` that has a batch."""
    return dict(await (await connection.execute(_NEWEST, [list(lanes)])).fetchall())


async def adopt_earlier(connection: Connection, lane: int, published: int) -> None:
    """Make batches of what earlier versions left behind ``published``; they have no stamp."""
    cursor = await connection.execute(_TAKE_EARLIER, [lane], binary=True)
    rows = [
        OutRow(out_seq, topic, partition, key, paired(headers), value)
        for out_seq, topic, partition, key, headers, value in await cursor.fetchall()
        if out_seq > published
    ]
    for start in range(0, len(rows), _EARLIER_ROWS):
        await append(connection, {lane: rows[start : start + _EARLIER_ROWS]})


async def knowledge(connection: Connection, lane: int, out_seq: int) -> Knowledge:
    """Return what the tables know of the record ``out_seq`` of a lane."""
    stamp = await (await connection.execute(_STAMP, [lane, out_seq])).fetchone()
    trimmed = await (await connection.execute(_TRIMMED, [lane])).fetchone()
    return Knowledge(stamp[0] if stamp else None, trimmed[0] if trimmed else 0)


async def depth(connection: Connection) -> dict[int, int]:
    """Return the number of waiting rows by lane; lanes without any are left out."""
    return dict(await (await connection.execute(_DEPTH)).fetchall())


def packed(rows: Iterable[OutRow]) -> bytes:
    """Return the body of a batch: CBOR of ``[topic, partition, key, value, header, value…]``."""
    return cbor2.dumps(
        [[row.topic, row.partition, row.key, row.value, *flattened(row.headers)] for row in rows]
    )


def unpacked(body: bytes, through: int, stamp: UUID) -> list[OutRow]:
    """Return the rows of a batch whose last ``out_seq`` is ``through``."""
    rows = cbor2.loads(body)
    first = through - len(rows) + 1
    return [
        OutRow(first + n, topic, partition, key, paired(headers), value, stamp)
        for n, (topic, partition, key, value, *headers) in enumerate(rows)
    ]


def flattened(headers: Headers) -> list[bytes]:
    """Return names and values in turn."""
    flat: list[bytes] = []
    for name, value in headers:
        flat.append(name.encode())
        flat.append(value)
    return flat


def paired(flat: Sequence[bytes]) -> Headers:
    """Return the headers from which ``flattened`` made ``flat``."""
    return tuple((name.decode(), value) for name, value in zip(flat[::2], flat[1::2], strict=True))
