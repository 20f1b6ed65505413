"""Paths that a person wrote. They are looked up only here, so that a path that cannot be seen gives a message, and no traceback."""

import errno
import os
import stat
import sys
from pathlib import Path

from pipeline.core.errors import ConfigError

_ADVICE = {
    errno.EACCES: "let this user into the folders above it (chmod +x), or choose another place",
    errno.ENAMETOOLONG: "choose a shorter one",
    errno.ELOOP: "its links lead in a circle: correct them",
}


def misnamed(text: str) -> str:
    """Why no file can have this name, and what to do; an empty string if one can."""
    if "\0" in text:
        return f"{text!r} holds a NUL character, which no file name can; remove it"
    try:
        os.fsencode(text).decode()
    except UnicodeError:
        return f"{text!a} {cannot_be_named(sys.getfilesystemencoding())}"
    return ""


def cannot_be_named(encoding: str) -> str:
    """What is wrong with a name that cannot be written in ``encoding``, the encoding of file names, and what to do."""
    if encoding.lower().replace("_", "-") == "utf-8":
        return "is not UTF-8; give the folder or file a name that is"
    return f"cannot be a file name in this locale, whose encoding is {encoding}; set LC_ALL=C.UTF-8"


def here() -> str:
    """The working directory, from which relative paths count, as a text for messages; never raises."""
    try:
        return os.getcwd()
    except OSError:
        return "the working directory, which is gone"


def look(path: Path) -> os.stat_result | None:
    """The stat of what is at ``path``, links followed; None if there is nothing.

    Raises ``ConfigError`` if that cannot be seen; the text names no file and line of the configuration.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise ConfigError(f"{path} cannot be looked at: {exc.strerror}; {_ADVICE.get(exc.errno or 0, 'choose another place')}") from exc


def is_folder(path: Path) -> bool:
    """Whether there is a folder at ``path``, links followed. Raises ``ConfigError`` as ``look`` does."""
    return (found := look(path)) is not None and stat.S_ISDIR(found.st_mode)


def is_file(path: Path) -> bool:
    """Whether there is an ordinary file at ``path``, links followed. Raises ``ConfigError`` as ``look`` does."""
    return (found := look(path)) is not None and stat.S_ISREG(found.st_mode)


def nearest(path: Path) -> Path:
    """``path`` if there is something, a broken link included; otherwise the nearest folder above it that exists.

    ``path`` must be absolute. Raises ``ConfigError`` as ``look`` does.
    """
    return next(p for p in (path, *path.parents) if look(p) is not None or p.is_symlink())
