"""The folders of a run: that of its sockets, and the state folder, locked and with the files that a node needs to start again.

Both are restored if they are moved, changed or removed while the line runs.
"""

import fcntl
import io
import os
import secrets
import shutil
import time
from pathlib import Path

import msgspec

from pipeline.config import Config
from pipeline.config.model_file import digest_of, find_model
from pipeline.config.topology import make_private, runtime_dir
from pipeline.core.errors import ConfigError, told_as
from pipeline.system.files import private_folder, write_private
from pipeline.system.folder_lock import is_there, lock_folder, lock_state, open_folder


class RunFolder:
    """The folder of the sockets of one run, made by the constructor. A lock shows later runs and systemd-tmpfiles that it is in use.

    The constructor removes folders of runs that were killed. It raises ``ConfigError`` if no private folder can be made.
    """

    def __init__(self, config: Config) -> None:
        home = runtime_dir(config)
        for left in home.iterdir():
            _remove_unused(left)
        self.path = make_private(home / secrets.token_hex(4))
        self._lock = open_folder(self.path)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def turn(self) -> str:
        """Create it again if something has removed it, a cleaner of temporary files for instance; to be called repeatedly.

        Returns a sentence that says so, or why that failed; an empty string if the folder is in place.
        """
        try:
            if is_there(self._lock, self.path):
                return ""
            make_private(self.path)
            fresh = _locked(self.path)
        except (ConfigError, OSError) as exc:  # the lock too: the cleaner may hold it for a moment
            return f"the folder of the line's sockets was removed and cannot be created again: {exc}"
        os.close(self._lock)
        self._lock = fresh
        return (
            f"{self.path}, the folder of the line's sockets, was removed; it is created again. Exclude it from cleaners of temporary files"
        )

    def close(self) -> None:
        """Remove the folder and unlock it."""
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


class StateFolder:
    """The state folder of one run: the constructor makes it private, locks it, and writes the line's own files into it.

    Those are ``line.json`` and ``model.safetensors`` (``Snapshot``), and ``run.json``, which notes the run. The constructor raises
    ``ConfigError`` if the folder cannot be used, another line runs on it, or the model cannot be read; it may wait 1 s for the lock.
    """

    def __init__(self, config: Config) -> None:
        self._path = config.state
        self.changed = private_folder(self._path)
        """What was changed to make it private; an empty string if nothing was."""
        self._locks = [lock_state(self._path)]
        self.snapshot = Snapshot(config)
        self._run, self._began_ns = self._path / "run.json", time.time_ns()
        self._files = {**self.snapshot.files, self._run: msgspec.json.encode({"run": self._began_ns, "first_id": None})}
        self._due, self._seen = list(self._files), dict[Path, tuple[int, ...]]()
        with told_as(ConfigError, f"state_dir: {self._path} cannot be written"):
            self._write()

    def turn(self) -> str:
        """Restore the folder's lock and the line's own files if they were moved, replaced, changed or removed; to be called repeatedly.

        Returns a sentence that says so, or why that failed; an empty string if all is in place.
        """
        try:
            moved, changed = not is_there(self._locks[-1], self._path), ""
            if moved:
                lock = next((lock for lock in self._locks if is_there(lock, self._path)), None)  # it came back
                if lock is None:
                    changed, lock = private_folder(self._path), lock_folder(self._path)
                if lock is None:
                    return f"state_dir: {self._path} was replaced, and another line runs on the folder that is there now; stop one of them"
                self._locks = [*(held for held in self._locks if held != lock), lock]
                self._due = list(self._files)
            else:
                self._due += [path for path in self._files if path not in self._due and _state_of(path) != self._seen[path]]
            names = ", ".join(path.name for path in self._write())
        except (ConfigError, OSError) as exc:
            return f"state_dir: what the line keeps in {self._path} was moved or removed and cannot be written again: {exc}"
        if moved:
            text = f"state_dir: {self._path} was moved or replaced while the line runs; it goes on in the folder that is there now"
            return f"{text}; {changed}" if changed else text
        return f"{names} in {self._path}: removed or changed by somebody, and written again" if names else ""

    def _is_completed(self, data: bytes) -> bool:
        """Whether ``data`` is the note of this run, to which publish adds the first event's id at some moment."""
        try:
            return bool(msgspec.json.decode(data)["run"] == self._began_ns)
        except (ValueError, KeyError, TypeError):
            return False

    def _write(self) -> list[Path]:
        """Write what is due; returns which files were not as they must be. Raises ``OSError``."""
        written = []
        while self._due:
            path = self._due[0]
            data = path.read_bytes() if path.is_file() else None
            if data is not None and path == self._run and self._is_completed(data):
                self._files[path] = data
            if data != self._files[path]:
                write_private(path, self._files[path])
                written.append(path)
            self._seen[path] = _state_of(path)
            self._due.pop(0)
        return written

    def close(self) -> None:
        """Unlock the folder; its files stay."""
        for lock in self._locks:
            os.close(lock)


def _state_of(path: Path) -> tuple[int, ...]:
    """A value that changes when a file is replaced or written; empty if there is none. Raises ``OSError``."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Snapshot:
    """Configuration and model with which a run begins, read once, so that later changes of the user's files do not affect the run.

    The constructor raises ``ConfigError`` if the model cannot be read.
    """

    def __init__(self, config: Config) -> None:
        source, model, self.line = find_model(config.infer.model), config.state / "model.safetensors", config.state / "line.json"
        own = msgspec.structs.replace(config, infer=msgspec.structs.replace(config.infer, model=str(model)))
        with told_as(ConfigError, f"infer.model: {source} cannot be read"):
            weights = source.read_bytes()
        self.files = {model: weights, self.line: msgspec.json.encode(own)}
        """Content of each file, by the path at which nodes read it."""
        self.digests = {path: digest_of(io.BytesIO(data)) for path, data in self.files.items()}
        self.model = model
