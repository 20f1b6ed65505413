"""The state folder while a line runs on it: locked, and with what a node needs to start again, whatever people do to it."""

import io
import os
import time
from pathlib import Path

import msgspec

from pipeline.config import Config
from pipeline.config.model_file import digest_of, find_model
from pipeline.core.errors import ConfigError
from pipeline.system.files import private_folder, read_plain, write_private
from pipeline.system.folder_lock import is_there, lock_folder, lock_state


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
        self._due, self._seen = list(self._files), dict[Path, tuple[int, ...]]()
        try:
            self._write()
        except OSError as exc:
            raise ConfigError(f"state_dir: {self._path} cannot be written: {exc.strerror}") from exc

    def turn(self) -> str:
        """Put right what somebody has moved, replaced or removed; says so, or why that failed."""
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
                self._note_run()
                self._due += [path for path in self._files if path not in self._due and _state_of(path) != self._seen[path]]
            names = ", ".join(path.name for path in self._write())
        except (ConfigError, OSError) as exc:
            return f"state_dir: what the line keeps in {self._path} was moved or removed and cannot be written anew: {exc}"
        if moved:
            text = f"state_dir: {self._path} was moved or replaced while the line runs; it goes on in the folder that is there now"
            return f"{text}; {changed}" if changed else text
        return f"{names} in {self._path}: removed or changed by somebody, and written anew" if names else ""

    def _note_run(self) -> None:
        """Publish completes this file; whoever removes it must get that back."""
        if not self._run.is_file():
            return
        data = read_plain(self._run)
        if data != self._files[self._run] and b"first_id" in data:
            self._files[self._run] = data

    def _write(self) -> list[Path]:
        """Write what is due; returns which files were not as they must be. Raises ``OSError``."""
        written = []
        while self._due:
            path = self._due[0]
            if not path.is_file() or path.read_bytes() != self._files[path]:
                write_private(path, self._files[path])
                written.append(path)
            self._seen[path] = _state_of(path)
            self._due.pop(0)
        return written

    def close(self) -> None:
        """Give the locks back."""
        for lock in self._locks:
            os.close(lock)


def _state_of(path: Path) -> tuple[int, ...]:
    """Changes when somebody replaces a file or writes to it; empty: it is not there. Raises ``OSError``."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Snapshot:
    """Both, read once. Raises ``ConfigError`` for a model that cannot be read."""

    def __init__(self, config: Config) -> None:
        source, model, self.line = find_model(config.infer.model), config.state / "model.safetensors", config.state / "line.json"
        own = msgspec.structs.replace(config, infer=msgspec.structs.replace(config.infer, model=str(model)))
        try:
            weights = source.read_bytes()
        except OSError as exc:
            raise ConfigError(f"infer.model: {source} cannot be read: {exc.strerror}") from exc
        self.files = {model: weights, self.line: msgspec.json.encode(own)}
        """By path, what nodes must find there."""
        self.digests = {path: digest_of(io.BytesIO(data)) for path, data in self.files.items()}
        self.model = model
