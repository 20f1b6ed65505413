"""Small files that somebody else may have put there: read only where they are files, and not endless."""

import errno
import os
import stat
from pathlib import Path

MOST_BYTES = 16 << 20
_HANDED = ("/dev/fd/", "/dev/stdin")


def read_plain(path: Path, most: int = MOST_BYTES) -> bytes:
    """All of a file. Raises ``OSError``, also for a pipe or a folder, which could hold up its reader, and beyond ``most`` bytes.

    What a shell hands over, as in ``linepipe validate <(make-config)``, is read whatever it is.
    """
    handed = str(path).startswith(_HANDED)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if handed else os.O_NONBLOCK))  # opening a pipe would wait for who writes
    try:
        if not handed and not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
        with os.fdopen(fd, "rb", closefd=False) as file:
            data = file.read(most + 1)
    finally:
        os.close(fd)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it is too large: more than {most} bytes", str(path))
    return data
