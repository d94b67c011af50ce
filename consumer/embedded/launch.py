"""Become a server process that ends with its parent.  Run as a script, by path.

``launch.py PARENT SIGNAL UID GID PROGRAM [ARGUMENT …]`` drops to UID and GID (``-`` keeps
them), asks the kernel for SIGNAL when PARENT dies (Linux only), and turns into PROGRAM
under the same process id.  A script of its own rather than a ``preexec_fn``: code between
fork and exec is not safe in a process with threads.  Imports only the standard library.
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def _become(uid: str, gid: str) -> None:
    if uid != "-":
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))


def _end_with(parent: int, signal_number: int) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
        if os.getppid() != parent:  # it ended before the kernel was asked
            sys.exit(1)


def main(arguments: list[str]) -> None:
    """Drop privileges, tie the process to its parent and execute the program."""
    parent, signal_number, uid, gid, *program = arguments
    _become(uid, gid)  # first: changing the user clears the parent-death signal
    _end_with(int(parent), int(signal_number))
    os.execv(program[0], program)  # noqa: S606  the program is ours, and there is no shell


if __name__ == "__main__":
    main(sys.argv[1:])
