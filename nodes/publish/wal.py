"""SQLite's log with damaged frames left out.

SQLite reads its log up to the first frame whose checksum is wrong, and drops all that follows. Each frame's checksum
builds on that of the frame before, and both are stored: so every frame can be judged by itself, and the good ones put
together again. The format is described at https://www.sqlite.org/fileformat2.html#walformat.
"""

import struct
from pathlib import Path

_HEADER, _FRAME = struct.Struct(">8I"), struct.Struct(">6I")
_BIG_ENDIAN = 0x377F0683
Sums = tuple[int, int]


def mend_log(source: Path, target: Path) -> int:
    """Write the good frames of a log to ``target``; returns how many were left out."""
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
