"""The schema registry, if there is one: the published schemas in it, and their ids for readers.

The schemas of ``chive.events`` and ``chive.operations`` are registered at the start of a process,
as subjects ``<topic>-value``.  Registering what is registered changes nothing and gives the same
id.  After that the registry is not needed: the id is a constant of the process.

The values stay plain JSON.  The id travels in the header that Confluent's deserializers look for
before they look into the value (``SchemaId`` of their clients: a magic byte 1 with the schema's
GUID, which registries of Confluent Platform 8 give, or a magic byte 0 with its number).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from importlib import resources
from urllib.parse import quote
from uuid import UUID

import httpx
import orjson
from httpx import codes

from consumer.config.settings import SchemaRegistrySettings
from consumer.errors import Fatal, Transient
from consumer.kafka.topics import Topic, Topics
from consumer.metrics.labels import Service
from consumer.runtime.secrets import Secret

Header = tuple[str, bytes]

HEADER = "__value_schema_id"

_REGISTERED = (Topic.EVENTS, Topic.OPERATIONS)
_MEDIA = "application/vnd.schemaregistry.v1+json"
_SECONDS = 10.0
_BUSY = frozenset({codes.REQUEST_TIMEOUT, codes.TOO_MANY_REQUESTS})
_SHOWN = 200  # characters of an answer that refuses


class _Incompatible(Fatal):
    """The subject has another schema, and the registry wants them to be alike."""


class SchemaRegistry:
    """The registry that ``settings`` name."""

    def __init__(self, settings: SchemaRegistrySettings) -> None:
        self._url = settings.url
        self._username = settings.username
        self._password = Secret(settings, "password", Service.SCHEMA_REGISTRY)

    async def register(self, topics: Topics) -> Mapping[Topic, Header]:
        """Register the schemas; return the header for the values of each topic.

        Empty without a registry.  Raises ``Transient`` if it is away or refuses who we are,
        ``Fatal`` if it refuses a schema.
        """
        if self._url is None:
            return {}
        async with await self._client() as client:
            return {topic: await self._one(client, topic, topics) for topic in _REGISTERED}

    async def unregistered(self, topics: Topics) -> list[str]:
        """Return the subjects that the registry does not have yet, without registering any.

        Raises as ``register`` does.
        """
        async with await self._client() as client:
            found = await self._ask(client, "GET", "subjects")
        if not isinstance(found, list):
            raise Fatal(f"the schema registry lists no subjects: {str(found)[:_SHOWN]}")
        return [name for topic in _REGISTERED if (name := _subject(topic, topics)) not in found]

    async def _client(self) -> httpx.AsyncClient:
        headers = {"content-type": _MEDIA}
        return httpx.AsyncClient(timeout=_SECONDS, auth=await self._auth(), headers=headers)

    async def _auth(self) -> httpx.BasicAuth | None:
        password = await self._password.read()
        if self._username is None:
            return None
        return httpx.BasicAuth(self._username, password or "")

    async def _one(self, client: httpx.AsyncClient, topic: Topic, topics: Topics) -> Header:
        subject = quote(_subject(topic, topics), safe="")
        path = f"subjects/{subject}/versions"
        schema = {"schemaType": "JSON", "schema": _text(topic)}
        try:
            found = await self._ask(client, "POST", path, schema)
        except _Incompatible:
            # The rules of docs/schemas.md, which a test holds, are not those that registries have
            # for JSON Schema: they refuse a new member of an open object.
            await self._ask(client, "PUT", f"config/{subject}", {"compatibility": "NONE"})
            found = await self._ask(client, "POST", path, schema)
        return HEADER, _id(found)

    async def _ask(
        self, client: httpx.AsyncClient, method: str, path: str, body: object = None
    ) -> object:
        url, service = f"{self._url}/{path}", Service.SCHEMA_REGISTRY
        try:
            content = None if body is None else orjson.dumps(body)
            response = await client.request(method, url, content=content)
        except httpx.HTTPError as error:
            raise Transient(f"{url}: {error or type(error).__name__}", service) from None
        except (httpx.InvalidURL, UnicodeError) as error:
            raise Fatal(f"{url}: {error}; correct schema_registry.url") from None
        said = f"{url} answers {response.status_code}: {response.text[:_SHOWN]!r}"
        if response.status_code in {codes.UNAUTHORIZED, codes.FORBIDDEN}:
            self._password.refused()
            what = f"correct schema_registry.username or {self._password.setting}"
            raise Transient(f"{said}; {what}", service)
        if response.status_code in _BUSY or response.is_server_error:
            raise Transient(said, service)
        if response.status_code == codes.CONFLICT:
            raise _Incompatible(f"the schema registry refuses: {said}")
        if not response.is_success:
            raise Fatal(f"the schema registry refuses: {said}; correct schema_registry.url")
        try:
            return orjson.loads(response.content)
        except orjson.JSONDecodeError:
            raise Fatal(f"no schema registry: {said}; correct schema_registry.url") from None


def _subject(topic: Topic, topics: Topics) -> str:
    return f"{topics.name(topic)}-value"


def _text(topic: Topic) -> str:
    text = resources.files("consumer").joinpath("schemas", f"{topic}.schema.json").read_bytes()
    return orjson.dumps(orjson.loads(text)).decode()


def _id(found: object) -> bytes:
    with suppress(ValueError, OverflowError):
        match found:
            case {"guid": str(guid)}:
                return b"\x01" + UUID(guid).bytes
            case {"id": int(number)}:
                return b"\x00" + number.to_bytes(4, "big")
    raise Fatal(f"the schema registry gives no id: {str(found)[:_SHOWN]}")
