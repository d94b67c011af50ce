"""Types generated from the published schemas, and programs that read with them.

Each program takes a file of events and one of operations, a JSON value on each line, and prints a
line for each.  The commands are those that ``docs/schemas.md`` gives.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from consumer.embedded.jars import cache_home, kafka_jars
from tests.support import npm
from tests.support.programs import need, printed
from tests.support.schemas import CONFIG, load

_HERE = Path(__file__).parent

Read = Callable[[Path, Path, Path], Awaitable[list[str]]]
"""Of a folder to work in, a file of events and one of operations."""


async def read_with_typescript(folder: Path, events: Path, operations: Path) -> list[str]:
    tools = await _tools()
    for name in ("package.json", "tsconfig.json", "read.ts"):
        shutil.copy(tools / name, folder)
    (folder / "node_modules").symlink_to(tools / "node_modules")
    for topic in ("events", "operations", "dead-letter", "control"):
        schema, output = str(CONFIG / f"{topic}.schema.json"), str(folder / f"{topic}.ts")
        await printed(tools, "npx", "--no-install", "json2ts", schema, output)
    await printed(folder, "npx", "--no-install", "tsc")
    return await printed(folder, "node", "out/read.js", str(events), str(operations))


async def read_with_go(folder: Path, events: Path, operations: Path) -> list[str]:
    need("go")
    shutil.copytree(_HERE / "go", folder, dirs_exist_ok=True)
    (folder / "chive").mkdir()
    options = ("--lang", "go", "--package", "chive")
    await _quicktype(*options, "--out", str(folder / "chive" / "types.go"))
    await printed(folder, "go", "vet", "./...")
    return await printed(folder, "go", "run", ".", str(events), str(operations))


async def read_with_java(folder: Path, events: Path, operations: Path) -> list[str]:
    need("javac")
    jars = ":".join(map(str, await kafka_jars(cache_home())))  # Jackson is among them
    options = ("--lang", "java", "--package", "pub.chive", "--array-type", "list")
    await _quicktype(*options, "--out", str(folder / "Converter.java"))
    shutil.copy(_HERE / "java" / "Read.java", folder)
    await printed(folder, "javac", "-cp", jars, "-d", "out", *_sources(folder))
    classes = f"out:{jars}"
    return await printed(folder, "java", "-cp", classes, "Read", str(events), str(operations))


def _sources(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.java"))


async def _quicktype(*options: str) -> None:
    """Generate a type for each kind of event, and for operations."""
    events = CONFIG / "events.schema.json"
    kinds = [f"{events}{branch['$ref']}" for branch in load("events")["oneOf"]]
    operations = str(CONFIG / "operations.schema.json")
    command = ("npx", "--no-install", "quicktype", "--src-lang", "schema", *options)
    await printed(await _tools(), *command, *kinds, operations)


async def _tools() -> Path:
    need("npm")
    return await npm.installed(_HERE / "npm")
