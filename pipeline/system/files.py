"""A file that is there whole or not at all, also after a power loss."""

import errno
import os
import stat
from pathlib import Path

from pipeline.core.errors import ConfigError
from pipeline.system.user_path import look


def write_durable(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace a file in one step; when this returns, the disk has it. Raises ``OSError``."""
    part = part_of(path)
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def part_of(path: Path) -> Path:
    """The file beside ``path`` that takes its place."""
    return path.with_name(f".{path.name}.part")


MOST_BYTES = 16 << 20
_HANDED = ("/dev/fd/", "/dev/stdin")


def open_plain(path: Path | bytes) -> int:
    """A descriptor to read an ordinary file. Raises ``OSError``, also for a pipe, a device or a folder, and waits for none of them."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)  # opening a pipe would wait for who writes
    try:
        plain = stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        os.close(fd)
        raise
    if not plain:
        os.close(fd)
        raise OSError(errno.EINVAL, "it is no ordinary file", os.fsdecode(path))
    return fd


def read_plain(path: Path, most: int = MOST_BYTES) -> bytes:
    """All of a file. Raises ``OSError``, also for a pipe or a folder, which could hold up its reader, and beyond ``most`` bytes.

    What a shell hands over, as in ``linepipe validate <(make-config)``, is read whatever it is.
    """
    handed = str(path).startswith(_HANDED)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if handed else open_plain(path)
    with os.fdopen(fd, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it is too large: more than {most} bytes", str(path))
    return data


UMASK = 0o077
STATE_FOLDERS = ("spool", "images", "truth", "engines", "redis")
"""What nodes keep under ``state_dir``."""
_FILES = ("line.json", "run.json", "status.json", "summary.json", "model.safetensors")
OURS = (*STATE_FOLDERS, *_FILES)
"""What a line keeps under ``state_dir``; what else lies there is the user's."""


def keep_private() -> None:
    """Everything that this process and its children create from now on is for its user alone."""
    os.umask(UMASK)


def check_owner(folder: Path) -> None:
    """Raises ``ConfigError`` if ``folder`` is there and another user's, or cannot be seen."""
    try:
        found = look(folder)
    except ConfigError as exc:
        raise ConfigError(f"state_dir: {exc}") from exc
    if found is not None and found.st_uid != os.geteuid():
        raise ConfigError(f"state_dir: {folder} belongs to another user; chown it, or choose a folder of your own")


def private_folder(folder: Path) -> str:
    """Make ``folder`` or see that nobody else can look into it; returns what had to be changed, or nothing.

    Raises ``ConfigError`` for a folder of somebody else, or one that many share, like /tmp.
    """
    check_owner(folder)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = stat.S_IMODE(folder.stat().st_mode)
        if mode & stat.S_ISVTX:
            raise ConfigError(f"state_dir: {folder} is a folder that many share; choose one within it")
        if not mode & 0o077:
            return ""
        folder.chmod(0o700)  # first: from now on nobody else can get in
        for own in (folder / name for name in OURS if (folder / name).exists()):
            _narrow(own)
            for path, folders, files in os.walk(own) if not own.is_symlink() else ():
                for name in (*folders, *files):
                    _narrow(Path(path) / name)
    except OSError as exc:
        raise ConfigError(f"state_dir: {folder} cannot be used: {exc.strerror}") from exc
    return f"state_dir: {folder} could be looked into by others (mode {mode:04o}); it is private now (0700)"


def write_private(path: Path, data: bytes) -> None:
    """Replace a file in one step; only its owner may read it. For what the next run writes anew: a power loss may take it.

    Raises ``OSError``.
    """
    part = part_of(path)
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    part.replace(path)


def _narrow(path: Path) -> None:
    """Take the rights of group and others; what a symbolic link leads to is not the line's."""
    found = path.lstat()
    if not stat.S_ISLNK(found.st_mode) and found.st_mode & 0o077 and found.st_uid == os.geteuid():
        path.chmod(stat.S_IMODE(found.st_mode) & ~0o077)
