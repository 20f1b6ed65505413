"""The summary on disk: there whole or not at all. A pipe, a device or a descriptor is written to and never replaced."""

import errno
import fcntl
import json
import os
import re
import select
from pathlib import Path
from typing import Any

from pipeline.durable import part_of, write_durable
from pipeline.errors import ConfigError

SUMMARY = "summary.json"
"""Under ``state_dir``, whatever ``--summary`` says."""
READER_MS = 1000.0
_MOST_LINKS = 40


def prepare_summary(path: Path) -> None:
    """Remove an earlier run's summary and see that one can be written. Raises ``ConfigError``; now, not after a long run."""
    try:
        if _is_descriptor(path):  # its file may be a log, and is the user's
            os.close(_open_descriptor(path))
            return
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
    if _is_descriptor(path):
        _write_through(_open_descriptor(path), data)
    elif path.exists() and not path.is_file():  # a device or a pipe must not be replaced
        _write_through(_open_reader(path), data)
    else:
        write_durable(_target(path), data, mode=mode)


def _is_descriptor(path: Path) -> bool:
    """Whether it names a descriptor of a process, as /dev/stdout does: the file behind it must not be replaced."""
    return re.fullmatch(r"/proc/\d+/(task/\d+/)?fd/\d+", str(_entry(path))) is not None


def _entry(path: Path) -> Path:
    """What the symbolic links lead to, up to the first entry of a process's list of descriptors."""
    for _ in range(_MOST_LINKS):
        path = Path(os.path.realpath(path.parent), path.name)
        if path.parent.name == "fd" or not path.is_symlink():
            break
        path = path.parent / os.readlink(path)
    return path


def _open_descriptor(path: Path) -> int:
    """A duplicate of a descriptor that we were handed; of another process, what lies behind it, to append. Raises ``OSError``."""
    entry = _entry(path)
    if entry.parts[2] != str(os.getpid()):
        return os.open(entry, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC)
    fd = int(entry.name)
    if not os.get_inheritable(fd) or fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:  # the former: one of our own
        raise OSError(errno.EBADF, "it is not open for writing")
    return os.dup(fd)


def _open_reader(path: Path) -> int:
    """Raises ``OSError``, also where nobody reads: the end of a run waits for no reader."""
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "nobody reads it; start the reader before the line, or name a file") from exc
        raise


def _write_through(fd: int, data: bytes) -> None:
    """Write and close. Raises ``OSError``, also where nobody reads."""
    try:
        ready = select.poll()
        ready.register(fd, select.POLLOUT)
        while data:
            if not ready.poll(READER_MS):
                raise TimeoutError(errno.ETIMEDOUT, "nobody reads it")
            data = data[os.write(fd, data[: select.PIPE_BUF]) :]  # a pipe that is ready has room for so much
    finally:
        os.close(fd)


def _target(path: Path) -> Path:
    """The file itself, behind symbolic links."""
    return Path(os.path.realpath(path))
