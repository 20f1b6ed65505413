"""The folder of one run's sockets: new for each run, so that no process of an earlier one can be met in it."""

import fcntl
import os
import secrets
import shutil
from pathlib import Path

from pipeline.config import Config
from pipeline.config.topology import make_private, runtime_dir
from pipeline.core.errors import ConfigError
from pipeline.system.folder_lock import is_there, open_folder


class RunFolder:
    """Made for this run. A lock on it says that it is in use, to later runs and to systemd-tmpfiles.

    Folders of runs that were killed are removed. Raises ``ConfigError`` where no private folder can be made.
    """

    def __init__(self, config: Config) -> None:
        home = runtime_dir(config)
        for left in home.iterdir():
            _remove_unused(left)
        self.path = make_private(home / secrets.token_hex(4))
        self._lock = open_folder(self.path)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def turn(self) -> str:
        """Make it anew if something has removed it, a cleaner of temporary files for instance; says so, or why that failed."""
        try:
            if is_there(self._lock, self.path):
                return ""
            make_private(self.path)
            fresh = _locked(self.path)
        except (ConfigError, OSError) as exc:  # the lock too: the cleaner may hold it for a moment
            return f"the folder of the line's sockets was removed and cannot be made anew: {exc}"
        os.close(self._lock)
        self._lock = fresh
        return f"{self.path}, the folder of the line's sockets, was removed; it is made anew. Have no cleaner look into it"

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _locked(folder: Path) -> int:
    """A descriptor that holds the lock on a folder. Raises ``OSError``."""
    fd = open_folder(folder)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def _remove_unused(folder: Path) -> None:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except NotADirectoryError:  # a socket of a node that is run by itself
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(fd)
