"""The web client that the gateway is for works unchanged."""

from __future__ import annotations

import pytest

from tests.unit.procedures import service_auth
from tests.unit.procedures.chive import live_an_hour
from tests.unit.procedures.fakes import Memory


@pytest.mark.parametrize(("fragment", "seed"), [("#chive_appview", 1), ("", 2)])
async def test_an_hour_of_its_life(fragment: str, seed: int) -> None:
    memory = Memory()
    await live_an_hour([memory, memory], fragment, seed, service_auth.NOW)
