"""Whether a schema still keeps what an older one promised: the rules of ``docs/schemas.md``.

Definitions are compared by name.  What the rules do not speak of (patterns, bounds, conditions)
must not change without a decision.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any

Schema = dict[str, Any]

_SAID = frozenset({"$schema", "$id", "title", "description", "format"})
_RULED = frozenset(
    {"$defs", "$ref", "properties", "required", "type", "enum", "examples", "oneOf", "anyOf"}
)


class Side(Enum):
    """Who relies on the schema: who reads what we write, or who writes what we read."""

    READERS = "readers"
    WRITERS = "writers"


def breaches(old: Schema, new: Schema, side: Side) -> list[str]:
    """Return what of ``old`` no longer holds in ``new``, with its place."""
    definitions = _members("#/$defs/", old.get("$defs", {}), new.get("$defs", {}), side)
    return [*_node("#", old, new, side), *definitions]


def _node(place: str, old: Any, new: Any, side: Side) -> Iterator[str]:
    if isinstance(old, bool) or isinstance(new, bool):
        if old != new:
            yield f"{place} changes from {old} to {new}"
        return
    if old.get("$ref") != new.get("$ref"):
        yield f"{place} is another definition"
    yield from _members(f"{place}/", old.get("properties", {}), new.get("properties", {}), side)
    yield from _required(place, old, new, side)
    yield from _values(place, old, new, side)
    for branches in ("oneOf", "anyOf"):
        yield from _branches(place, old.get(branches, []), new.get(branches, []))
    yield from _rest(place, old, new, side)


def _members(place: str, old: Schema, new: Schema, side: Side) -> Iterator[str]:
    for name, member in old.items():
        if name in new:
            yield from _node(place + name, member, new[name], side)
        else:
            yield f"{place}{name} is gone"


def _required(place: str, old: Schema, new: Schema, side: Side) -> Iterator[str]:
    before, after = set(old.get("required", [])), set(new.get("required", []))
    lost = before - after if side is Side.READERS else after - before
    for name in sorted(lost):
        yield f"{place}/{name} is " + ("optional" if side is Side.READERS else "required")


def _values(place: str, old: Schema, new: Schema, side: Side) -> Iterator[str]:
    for keyword in ("type", "enum"):
        before, after = _set(old.get(keyword)), _set(new.get(keyword))
        if side is Side.WRITERS:
            before, after = after, before  # what was accepted must be
        if before is not None and (after is None or not after <= before):
            yield f"{place}: {keyword} changes"
    named = _set(new.get("examples")) or _set(new.get("enum")) or set()
    if not (_set(old.get("examples")) or set()) <= named:
        yield f"{place}: a value is no longer named"


def _set(values: Any) -> set[Any] | None:
    if values is None:
        return None
    return set(values) if isinstance(values, list) else {values}


def _branches(place: str, old: list[Schema], new: list[Schema]) -> Iterator[str]:
    for branch in old:
        if branch not in new:
            yield f"{place}: the branch {branch} is gone"


def _rest(place: str, old: Schema, new: Schema, side: Side) -> Iterator[str]:
    """Compare constraints: only a looser one is safe for writers, a stricter one for readers."""
    for keyword in sorted((old.keys() | new.keys()) - _SAID - _RULED):
        if old.get(keyword) == new.get(keyword):
            continue
        if keyword == "additionalProperties" and old.get(keyword) is False:
            continue  # opened
        if keyword in (new if side is Side.READERS else old) and not (
            keyword in old and keyword in new
        ):
            continue
        yield f"{place}: {keyword} changes"
