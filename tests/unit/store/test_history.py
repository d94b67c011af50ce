"""The cursor of a page of operations: ours, or refused."""

from __future__ import annotations

import base64

import pytest

from consumer.store.operations import history
from procedures.client import CursorInvalid
from procedures.operations import Type, queued


def test_a_cursor_is_read_back() -> None:
    operation = queued("op-1", Type.DID_SYNC, "did:plc:abc", 1_000.5)
    assert history._parsed(history._cursor(operation)) == (1_000.5, "op-1")
    assert history._parsed(None) == (None, None)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"[]",
        b"[1]",
        b'[1, "a", 2]',
        b'["1", "a"]',
        b'[null, "a"]',
        b"[1, null]",
        b'[1, ""]',
        b'[1, "a\\u0000"]',
        b'[1e999, "a"]',
        b"[" * 5_000,
    ],
)
def test_what_no_page_has_ended_with_is_refused(content: bytes) -> None:
    with pytest.raises(CursorInvalid):
        history._parsed(base64.urlsafe_b64encode(content).decode())


def test_what_is_no_base64_is_refused() -> None:
    with pytest.raises(CursorInvalid):
        history._parsed("\u2603")
