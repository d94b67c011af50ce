"""Relays that restart, forget, change their sequence or begin anew: nothing is missed for good.

Each test lets records be written that no frame tells of, and interrupts the one running consumer.
"""

from __future__ import annotations

import pytest

from simulator.frames import commit_frame, error_frame
from simulator.repo import Commit, Repo
from tests.field.network import now
from tests.field.product import Product
from tests.support.hosts import Host
from tests.support.relay import sends

pytestmark = pytest.mark.services

LANES = 4
QUIET = "pub.chive.graph.reconciliation"


async def everywhere(product: Product, name: str) -> list[tuple[Host, Repo]]:
    """Bring one account of each lane into the index."""
    found: dict[int, tuple[Host, Repo]] = {}
    number = 0
    while len(found) < LANES:
        number += 1
        host, repo = await product.network.account(f"{name} {number}")
        found.setdefault(product.topics.partition_of(repo.account.did), (host, repo))
    for _, repo in found.values():
        await product.network.commit(repo)
    await product.agrees(*[repo for _, repo in found.values()])
    return list(found.values())


async def epoch(product: Product) -> int:
    ((found,),) = await product.rows("SELECT max(session) FROM lanes")
    return int(found)


def downloads(villagers: list[tuple[Host, Repo]]) -> int:
    return sum(host.downloads(repo) for host, repo in villagers)


async def test_a_relay_that_restarts_denies_a_good_position_once(product: Product) -> None:
    villagers = await everywhere(product, "denied")
    before, read = await epoch(product), downloads(villagers)
    await product.stop()
    for _, repo in villagers:
        await product.network.commit(repo)
    denial = error_frame("FutureCursor", "cursor in the future")
    product.network.relay.behave(sends(denial))
    await product.start()
    await product.agrees(*[repo for _, repo in villagers])
    assert await epoch(product) == before
    assert downloads(villagers) == read


async def test_replayed_frames_with_the_time_of_today_are_the_same_frames(
    product: Product,
) -> None:
    villagers = await everywhere(product, "replayed")
    before, read = await epoch(product), downloads(villagers)
    await product.stop()
    log = product.network.relay.log
    product.network.relay.log = [(seq, _later(frame)) for seq, frame in log]
    for _, repo in villagers:
        await product.network.commit(repo)
    await product.start()
    await product.agrees(*[repo for _, repo in villagers])
    assert await epoch(product) == before
    assert downloads(villagers) == read


def _later(frame: bytes) -> bytes:
    """Return the frame with another year in its time."""
    year = now()[:4].encode()
    return frame.replace(b"dtimex\x1b" + year, b"dtimex\x1b" + b"%d" % (int(year) + 1))


async def test_a_sequence_that_begins_again_loses_nothing(product: Product) -> None:
    villagers = await everywhere(product, "reset")
    newcomer = (await product.network.account("born in a reset"))[1]
    product.network.sources[0].lists(QUIET, [newcomer.account.did])
    await product.stop()
    for _, repo in villagers:
        await product.network.commit(repo, lost=True)
    product.network.relay.become()
    product.network.seq = 0
    await product.start()
    await product.network.commit((await product.network.account("loud"))[1])
    await product.agrees(*[repo for _, repo in villagers], newcomer)


async def test_another_sequence_that_overlaps_ours_is_no_continuation(product: Product) -> None:
    villagers = await everywhere(product, "overlap")
    _, stranger = await product.network.account("of another relay")
    newcomer = (await product.network.account("born elsewhere"))[1]
    product.network.sources[0].lists(QUIET, [newcomer.account.did])
    await product.stop()
    for _, repo in villagers:
        await product.network.commit(repo, lost=True)
    # The same seqs as ours, and the next one in time: only what they carry is different.
    frames: list[tuple[int, bytes]] = []
    for seq, _ in product.network.relay.log[-30:]:
        frames.append((seq, commit_frame(seq, _next(product, stranger), now())))
    product.network.relay.become(frames)
    await product.network.commit(stranger)
    await product.start()
    await product.agrees(*[repo for _, repo in villagers], newcomer, stranger)


def _next(product: Product, repo: Repo) -> Commit:
    return repo.commit([product.network.write()])


async def test_one_who_wrote_once_while_the_relay_forgot_is_found(product: Product) -> None:
    villagers = await everywhere(product, "forgotten")
    _, loud = villagers[0]
    newcomer = (await product.network.account("born in between"))[1]
    product.network.sources[0].lists(QUIET, [newcomer.account.did])
    await product.stop()
    for _, repo in villagers:
        await product.network.commit(repo, lost=True)
    product.network.relay.forget()
    await product.network.commit(loud)
    await product.start()
    # Nobody but ``loud`` says another word: every lane learns of the loss all the same.
    await product.agrees(*[repo for _, repo in villagers], newcomer)


async def test_an_account_whose_reactivation_lies_in_the_loss_comes_back(
    product: Product,
) -> None:
    villagers = await everywhere(product, "inactive in between")
    host, repo = villagers[0]
    host.states(repo, "deactivated")
    await product.network.says(repo, "deactivated")
    await product.has_status(repo, "deactivated")
    gone_host, gone = villagers[1]
    await product.stop()
    await product.network.commit(repo, lost=True)
    host.states(repo, "active")
    for say in (gone_host.refuses, gone_host.answers):
        say(gone, 400, {"error": "RepoNotFound"})
    product.network.relay.forget()
    await product.network.commit(villagers[2][1])
    await product.start()
    await product.agrees(repo, *[each for _, each in villagers[2:]])
    await product.gone(gone)
