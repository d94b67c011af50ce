"""PostgreSQL restored from a backup, or lost: ``consumer recover``, and all is right again."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from functools import partial

import pytest

from consumer.errors import Fatal
from simulator.repo import Repo, Write
from tests.field.product import Product
from tests.support.backup import Backups
from tests.support.consumer import ROOT, bare_environment
from tests.support.pds import COLLECTION, silence
from tests.support.web import response

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

TEXT = {"$type": COLLECTION, "text": "later"}


async def recover(product: Product, *arguments: str) -> tuple[int, str]:
    """Run the command as an operator does; return its exit code and what it says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "consumer", "recover", *arguments),
        cwd=ROOT,
        env={**bare_environment(), **product.deployment.environment(), "PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def recovered(product: Product) -> str:
    """Recover once the dead processes are forgotten; return what the command said."""

    async def done() -> str:
        code, said = await recover(product, "--yes")
        assert code == 0, said
        return said

    return str(await product.eventually(done, what="the recovery"))


async def has_child(product: Product, parent: str) -> bool:
    return bool(await product.rows("SELECT FROM operations WHERE parent = %s", [parent]))


async def several(product: Product) -> list[Repo]:
    repos = [(await product.network.account(f"recovered {n}", records=5))[1] for n in range(4)]
    for repo in repos:
        await product.network.commit(repo)
    return repos


async def refused(product: Product) -> None:
    """Check that the consumer does not go on with the tables as they are."""
    with pytest.raises(Fatal, match=r"consumer recover.*docs/backup\.md"):
        async with product.running():
            await product.eventually(lambda: False, what="the refusal")


async def changed(product: Product, repos: list[Repo]) -> None:
    """Change what a backup knows: an update, a delete, a new record, and a new account."""
    one, other, *_ = repos
    await product.network.commit(one, Write("update", f"{COLLECTION}/k00001", TEXT))
    await product.network.commit(other, Write("delete", f"{COLLECTION}/k00002"))
    created = product.network.write()
    await product.network.commit(other, created)
    await product.agrees(*repos)
    await product.network.commit(other, Write("delete", created.path))
    repos.append((await product.network.account("newcomer"))[1])
    await product.network.commit(repos[-1])
    await product.agrees(*repos)


async def test_a_backup_from_the_past(fresh: Product, backups: Backups) -> None:
    product = fresh
    async with product.running():
        repos = await several(product)
        await product.agrees(*repos)
        before = await product.done(type="didSync", did=repos[0].account.did)
        host, slow = await product.network.account("slow")
        host.serves(slow, silence)
        open_parent = await product.command(type="didSync", dids=[slow.account.did])
        await product.eventually(partial(has_child, product, open_parent), what="a child")
        await backups.save()
        host.host(slow)
        await changed(product, repos)
        since = await product.done(type="didSync", did=repos[1].account.did)
    await product.network.commit(repos[2])  # while nobody looks
    await backups.restore()
    await refused(product)

    code, said = await recover(product)
    assert code == 1
    assert "restored from an older state" in said
    assert "--yes" in said
    await recovered(product)
    code, said = await recover(product)
    assert (code, "nothing to recover" in said) == (0, True), said

    async with product.running():
        await product.agrees(*repos)
        await product.network.commit(repos[3])
        await product.agrees(*repos)
        ended = await product.ended(open_parent)
        assert (ended["status"], ended["errorName"]) == ("failed", "Internal")
        again = await product.done(type="didSync", dids=[slow.account.did])
        assert again["children"]["completed"] == 1
        for operation in (before, since):
            known = await product.rows(
                "SELECT status, version FROM operations WHERE id = %s", [operation["id"]]
            )
            assert known == [("completed", operation["version"])]


async def test_a_lost_database(fresh: Product, backups: Backups) -> None:
    product = fresh
    async with product.running():
        repos = await several(product)
        await changed(product, repos)
        await product.network.says(repos[3], "deactivated")
        await product.has_status(repos[3], "deactivated")
    await product.network.commit(repos[0], Write("delete", f"{COLLECTION}/k00001"))
    await backups.empty()
    await recovered(product)
    async with product.running():
        await product.agrees(*[repo for repo in repos if repo is not repos[3]])
        await product.has_status(repos[3], "deactivated")
        await product.network.says(repos[3], None)
        await product.agrees(*repos)


async def test_another_prefix_with_the_repositories_of_the_first(fresh: Product) -> None:
    async with fresh.running():
        repos = await several(fresh)
        await fresh.agrees(*repos)
        fresh.network.directory.replies[f"/{repos[3].account.did}"] = response(410)
        await fresh.network.says(repos[3], "deleted")
        await fresh.gone(repos[3])
    await fresh.network.commit(repos[0], lost=True)
    deployment = replace(fresh.deployment, prefix=f"{fresh.deployment.prefix[:-1]}b.")
    async with Product.opened(deployment, network=fresh.network) as product:
        code, said = await recover(product, "--from", fresh.deployment.prefix)
        assert (code, "from its beginning" in said) == (1, True), said
        code, said = await recover(product, "--from", fresh.deployment.prefix, "--yes")
        assert (code, "3 repositories" in said) == (0, True), said
        async with product.running():
            await product.agrees(*repos[:3])
        records = [each for each in await product.events() if each["type"] == "record"]
        assert {each["did"] for each in records} == {repo.account.did for repo in repos[:3]}


async def test_nothing_is_done_while_processes_run(fresh: Product) -> None:
    async with fresh.running():
        await fresh.agrees(*await several(fresh))
        code, said = await recover(fresh, "--yes", "--force")
        assert code == 1
        assert "stop all processes" in said
