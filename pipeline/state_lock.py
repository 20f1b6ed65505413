"""The lock on a state folder, on the folder itself, so that nobody can delete it: one run at a time."""

import fcntl
import os
import time
from pathlib import Path

from pipeline.errors import ConfigError, LinepipeError

PATIENCE_S = 1.0
"""``is_running`` holds the lock for a moment: somebody who looks must not keep a line from starting."""


def lock_state(state: Path) -> int:
    """Take the state folder for this run; the kernel gives it back when the process ends."""
    deadline = time.monotonic() + PATIENCE_S
    try:
        state.mkdir(parents=True, exist_ok=True)
        fd = open_folder(state)
        while not _locked(fd):
            if time.monotonic() > deadline:
                os.close(fd)
                raise ConfigError(f"state_dir: another line runs on {state}; stop it or choose another state_dir")
            time.sleep(0.02)
    except OSError as exc:
        raise ConfigError(f"state_dir: {state} cannot be used: {exc.strerror}") from exc
    return fd


def lock_again(state: Path) -> int | None:
    """Take the folder that lies there now, at once; None: another run has it. Raises ``OSError``."""
    fd = open_folder(state)
    if _locked(fd):
        return fd
    os.close(fd)
    return None


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_running(state: Path) -> bool:
    """Whether a supervisor holds this state folder. Raises ``LinepipeError`` where that cannot be seen."""
    try:
        fd = open_folder(state)
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise LinepipeError(f"state_dir: {state} cannot be read: {exc.strerror}") from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def open_folder(path: Path) -> int:
    """A descriptor of a folder, to lock it by. Raises ``OSError``."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
