"""Inputs of a batch."""

from dataclasses import replace

from consumer.backfill import AccountAnswer
from consumer.errors import Reason
from consumer.events.envelope import Source
from consumer.state.batch_state import BatchState
from consumer.state.inputs import AccountLearnt, AccountSeen, Input
from tests.unit.worker.values import DID, LIVE


def reason(batch: BatchState, one: Input) -> Reason | None:
    rejection = batch.apply(one)
    return None if rejection is None else rejection.reason


def account(status: str | None, seq: int = 7, epoch: int = 1) -> AccountSeen:
    return AccountSeen(DID, status is None, status, epoch, replace(LIVE, seq=seq))


def learnt(status: str, seq: int = 7, epoch: int = 1) -> AccountLearnt:
    origin = replace(LIVE, source=Source.ACCOUNT)
    return AccountLearnt(AccountAnswer(DID, epoch, seq, status), origin)
