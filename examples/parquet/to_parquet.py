"""Events as Parquet, by DuckDB: every event as it came, and the records that people may see now.

    python -m consumer events --from-beginning --until now --records > events.jsonl
    python to_parquet.py events.jsonl FOLDER

writes ``FOLDER/events.parquet`` and ``FOLDER/records.parquet``.  The second needs all that the
topics hold; the first can be made of any part of it, such as ``--since 1h --until now``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import duckdb

# A line is kept as text beside the columns: numbers of 64 bits and new members stay as they are.
# lane and out_seq say which of two records of a key is the newer one, over several topics too.
READ = """
CREATE TEMP TABLE lines AS
SELECT
    line ->> '$.key' AS key,
    (line ->> '$.headers.lane')::INTEGER AS lane,
    (line ->> '$.headers.out_seq')::BIGINT AS out_seq,
    (line ->> '$.timestamp')::TIMESTAMPTZ AS appended,
    nullif(line -> '$.value', 'null'::JSON) AS event
FROM read_json_objects($source, format = 'newline_delimited', maximum_object_size = 67108864)
    AS records(line)
"""

# What goes to several topics is there several times.
EVENTS = """
SELECT DISTINCT ON (lane, out_seq)
    lane, out_seq, appended,
    event ->> '$.id' AS id,
    event ->> '$.type' AS type,
    (event ->> '$.time')::TIMESTAMPTZ AS time,
    event ->> '$.did' AS did,
    event ->> '$.rev' AS rev,
    event ->> '$.uri' AS uri,
    event ->> '$.collection' AS collection,
    event ->> '$.action' AS action,
    event ->> '$.source' AS source,
    event::VARCHAR AS event
FROM lines
WHERE event IS NOT NULL
ORDER BY lane, out_seq
"""

# The newest of each key; one that is null or a delete says that there is no record.  An account
# without an event of its own is active.
RECORDS = """
WITH newest AS (
    SELECT DISTINCT ON (key) key, event
    FROM lines
    ORDER BY key, out_seq DESC
), hidden AS (
    SELECT event ->> '$.did' AS did
    FROM newest
    WHERE event ->> '$.type' = 'account' AND event ->> '$.active' = 'false'
)
SELECT
    key AS uri,
    event ->> '$.did' AS did,
    event ->> '$.collection' AS collection,
    event ->> '$.rkey' AS rkey,
    event ->> '$.rev' AS rev,
    event ->> '$.cid' AS cid,
    (event ->> '$.time')::TIMESTAMPTZ AS time,
    nullif(event -> '$.record', 'null'::JSON)::VARCHAR AS record,
    from_base64(event ->> '$.recordCbor') AS record_cbor
FROM newest
WHERE event ->> '$.type' = 'record'
    AND event ->> '$.action' <> 'delete'
    AND event ->> '$.did' NOT IN (SELECT did FROM hidden)
ORDER BY uri
"""


def convert(source: Path, folder: Path) -> None:
    """Make both files in ``folder`` from the lines of ``source``."""
    folder.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as database:
        database.execute(READ, {"source": str(source)})
        for name, query in (("events", EVENTS), ("records", RECORDS)):
            # Written beside it first: a reader never sees half a file.
            parts = folder / f".{name}.parquet"
            database.sql(query).write_parquet(str(parts), compression="zstd")
            parts.replace(folder / f"{name}.parquet")


if __name__ == "__main__":
    if len(sys.argv) != 3:  # noqa: PLR2004
        sys.exit("usage: to_parquet.py EVENTS.jsonl FOLDER")
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
