"""Labelled images: which files belong to which class and split."""

import csv
import hashlib
from collections import Counter
from pathlib import Path

import msgspec

from ilcs_model.errors import DataError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp"}
HELD_OUT = 0.1  # share of each class kept for testing where the folder names no split

Box = tuple[float, float, float, float]


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """Files, labels (indices into ``classes``) and the name of the split each file belongs to."""

    root: Path
    classes: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    splits: tuple[str, ...]
    masks: tuple[str, ...] = ()
    """Of each file: an image whose bright pixels are the defect, ``none``: there is none, or empty: not known. () without masks."""

    boxes: tuple[tuple[Box, ...] | None, ...] = ()
    """Of each file: boxes of its defects in pixels of the image (x, y, w, h), None: not known. () without any."""

    names_split: bool = True
    """False: the folder says nothing of splits, and every tenth image was held out."""

    @property
    def locates(self) -> bool:
        """Whether there is anything to learn of where defects lie."""
        return any(self.masks)

    def split(self, name: str) -> list[int]:
        """Indices of the files of one split."""
        return [i for i, s in enumerate(self.splits) if s == name]

    def summary(self) -> dict[str, object]:
        """What a model's metadata says of its data: name, counts per split and class, digest of the train rows."""
        counts = Counter(zip(self.splits, self.labels, strict=True))
        rows = sorted(f"{self.files[i].name},{self.labels[i]}" for i in self.split("train"))
        return {
            "name": self.root.resolve().name,
            "images": {s: {c: counts[s, k] for k, c in enumerate(self.classes)} for s in sorted(set(self.splits))},
            "train_rows": "sha256:" + hashlib.sha256("\n".join(rows).encode()).hexdigest(),
            **({"origin": msgspec.json.decode(origin.read_bytes())} if (origin := self.root / "origin.json").is_file() else {}),
        }


def open_dataset(root: Path, *, to_train: bool = True) -> Dataset:
    """A folder with ``split.csv`` (columns file, class, split; files under ``images/`` or beside it) or class sub-folders.

    Class sub-folders name no split: every tenth image of a class, by name, is held out as ``test``. Raises
    ``DataError`` if a listed file is missing or there are no images, and, with ``to_train``, if there are fewer than two
    classes or a class has no training image.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    names_split = (root / "split.csv").is_file()
    rows = _read_split(root) if names_split else _read_folders(root)
    classes = tuple(sorted({row[1] for row in rows}))
    if not classes:
        raise DataError(f"{root}: no images found; it needs one sub-folder a class, or split.csv")
    if to_train and len(classes) < 2:
        raise DataError(f"{root}: found {len(classes)} class(es); a classifier needs at least two")
    trained = {label for _, label, split, _ in rows if split == "train"}
    if to_train and (missing := [c for c in classes if c not in trained]):
        raise DataError(f"{root}: no image of class {', '.join(missing)} in split 'train'")
    return Dataset(
        root=root,
        classes=classes,
        files=tuple(row[0] for row in rows),
        labels=tuple(classes.index(row[1]) for row in rows),
        splits=tuple(row[2] for row in rows),
        masks=tuple(row[3] for row in rows),
        names_split=names_split,
    )


def _read_split(root: Path) -> list[tuple[Path, str, str, str]]:
    base = root / "images" if (root / "images").is_dir() else root
    rows = []
    with (root / "split.csv").open(newline="") as file:
        for line, row in enumerate(csv.DictReader(file), start=2):
            try:
                path, label, split, mask = base / row["file"], row["class"], row["split"], row.get("mask") or ""
            except KeyError as exc:
                raise DataError(f"{root}/split.csv: no column {exc}; it needs file, class, split") from None
            if not path.is_file():
                raise DataError(f"{root}/split.csv:{line}: {path} does not exist")
            if not label:
                raise DataError(f"{root}/split.csv:{line}: {row['file']} has no class")
            if mask not in ("", "none") and not (root / mask).is_file():
                raise DataError(f"{root}/split.csv:{line}: {root / mask} does not exist")
            rows.append((path, label, split, mask))
    return rows


def _read_folders(root: Path) -> list[tuple[Path, str, str, str]]:
    rows = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir()):
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        every = round(1 / HELD_OUT)
        rows += [(f, folder.name, "test" if k % every == every - 1 else "train", "") for k, f in enumerate(files)]
    return rows
