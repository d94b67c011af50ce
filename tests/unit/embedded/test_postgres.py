"""The system user that PostgreSQL runs as: added once, by whichever process is first."""

from __future__ import annotations

import pwd
import subprocess

import pytest

from consumer.embedded import postgres
from consumer.errors import Fatal


class Machine:
    """The users of a machine; ``status`` is how ``useradd`` ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.users: set[str] = set()
        self.status = 0
        self.others_are_faster = False
        monkeypatch.setattr("os.geteuid", lambda: 0)
        monkeypatch.setattr("pwd.getpwnam", self._entry)
        monkeypatch.setattr("subprocess.run", self._run)

    def _entry(self, name: str) -> pwd.struct_passwd:
        if name not in self.users:
            raise KeyError(name)
        return pwd.struct_passwd((name, "x", 12, 34, "", "/", "/bin/false"))

    def _run(self, argv: list[str], **_: object) -> None:
        if self.status == 0 or self.others_are_faster:
            self.users.add(argv[-1])
        if self.status:
            raise subprocess.CalledProcessError(self.status, argv)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_the_user_is_added_when_it_is_missing(machine: Machine) -> None:
    user = postgres._system_user()
    assert user is not None
    assert (user.uid, user.gid) == (12, 34)
    assert len(machine.users) == 1


def test_a_user_that_another_process_adds_meanwhile_is_taken(machine: Machine) -> None:
    machine.status, machine.others_are_faster = 9, True
    assert postgres._system_user() is not None


def test_a_user_that_cannot_be_added_is_fatal(machine: Machine) -> None:
    machine.status = 1
    with pytest.raises(Fatal, match="cannot add the user"):
        postgres._system_user()
