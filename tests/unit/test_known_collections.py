"""What a wildcard of the scope stands for."""

from __future__ import annotations

from consumer.config.settings import ScopeSettings
from consumer.known_collections import BUILT_IN, empty_wildcards, expanded
from consumer.scope import Scope
from procedures.syntax import is_nsid


def test_the_built_in_collections_are_those_of_chive_and_its_neighbours() -> None:
    assert len(BUILT_IN) == len(set(BUILT_IN)) == 37
    assert all(map(is_nsid, BUILT_IN))
    assert "pub.chive.graph.vote" in BUILT_IN
    assert "pub.chive.actor.profileConfig" in BUILT_IN
    assert "network.cosmik.follow" in BUILT_IN


def test_the_default_scope_stands_for_all_of_them() -> None:
    assert set(expanded(Scope(ScopeSettings().collections))) == set(BUILT_IN)
    assert empty_wildcards(Scope(ScopeSettings().collections)) == ()


def test_a_wildcard_covers_whole_segments() -> None:
    known = ("pub.chivery.note", "pub.chive.graph.added")
    found = expanded(Scope(("pub.chive.graph.*", "a.b.c")), known)
    assert found[0] == "a.b.c"
    assert "pub.chive.graph.added" in found
    assert all(name.startswith("pub.chive.graph.") for name in found[1:])


def test_a_wildcard_that_stands_for_nothing_is_named() -> None:
    scope = Scope(("pub.chive.*", "org.example.*", "a.b.c", "*"))
    assert empty_wildcards(scope) == ("org.example.*",)
    assert empty_wildcards(scope, ("org.example.note",)) == ()
