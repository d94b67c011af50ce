"""The memory of requests in ``gateway_requests``, shared by all gateways of the deployment.

Time is the server's: whose turn it is does not depend on the clocks of gateways.  New requests of
one issuer come one after the other (an advisory lock), so that the limits hold exactly.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from consumer.errors import Transient
from consumer.store.database import Connection, Database
from procedures.client import Unavailable
from procedures.replays import LIMITS, Claim, Limits, Replays, TokenRequest

# Gateways judge by their own clocks whether a token has expired.
_SPARE = "interval '60 seconds'"

_MINE = "issuer = %(issuer)s AND token = %(token)s AND request = %(request)s"
_KNOWN = f"""
SELECT answer, owned_until > clock_timestamp() FROM gateway_requests WHERE {_MINE}
"""  # noqa: S608 - a constant of this module
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"
_TAKE_OVER = f"""
UPDATE gateway_requests
SET owner = %(owner)s, owned_until = clock_timestamp() + make_interval(secs => %(seconds)s)
WHERE {_MINE}
"""  # noqa: S608 - a constant of this module
_COUNTS = """
SELECT
    count(*) FILTER (WHERE token = %(token)s),
    count(*),
    (SELECT count(*) FROM (SELECT FROM gateway_requests WHERE NOT admin LIMIT %(strangers)s) AS o)
FROM gateway_requests WHERE issuer = %(issuer)s
"""
_INSERT = """
INSERT INTO gateway_requests (
    issuer, token, request, admin, expires_at, owner, owned_until
) VALUES (
    %(issuer)s, %(token)s, %(request)s, %(admin)s, to_timestamp(%(expires)s), %(owner)s,
    clock_timestamp() + make_interval(secs => %(seconds)s)
)
"""
_ANSWER = f"""
UPDATE gateway_requests SET answer = %(answer)s
WHERE {_MINE} AND owner = %(owner)s AND answer IS NULL
"""  # noqa: S608 - a constant of this module
_RELEASE = f"""
DELETE FROM gateway_requests WHERE {_MINE} AND owner = %(owner)s AND answer IS NULL
"""  # noqa: S608 - a constant of this module
_SWEEP = f"DELETE FROM gateway_requests WHERE expires_at < now() - {_SPARE}"  # noqa: S608


class StoredReplays(Replays):
    """The memory; all methods raise ``Unavailable``."""

    def __init__(self, database: Database, limits: Limits = LIMITS) -> None:
        self._database = database
        self._limits = limits

    async def claim(self, request: TokenRequest, owner: str, seconds: float) -> Claim | bytes:
        """Return the answer of ``request``, or whether ``owner`` carries it out for ``seconds``."""
        key = _key(request)
        async with self._writing() as connection:
            known = await _known(connection, key)
            if known is not None and known is not Claim.MINE:
                return known
            await connection.execute(_LOCK, [request.issuer])
            known = await _known(connection, key)
            if known is None:
                refusal = await self._refusal(connection, request)
                if refusal is not None:
                    return refusal
                rest = {"admin": request.admin, "expires": request.expires}
                await connection.execute(_INSERT, key | rest | {"owner": owner, "seconds": seconds})
                return Claim.MINE
            if known is Claim.MINE:
                await connection.execute(_TAKE_OVER, key | {"owner": owner, "seconds": seconds})
            return known

    async def answer(self, request: TokenRequest, owner: str, answer: bytes) -> None:
        """Remember the answer, if ``request`` is still the owner's."""
        async with self._writing() as connection:
            await connection.execute(_ANSWER, _key(request) | {"owner": owner, "answer": answer})

    async def release(self, request: TokenRequest, owner: str) -> None:
        """Forget ``request``, if it is still the owner's and has no answer."""
        async with self._writing() as connection:
            await connection.execute(_RELEASE, _key(request) | {"owner": owner})

    async def sweep(self) -> None:
        """Forget requests whose tokens have expired.  Raises ``Transient``."""
        async with self._database.transaction() as connection:
            await connection.execute(_SWEEP)

    async def _refusal(self, connection: Connection, request: TokenRequest) -> Claim | None:
        limits = self._limits
        parameters = _key(request) | {"strangers": limits.strangers}
        row = await (await connection.execute(_COUNTS, parameters)).fetchone()
        of_token, of_issuer, of_strangers = (0, 0, 0) if row is None else row
        if of_token >= limits.per_token:
            return Claim.TOKEN_FULL
        if of_issuer >= (limits.per_admin if request.admin else limits.per_issuer):
            return Claim.ISSUER_FULL
        if not request.admin and of_strangers >= limits.strangers:
            return Claim.FULL
        return None

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[Connection]:
        try:
            async with self._database.transaction() as connection:
                yield connection
        except Transient as error:
            raise Unavailable(str(error)) from error


def _key(request: TokenRequest) -> dict[str, object]:
    return {
        "issuer": request.issuer_digest,
        "token": request.token_digest,
        "request": request.digest,
    }


async def _known(connection: Connection, key: dict[str, object]) -> Claim | bytes | None:
    """Return the answer, ``RUNNING``, or ``MINE`` where the owner is lost; None: not known."""
    row = await (await connection.execute(_KNOWN, key)).fetchone()
    if row is None:
        return None
    answer, owned = row
    if answer is not None:
        return bytes(answer)
    return Claim.RUNNING if owned else Claim.MINE
