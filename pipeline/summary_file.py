"""The summary on disk: there whole or not at all."""

import errno
import json
import os
import select
from pathlib import Path
from typing import Any

from pipeline.durable import part_of, write_durable
from pipeline.errors import ConfigError

SUMMARY = "summary.json"
"""Under ``state_dir``, whatever ``--summary`` says."""
READER_MS = 1000.0


def prepare_summary(path: Path) -> None:
    """Remove an earlier run's summary and see that one can be written. Raises ``ConfigError``; now, not after a long run."""
    try:
        if path.is_dir():
            raise ConfigError(f"the summary {path} cannot be written: it is a folder; choose another --summary or move it away")
        if path.exists() and not path.is_file():  # /dev/null, a pipe
            return
        target = _target(path)
        part = part_of(target)
        part.touch()
        part.unlink()
        target.unlink(missing_ok=True)
    except OSError as exc:
        raise ConfigError(f"the summary {path} cannot be written: {exc.strerror}; choose another --summary or state_dir") from exc


def write_summary(path: Path, found: dict[str, Any], *, mode: int) -> None:
    """Write the summary as JSON for people and programs: durable, and in one step. Raises ``OSError``."""
    data = (json.dumps(found, indent=2) + "\n").encode()
    if path.exists() and not path.is_file():  # a device or a pipe must not be replaced
        _write_through(path, data)
        return
    write_durable(_target(path), data, mode=mode)


def _write_through(path: Path, data: bytes) -> None:
    """Raises ``OSError``, also where nobody reads: the end of a run waits for no reader."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "nobody reads it; start the reader before the line, or name a file") from exc
        raise
    try:
        ready = select.poll()
        ready.register(fd, select.POLLOUT)
        while data:
            if not ready.poll(READER_MS):
                raise TimeoutError(errno.ETIMEDOUT, "nobody reads it")
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def _target(path: Path) -> Path:
    """The file itself, behind symbolic links."""
    return Path(os.path.realpath(path))
