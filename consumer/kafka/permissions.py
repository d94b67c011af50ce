"""What a Kafka with authorization lets this principal do, asked before it is needed.

Brokers state the operations that are allowed on a topic (Metadata, version 8, KIP-430) and on a
group (DescribeGroups, version 3); the driver stops at earlier versions of the first.  For a
transactional id the only way is to try: with an unused one, so that no owner of a lane is fenced.
"""
# ruff: noqa: SLF001 - the driver sends no request of others in public

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka import errors
from aiokafka.protocol.admin import DescribeGroupsRequest_v3, DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

from consumer.kafka.client import Client, deadline
from consumer.kafka.rights import Resource, Right

UNUSED_ID = "check"
"""A transactional id without the prefix: no lane and no role has it."""

_OPERATIONS: Mapping[str, int] = {
    "Read": 3,
    "Write": 4,
    "Create": 5,
    "Describe": 8,
    "DescribeConfigs": 10,
}
_TRANSACTIONS = 1  # the kind of a coordinator

_BROKER = ("node_id", Int32), ("host", String()), ("port", Int32), ("rack", String())
_PARTITION = (
    ("error_code", Int16),
    ("partition", Int32),
    ("leader", Int32),
    ("leader_epoch", Int32),
    ("replicas", Array(Int32)),
    ("isr", Array(Int32)),
    ("offline_replicas", Array(Int32)),
)
_TOPIC = (
    ("error_code", Int16),
    ("topic", String()),
    ("is_internal", Boolean),
    ("partitions", Array(*_PARTITION)),
    ("operations", Int32),
)


class _AllowedResponse(Response):  # type: ignore[misc]  # aiokafka is untyped
    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", Array(*_BROKER)),
        ("cluster_id", String()),
        ("controller_id", Int32),
        ("topics", Array(*_TOPIC)),
        ("cluster_operations", Int32),
    )


class _AllowedRequestStruct(RequestStruct):  # type: ignore[misc]  # aiokafka is untyped
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _AllowedResponse
    SCHEMA = Schema(
        ("topics", Array(String())),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class _AllowedRequest(Request[_AllowedRequestStruct]):  # type: ignore[misc]  # aiokafka is untyped
    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_AllowedRequestStruct]) -> _AllowedRequestStruct:
        return request_struct_class(self._topics, False, False, True)


class _GroupsRequestStruct(DescribeGroupsRequest_v3):  # type: ignore[misc]  # aiokafka is untyped
    RESPONSE_TYPE = DescribeGroupsResponse_v3  # the driver reads the answer as one of version 2


class _GroupsRequest(Request[_GroupsRequestStruct]):  # type: ignore[misc]  # aiokafka is untyped
    API_KEY = 15

    def __init__(self, groups: list[str]) -> None:
        self._groups = groups

    def build(self, request_struct_class: type[_GroupsRequestStruct]) -> _GroupsRequestStruct:
        return request_struct_class(self._groups, True)


async def lacking(client: Client, rights: Iterable[Right]) -> list[str]:
    """Return which of ``rights`` this principal does not have, a sentence each.

    The right to create a topic is asked only of those that do not exist.  Raises ``Transient`` or
    ``Fatal``.
    """
    found: list[str] = []
    async with client.admin() as admin, deadline(client.timeout, "asking for rights"):
        for right in rights:
            match right.resource:
                case Resource.TOPIC:
                    found += await _on_topics(admin, right)
                case Resource.GROUP:
                    found += await _on_groups(admin, right)
                case Resource.TRANSACTIONAL_ID:
                    found += await _on_transactions(client, admin, right)
    return found


async def _on_topics(admin: Any, right: Right) -> list[str]:
    response = await admin._send_request(_AllowedRequest(list(right.names)))
    lacking: defaultdict[str, list[str]] = defaultdict(list)
    for code, name, _, _, operations in response.topics:
        error = errors.for_code(code)
        if error is errors.TopicAuthorizationFailedError:
            lacking["Describe (and so Read and Write)"].append(name)
        elif error is errors.NoError:
            wanted = [each for each in right.operations if each != "Create"]
            for operation in _not_in(operations, wanted):
                lacking[operation].append(name)
    return [
        f"{operation} on topic {', '.join(sorted(names))}" for operation, names in lacking.items()
    ]


async def _on_groups(admin: Any, right: Right) -> list[str]:
    lacking: defaultdict[str, list[str]] = defaultdict(list)
    for group in right.names:
        try:
            coordinator = await admin.find_coordinator(group)
            response = await admin._send_request(_GroupsRequest([group]), coordinator)
        except errors.GroupAuthorizationFailedError:
            lacking["Describe (and so Read)"].append(group)
            continue
        for code, *_, operations in response.groups:
            if errors.for_code(code) is errors.GroupAuthorizationFailedError:
                lacking["Describe (and so Read)"].append(group)
            else:
                for operation in _not_in(operations, right.operations):
                    lacking[operation].append(group)
    return [
        f"{operation} on group {', '.join(sorted(names))}" for operation, names in lacking.items()
    ]


async def _on_transactions(client: Client, admin: Any, right: Right) -> list[str]:
    (prefix,) = right.names
    name = f"{prefix}{UNUSED_ID}"
    where = f"on transactional ids that begin with {prefix}"
    try:
        coordinator = await admin.find_coordinator(name, _TRANSACTIONS)
    except errors.TransactionalIdAuthorizationFailed:
        return [f"Describe (and so Write) {where}"]
    longest = round(client.settings.transaction_timeout * 1000)
    response = await admin._send_request(InitProducerIdRequest(name, longest), coordinator)
    error = errors.for_code(response.error_code)
    if error is errors.TransactionalIdAuthorizationFailed:
        return [f"Write {where}"]
    if error is errors.InvalidTransactionTimeout:
        raise error(
            "kafka.transaction_timeout is above the broker's transaction.max.timeout.ms: lower it"
        )
    if error is not errors.NoError:
        raise error(name)
    return []


def _not_in(allowed: int, operations: Iterable[str]) -> list[str]:
    """Return those of ``operations`` that have no bit in ``allowed``."""
    return [each for each in operations if not allowed >> _OPERATIONS[each] & 1]
