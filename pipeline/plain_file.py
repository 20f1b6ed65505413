"""Small files that somebody else may have put there: read only where they are files, and not endless."""

import errno
import os
import stat
from pathlib import Path

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
