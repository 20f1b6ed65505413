"""The state folder while a line runs on it: locked, and with what a node needs to start again, whatever people do to it."""

import os
import time
from pathlib import Path

import msgspec

from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.private import private_folder, write_private
from pipeline.snapshot import Snapshot
from pipeline.state_lock import lock_again, lock_state


class StateFolder:
    """Taken for one run. Raises ``ConfigError`` where it cannot be used, or another line runs on it."""

    def __init__(self, config: Config) -> None:
        self._path = config.state
        self.changed = private_folder(self._path)
        """What had to be changed to make it private; empty: nothing."""
        self.moved = False
        """Whether the last ``turn`` has found another folder in its place."""
        self._locks = [lock_state(self._path)]
        self.snapshot = Snapshot(config)
        self._files = {**self.snapshot.files, self._path / "run.json": msgspec.json.encode({"run": time.time_ns(), "first_id": None})}
        try:
            self._write(list(self._files))
        except OSError as exc:
            raise ConfigError(f"state_dir: {self._path} cannot be written: {exc.strerror}") from exc

    def turn(self) -> str:
        """Put right what somebody has moved, replaced or removed; says so, or why that failed."""
        self.moved = False
        try:
            if self._is_ours():
                gone = [path for path in self._files if not path.exists()]
                self._write(gone)
                return f"{', '.join(path.name for path in gone)} was removed from {self._path} and is written anew" if gone else ""
            private_folder(self._path)
            lock = lock_again(self._path)
            if lock is None:
                return f"state_dir: {self._path} was replaced, and another line runs on the folder that is there now; stop one of them"
            self._locks.append(lock)
            self._write(list(self._files))
            self.moved = True
        except (ConfigError, OSError) as exc:
            return f"state_dir: {self._path} was moved or replaced, and a new one cannot be used: {exc}"
        return f"state_dir: {self._path} was moved or replaced while the line runs; it goes on in the folder that is there now"

    def _is_ours(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._locks[-1]))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _write(self, paths: list[Path]) -> None:
        for path in paths:
            if not path.is_file() or path.read_bytes() != self._files[path]:
                write_private(path, self._files[path])

    def close(self) -> None:
        """Give the locks back."""
        for lock in self._locks:
            os.close(lock)
