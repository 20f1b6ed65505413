"""Paths that a person wrote: looked at here alone, so that whatever keeps one from being seen is told, and no traceback."""

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
    """Why no file can have this name, and what to do; empty: it can."""
    if "\0" in text:
        return f"{text!r} holds a NUL character, which no file name can; remove it"
    try:
        os.fsencode(text).decode()
    except UnicodeError:
        return f"{text!a} {cannot_be_named(sys.getfilesystemencoding())}"
    return ""


def cannot_be_named(encoding: str) -> str:
    """What is wrong with a name that is no text in the encoding of file names, and what to do."""
    if encoding.lower().replace("_", "-") == "utf-8":
        return "is not UTF-8; give the folder or file a name that is"
    return f"cannot be a file name in this locale, whose encoding is {encoding}; set LC_ALL=C.UTF-8"


def here() -> str:
    """Where relative paths count from, to be shown."""
    try:
        return os.getcwd()
    except OSError:
        return "the working directory, which is gone"


def look(path: Path) -> os.stat_result | None:
    """What lies at ``path``, behind links; None: nothing. Raises ``ConfigError`` (without a place) where that cannot be seen."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise ConfigError(f"{path} cannot be looked at: {exc.strerror}; {_ADVICE.get(exc.errno or 0, 'choose another place')}") from exc


def is_folder(path: Path) -> bool:
    """Raises ``ConfigError`` as ``look`` does."""
    return (found := look(path)) is not None and stat.S_ISDIR(found.st_mode)


def is_file(path: Path) -> bool:
    """Raises ``ConfigError`` as ``look`` does."""
    return (found := look(path)) is not None and stat.S_ISREG(found.st_mode)


def nearest(path: Path) -> Path:
    """``path``, or the nearest of the folders above it in whose place something lies, be it a link that leads nowhere."""
    return next(p for p in (path, *path.parents) if look(p) is not None or p.is_symlink())
