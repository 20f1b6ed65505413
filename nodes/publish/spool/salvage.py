"""Opening a spool: checked first, repaired where it is damaged, and what was lost is told.

A damaged file is set aside under a name; what can be read is carried over into a new one. The progress file beside the spool
says how far it was: what is missing from there is lost, also where SQLite itself notices nothing (a log cut short by a
bad checksum after a kill, a file that was deleted).
"""

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

from nodes.publish.spool import database as schema
from nodes.publish.spool.database import Database, SpoolDamagedError, sync
from nodes.publish.spool.open_alarms import read_again
from nodes.publish.spool.progress_file import Progress, read_progress
from nodes.publish.spool.read_damaged import begins_right, events, is_part, keyed, mend_log, readable
from nodes.publish.spool.spool import Spool

SMALL_BYTES, CHECK_AGAIN_MS = 256 << 20, 3_600_000
_COMPLETE = "salvaged"  # fact of a copy that lacks nothing any more
_TABLES: dict[str, tuple[str, type, type]] = {  # beside the events: their key, and what the two columns hold
    "records": ("key", str, int),
    "held": ("id", str, bytes),
    "facts": ("name", str, int),
    "ages": ("age_ms", int, int),
    "lost": ("first", int, int),
}


def open_spool(path: Path) -> tuple[Spool, str]:
    """The spool, fit for use, and what a person must know of damage or loss (empty: nothing).

    Raises ``SpoolTroubleError`` while the disk is full or the file locked: try again later.
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
        news.append("the spool's file was gone, a new one was begun")
    spool = Spool(path, durable=True)
    flag_path(path).unlink(missing_ok=True)
    if loss := _loss(spool, reached, repaired=bool(news)):
        news.append(loss)
    return spool, "; ".join(news)


def rescue(spool: Spool, path: Path) -> None:
    """The file was deleted or replaced while the spool is open: have all of it ready for the next ``open_spool``."""
    copy = _copy_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    spool.copy_to(copy)
    database = Database(copy)
    database.change("INSERT OR REPLACE INTO facts VALUES (?, 1)", (_COMPLETE,))
    database.close()


def flag_path(path: Path) -> Path:
    """Where this file lies, a running spool was found damaged: the next opening repairs it whatever a check says."""
    return path.with_suffix(".damaged")


def _problem(path: Path, reached: Progress) -> str:
    """What is wrong with a spool's file; a log that was cut short is copied before anything is written to it."""
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
    """What a check of the whole file finds; a large one is not read through again within an hour of running."""
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
    """Put the copy in the spool's place, after setting aside what lies there."""
    said = "the spool's file had been deleted and was written anew"
    if path.exists():
        replaced, aside = aside is None, aside or _set_aside_name(path)
        path.rename(aside)
        said = f"; it lies in {aside.name}, what could be read was carried over"
        if replaced:
            said = f"another file had taken the place of the spool's, which was written anew; the other lies in {aside.name}"
    for end in ("-wal", "-shm"):
        left = path.with_name(path.name + end)
        if left.exists() and aside is not None:
            left.rename(aside.with_name(aside.name + end))
        left.unlink(missing_ok=True)
    copy.rename(path)
    sync(path)
    database = Database(path)
    database.change("DELETE FROM facts WHERE name = ?", (_COMPLETE,))
    database.close()
    return said


def _carry_over(path: Path, copy: Path, reached: Progress) -> int:
    """What can be read of a damaged spool, into a new file. Number of held parts that are there and cannot be read."""
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
    sync(copy)
    return unread


def _loss(spool: Spool, reached: Progress, *, repaired: bool) -> str:
    """what the progress file knows and the spool does not; new events are numbered behind it."""
    behind = reached.commits - spool.fact("commits")
    missing = spool.missing(reached.seq) if repaired or behind > 0 else []
    if behind <= 0 and not missing:
        return ""
    spool.write_off(missing, reached)
    unsent = [(max(a, reached.sent + 1), b) for a, b in missing if b > reached.sent]
    until = datetime.fromtimestamp(reached.wall_ms / 1000, UTC).isoformat(timespec="seconds")
    if not unsent:
        count = sum(b - a + 1 for a, b in missing)
        return f"{count} events, none that Redis has not confirmed, and {max(behind, 0)} transactions are missing, up to {until}"
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
