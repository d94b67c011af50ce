"""The compiled form of the pure core: used where it is there, and is of these very sources.

``make compile`` translates the modules listed in ``CORE`` with mypyc into ``consumer/binaries``,
beside a manifest of the hashes of their sources.  Python stays the only source: if a hash differs,
none of the binaries is used, because they call one another directly.  ``CHIVE_COMPILED=off`` uses
the Python form, ``CHIVE_COMPILED=required`` refuses to go on without the compiled one.

Imported before every other module of the package, so that each is found in one form only.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

VARIABLE = "CHIVE_COMPILED"
FOLDER = Path(__file__).with_name("binaries")
MANIFEST = "manifest.json"

_ROOT = Path(__file__).parents[1]


def core(root: Path = _ROOT) -> list[Path]:
    """Return the sources of the modules that are worth compiling, relative to ``root``."""
    verify = (root / "consumer" / "verify").glob("*.py")
    return sorted(path.relative_to(root) for path in verify if path.name != "__init__.py")


def hashes(sources: Iterable[Path], root: Path = _ROOT) -> dict[str, str]:
    """Return the SHA-256 of each source, by its path."""
    return {
        path.as_posix(): hashlib.sha256((root / path).read_bytes()).hexdigest() for path in sources
    }


class Finder(MetaPathFinder):
    """Finds the modules of ``files`` there, before Python looks at their sources."""

    def __init__(self, files: dict[str, Path]) -> None:
        self._files = files

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - as Python calls it
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Return where ``fullname`` is, None for modules of others."""
        file = self._files.get(fullname)
        if file is None:
            return None
        loader = ExtensionFileLoader(fullname, str(file))
        return spec_from_file_location(fullname, file, loader=loader)


def usable(folder: Path = FOLDER, root: Path = _ROOT) -> dict[str, Path] | str:
    """Return the binaries by module, or why they cannot be used."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "nothing is compiled: run 'make compile'"
    suffix = EXTENSION_SUFFIXES[0]
    if manifest["suffix"] != suffix:
        return f"compiled for another Python ({manifest['suffix']}): run 'make compile'"
    if manifest["sources"] != hashes(core(root), root):
        return "the sources have changed since they were compiled: run 'make compile'"
    return {module: folder / (module + suffix) for module in manifest["modules"]}


def _install() -> str:
    """Let Python find the compiled modules; return the form that is used."""
    wanted = os.environ.get(VARIABLE, "auto")
    if wanted == "off":
        return "python"
    found = usable()
    if isinstance(found, str):
        if wanted == "required":
            raise ImportError(f"{VARIABLE}={wanted}, but {found}")
        return "python"
    sys.meta_path.insert(0, Finder(found))
    return "compiled"


FORM = _install()
"""How the core runs in this process: ``compiled`` or ``python``."""
