"""Every kind of data set is read into rows, one for each image. And the rules that all kinds share."""

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ilcs_model.errors import DataError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
SPLITS = ("train", "val", "test")
OK = "ok"  # the class of an image without a defect
_EVERY = 10  # where the data set names no split, one of so many images of a class, by name, is held out

Box = tuple[float, float, float, float]
"""x, y, width, height in pixels of the image; the first pixel begins at 0, 0."""
Size = tuple[float, float]
"""Width, height in pixels."""


class Row(NamedTuple):
    """One image of a data set."""

    file: Path
    label: str
    split: str
    """An empty string until ``hold_out`` gives it one."""
    where: str
    """The place that names the image, for messages: ``split.csv:5``."""
    mask: str = ""
    """As in ``Dataset.masks``."""
    boxes: tuple[Box, ...] | None = None
    """None: not known; (): no defect."""
    size: Size | None = None
    """Of the image when its boxes were drawn; None if that was not noted."""


def hold_out(rows: Iterable[Row]) -> list[Row]:
    """Give every row a split: every tenth image of a class, by its path, is ``test``, the others ``train``.

    A split that a row has already is replaced. The rows come back class by class. A class of fewer than ten has no ``test``.
    """
    classes: defaultdict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.file):
        classes[row.label].append(row)
    return [row._replace(split="test" if k % _EVERY == _EVERY - 1 else "train") for of in classes.values() for k, row in enumerate(of)]


def visible(folder: Path) -> list[Path]:
    """What is in a folder, sorted by name, without hidden entries.

    Raises ``DataError`` for a folder that cannot be listed, and for a link that leads nowhere.
    """
    try:
        found = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError as exc:
        raise DataError(f"{folder}: cannot be listed ({exc.strerror})") from exc
    for path in found:
        if path.is_symlink() and not path.exists():
            raise DataError(f"{path}: a link that leads nowhere; remove it")
    return found


def images_in(folder: Path) -> list[Path]:
    """Files of a folder whose suffix is that of an image, sorted by name. Raises ``DataError`` as ``visible`` does."""
    return [p for p in visible(folder) if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]


def inside(base: Path, name: str, where: str) -> Path:
    """``name`` as a path below ``base``; whether it exists is not checked.

    Raises ``DataError``, which begins with ``where``, if the name is absolute or has ``..`` in it.
    """
    if os.path.isabs(name) or ".." in Path(name).parts:
        raise DataError(f"{where}: {name!r} leads out of the data folder; name files by their path within {base}")
    return base / name


def is_file(path: Path) -> bool:
    """Whether this is a file. False also where the system does not say: the name is too long, or the folder is closed to us."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Whether this is a folder. False also where the system does not say, as in ``is_file``."""
    try:
        return path.is_dir()
    except OSError:
        return False


def several(names: list[str], most: int = 10) -> str:
    """Up to ``most`` names, with commas between them, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
