"""The probe of a relay that is not read: whether it serves its firehose."""

from __future__ import annotations

import time

from consumer.errors import Refused
from consumer.network.proxy import Proxy
from consumer.tail.outcomes import ABOUT_RELAY
from consumer.tail.subscription import subscribe
from consumer.verify.frames import Kind, peek

_SECONDS = 10.0  # without a frame; a relay may be quiet


async def answers(relay: str, *, limit: int, silence: float, proxy: Proxy | None = None) -> bool:
    """Tell whether a connection to ``relay`` gives a frame with a seq, or stays open and quiet.

    ``limit`` is in bytes, ``silence`` in seconds, ``proxy`` as for ``subscribe``.  The connection
    is closed again: relays may allow only one from an address.
    """
    try:
        connection = await subscribe(relay, None, limit=limit, silence=silence, proxy=proxy)
    except ABOUT_RELAY:
        return False
    until = time.monotonic() + _SECONDS
    try:
        while (left := until - time.monotonic()) > 0:
            for message in await connection.receive(left):
                if not isinstance(message, bytes):
                    return False
                look = peek(message, limit)
                if look.kind is not Kind.INFO:
                    return look.seq is not None
    except (*ABOUT_RELAY, Refused):
        return False
    finally:
        await connection.close()
    return True
