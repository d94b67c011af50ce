"""What one lane brings into a transaction of the worker, and what comes out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from consumer.events.envelope import Form
from consumer.lanes.transaction import LaneTransaction, LaneTransactions
from consumer.state.batch_state import BatchState
from consumer.state.effects import Rejection
from consumer.state.inputs import Input
from consumer.state.policy import Policy
from consumer.worker.plan import Plan


@dataclass(frozen=True, slots=True)
class Share:
    """The plan of a batch of ``size`` bytes, the lane that it moves, and its events' form."""

    lane: LaneTransactions
    policy: Policy
    form: Form
    plan: Plan
    size: int

    @property
    def inputs(self) -> list[Input]:
        """The inputs of the plan, in order."""
        return [planned.input for planned in self.plan.inputs]


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What a committed batch decided; the rows of ``transaction`` are to be handed over."""

    batch_state: BatchState
    rejections: list[Rejection]
    transaction: LaneTransaction


Decide = Callable[[Share], Awaitable[BatchResult]]
"""Decides a share in one transaction, alone or with those of other lanes.

Raises ``LaneLost``, ``Transient``, ``Fatal``.
"""
