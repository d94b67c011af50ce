"""Which form of the core is used, and that a changed source is never shadowed."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from consumer import compiled
from consumer.compiled import FORM, MANIFEST, VARIABLE, Finder, core, hashes, usable
from tests.support.consumer import ROOT

SUFFIX = EXTENSION_SUFFIXES[0]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Give a checkout with two modules, which are compiled."""
    verify = tmp_path / "consumer" / "verify"
    verify.mkdir(parents=True)
    (verify / "__init__.py").write_text("")
    (verify / "one.py").write_text("X = 1\n")
    (verify / "two.py").write_text("X = 2\n")
    modules = ["consumer.verify.one", "consumer.verify.two", "group__mypyc"]
    manifest = {"suffix": SUFFIX, "modules": modules, "sources": hashes(core(tmp_path), tmp_path)}
    folder = tmp_path / "binaries"
    folder.mkdir()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return tmp_path


def test_what_is_compiled_from_these_sources_is_used(root: Path) -> None:
    found = usable(root / "binaries", root)
    assert isinstance(found, dict)
    assert found["consumer.verify.two"] == root / "binaries" / f"consumer.verify.two{SUFFIX}"
    spec = Finder(found).find_spec("consumer.verify.two", None)
    assert spec is not None
    assert spec.origin == str(found["consumer.verify.two"])
    assert Finder(found).find_spec("consumer.scope", None) is None


def test_one_changed_source_sets_all_binaries_aside(root: Path) -> None:
    (root / "consumer/verify/one.py").write_text("X = 3\n")
    assert "have changed" in str(usable(root / "binaries", root))


@pytest.mark.parametrize("change", ["new.py", "two.py"])
def test_a_new_or_removed_module_does_too(root: Path, change: str) -> None:
    file = root / "consumer/verify" / change
    if file.exists():
        file.unlink()
    else:
        file.write_text("")
    assert "have changed" in str(usable(root / "binaries", root))


def test_binaries_of_another_python_are_not_used(root: Path) -> None:
    manifest = root / "binaries" / MANIFEST
    manifest.write_text(manifest.read_text().replace(SUFFIX, ".cpython-399-x.so"))
    assert "another Python" in str(usable(root / "binaries", root))


def test_without_binaries_python_is_used(tmp_path: Path) -> None:
    assert "nothing is compiled" in str(usable(tmp_path, ROOT))


def test_the_modules_are_of_the_form_that_is_named() -> None:
    for path in core():
        module = importlib.import_module(".".join(path.with_suffix("").parts))
        assert (Path(str(module.__file__)).suffix == ".py") == (FORM == "python"), module
    assert (
        os.environ.get(VARIABLE, FORM).replace("off", "python").replace("required", "compiled")
        == FORM
    )


def in_another_process(code: str, wanted: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, VARIABLE: wanted},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_python_form_can_be_asked_for() -> None:
    code = "import consumer.compiled, consumer.verify.mst as m; print(m.__file__)"
    found = in_another_process(code, "off")
    assert found.stdout.strip().endswith("mst.py")


def test_the_compiled_form_can_be_demanded() -> None:
    code = "import consumer.verify.mst as m; print(m.__file__)"
    found = in_another_process(code, "required")
    if isinstance(compiled.usable(), str):
        assert found.returncode != 0
        assert "run 'make compile'" in found.stderr
    else:
        assert SUFFIX in found.stdout
