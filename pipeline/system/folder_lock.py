"""The lock on a state folder, on the folder itself, so that nobody can delete it: one run at a time."""

import fcntl
import os
import time
from pathlib import Path

from pipeline.core.errors import ConfigError, LinepipeError

PATIENCE_S = 1.0
"""``is_running`` holds the lock for a moment: somebody who looks must not keep a line from starting."""


def lock_state(state: Path) -> int:
    """Take the state folder for this run; the kernel gives it back when the process ends."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        fd = lock_folder(state, PATIENCE_S)
    except OSError as exc:
        raise ConfigError(f"state_dir: {state} cannot be used: {exc.strerror}") from exc
    if fd is None:
        raise ConfigError(f"state_dir: another line runs on {state}; stop it or choose another state_dir")
    return fd


def lock_folder(path: Path, wait_s: float = 0.0) -> int | None:
    """Take a folder, waiting for somebody who is about to let go; None: somebody has it. Raises ``OSError``."""
    fd = open_folder(path)
    deadline = time.monotonic() + wait_s
    while not _locked(fd):
        if time.monotonic() >= deadline:
            os.close(fd)
            return None
        time.sleep(0.02)
    return fd


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


def is_there(fd: int, path: Path) -> bool:
    """Whether ``path`` is still the folder that the descriptor was opened on. Raises ``OSError`` where that cannot be seen."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def open_folder(path: Path) -> int:
    """A descriptor of a folder, to lock it by. Raises ``OSError``."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
