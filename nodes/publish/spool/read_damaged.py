"""Reads what can still be read of a damaged spool."""

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from nodes.publish.spool import database as schema
from nodes.publish.spool.database import Database, SpoolDamagedError
from pipeline.core.events import DefectEvent, Event

CHUNK = 500
_HEADER_BYTES, _PAGE_BYTES = 100, 4096
_BEGINNING = b"SQLite format 3\0" + _PAGE_BYTES.to_bytes(2, "big") + bytes([2, 2, 0, 64, 32, 32])


def readable(path: Path, patched: Path, fresh: Path) -> Database | None:
    """Open a damaged spool, or a copy of it with a repaired log or with its first bytes replaced by those of a new spool.

    ``patched``: where such a copy is, or may be made. ``fresh``: a new, empty spool. The caller closes the connection. None if
    nothing can be read. Raises ``OSError``, ``SpoolTroubleError``, and ``ConfigError`` for a spool of a later format.
    """
    for file, first in ((patched, 0), (path, 0), (patched, _HEADER_BYTES), (patched, _PAGE_BYTES)):
        if file == path and not _tells_its_size(path):
            continue
        if first:
            _patch(path, patched, fresh, first)
        if (database := _opened(file)) is None:
            continue
        if _fits(database) and (first <= _HEADER_BYTES or next(events(database, 0), None) is not None):
            return database
        database.close()
    return _opened(path)  # its tables are damaged, and in other pages than those of a fresh one: some can be read


def _opened(path: Path) -> Database | None:
    try:
        return Database(path, create=False) if path.exists() else None
    except SpoolDamagedError:
        return None


def _fits(database: Database) -> bool:
    try:
        return not schema.problem(database)
    except SpoolDamagedError:
        return False


def begins_right(path: Path) -> bool:
    """Whether the constant part of a spool's header is right. If it is wrong, the file may be read-only, and no check finds that.

    Raises ``OSError``.
    """
    with path.open("rb") as file:
        return file.read(len(_BEGINNING)) == _BEGINNING


def _tells_its_size(path: Path) -> bool:
    """Whether the header states the file's true length, or there is a log, beside which it need not."""
    with path.open("rb") as file:
        told = int.from_bytes(file.read(32)[28:], "big") * _PAGE_BYTES
    return told == path.stat().st_size or path.with_name(path.name + "-wal").exists()


def _patch(path: Path, patched: Path, fresh: Path, size: int) -> None:
    """Copy a spool, with its first ``size`` bytes, at least the header, replaced by those of a fresh one that has all tables."""
    shutil.copyfile(path, patched)
    with fresh.open("rb") as file:
        head = bytearray(file.read(size))
    pages = path.stat().st_size // _PAGE_BYTES
    head[28:40] = pages.to_bytes(4, "big") + bytes(8)  # size in pages; no list of free pages
    with patched.open("r+b") as file:
        file.write(head)


def events(source: Database, last: int) -> Iterator[tuple[Any, ...]]:
    """Rows of ``events`` that can be read and contain an event, in the order of ``seq``; around bad pages one by one.

    ``last``: reads at least up to this ``seq``, also if the newest one cannot be determined. Raises ``SpoolTroubleError``.
    """
    try:
        last = max(last, source.row("SELECT max(seq) FROM events")[0] or 0)
    except SpoolDamagedError:
        pass
    seq = 0
    while seq <= last:
        try:
            rows = source.rows("SELECT * FROM events WHERE seq > ? ORDER BY seq LIMIT ?", (seq, CHUNK))
            end = rows[-1][0] if rows else last + 1
        except SpoolDamagedError:
            end = seq + CHUNK
            rows = [row for k in range(seq + 1, end + 1) if (row := _one(source, k)) is not None]
        yield from filter(_is_event, rows)
        seq = end


def _one(source: Database, seq: int) -> Any:
    try:
        return source.row("SELECT * FROM events WHERE seq = ?", (seq,))
    except SpoolDamagedError:
        return None


def _is_event(row: tuple[Any, ...]) -> bool:
    try:
        event: Any = msgspec.json.decode(row[5], type=Event)
    except (msgspec.MsgspecError, ValueError, TypeError):
        return False
    return bool(event.id == row[1] and event.__struct_config__.tag == row[2])


def is_part(data: Any) -> bool:
    """Whether ``data`` is a readable part of a defect: the JSON of a ``DefectEvent``, bytes."""
    try:
        msgspec.json.decode(data, type=DefectEvent)
    except (msgspec.MsgspecError, ValueError, TypeError):
        return False
    return True


def keyed(source: Database, table: str, key: str) -> Iterator[tuple[Any, ...]]:
    """Rows of ``table`` that can be read, from both ends of its key up to the first bad row. Raises ``SpoolTroubleError``."""
    for order, beyond in (("ASC", ">"), ("DESC", "<")):
        where, args, count = "", tuple[Any, ...](), CHUNK
        while True:
            try:
                rows = source.rows(f"SELECT * FROM {table} {where} ORDER BY {key} {order} LIMIT {count}", args)
            except SpoolDamagedError:
                if count == 1:
                    break
                count = 1
                continue
            yield from rows
            if len(rows) < count:
                return
            where, args = f"WHERE {key} {beyond} ?", (rows[-1][0],)


_HEADER, _FRAME = struct.Struct(">8I"), struct.Struct(">6I")
_BIG_ENDIAN = 0x377F0683
Sums = tuple[int, int]


def mend_log(source: Path, target: Path) -> int:
    """Write the frames of the SQLite log ``source`` whose checksums are right to ``target``; returns how many frames of
    this log were left out.

    Format and checksums: sqlite.org/fileformat2.html, "WAL File Format". Writes nothing if there is not even a header. Raises
    ``OSError``.
    """
    data = source.read_bytes()
    if len(data) < _HEADER.size:
        return 0
    magic, _, page, _, salt1, salt2, *stored = _HEADER.unpack_from(data)
    order = ">" if magic == _BIG_ENDIAN else "<"
    before: Sums = (stored[0], stored[1])
    last, left_out, mended = before, 0, [data[: _HEADER.size]]
    for start in range(_HEADER.size, len(data) - _FRAME.size - page + 1, _FRAME.size + page):
        number, size, one, two, *sums = _FRAME.unpack_from(data, start)
        content = data[start + _FRAME.size : start + _FRAME.size + page]
        good = (one, two) == (salt1, salt2) and _add(data[start : start + 8] + content, before, order) == tuple(sums)
        before = (sums[0], sums[1])
        if not good:
            left_out += (one, two) == (salt1, salt2)
            continue
        head = struct.pack(">2I", number, size)
        last = _add(head + content, last, order)
        mended.append(_FRAME.pack(number, size, salt1, salt2, *last) + content)
    target.write_bytes(b"".join(mended))
    return left_out


def _add(data: bytes, sums: Sums, order: str) -> Sums:
    a, b = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for x, y in zip(words[::2], words[1::2], strict=True):
        a = (a + x + b) & 0xFFFFFFFF
        b = (b + y + a) & 0xFFFFFFFF
    return a, b
