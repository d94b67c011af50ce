"""Whatever is drawn, it is judged: nothing but a refusal is raised."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.grammar import GRAMMARS, Grammar


@pytest.mark.parametrize("grammar", GRAMMARS, ids=lambda grammar: grammar.name)
@given(data=st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_hostile_input_is_judged(grammar: Grammar, data: st.DataObject) -> None:
    grammar.judge(data.draw(grammar.drawn))
