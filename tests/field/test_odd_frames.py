"""Frames that cannot be decoded, of any size: what they said is in the index in the end."""

from __future__ import annotations

import pytest

from simulator.frames import commit_frame
from tests.field.network import now
from tests.field.product import Product

pytestmark = pytest.mark.services


@pytest.mark.parametrize("numbers", [40_000, 1_000_000, 3_000_000])
async def test_an_odd_frame_of_any_size_marks_its_repo(product: Product, numbers: int) -> None:
    network = product.network
    _, repo = await network.account(f"odd frame {numbers}")
    await network.commit(repo)
    await product.agrees(repo)
    seq, commit = network.next(), repo.commit([network.write()])
    frame = commit_frame(seq, commit, now(), blocks=[255] * numbers)
    await network.relay.publish([(seq, frame)])
    await product.agrees(repo)
