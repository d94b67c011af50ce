"""Frames of the reference PDS, as they are, accepted, and tampered with, judged."""

from __future__ import annotations

from itertools import islice
from random import Random

from consumer.verify.frames import Kind, peek
from demo.local_network import LocalNetwork
from tests.fuzz.recorded import record
from tests.fuzz.targets import of_frames

CASES = 1_500


async def test_real_frames_are_accepted_and_judged_when_tampered(pds_network: LocalNetwork) -> None:
    frames = await record(pds_network, 8.0, people="hostile")
    assert {peek(frame).kind for frame in frames} >= {
        Kind.COMMIT,
        Kind.SYNC,
        Kind.ACCOUNT,
        Kind.IDENTITY,
    }
    chance = Random(31)
    for target in of_frames("real ", frames):
        assert len(target.seeds) > 20
        assert {target.judge(seed) for seed in target.seeds} == {None}
        verdicts = [target.judge(data) for data in islice(target.cases(chance), CASES)]
        assert len(set(verdicts)) > 1
