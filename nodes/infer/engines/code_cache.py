"""Compiled code kept from one start to the next. Code that is not intact is compiled again.

A process killed while it compiles leaves half-written files, a disk may damage others, and loading such a library can fail
at every start or kill the process. So the folder is sealed, with the digest of every file, once an engine made from it has
answered correctly, and only files that match the seal are ever loaded.
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
    """Call ``make``, which uses or writes compiled code in ``folder``, and seal the folder; returns what ``make`` returns.

    If ``make`` fails and the folder had code, it is called once more with an empty folder, after ``forget`` has unloaded that
    code from this process; not after a ``ConfigError``. If it fails again, the code is put back. Waits, without a time limit,
    while another process uses ``folder``. Raises what the last ``make`` raises, and ``OSError``.
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
            log.warning("the compiled code in %s does not work and is compiled again: %s", folder, exc)
            forget()
            with _set_aside(folder):
                made = make()
        _seal(folder)
    return made


def clear(folder: Path) -> None:
    """Remove the content of a folder, which may be a link to another; nothing if there is no folder. Raises ``OSError``."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def _set_aside(folder: Path) -> Iterator[None]:
    """Empty the folder while the block runs. If the block fails too, the code was not the cause and is put back; else it is removed."""
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
    """Remove all files that the seal does not list; all files if it is missing or one does not match it. Whether any is left."""
    found = _digests(folder)
    try:
        sealed: dict[str, str] = json.loads(_seal_of(folder).read_bytes())
        whole = sealed.items() <= found.items()
    except (OSError, ValueError, AttributeError):  # no seal: the compiling process was killed; or the seal is damaged
        sealed, whole = {}, False
    if not whole:
        if found:
            log.warning("the compiled code in %s is not whole (half compiled, or damaged); it is compiled again", folder)
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
    """Hold the lock of ``folder``, which must exist, while the block runs: one process at a time compiles or converts there.

    Waits without a time limit, and logs that it waits. Raises ``OSError``.
    """
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
