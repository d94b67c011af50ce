"""What modules say of themselves is held by the import contracts, and the contracts are whole."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("consumer", "procedures")
# The least that a contract of pure modules has to forbid.
IMPURE = {
    "asyncio", "socket", "ssl", "sqlite3", "tempfile", "pathlib", "os", "subprocess", "threading",
    "aiokafka", "psycopg", "httpx", "websockets", "starlette", "uvicorn", "structlog",
}  # fmt: skip


@cache
def modules() -> dict[str, str]:
    """Return the docstring of every module by its name."""
    found = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
            found[name.removesuffix(".__init__")] = text or ""
    return found


def says_pure(docstring: str) -> bool:
    return re.search(r"\bPure[.:]", docstring) is not None


def contracts() -> list[dict[str, Any]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = settings["tool"]["importlinter"]["contracts"]
    return found


def pure_contracts() -> list[dict[str, Any]]:
    """Return the contracts that hold against indirect imports as well, without exceptions."""
    return [
        contract
        for contract in contracts()
        if contract["type"] == "forbidden"
        and set(contract["forbidden_modules"]) >= IMPURE
        and not contract.get("allow_indirect_imports")
        and not contract.get("ignore_imports")
    ]


def held() -> list[str]:
    """Return the modules and packages that the contracts of pure modules name."""
    return [name for contract in pure_contracts() for name in contract["source_modules"]]


def covers(name: str, module: str) -> bool:
    return module == name or module.startswith(f"{name}.")


def test_the_modules_are_found() -> None:
    assert len(modules()) > 150
    assert sum(map(says_pure, modules().values())) > 50


@pytest.mark.parametrize("module", [name for name, text in modules().items() if says_pure(text)])
def test_a_module_that_says_it_is_pure_stands_in_a_contract(module: str) -> None:
    assert any(covers(name, module) for name in held()), "add it to the contract in pyproject.toml"


@pytest.mark.parametrize("name", held())
def test_a_contract_names_pure_modules_that_exist(name: str) -> None:
    assert name in modules(), "remove it from the contract in pyproject.toml"
    inside = [module for module in modules() if covers(name, module)]
    assert any(says_pure(modules()[module]) for module in inside), "no docstring says Pure."


def test_no_contract_names_a_module_twice() -> None:
    assert len(held()) == len(set(held()))


def test_the_layers_name_every_package_and_hold_for_all() -> None:
    (layers,) = [one for one in contracts() if one["type"] == "layers"]
    assert layers["containers"] == ["consumer"]
    assert layers["exhaustive"]
    assert not layers.get("ignore_imports")
    listed = {name.strip() for line in layers["layers"] for name in line.split("|")}
    there = {name.split(".")[1] for name in modules() if name.startswith("consumer.")}
    assert listed == there
