"""Probes of relays over real sockets: which of them serve a firehose."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from consumer.tail import probe
from simulator.frames import error_frame, info_frame
from tests.support.eventually import eventually
from tests.support.firehose import numbered
from tests.support.relay import Behaviour, ScriptedRelay, hang_up, idle, sends

LIMIT = 100_000
SILENCE = 30.0


async def well(relay: ScriptedRelay) -> bool:
    return await probe.answers(relay.url, limit=LIMIT, silence=SILENCE)


async def test_a_relay_that_sends_a_frame_is_well() -> None:
    [(_, frame)] = numbered(1, 1)
    async with ScriptedRelay() as relay:
        relay.behave(sends(frame, then=idle))
        assert await well(relay)
        assert relay.cursors == [None]
        await eventually(lambda: not relay.connections, what="the probe has closed")


async def test_a_quiet_relay_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_SECONDS", 0.2)
    async with ScriptedRelay() as relay:
        relay.behave(idle)
        assert await well(relay)


BAD: dict[str, Behaviour | HTTPStatus] = {
    "an error frame": sends(error_frame("InternalError", "no upstream"), then=idle),
    "garbage": sends(b"\xff\x00garbage", then=idle),
    "an empty message": sends(b"", then=idle),
    "a text": sends("hello", then=idle),
    "a message that is too large": sends(bytes(LIMIT + 1), then=idle),
    "a clean close": sends(),
    "a broken transport": hang_up,
    "a refused handshake": HTTPStatus.SERVICE_UNAVAILABLE,
}


@pytest.mark.parametrize("behaviour", BAD.values(), ids=BAD)
async def test_a_relay_that_serves_no_firehose_is_not_well(
    behaviour: Behaviour | HTTPStatus,
) -> None:
    async with ScriptedRelay() as relay:
        relay.behave(behaviour)
        assert not await well(relay)


async def test_a_refused_connection_is_not_well() -> None:
    relay = ScriptedRelay()
    async with relay:
        pass
    assert not await well(relay)


async def test_an_info_frame_decides_nothing_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay may greet with information; what comes behind it decides."""
    monkeypatch.setattr(probe, "_SECONDS", 5.0)
    [(_, frame)] = numbered(1, 1)
    async with ScriptedRelay() as relay:
        relay.behave(sends(info_frame("Welcome"), frame, then=idle))
        assert await well(relay)
