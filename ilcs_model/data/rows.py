"""What every kind of data set is read into: one row an image. And the rules that all kinds share."""

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ilcs_model.errors import DataError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
SPLITS = ("train", "val", "test")
OK = "ok"  # the class of an image without a defect
_EVERY = 10  # of a class's images, by name, one is held out where the data set names no split

Box = tuple[float, float, float, float]
Size = tuple[float, float]
"""Width, height in pixels."""


class Row(NamedTuple):
    """One image of a data set."""

    file: Path
    label: str
    split: str
    """``""`` until ``hold_out`` gives it one."""
    where: str
    """The place that names the image, for messages: ``split.csv:5``."""
    mask: str = ""
    boxes: tuple[Box, ...] | None = None
    size: Size | None = None
    """Of the image when its boxes were drawn, if that was noted."""


def hold_out(rows: Iterable[Row]) -> list[Row]:
    """Rows without splits get them: every tenth image of a class, by name, is ``test``."""
    classes: defaultdict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.file):
        classes[row.label].append(row)
    return [row._replace(split="test" if k % _EVERY == _EVERY - 1 else "train") for of in classes.values() for k, row in enumerate(of)]


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, by name, without hidden files. Raises ``DataError`` for a link that leads nowhere."""
    try:
        found = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError as exc:
        raise DataError(f"{folder}: cannot be listed ({exc.strerror})") from exc
    for path in found:
        if path.is_symlink() and not path.exists():
            raise DataError(f"{path}: a link that leads nowhere; remove it")
    return found


def images_in(folder: Path) -> list[Path]:
    """Files of a folder that look like images, by name."""
    return [p for p in visible(folder) if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]


def inside(base: Path, name: str, where: str) -> Path:
    """``name`` as a path below ``base``. Raises ``DataError`` for one that leads elsewhere."""
    if os.path.isabs(name) or ".." in Path(name).parts:
        raise DataError(f"{where}: {name!r} leads out of the data folder; name files by their path within {base}")
    return base / name


def is_file(path: Path) -> bool:
    """Whether a file is there and can be asked for: a name may be too long, or a folder closed."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """The same of a folder."""
    try:
        return path.is_dir()
    except OSError:
        return False


def several(names: list[str], most: int = 10) -> str:
    """Names in a sentence, the first ones of many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
