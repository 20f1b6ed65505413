"""Compiled code kept from one start to the next: whole, or made anew.

A process killed amid compiling leaves half-written files, a disk may damage others, and loading such a library can fail
at every start or kill the process. So what is in the folder is sealed, with the digest of every file, once an engine made
of it has answered rightly, and only what the seal says is ever loaded.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pipeline.core.errors import ConfigError
from pipeline.system.folder_lock import open_folder

T = TypeVar("T")
log = logging.getLogger(__name__)


def with_kept_code(folder: Path, make: Callable[[], T], forget: Callable[[], None]) -> T:
    """What ``make`` makes with the code in ``folder``. If that fails it is tried once more with nothing kept.

    ``forget``: lets go of what the process has loaded of it. Raises what the last ``make`` raises.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        kept = _only_sealed(folder)
        try:
            made = make()
        except ConfigError:
            raise
        except Exception as exc:
            if not kept:
                clear(folder)
                raise
            log.warning("the compiled code in %s does not work and is made anew: %s", folder, exc)
            forget()
            with _set_aside(folder):
                made = make()
        _seal(folder)
    return made


def clear(folder: Path) -> None:
    """Remove what a folder holds; it may be a link to another."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def _set_aside(folder: Path) -> Iterator[None]:
    """Nothing is kept within; if that does not help, what was kept is not to blame and is put back."""
    aside = folder.with_name(f"{folder.name}.aside")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    _move(folder, aside)
    try:
        yield
    except Exception:
        clear(folder)
        _move(aside, folder)
        raise
    finally:
        shutil.rmtree(aside)


def _move(source: Path, target: Path) -> None:
    for path in source.iterdir():
        path.rename(target / path.name)


def _only_sealed(folder: Path) -> bool:
    """Leave in ``folder`` what its seal vouches for, or nothing; whether something is left."""
    found = _digests(folder)
    try:
        sealed: dict[str, str] = json.loads(_seal_of(folder).read_bytes())
        whole = sealed.items() <= found.items()
    except (OSError, ValueError, AttributeError):  # none: the process that compiled was killed; or damaged itself
        sealed, whole = {}, False
    if not whole:
        if found:
            log.warning("the compiled code in %s is not whole (half compiled, or damaged); it is made anew", folder)
        clear(folder)
        return False
    for name in found.keys() - sealed.keys():
        (folder / name).unlink()
    return bool(sealed)


def _seal(folder: Path) -> None:
    seal = _seal_of(folder)
    part = seal.with_suffix(".part")
    part.write_text(json.dumps(_digests(folder)))
    part.replace(seal)


def _seal_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.seal")


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process compiles into, or converts in, ``folder``, which must be there."""
    fd = open_folder(folder)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process is at work in %s; waiting for it", folder)
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
