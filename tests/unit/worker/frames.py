"""Incoming frames for the worker's unit tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from consumer.config.settings import LimitSettings
from consumer.scope import Repos, Scope
from consumer.state.policy import Policy
from consumer.store.rows import Identity
from consumer.worker.incoming import IncomingFrame
from consumer.worker.lane import rules_of
from consumer.worker.verdicts import Rules
from procedures.retries import RetryPolicy
from simulator.account import Account
from simulator.frames import commit_frame
from simulator.repo import START, Repo, Write

WANTED = "pub.chive.eprint.submission"
UNWANTED = "app.bsky.feed.post"
NOW = START + 3600.0
RELAY = "wss://relay.test"


def rules(
    repos: Repos = Repos.COLLECTIONS, dids: frozenset[str] = frozenset(), **limits: Any
) -> Rules:
    """Return the rules of lane 3, with ``limits`` on top of the defaults."""
    policy = Policy(3, Scope(("pub.chive.*",), repos, dids=dids), RetryPolicy())
    return rules_of(policy, LimitSettings(**limits), refresh_interval=60.0)


def incoming_frame(frame: bytes, did: str, seq: int = 1, **fields: Any) -> IncomingFrame:
    """Return a frame as it comes: offset = seq, log time = ``NOW``."""
    values = {
        "key": did,
        "offset": seq,
        "log_time": round(NOW * 1000),
        "seq": seq,
        "epoch": 1,
        "prev_seq": seq - 1,
        "relay": RELAY,
        "frame": frame,
    }
    return IncomingFrame(**{**values, **fields})


def identity(account: Account, fetched_at: float = NOW - 600.0, **fields: Any) -> Identity:
    """Return what is known of ``account``, fetched ten minutes before the frame came."""
    values = {
        "did": account.did,
        "signing_key": account.did_key,
        "pds": "https://pds.test",
        "handle": None,
        "error": None,
        "fetched_at": fetched_at,
    }
    return Identity(**{**values, **fields})


@dataclass
class Author:
    """An account that writes."""

    account: Account
    repo: Repo
    seq: int = 0

    @staticmethod
    def of(seed: str = "author", curve: str = "k256") -> Author:
        account = Account.from_seed(seed, curve)
        return Author(account, Repo(account))

    @property
    def did(self) -> str:
        return self.account.did

    def commit(self, collection: str = WANTED, **fields: Any) -> IncomingFrame:
        """Create a record, and return the frame that says so."""
        self.seq += 1
        write = Write("create", f"{collection}/r{self.seq}", {"n": self.seq})
        frame = commit_frame(self.seq, self.repo.commit([write]), **fields)
        return incoming_frame(frame, self.did, self.seq)
