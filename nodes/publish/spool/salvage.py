"""Opens a spool: checks it, repairs it if it is damaged, and reports what was lost.

A damaged file is renamed; what can be read of it is copied to a new one. The progress file beside the spool says how far the
spool was: events up to there that are missing are lost, also if SQLite itself notices nothing (a log cut short by a bad
checksum after a kill, a file that was deleted).
"""

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

from nodes.publish.spool import database as schema
from nodes.publish.spool.database import Database, SpoolDamagedError, sync_named
from nodes.publish.spool.open_alarms import read_again
from nodes.publish.spool.progress_file import Progress, read_progress
from nodes.publish.spool.read_damaged import begins_right, events, is_part, keyed, mend_log, readable
from nodes.publish.spool.spool import Spool

SMALL_BYTES, CHECK_AGAIN_MS = 256 << 20, 3_600_000
_COMPLETE = "salvaged"  # fact of a copy that is complete
_TABLES: dict[str, tuple[str, type, type]] = {  # beside the events: their key, and the types of the two columns
    "records": ("key", str, int),
    "held": ("id", str, bytes),
    "facts": ("name", str, int),
    "ages": ("age_ms", int, int),
    "lost": ("first", int, int),
}


def open_spool(path: Path) -> tuple[Spool, str]:
    """Open the spool, repaired if need be; returns it, and what a person must know of damage or loss, else an empty string.

    May rename and copy files in the spool's folder. The caller must hold ``lock_spool``. Raises ``SpoolTroubleError`` or
    ``OSError`` while the disk is full, the file locked or a file cannot be read: try again later. Raises ``ConfigError`` for a
    spool of a later format, ``SpoolDamagedError`` for damage that shows only now: see ``flag_path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove(_patched(path))
    reached, copy = read_progress(path), _copy_path(path)
    news = []
    if _is_complete(copy):
        news.append(_take_copy(path, copy))
    elif path.exists() and (problem := _problem(path, reached)):
        aside = _set_aside_name(path)
        parts = _carry_over(path, copy, reached)
        news.append(f"the spool was damaged ({problem})" + _take_copy(path, copy, aside))
        if parts:
            news.append(f"{parts} parts of defects that go over several frames cannot be read and are LOST")
    elif not path.exists() and reached.commits:
        news.append("the spool's file was missing, a new one was made")
    spool = Spool(path, durable=True)
    flag_path(path).unlink(missing_ok=True)
    if loss := _loss(spool, reached, repaired=bool(news)):
        news.append(loss)
    return spool, "; ".join(news)


def rescue(spool: Spool, path: Path) -> None:
    """Save the whole content of an open spool whose file was deleted or replaced, ready for the next ``open_spool``.

    Raises ``OSError``, ``SpoolTroubleError`` and ``SpoolDamagedError``.
    """
    copy = _copy_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    spool.database.copy_to(copy)
    database = Database(copy)
    database.change("INSERT OR REPLACE INTO facts VALUES (?, 1)", (_COMPLETE,))
    database.close()


def flag_path(path: Path) -> Path:
    """Path of a mark beside the spool. If that file exists, ``open_spool`` repairs the spool even if the check finds nothing."""
    return path.with_suffix(".damaged")


def _problem(path: Path, reached: Progress) -> str:
    """What is wrong with a spool's file, else an empty string; a log that was cut short is copied before anything is written to it."""
    try:
        database = Database(path, create=False)
    except SpoolDamagedError as exc:
        return str(exc)
    try:
        problem, wal = _checked(database, path), path.with_name(path.name + "-wal")
        commits = 0 if problem else database.row("SELECT coalesce(max(value), 0) FROM facts WHERE name = 'commits'")[0]
        if wal.exists() and wal.stat().st_size and commits < reached.commits:  # before the connection is closed, which removes the log
            shutil.copyfile(path, _patched(path))
            left_out = mend_log(wal, _patched(path, "-wal"))
            shutil.copyfile(wal, _set_aside_name(wal))
            problem = problem or f"its log was damaged; {left_out} pages of it cannot be used"
        return problem.replace("\n", " ") or ("an error while it was in use" if flag_path(path).exists() else "")
    except SpoolDamagedError as exc:
        return str(exc)
    finally:
        database.close()


def _checked(database: Database, path: Path) -> str:
    """What a check finds, else an empty string. A file over ``SMALL_BYTES`` is read through only once in an hour of running."""
    if found := schema.problem(database):
        return found
    if not begins_right(path):
        return "its header is not that of a spool"
    if path.stat().st_size > SMALL_BYTES and database.fact("age_ms") - database.fact("checked_ms") < CHECK_AGAIN_MS:
        return ""
    problem = database.problem()
    if not problem and path.stat().st_size > SMALL_BYTES:
        database.set_fact("checked_ms", database.fact("age_ms"))
    return problem


def _is_complete(copy: Path) -> bool:
    if not copy.exists():
        return False
    try:
        database = Database(copy, create=False)
        found = database.row("SELECT value FROM facts WHERE name = ?", (_COMPLETE,))
        database.close()
    except SpoolDamagedError:
        found = None
    if not found:
        _remove(copy)
    return bool(found)


def _take_copy(path: Path, copy: Path, aside: Path | None = None) -> str:
    """Put the copy in the spool's place, after renaming the file that is there; returns what happened."""
    said = "the spool's file had been deleted and was written again"
    if path.exists():
        replaced, aside = aside is None, aside or _set_aside_name(path)
        path.rename(aside)
        said = f"; the damaged file is kept as {aside.name}, what could be read was copied to a new one"
        if replaced:
            said = f"another file was in the place of the spool's, which was written again; the other one is kept as {aside.name}"
    for end in ("-wal", "-shm"):
        left = path.with_name(path.name + end)
        if left.exists() and aside is not None:
            left.rename(aside.with_name(aside.name + end))
        left.unlink(missing_ok=True)
    copy.rename(path)
    sync_named(path)
    database = Database(path)
    database.change("DELETE FROM facts WHERE name = ?", (_COMPLETE,))
    database.close()
    return said


def _carry_over(path: Path, copy: Path, reached: Progress) -> int:
    """Copy what can be read of a damaged spool to a new file. Returns the number of held parts that are there but unreadable."""
    unread = 0
    _remove(copy)
    new = Spool(copy, durable=True)
    new.close()
    source, target = readable(path, _patched(path), copy), Database(copy)
    try:
        with target.writing():
            if source is not None:
                for row in events(source, reached.seq):
                    target.change("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?)", row)
                for table, (key, *kinds) in _TABLES.items():
                    for row in keyed(source, table, key):
                        if not all(map(isinstance, row, kinds)) or (table == "held" and not is_part(row[1])):
                            unread += table == "held"
                            continue
                        target.change(f"INSERT OR IGNORE INTO {table} VALUES (?, ?)", row)
            so_far = "coalesce((SELECT value FROM facts WHERE name = 'sent'), 0)"
            target.change(f"INSERT OR REPLACE INTO facts VALUES ('sent', max(?, {so_far}))", (reached.sent,))
            target.change("INSERT OR REPLACE INTO facts VALUES (?, 1)", (_COMPLETE,))
            read_again(target)
    finally:
        if source is not None:
            source.close()
        target.close()
        _remove(_patched(path))
    sync_named(copy)
    return unread


def _loss(spool: Spool, reached: Progress, *, repaired: bool) -> str:
    """What the spool lacks according to the progress file, else an empty string. New events get numbers after it."""
    behind = reached.commits - spool.fact("commits")
    missing = spool.missing(reached.seq) if repaired or behind > 0 else []
    if behind <= 0 and not missing:
        return ""
    spool.write_off(missing, reached)
    unsent = [(max(a, reached.sent + 1), b) for a, b in missing if b > reached.sent]
    until = datetime.fromtimestamp(reached.wall_ms / 1000, UTC).isoformat(timespec="seconds")
    if not unsent:
        count = sum(b - a + 1 for a, b in missing)
        return f"{count} events, all of them confirmed by Redis, and {max(behind, 0)} transactions are missing, written until {until}"
    spans = ", ".join(f"{a} to {b}" for a, b in unsent[:5]) + (" and more" if len(unsent) > 5 else "")
    count = sum(b - a + 1 for a, b in unsent)
    return f"{count} events that Redis had not confirmed are LOST: numbers {spans}, written until {until}"


def _set_aside_name(path: Path) -> Path:
    return path.with_name(f"{path.name}.damaged-{time.time_ns()}")


def _patched(path: Path, end: str = "") -> Path:
    return path.with_name(f"patched.db{end}")


def _copy_path(path: Path) -> Path:
    return path.with_name("copy.db")


def _remove(path: Path) -> None:
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
