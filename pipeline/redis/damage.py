"""Damaged data of the embedded Redis: recognised by the server's last log lines, repaired where possible, otherwise set aside.

Messages about a lack of memory, descriptors or rights do not mean damage: the data then stays where it is.
"""

import os
import re
import shutil
import subprocess
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pipeline.system.files import sync
from pipeline.system.folder_lock import is_there
from pipeline.system.launch import bound

DATA = "appendonlydir"
MENDS = 2
"""Attempts until the server is up: the data may be repaired once, and set aside if it is still damaged. Empty data is not set aside."""
_KEPT = 2  # so many folders of damaged data are kept
_PART, _MENDED = "mending", "appendonlydir.mended"
_LOG_BROKEN = "Bad file format reading the append only file"
_DAMAGE = re.compile(
    rf"(?:{_LOG_BROKEN}|Unexpected end of file reading the append only file) [^\n]+\.(?:aof|rdb)"
    r"|Error reading the append only file [^\n]+, error: [\w ]+"
    r"|Unrecoverable error reading the append only file [^\n]+: Is a directory"
    r"|Unable to obtain the AOF file [^\n]+ length\. stat: No such file or directory"
    r"|FATAL AOF MANIFEST FILE ERROR"
    r"|Error trying to rename the temporary AOF manifest file .*: Is a directory"
    r"|Can't open or create append-only dir [^\n]+: Not a directory"
    r"|Error reading the RDB preamble of the AOF file [^\n]+"
    r"|Wrong RDB checksum"
    r"|Internal error in RDB reading[^\n>]*-> [\w ]+"
)
_NO_MEMORY = re.compile(r"Out Of Memory|failed allocating \d{1,9} bytes")  # of a damaged length it says more digits


def damage(log: str) -> str:
    """What a server that ended while it started has logged about damaged data; an empty string if that is not why it ended."""
    if _NO_MEMORY.search(log):
        return ""
    found = _DAMAGE.search(log)
    return found.group() if found is not None else ""


def finish(folder: Path) -> str:
    """Complete a mending that was interrupted: move mended data into place if the process that mended it was killed just before.

    Returns a sentence for a person if it did; an empty string if there was nothing to do. Raises ``OSError``.
    """
    mended = folder / _MENDED
    if (folder / DATA).exists() or not mended.exists():
        return ""
    mended.rename(folder / DATA)
    return f"the data of the embedded Redis in {folder} had been damaged; what it held up to the damage is kept, consumer groups too"


class Mending:
    """Makes damaged data fit for a start, in a thread of its own, because to copy and check it may take long.

    The damaged data is kept beside the new. The constructor raises ``OSError`` if no thread can be started.
    """

    def __init__(self, folder: Path, problem: str, *, program: Path, repair: bool, lock: int) -> None:
        """``folder`` contains the data; ``problem`` is what ``damage`` returned; ``program`` is the Valkey server.

        With ``repair`` the log is cut off at the damage, if it can be; otherwise the server will start empty. ``lock`` is a
        descriptor of ``folder``: another folder that takes its place meanwhile is not touched.
        """
        self._folder, self._problem, self._program = folder, problem, program
        self._repair = repair and problem.startswith(_LOG_BROKEN) and problem.endswith(".incr.aof")
        self.repaired = False
        """Once it is done: whether the data was repaired; False if the server will start empty."""
        self._news = ""
        self._failed: OSError | None = None
        self._lock = os.dup(lock)
        self._thread = threading.Thread(target=self._run, name="mending", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as exc:
            os.close(self._lock)
            raise OSError(f"the data of the embedded Redis is damaged ({problem}) and cannot be mended now: {exc}") from exc

    @property
    def done(self) -> bool:
        """Whether the thread has ended. Does not wait."""
        return self.wait(0.0)

    def wait(self, timeout_s: float) -> bool:
        """Wait up to ``timeout_s`` for the thread to end; returns whether it has."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def news(self) -> str:
        """Wait for the thread to end, however long it takes; returns what a person must know of the result.

        Raises ``OSError`` if the data could not be moved.
        """
        self._thread.join()
        if self._failed is not None:
            raise self._failed
        return self._news

    def _run(self) -> None:
        try:
            self._news = self._mend()
        except OSError as exc:  # ``news`` raises it
            self._failed = exc
        finally:
            os.close(self._lock)

    def _mend(self) -> str:
        data, part = self._folder / DATA, self._folder / _PART
        aside = self._folder / f"{DATA}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        shutil.rmtree(part, ignore_errors=True)
        _remove(self._folder / _MENDED)
        fit = self._repair and _repair(data, part, self._program)
        if not is_there(self._lock, self._folder):
            raise OSError(f"{self._folder} was moved away while its damaged data was mended")
        if fit:
            (part / DATA).rename(self._folder / _MENDED)
        data.rename(aside)
        with suppress(OSError):  # from here on the server can start, and what was done must be reported
            if fit:
                (self._folder / _MENDED).rename(data)
                self.repaired = True
            sync(self._folder)
        shutil.rmtree(part, ignore_errors=True)
        for old in sorted(set(self._folder.glob(f"{DATA}.damaged-*")) - {aside})[: 1 - _KEPT]:
            _remove(old)
        head = f"the data of the embedded Redis was damaged ({self._problem}) and is kept in {aside} as it was"
        if self.repaired:
            return (
                f"{head}; what it held up to the damage is kept, and the spool sends again what it keeps; consumer groups are"
                " as they were at that point, later ones must be created again"
            )
        return f"{head}; it starts empty: the spool sends again what it keeps, consumer groups must be created again"


def _repair(data: Path, part: Path, program: Path) -> bool:
    """Copy ``data`` into ``part`` and cut the copy off at the first place that cannot be read; returns whether that worked."""
    checker = part / "valkey-check-aof"  # called by this name, the server's program checks files
    try:
        part.mkdir(mode=0o700)
        shutil.copytree(data, part / data.name)
        checker.symlink_to(program)
        command = bound([str(checker), "--fix", str(part / data.name / "appendonly.aof.manifest")])
        done = subprocess.run(command, input=b"y\n", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for path in (part / data.name).iterdir():
            sync(path)
    except OSError:  # no room, for instance: a line that starts is worth more than the old data
        return False
    return done.returncode == 0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
