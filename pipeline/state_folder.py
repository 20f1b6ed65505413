"""The state folder while a line runs on it: locked, and with what a node needs to start again, whatever people do to it."""

import os
import time

import msgspec

from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.plain_file import read_plain
from pipeline.private import private_folder, write_private
from pipeline.snapshot import Snapshot
from pipeline.state_lock import lock_folder, lock_state


class StateFolder:
    """Taken for one run. Raises ``ConfigError`` where it cannot be used, or another line runs on it."""

    def __init__(self, config: Config) -> None:
        self._path = config.state
        self.changed = private_folder(self._path)
        """What had to be changed to make it private; empty: nothing."""
        self._locks = [lock_state(self._path)]
        self.snapshot = Snapshot(config)
        self._run = self._path / "run.json"
        self._files = {**self.snapshot.files, self._run: msgspec.json.encode({"run": time.time_ns(), "first_id": None})}
        self._due = list(self._files)
        try:
            self._write()
        except OSError as exc:
            raise ConfigError(f"state_dir: {self._path} cannot be written: {exc.strerror}") from exc

    def turn(self) -> str:
        """Put right what somebody has moved, replaced or removed; says so, or why that failed."""
        try:
            self.changed = ""
            moved = not self._is_ours()
            if moved:
                if not self._take():
                    return f"state_dir: {self._path} was replaced, and another line runs on the folder that is there now; stop one of them"
                self._due = list(self._files)
            else:
                self._due += [path for path in self._files if path not in self._due and not path.exists()]
            if not self._due:
                self._note_run()
                return ""
            names = ", ".join(path.name for path in self._due)
            self._write()
        except (ConfigError, OSError) as exc:
            return f"state_dir: what the line keeps in {self._path} was moved or removed and cannot be written anew: {exc}"
        if moved:
            text = f"state_dir: {self._path} was moved or replaced while the line runs; it goes on in the folder that is there now"
            return f"{text}; {self.changed}" if self.changed else text
        return f"{names} was removed from {self._path} and is written anew"

    def _take(self) -> bool:
        """Have the folder that is there now, locked; False: another line has it."""
        for lock in self._locks:
            if os.path.exists(self._path) and os.path.samestat(os.stat(self._path), os.fstat(lock)):  # it came back
                self._locks.remove(lock)
                self._locks.append(lock)
                return True
        self.changed = private_folder(self._path)
        fresh = lock_folder(self._path)
        if fresh is None:
            return False
        self._locks.append(fresh)
        return True

    def _is_ours(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._locks[-1]))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _note_run(self) -> None:
        """Publish completes this file; whoever removes it must get that back."""
        data = read_plain(self._run)
        if data != self._files[self._run] and b"first_id" in data:
            self._files[self._run] = data

    def _write(self) -> None:
        while self._due:
            path = self._due[0]
            if not path.is_file() or path.read_bytes() != self._files[path]:
                write_private(path, self._files[path])
            self._due.pop(0)

    def close(self) -> None:
        """Give the locks back."""
        for lock in self._locks:
            os.close(lock)
