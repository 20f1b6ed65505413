"""Another user of the machine, a real one: root may enter everything, so what keeps a user out is seen by one alone."""

import importlib
import json
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.cli.main import main


def become(user: pwd.struct_passwd, act: Callable[[], Any]) -> Any:
    """What ``act`` returns in a process of that user."""
    "127.0.0.1".encode("idna")  # loaded now: that user may not read Python's own files
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            os.write(writing, json.dumps(act()).encode())
        except BaseException as exc:  # the parent shows it
            os.write(writing, json.dumps(repr(exc)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        told = json.loads(file.read() or b"null")
    os.waitpid(pid, 0)
    return told


def command(name: str, *args: str | Path) -> Callable[[], list[Any]]:
    """A command for ``become``: its exit code and what it said on stderr."""
    importlib.import_module(f"pipeline.cli.{name}")  # that user may not read it either

    def call() -> list[Any]:
        os.dup2(said := os.memfd_create("stderr"), 2)
        try:
            main([name, *map(str, args)])
        except SystemExit as exc:
            return [exc.code, os.pread(said, 1 << 16, 0).decode()]
        return []

    return call
