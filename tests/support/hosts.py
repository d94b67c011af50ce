"""Hosts of accounts as a test scripts them: repositories, statuses, refusals, counted requests."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from simulator.repo import Repo
from tests.support.pds import Pds, repo_path
from tests.support.web import Reply, Web, response


class Host:
    """One host; ``asked`` counts the questions about a DID's status, ``downloads`` getRepo."""

    def __init__(self, directory: Web, site: Web) -> None:
        self.directory = directory
        self.site = site
        self.pds = Pds(directory, site)

    def account(self, name: str, records: int = 3) -> Repo:
        """Host a new active account with ``records`` wanted records."""
        repo = self.pds.account(name, records=records)
        self.states(repo, "active")
        return repo

    def host(self, repo: Repo) -> None:
        """Host an account, as a migration does: its document names this host from now on."""
        self.pds.host(repo)
        self.states(repo, "active")

    def states(self, repo: Repo, status: str) -> None:
        """Answer questions about the status, and serve the repository while it is active."""
        active = status == "active"
        stated = {"did": repo.account.did, "active": active} | (
            {} if active else {"status": status}
        )
        self.answers(repo, 200, stated)
        if active:
            self.pds.host(repo)

    def answers(self, repo: Repo, status: int, body: dict[str, Any]) -> None:
        """Answer questions about the status like this."""
        self.site.replies[status_path(repo)] = response(status, json.dumps(body).encode())

    def refuses(self, repo: Repo, status: int, body: dict[str, Any]) -> None:
        """Answer requests for the repository like this."""
        self.serves(repo, response(status, json.dumps(body).encode()))

    def serves(self, repo: Repo, reply: Reply) -> None:
        """Answer ``reply`` to requests for the repository."""
        self.pds.says(repo, reply)

    def asked(self, repo: Repo) -> int:
        """Count the questions about the account's status."""
        return self.site.paths.count(status_path(repo))

    def downloads(self, repo: Repo) -> int:
        """Count the requests for the whole repository."""
        return self.site.paths.count(repo_path(repo.account.did))


def status_path(repo: Repo) -> str:
    """Return the path and query by which an account's status is asked for."""
    return f"/xrpc/com.atproto.sync.getRepoStatus?{urlencode({'did': repo.account.did})}"
