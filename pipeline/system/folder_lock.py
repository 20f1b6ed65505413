"""The lock on a state folder, for one run at a time. It is on the folder itself, not on a file in it that could be deleted."""

import fcntl
import os
import time
from pathlib import Path

from pipeline.core.errors import ConfigError, LinepipeError, told_as

PATIENCE_S = 1.0
"""``is_running`` holds the lock for a moment; a line that starts waits this long, so that a look does not keep it from starting."""


def lock_state(state: Path) -> int:
    """Lock the state folder for this run, and make it if it is missing; returns a descriptor that holds the lock.

    The lock ends when the descriptor is closed or the process ends. Waits up to ``PATIENCE_S``. Raises ``ConfigError`` if another
    run has the lock, or the folder cannot be used.
    """
    with told_as(ConfigError, f"state_dir: {state} cannot be used"):
        state.mkdir(parents=True, exist_ok=True)
        fd = lock_folder(state, PATIENCE_S)
    if fd is None:
        raise ConfigError(f"state_dir: another line runs on {state}; stop it or choose another state_dir")
    return fd


def lock_folder(path: Path, wait_s: float = 0.0) -> int | None:
    """Lock a folder, waiting up to ``wait_s`` for it; returns a descriptor that holds the lock, or None if another process has it.

    The lock ends when the descriptor, and every copy that a child process inherited, is closed. Raises ``OSError``.
    """
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
    """Whether a supervisor has locked this state folder; False if the folder is missing.

    Holds the lock itself for a moment, shared. Raises ``LinepipeError`` if the folder cannot be opened.
    """
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
    """Whether ``path`` is still the folder on which the descriptor ``fd`` was opened. Raises ``OSError`` if that cannot be seen."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def open_folder(path: Path) -> int:
    """A descriptor of a folder, to lock it with; the caller closes it. Raises ``OSError``."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
