"""Starts a process that cannot outlive the one that starts it.

    python -I -S launch.py PARENT COMMAND...

A program of its own, which imports next to nothing: it asks the kernel for SIGKILL when its parent dies, checks that
the parent has not died before that, and becomes COMMAND. The request survives the exec, so there is no moment in which
a killed supervisor leaves a process behind. For the kernel the parent is a *thread*: start from one that lives as long as the process.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def bound(command: list[str]) -> list[str]:
    """A command line that runs ``command`` such that it is killed when this process, or the thread that starts it, ends.

    The program in ``command`` must be an absolute path.
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def _main(parent: int, command: list[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        sys.exit(f"linepipe: the kernel refuses to bind {command[0]} to its parent: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit(f"linepipe: the process that wanted {command[0]} has ended; not started")
    os.execv(command[0], command)


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2:])
