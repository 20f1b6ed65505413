"""Files and folders of a line: written in one step, read without blocking, and kept private."""

import errno
import os
import stat
from pathlib import Path

from pipeline.core.errors import ConfigError, told_as
from pipeline.system.user_path import look


def write_durable(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace a file in one step; when this returns, it survives a power loss. Raises ``OSError``.

    ``mode`` is that of the new file, less the umask. Waits for the disk (fsync of the file and its folder). Not for two writers of
    one path at a time: both would use the same temporary file.
    """
    part = part_of(path)
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)
    part.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until the disk has a file's content, or the names in a folder. Raises ``OSError``."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def part_of(path: Path) -> Path:
    """The temporary file in the same folder that is written first and then renamed to ``path``."""
    return path.with_name(f".{path.name}.part")


MOST_BYTES = 16 << 20
_HANDED = ("/dev/fd/", "/dev/stdin")


def open_plain(path: Path | bytes) -> int:
    """Open an ordinary file for reading; returns the descriptor, which the caller closes.

    Raises ``OSError``, also for a pipe, a device or a folder. Never waits for one of those.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)  # else opening a pipe would wait for a writer
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
    """The content of an ordinary file of at most ``most`` bytes.

    Raises ``OSError`` if it cannot be read or is larger, and for a pipe, a device or a folder, which could block its reader. Paths
    below /dev/fd and /dev/stdin are read whatever they are, and waited for: a shell hands over pipes by these names, as in
    ``linepipe validate <(make-config)``.
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
"""Folders that nodes keep under ``state_dir``."""
_FILES = ("line.json", "run.json", "status.json", "summary.json", "model.safetensors")
OURS = (*STATE_FOLDERS, *_FILES)
"""Files and folders that a line keeps under ``state_dir``; everything else there belongs to the user."""


def keep_private() -> None:
    """Set the umask so that only this user can use what this process, and those it starts, create from now on."""
    os.umask(UMASK)


def check_owner(folder: Path) -> None:
    """Raises ``ConfigError`` if the state folder exists and belongs to another user, or cannot be seen. One that is missing is fine."""
    try:
        found = look(folder)
    except ConfigError as exc:
        raise ConfigError(f"state_dir: {exc}") from exc
    if found is not None and found.st_uid != os.geteuid():
        raise ConfigError(f"state_dir: {folder} belongs to another user; chown it, or choose a folder of your own")


def check_place(folder: Path) -> None:
    """Raises ``ConfigError`` if a line cannot make ``folder`` private. One that is missing is fine.

    That is a folder of another user, one that many share (with the sticky bit, like /tmp), or one that others may look into and
    that holds folders of other things, as no line ran there yet: /, a home, a project. Hidden ones and lost+found do not count.
    """
    check_owner(folder)
    with told_as(ConfigError, f"state_dir: {folder} cannot be used"):
        mode = stat.S_IMODE(folder.stat().st_mode) if folder.is_dir() else 0
        if mode & stat.S_ISVTX:
            raise ConfigError(f"state_dir: {folder} is a folder that many share; choose one within it")
        if mode & 0o077 and not (folder / "line.json").exists():
            others = sorted(p.name for p in folder.iterdir() if p.name not in (*OURS, "lost+found") and p.name[0] != "." and p.is_dir())
            if others:
                text = f"state_dir: {folder} holds other things ({others[0]}), which other users may use; a line would lock them out"
                raise ConfigError(f"{text}. Choose an empty folder, or a new one")


def private_folder(folder: Path) -> str:
    """Make the state folder (0700), or take the rights of other users from it and from what a line keeps in it.

    Returns a sentence that says what was changed; an empty string if nothing was. Raises ``ConfigError`` where ``check_place`` does,
    and for a folder that cannot be made or changed.
    """
    check_place(folder)
    with told_as(ConfigError, f"state_dir: {folder} cannot be used"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = stat.S_IMODE(folder.stat().st_mode)
        if not mode & 0o077:
            return ""
        folder.chmod(0o700)  # first: from now on nobody else can get in
        for own in (folder / name for name in OURS if (folder / name).exists()):
            _narrow(own)
            for path, folders, files in os.walk(own) if not own.is_symlink() else ():
                for name in (*folders, *files):
                    _narrow(Path(path) / name)
    return f"state_dir: {folder} could be looked into by others (mode {mode:04o}); it is private now (0700)"


def write_private(path: Path, data: bytes) -> None:
    """Replace a file in one step; only its owner may read it (0600). Raises ``OSError``.

    Nothing waits for the disk, so a power loss may take it: for files that the next run writes again.
    """
    part = part_of(path)
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    part.replace(path)


def _narrow(path: Path) -> None:
    """Take the rights of group and others from a file or folder of ours; symbolic links are left alone, their targets are the user's."""
    found = path.lstat()
    if not stat.S_ISLNK(found.st_mode) and found.st_mode & 0o077 and found.st_uid == os.geteuid():
        path.chmod(stat.S_IMODE(found.st_mode) & ~0o077)
