"""Strict JSON for commands and tokens: every accepted text has one meaning.  Pure.

RFC 8259 does not define the meaning of a repeated key, and Python's reader accepts ``NaN``, lone
surrogates and numbers beyond the range of a float.  Two readers of such a command or token could
see different values, so it is refused.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

_SHOWN = 128  # of a wrong value, in a message for people


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
        # orjson checks the syntax (UTF-8, surrogates, constants), json reports every key.
        orjson.loads(data)
        return json.loads(data, object_pairs_hook=_unique)
    except DuplicateKey:
        raise
    except (ValueError, RecursionError) as error:
        raise NotJson(str(error) or type(error).__name__) from error


def shown(value: object) -> str:
    """Return a wrong value of ``loads`` for a message to its sender: in JSON's words, and short."""
    match value:
        case str():
            return repr(value[:_SHOWN])
        case dict():
            return "an object"
        case list():
            return "a list"
        case _:
            return json.dumps(value)[:_SHOWN]
