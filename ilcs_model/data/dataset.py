"""Labelled images: which files belong to which class and split, and where their defects are."""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from math import ceil, floor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ilcs_model.data.coco_and_voc import Found, coco_files, of_several_classes, read_coco, read_voc, voc_file, voc_folders
from ilcs_model.data.images import Tile, read_image
from ilcs_model.data.rows import IMAGE_SUFFIXES, SPLITS, Box, Row, Size, hold_out, images_in, inside, is_file, is_folder, several, visible
from ilcs_model.errors import DataError
from ilcs_model.info import class_problem

__all__ = ["Box", "Dataset", "open_dataset"]

COLUMNS = ("file", "class", "split")
ORIGIN = "origin.json"


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """Files, labels (indices into ``classes``) and the name of the split each file belongs to."""

    root: Path
    classes: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    splits: tuple[str, ...]
    masks: tuple[str, ...] = ()
    """Of each file the mask, an image whose pixels above 127 are the defect, as a path below ``root``. ``none``: the file shows
    no defect; an empty string: not known. () stands for: not known of any file."""

    boxes: tuple[tuple[Box, ...] | None, ...] = ()
    """Of each file the boxes of its defects in pixels of the image (x, y, w, h); None: not known. (): not known of any file."""

    sizes: tuple[Size | None, ...] = ()
    """Of each file the width and height of the image when its boxes were drawn; None: not noted. (): not noted of any file."""

    remarks: tuple[str, ...] = ()
    """What a user of the data should know: what was left out, what is missing."""

    names_split: bool = True
    """False: the folder names no splits, and every tenth image was held out."""

    @property
    def locates(self) -> bool:
        """Whether any file has a mask, ``none`` or a box, so that a network can learn where defects are."""
        return any(self.masks) or any(self.boxes)

    def split(self, name: str) -> list[int]:
        """Indices into ``files`` of one split; [] if no file belongs to it."""
        return [i for i, s in enumerate(self.splits) if s == name]

    def summary(self) -> dict[str, object]:
        """What a model's metadata says of its data: ``name``, ``images`` per split and class, ``train_rows``, perhaps ``origin``.

        ``train_rows`` is the digest of the train files' names and labels. ``origin`` is the content of ``origin.json`` in the
        data folder, if that file is there; it is read now. Raises ``DataError`` if it is not readable JSON.
        """
        counts = Counter(zip(self.splits, self.labels, strict=True))
        rows = sorted(f"{self.files[i].name},{self.labels[i]}" for i in self.split("train"))
        return {
            "name": self.root.resolve().name,
            "images": {s: {c: counts[s, k] for k, c in enumerate(self.classes)} for s in sorted(set(self.splits))},
            "train_rows": "sha256:" + hashlib.sha256("\n".join(rows).encode()).hexdigest(),
            **_origin(self.root),
        }


def open_dataset(root: Path, *, for_training: bool = True) -> Dataset:
    """Read which images a data folder has, with their classes, splits, masks and boxes.

    The folder may have one of four layouts; the first that fits is taken:
    1. ``split.csv`` with the columns file, class, split and perhaps mask. The images are in ``images/`` if there is such a
       folder, else beside it; VOC files in ``annotations/`` give boxes.
    2. A Pascal-VOC set, see ``coco_and_voc.voc_folders``.
    3. A COCO set: ``*.json`` in the folder or in ``annotations/``, see ``coco_and_voc.coco_files``.
    4. One sub-folder of images for each class, or sub-folders ``train``, ``val`` and ``test`` that have these.
    Where nothing names a split, every tenth image of a class, by name, is held out as ``test``.

    Without ``for_training`` the images need no split ``train`` and one class is enough. No image is opened: that is what
    ``check.check_images`` does. Raises ``DataError`` naming file, line or class if the data is wrong, incomplete or not to be read.
    """
    if not is_folder(root):
        raise DataError(f"{root}: no such folder, or none that this user may see")
    rows, remarks = _read(root)
    if not (names_split := all(row.split for row in rows)):
        rows = hold_out(rows)
    classes = tuple(sorted({row.label for row in rows}))
    _check_rows(root, rows, remarks)
    _origin(root)  # now rather than when the model is written
    if for_training:
        remarks = remarks + _check_training(root, classes, rows, remarks)
    return Dataset(
        root=root,
        classes=classes,
        files=tuple(row.file for row in rows),
        labels=tuple(classes.index(row.label) for row in rows),
        splits=tuple(row.split for row in rows),
        masks=tuple(row.mask for row in rows),
        boxes=tuple(row.boxes for row in rows),
        sizes=tuple(row.size for row in rows),
        remarks=tuple(remarks),
        names_split=names_split,
    )


def _read(root: Path) -> tuple[list[Row], list[str]]:
    if is_file(root / "split.csv"):
        return _read_split(root)
    if folders := voc_folders(root):
        return read_voc(root, folders)
    if files := coco_files(root):
        return read_coco(root, files)
    rows, remarks = _read_folders(root)
    if left := [p.name for p in visible(root) if p.suffix == ".json" and p.name != ORIGIN]:
        remarks.append(f"{several(left)}: not a COCO set, left out")
    return rows, remarks


def _check_rows(root: Path, rows: list[Row], remarks: list[str]) -> None:
    if not rows:
        kinds = "one sub-folder of images a class, split.csv, a VOC or a COCO set"
        known = f"no images found; a data folder has {kinds}; images are {', '.join(sorted(IMAGE_SUFFIXES))}"
        raise DataError("; ".join([f"{root}: {known}", *remarks]))
    seen: dict[Path, Row] = {}
    for row in rows:
        if problem := class_problem(row.label):
            raise DataError(f"{row.where}: class {row.label!r} {problem}; rename it")
        if not str(row.file).isprintable():  # nor are bytes that are not UTF-8
            raise DataError(f"{str(row.file)!r}: a file's name must be printable UTF-8; rename it")
        before = seen.setdefault(row.file, row)
        if before is not row:
            splits = "" if before.split == row.split else f", once in {before.split} and once in {row.split}"
            raise DataError(f"{row.where}: {row.file.name} is listed already in {before.where}{splits}; an image belongs to one split")


def _check_training(root: Path, classes: Sequence[str], rows: list[Row], remarks: list[str]) -> list[str]:
    """Remarks on the splits. Raises ``DataError``, which repeats ``remarks``, for what cannot be trained on."""
    if len(classes) < 2:
        problem = f"{root}: one class only, {classes[0]}; a classifier needs at least two (ok: clean material)"
        raise DataError("; ".join([problem, *remarks]))
    of = {split: {row.label for row in rows if row.split == split} for split in SPLITS}
    if missing := [c for c in classes if c not in of["train"]]:
        raise DataError(f"{root}: no image of class {', '.join(missing)} in split 'train'; add some, or leave the class out")
    if not of["test"]:
        return ["no images in split 'test': nothing will tell how good the model is"]
    untested = [c for c in classes if c not in of["test"]]
    return [f"no image of class {several(untested)} in split 'test'"] if untested else []


def _read_split(root: Path) -> tuple[list[Row], list[str]]:
    table = root / "split.csv"
    rows: list[Row] = []
    found: list[Found] = []
    try:
        text = table.read_text(encoding="utf-8-sig")
    except OSError as exc:
        raise DataError(f"{table}: cannot be read ({exc.strerror})") from exc
    except UnicodeDecodeError as exc:
        raise DataError(f"{table}: not UTF-8 ({exc.reason}, byte {exc.start}); save it as UTF-8") from exc
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        _check_columns(table, reader.fieldnames or [])
        for cells in reader:
            row = _row(root, cells, f"{table}:{reader.line_num}")
            # As many sets have it: images/a.jpg, annotations/a.xml.
            if is_file(xml := (root / "annotations" / cells["file"]).with_suffix(".xml")):
                of, size = voc_file(xml)
                found.append(of)
                row = row._replace(boxes=tuple(box for _, box in of), size=size)
            rows.append(row)
    except csv.Error as exc:
        raise DataError(f"{table}:{reader.reader.line_num}: not a line of CSV ({exc})") from exc
    return rows, of_several_classes(found, "keep the class that split.csv gives them")


def _check_columns(table: Path, names: Sequence[str]) -> None:
    if missing := [c for c in COLUMNS if c not in names]:
        raise DataError(f"{table}: no column {missing[0]!r}; it needs {', '.join(COLUMNS)} and may have mask; it has {', '.join(names)}")
    allowed = [*COLUMNS, "mask"]
    if len(set(names)) < len(names) or set(names) - set(allowed):
        wrong = [c for k, c in enumerate(names) if c not in allowed or c in names[:k]]
        raise DataError(f"{table}: column {wrong[0]!r} is unknown or there twice; the columns are {', '.join(allowed)}")


def _row(root: Path, cells: dict[str, str], where: str) -> Row:
    values: dict[Any, Any] = cells  # DictReader puts cells without a header under None, and None where a cell is missing
    if None in values or None in values.values():
        raise DataError(f"{where}: has not as many cells as the first line")
    name, label, split, mask = cells["file"], cells["class"], cells["split"], cells.get("mask", "")
    path = inside(root / "images" if (root / "images").is_dir() else root, name, where)
    if not is_file(path):
        raise DataError(f"{where}: {path} does not exist")
    if not label:
        raise DataError(f"{where}: {name} has no class")
    if split not in SPLITS:
        raise DataError(f"{where}: no split {split!r}; splits are {', '.join(SPLITS)}")
    if mask not in ("", "none") and not is_file(inside(root, mask, where)):
        raise DataError(f"{where}: {root / mask} does not exist")
    return Row(path, label, split, where, mask)


def _read_folders(root: Path) -> tuple[list[Row], list[str]]:
    """Class sub-folders; or ``train`` and others of the splits' names, with class sub-folders each."""
    folders = [p for p in visible(root) if p.is_dir()]
    if not folders or any(p.name not in SPLITS or images_in(p) for p in folders):
        rows, remarks = _read_classes(folders, "")
        return rows, remarks
    parts = [_read_classes([p for p in visible(folder) if p.is_dir()], folder.name) for folder in folders]
    return [row for rows, _ in parts for row in rows], [remark for _, remarks in parts for remark in remarks]


def _read_classes(folders: list[Path], split: str) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    left: list[Path] = []
    empty = []
    for folder in folders:
        files = images_in(folder)
        left += [p for p in visible(folder) if p not in set(files) and p.suffix != ".part"]
        rows += [Row(file, folder.name, split, str(file)) for file in files]
        if not files:
            empty.append(str(folder))
    remarks = []
    if empty:
        remarks.append(f"no images in {several(empty)}: not taken as a class")
    if left:
        remarks.append(f"{len(left)} files or folders in class folders are not images and are left out: {several([str(p) for p in left])}")
    return rows, remarks


def _origin(root: Path) -> dict[str, object]:
    """The content of ``origin.json``, which says what made the data; {} if there is no such file. Raises ``DataError``."""
    path = root / ORIGIN
    if not path.is_file():
        return {}
    try:
        return {"origin": msgspec.json.decode(path.read_bytes())}
    except (OSError, msgspec.DecodeError, ValueError, RecursionError) as exc:
        raise DataError(f"{path}: not readable JSON ({exc}); repair it or move it away") from exc


def mask_of(data: Dataset, index: int, shape: tuple[int, ...]) -> Tile | None:
    """The mask of an image of ``shape`` (H, W, ...): uint8 (H, W), above 127 where a defect is.

    Without a mask file every pixel that a box touches is 255. None: the image shows no defect, or it is not known where
    (``is_clean`` tells which). Raises ``DataError`` naming a mask file that cannot be read or has another size.
    """
    name = data.masks[index] if data.masks else ""
    if name == "none":
        return None
    height, width = shape[:2]
    if not name:
        boxes = data.boxes[index] if data.boxes else None
        return _filled(boxes, height, width) if boxes else None
    mask = read_image(data.root / name)
    if mask.shape != (height, width):
        h, w = mask.shape
        raise DataError(f"{data.root / name}: {w} x {h} pixels, but its image {data.files[index].name} has {width} x {height}")
    return mask


def is_clean(data: Dataset, index: int) -> bool:
    """Whether it is known that an image shows no defect: its mask is ``none``, or it was annotated and has no box."""
    name = data.masks[index] if data.masks else ""
    return name == "none" or (not name and bool(data.boxes) and data.boxes[index] == ())


def _filled(boxes: tuple[tuple[float, float, float, float], ...], height: int, width: int) -> Tile:
    mask = np.zeros((height, width), np.uint8)
    for x, y, w, h in boxes:
        mask[max(0, floor(y)) : max(0, ceil(y + h)), max(0, floor(x)) : max(0, ceil(x + w))] = 255
    return mask
