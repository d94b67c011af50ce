"""Translate the pure core to C with mypyc, and compile it into ``consumer/binaries``.

Every module of the core is in one group: they call one another directly.  Needs a C compiler.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from mypyc.build import mypycify
from setuptools import Distribution
from setuptools.command.build_ext import build_ext

from consumer.compiled import FOLDER, MANIFEST, core, hashes


def main() -> None:
    """Compile, and replace what was compiled before."""
    sources = core()
    before = hashes(sources)
    with tempfile.TemporaryDirectory(prefix="chive-compile-") as scratch:
        made = Path(scratch, "made")
        modules = _compile([path.as_posix() for path in sources], Path(scratch), made)
        manifest = {"suffix": EXTENSION_SUFFIXES[0], "modules": modules, "sources": before}
        (made / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        shutil.rmtree(FOLDER, ignore_errors=True)
        shutil.copytree(made, FOLDER)
    print(f"{len(sources)} modules are compiled in {FOLDER}")


def _compile(sources: list[str], scratch: Path, made: Path) -> list[str]:
    """Compile ``sources`` to files ``made/<module><suffix>``; return the modules' names."""
    extensions = mypycify(sources, opt_level="3", target_dir=str(scratch / "c"), verbose=False)
    distribution = Distribution({"name": "chive-firehose-core", "ext_modules": extensions})
    folders = {"build_lib": str(scratch / "lib"), "build_temp": str(scratch / "temp")}
    command = build_ext(distribution, **folders)
    command.ensure_finalized()
    command.run()
    made.mkdir()
    names = [extension.name for extension in extensions]
    for name in names:
        shutil.copy(command.get_ext_fullpath(name), made / (name + EXTENSION_SUFFIXES[0]))
    return sorted(names)


if __name__ == "__main__":
    main()
