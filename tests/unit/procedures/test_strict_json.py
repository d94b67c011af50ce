"""Strict JSON: one meaning for every text."""

from __future__ import annotations

import pytest

from procedures import strict_json


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"{} {}",
        b"nul",
        b"NaN",
        b'{"a": Infinity}',
        b'"\\ud800"',
        b'"\xff"',
        b"\xef\xbb\xbf{}",
        b"[" * 16_000,
        b"1" * 5_000,
        b"1" * 400,
        b"-1e999",
        b"{'a': 1}",
        b'{"a": 1,}',
    ],
)
def test_refuses_what_is_not_one_json_text(data: bytes) -> None:
    with pytest.raises(strict_json.NotJson):
        strict_json.loads(data)


@pytest.mark.parametrize("data", [b'{"a":1,"a":1}', b'[{"b":{"a":1,"\\u0061":2}}]'])
def test_refuses_duplicate_keys_at_any_depth(data: bytes) -> None:
    with pytest.raises(strict_json.DuplicateKey) as caught:
        strict_json.loads(data)
    assert caught.value.key == "a"


def test_reads_values() -> None:
    assert strict_json.loads('{"a": [1, 2.5, null, true, "ü"]}'.encode()) == {
        "a": [1, 2.5, None, True, "ü"]
    }
