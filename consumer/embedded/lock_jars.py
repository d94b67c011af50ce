"""Resolve a release's jars with jgo and write its lock.  Run it after a change of ``CURRENT``."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from jgo.maven import Dependency, MavenContext, PythonResolver

from consumer.embedded.download import TIMEOUT
from consumer.embedded.releases import CURRENT, Jar, Release


def resolve(release: Release, staging: Path) -> list[Jar]:
    """Return every jar that a release needs at run time, downloaded to ``staging``."""
    context = MavenContext(resolver=PythonResolver(), repo_cache=staging, timeout=TIMEOUT)
    roots = [context.create_dependency(endpoint) for endpoint in release.endpoints]
    inputs, transitive = context.resolver.resolve(roots)
    needed = [*inputs, *(each for each in transitive if each.scope in ("compile", "runtime"))]
    return sorted(map(_locked, needed), key=lambda jar: jar.coordinate)


def _locked(dependency: Dependency) -> Jar:
    digest = hashlib.sha256(Path(dependency.artifact.resolve()).read_bytes()).hexdigest()
    return Jar(f"{dependency.groupId}:{dependency.artifactId}:{dependency.version}", digest)


def write(release: Release) -> None:
    """Write the lock of a release again."""
    with tempfile.TemporaryDirectory() as staging:
        jars = resolve(release, Path(staging))
    release.lock.write_text("".join(f"{jar.coordinate} {jar.sha256}\n" for jar in jars))


if __name__ == "__main__":
    write(CURRENT)
