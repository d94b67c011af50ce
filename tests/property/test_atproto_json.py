"""The JSON of a record says everything that its bytes say, and nothing else."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import cbor2
import orjson
from hypothesis import example, given
from hypothesis import strategies as st

from consumer.events.atproto_json import to_json
from procedures.syntax import DAG_CBOR_PREFIX, RAW_PREFIX, parse_cid

LINK = 42
LIMIT = 100_000

cids = st.builds(
    bytes.__add__,
    st.sampled_from([DAG_CBOR_PREFIX, RAW_PREFIX]),
    st.binary(min_size=32, max_size=32),
)
links = cids.map(lambda cid: cbor2.CBORTag(LINK, b"\x00" + cid))
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=30)
    | st.binary(max_size=40)
    | cids  # bytes that look like a CID and are none
    | links
)
keys = st.text(max_size=8).filter(lambda key: key not in {"$link", "$bytes"})
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4)
)
records = st.dictionaries(keys, values, max_size=5)


def written(record: object) -> bytes:
    return cbor2.dumps(record, canonical=True)


def read_back(value: Any) -> Any:
    """Undo the projection, by the book."""
    if isinstance(value, list):
        return [read_back(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"$link"}:
        return cbor2.CBORTag(LINK, b"\x00" + parse_cid(value["$link"]))
    if value.keys() == {"$bytes"}:
        text = value["$bytes"]
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    return {key: read_back(item) for key, item in value.items()}


@given(records)
def test_every_valid_record_reads_back_as_its_own_bytes(record: dict[str, Any]) -> None:
    data = written(record)
    text = to_json(data, LIMIT)
    assert text is not None
    assert written(read_back(orjson.loads(text))) == data


@given(records, st.data())
def test_damaged_bytes_give_nothing_or_themselves(
    record: dict[str, Any], choice: st.DataObject
) -> None:
    data = bytearray(written(record))
    for _ in range(choice.draw(st.integers(1, 3))):
        data[choice.draw(st.integers(0, len(data) - 1))] = choice.draw(st.integers(0, 255))
    text = to_json(bytes(data), LIMIT)
    assert text is None or written(read_back(orjson.loads(text))) == data


@given(st.binary(max_size=60))
@example(b"")
def test_any_bytes_at_all_are_survived(data: bytes) -> None:
    text = to_json(data, LIMIT)
    assert text is None or written(read_back(orjson.loads(text))) == data
