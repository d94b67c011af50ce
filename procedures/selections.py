"""Which repositories a command is for, when it is for more than one.  Pure.

A *selection* is a list, ``"dids": ["did:plc:…", …]``, or a selector, ``"select": {…}``, of exactly
one member:

    {"collection": "a.b.c" | "a.b.*"}   tracked repositories with a record there
    {"host": "pds.example[:port]"}      tracked repositories at this host
    {"failed": true}                    whose last sync failed, or that a failed one left behind
    {"all": true}                       every tracked repository

Selectors leave out accounts that are known to be deleted; a list does not.
``consumer/store/selections.py`` turns a selection into pages of DIDs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from procedures import syntax
from procedures.strict_json import shown

_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?(:[0-9]{1,5})?")


class By(StrEnum):
    """What repositories are selected by; the value is the member of ``select``."""

    DIDS = "dids"  # not a member of select: a field of its own
    COLLECTION = "collection"
    HOST = "host"
    FAILED = "failed"
    ALL = "all"


_GIVEN = {
    By.COLLECTION: "a collection, or a pattern such as pub.chive.*",
    By.HOST: "a host in lower case, with its port if it has one",
    By.FAILED: "true",
    By.ALL: "true",
}


class SelectionInvalid(ValueError):
    """A selection that is none."""


class DidInvalid(SelectionInvalid):
    """A list with something else than a DID in it."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What was selected: a collection or host as ``value``, or ``dids`` in order, each once."""

    by: By
    value: str | None = None
    dids: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """For people, and different for every selection."""
        if self.by is By.DIDS:
            digest = hashlib.sha256("\n".join(self.dids).encode()).hexdigest()[:16]
            return f"dids={len(self.dids)} sha256={digest}"
        return self.by if self.value is None else f"{self.by}={self.value}"


def is_collection_pattern(text: str) -> bool:
    """Tell whether ``text`` is a collection, or ``a.b.*`` for all that begin so."""
    return syntax.is_nsid(text) or syntax.is_nsid_wildcard(text)


def is_host(text: str) -> bool:
    """Tell whether ``text`` is a host in lower case, with its port if it has one."""
    return _HOST.fullmatch(text) is not None


def of_dids(value: object) -> Selection:
    """Return the selection of a field ``dids``.

    Raises ``DidInvalid`` for a member that is no DID, ``SelectionInvalid`` for anything else.
    """
    if not isinstance(value, list) or not value:
        raise SelectionInvalid("dids: not a list with a DID in it")
    for did in value:
        if not isinstance(did, str) or not syntax.is_did(did):
            raise DidInvalid(f"dids: {shown(did)} is not a DID")
    unique = tuple(sorted(set(value)))
    if len(unique) != len(value):
        raise SelectionInvalid("dids: a DID occurs twice")
    return Selection(By.DIDS, dids=unique)


def of_selector(value: object) -> Selection:
    """Return the selection of a field ``select``.  Raises ``SelectionInvalid``."""
    known = ", ".join(by for by in By if by is not By.DIDS)
    if not isinstance(value, dict) or len(value) != 1:
        raise SelectionInvalid(f"select: not an object with exactly one of {known}")
    ((name, given),) = value.items()
    match name:
        case By.COLLECTION if isinstance(given, str) and is_collection_pattern(given):
            return Selection(By.COLLECTION, given)
        case By.HOST if isinstance(given, str) and is_host(given):
            return Selection(By.HOST, given)
        case By.FAILED | By.ALL if given is True:
            return Selection(By(name))
        case By.COLLECTION | By.HOST | By.FAILED | By.ALL:
            raise SelectionInvalid(f"select: {name} must be {_GIVEN[name]}, not {shown(given)}")
    raise SelectionInvalid(f"select: {shown(name)} is not one of {known}")


def of_fields(fields: Mapping[str, Any]) -> Selection:
    """Return the selection that the fields of ``to_fields`` say.  Raises ``SelectionInvalid``."""
    if fields.get("dids") is not None:
        return of_dids(fields["dids"])
    return of_selector(fields.get("select"))


def to_fields(selection: Selection) -> dict[str, Any]:
    """Return the selection as fields of a command."""
    if selection.by is By.DIDS:
        return {"dids": list(selection.dids)}
    return {"select": {selection.by.value: selection.value or True}}
