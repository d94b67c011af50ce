"""The collections that Chive writes and reads: what a wildcard of the scope stands for.  Pure.

A listing is of one collection, so a wildcard is expanded before accounts are found by it.  The
names are those that the code of Chive uses; a setting adds others.
"""

from __future__ import annotations

from collections.abc import Sequence

from consumer.scope import EVERYTHING, Scope

_CHIVE = (
    *("actor.mute", "actor.profile", "actor.profileConfig"),
    *("annotation.comment", "annotation.entityLink"),
    *("collaboration.invite", "collaboration.inviteAcceptance"),
    "discovery.settings",
    *("eprint.changelog", "eprint.citation", "eprint.relatedWork", "eprint.submission"),
    *("eprint.userTag", "eprint.version"),
    *("graph.edge", "graph.edgeProposal", "graph.node", "graph.nodeProposal"),
    *("graph.reconciliation", "graph.vote"),
    *("review.comment", "review.endorsement", "review.entityLink"),
)
_COSMIK = ("card", "collection", "collectionLink", "collectionLinkRemoval", "connection", "follow")
# annotation, bookmark and highlight are given up, but there are repositories that hold them.
_MARGIN = ("annotation", "bookmark", "highlight", "like", "note", "reply")
_STANDARD = ("document", "publication")

BUILT_IN = (
    *(f"pub.chive.{name}" for name in _CHIVE),
    *(f"network.cosmik.{name}" for name in _COSMIK),
    *(f"at.margin.{name}" for name in _MARGIN),
    *(f"site.standard.{name}" for name in _STANDARD),
)


def expanded(scope: Scope, known: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the collections of ``scope`` as NSIDs, without ``*``.

    A wildcard stands for the built-in and the ``known`` collections that it covers.
    """
    patterns = [name for name in scope.collections if name != EVERYTHING]
    exact = [name for name in patterns if not name.endswith(".*")]
    covered = [
        name for name in (*BUILT_IN, *known) if any(_covers(pattern, name) for pattern in patterns)
    ]
    return tuple(dict.fromkeys([*exact, *covered]))


def empty_wildcards(scope: Scope, known: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the wildcards of ``scope`` that cover neither a built-in nor a ``known`` collection.

    Accounts that hold records of them already are not found by them.
    """
    return tuple(
        pattern
        for pattern in scope.collections
        if pattern.endswith(".*")
        and not any(_covers(pattern, name) for name in (*BUILT_IN, *known))
    )


def _covers(pattern: str, name: str) -> bool:
    return pattern.endswith(".*") and name.startswith(pattern[:-1])
