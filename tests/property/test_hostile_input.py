"""Hostile input of every kind: nothing but a refusal is raised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.grammar import GRAMMARS, Grammar


@pytest.mark.parametrize("grammar", GRAMMARS, ids=lambda grammar: grammar.name)
@given(data=st.data())
def test_hostile_input_is_judged(grammar: Grammar, data: st.DataObject) -> None:
    grammar.judge(data.draw(grammar.drawn))
