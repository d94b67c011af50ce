"""JSON as it must be when it decides something: one meaning for every text.  Pure.

RFC 8259 leaves open what a repeated key means, and Python's reader takes ``NaN``, lone
surrogates and numbers beyond every float.  Two readers of the same command or token could then
see different things; here such a text is refused.
"""

from __future__ import annotations

import json
from typing import Any

import orjson


class NotJson(ValueError):
    """The bytes are not one JSON text in UTF-8."""


class DuplicateKey(ValueError):
    """An object in the text has the same key twice; ``key`` is the key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the key {key!r} occurs twice")
        self.key = key


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise DuplicateKey(key)
        found[key] = value
    return found


def loads(data: bytes) -> object:
    """Return the value of one JSON text.

    Raises ``NotJson`` for anything that is not exactly one strict JSON text, and
    ``DuplicateKey`` (at any depth).  The caller limits the size of ``data`` beforehand.
    """
    try:
        # orjson judges the syntax (UTF-8, surrogates, constants), json sees every key.
        orjson.loads(data)
        return json.loads(data, object_pairs_hook=_unique)
    except DuplicateKey:
        raise
    except (ValueError, RecursionError) as error:
        raise NotJson(str(error) or type(error).__name__) from error
