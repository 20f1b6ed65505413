"""A file that is there whole or not at all, also after a power loss."""

import os
from pathlib import Path


def write_durable(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace a file in one step; when this returns, the disk has it. Raises ``OSError``."""
    part = part_of(path)
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def part_of(path: Path) -> Path:
    """The file beside ``path`` that takes its place."""
    return path.with_name(f".{path.name}.part")
