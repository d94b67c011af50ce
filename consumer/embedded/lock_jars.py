"""Resolve Kafka's jars with jgo and write the lock.  Run it after a change of ``ENDPOINTS``."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from jgo.maven import Dependency, MavenContext, PythonResolver

from consumer.embedded.download import TIMEOUT
from consumer.embedded.jars import ENDPOINTS, LOCK, Jar


def resolve(staging: Path) -> list[Jar]:
    """Return every jar that ``ENDPOINTS`` need at run time, downloaded to ``staging``."""
    context = MavenContext(resolver=PythonResolver(), repo_cache=staging, timeout=TIMEOUT)
    roots = [context.create_dependency(endpoint) for endpoint in ENDPOINTS]
    inputs, transitive = context.resolver.resolve(roots)
    needed = [*inputs, *(each for each in transitive if each.scope in ("compile", "runtime"))]
    return sorted(map(_locked, needed), key=lambda jar: jar.coordinate)


def _locked(dependency: Dependency) -> Jar:
    digest = hashlib.sha256(Path(dependency.artifact.resolve()).read_bytes()).hexdigest()
    return Jar(f"{dependency.groupId}:{dependency.artifactId}:{dependency.version}", digest)


def main() -> None:
    """Write the lock again."""
    with tempfile.TemporaryDirectory() as staging:
        jars = resolve(Path(staging))
    LOCK.write_text("".join(f"{jar.coordinate} {jar.sha256}\n" for jar in jars))


if __name__ == "__main__":
    main()
