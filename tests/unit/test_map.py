"""The documents name what is there: every table, topic, package and document."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from consumer.kafka.topics import Topic

ROOT = Path(__file__).parents[2]
MAP = (ROOT / "docs/architecture.md").read_text("utf-8")
DOCUMENTS = sorted(
    file.relative_to(ROOT).as_posix()
    for place in ("*.md", "docs/**/*.md", "examples/**/*.md")
    for file in ROOT.glob(place)
    if not {"node_modules", ".venv"} & set(file.relative_to(ROOT).parts)
)


def section(title: str) -> str:
    return MAP.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def first_column(title: str) -> set[str]:
    """Return the names in the first column of the table of a section."""
    rows = re.findall(r"^\| (`.*?) \|", section(title), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def tables() -> set[str]:
    """Return the tables that exist after all migrations."""
    found: set[str] = set()
    for file in sorted((ROOT / "consumer/store/sql").glob("*.sql")):
        for verb, name in re.findall(r"^(CREATE|DROP) TABLE (\w+)", file.read_text(), re.MULTILINE):
            (found.add if verb == "CREATE" else found.discard)(name)
    return found


def test_the_map_has_every_table() -> None:
    assert len(tables()) > 25
    assert first_column("Tables") == tables()


def test_the_map_has_every_topic() -> None:
    assert first_column("Topics") == {*map(str, Topic)}


def test_the_map_has_every_package_and_module_of_the_top() -> None:
    there = {
        path.name
        for path in (ROOT / "consumer").iterdir()
        if (path / "__init__.py").exists() or path.suffix == ".py"
    } - {"__init__.py", "__main__.py"}
    named = {name.removeprefix("consumer/") for name in first_column("Packages")}
    assert named == there | {"procedures"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_link_leads_to_a_file(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    links = [link.split("#", 1)[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    local = [link for link in links if link and "://" not in link and ":" not in link]
    missing = [link for link in local if not (ROOT / document).parent.joinpath(link).exists()]
    assert not missing
