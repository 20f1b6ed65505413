"""Pascal-VOC and COCO annotation sets. These files come from outside: everything in them is checked."""

import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ilcs_model.data.rows import OK, SPLITS, Box, Row, Size, images_in, inside, is_file, several, visible
from ilcs_model.errors import DataError

MAX_XML_BYTES = 4 << 20  # of one image's annotation

Found = list[tuple[str, Box]]  # class and box (x, y, w, h in pixels) of each defect of an image


class VocFile(NamedTuple):
    """One image's annotation."""

    found: Found
    size: Size | None
    """Of the image as the file notes it; None if it does not, or notes 0."""


class _Builder(ET.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        # Entities can be declared nowhere else; a few that name each other fill any memory.
        raise ValueError("it has a DOCTYPE, which annotations do not need; remove it")


def voc_file(path: Path) -> VocFile:
    """Classes, boxes and image size of a VOC file.

    A VOC file counts pixels from 1, and both corners belong to the box: (1, 1, 8, 8) becomes (0, 0, 8, 8). Raises ``DataError``
    naming the file if it cannot be read, is over 4 MiB, has a DOCTYPE, or has a wrong box.
    """
    try:
        if path.stat().st_size > MAX_XML_BYTES:
            raise ValueError(f"over {MAX_XML_BYTES >> 20} MiB, far more than an image's boxes need")
        root = ET.fromstring(path.read_bytes(), ET.XMLParser(target=_Builder()))
        found = [_voc_object(element, number) for number, element in enumerate(root.findall("object"), start=1)]
    except (OSError, ET.ParseError, LookupError, ValueError) as exc:
        raise DataError(f"{path}: not a readable VOC annotation: {exc}") from exc
    return VocFile(found, _size(root.findtext("size/width"), root.findtext("size/height")))


def _voc_object(element: ET.Element, number: int) -> tuple[str, Box]:
    name = (element.findtext("name") or "").strip()
    try:
        left, top, right, bottom = (float(element.findtext(f"bndbox/{side}") or "") for side in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        raise ValueError(f"object {number} has no bndbox of four numbers") from None
    return name, _box(f"object {number}", left - 1, top - 1, right - left + 1, bottom - top + 1)


def _box(what: str, x: float, y: float, w: float, h: float) -> Box:
    if not (isfinite(x + y + w + h) and w > 0 and h > 0):
        raise ValueError(f"the box of {what} encloses nothing")
    return x, y, w, h


def _size(width: Any, height: Any) -> Size | None:
    """A noted size; None for what is none: some tools write 0."""
    try:
        size = float(width), float(height)
    except (TypeError, ValueError):
        return None
    return size if min(size) > 0 else None


def label_of(found: Found) -> str:
    """The class whose boxes have the largest total area, of equals the first by name; ``ok`` where there is no box."""
    area: defaultdict[str, float] = defaultdict(float)
    for name, (_, _, w, h) in found:
        area[name] += w * h
    return max(sorted(area), key=area.__getitem__) if area else OK


def of_several_classes(images: list[Found], label: str = "take the class with the largest area") -> list[str]:
    """One remark on images whose boxes are not all of one class, or [] if there are none. ``label`` ends its sentence."""
    count = sum(len({name for name, _ in found}) > 1 for found in images)
    return [f"{count} images have boxes of several classes; they {label}"] if count else []


def voc_folders(root: Path) -> tuple[Path, Path] | None:
    """Folders of annotations and of images, if ``root`` is a VOC set, else None.

    These are ``Annotations`` and ``JPEGImages``, or ``annotations`` and ``images``, the first with at least one ``.xml``.
    """
    for xml, images in (("Annotations", "JPEGImages"), ("annotations", "images")):
        if (root / images).is_dir() and (root / xml).is_dir() and any((root / xml).glob("*.xml")):
            return root / xml, root / images
    return None


def read_voc(root: Path, folders: tuple[Path, Path]) -> tuple[list[Row], list[str]]:
    """Rows and remarks of a VOC set; ``folders`` are those of ``voc_folders``.

    Splits are those of the lists in ``ImageSets/Main``. Without such lists every annotated image is a row without a split
    (``""``). Raises ``DataError`` naming the file for a list or an annotation that cannot be read, for a listed image without
    file or annotation, for one in two splits, and for two images with one annotation.
    """
    annotations = {p.stem: p for p in visible(folders[0]) if p.suffix.lower() == ".xml"}
    images: dict[str, Path] = {}
    for path in images_in(folders[1]):
        if path.stem in images:
            raise DataError(f"{path} and {images[path.stem].name} share one annotation; rename or remove one")
        images[path.stem] = path
    lists = _voc_lists(root / "ImageSets" / "Main")
    wanted = lists or {name: ("", str(path)) for name, path in annotations.items()}
    rows, found = [], []
    for name, (split, where) in wanted.items():
        for what, known, folder in (("image", images, folders[1]), ("annotation", annotations, folders[0])):
            if name not in known:
                raise DataError(f"{where}: {name!r} has no {what} in {folder.name}")
        of, size = voc_file(annotations[name])
        found.append(of)
        rows.append(Row(images[name], label_of(of), split, where, boxes=tuple(box for _, box in of), size=size))
    remarks = of_several_classes(found)
    if left := sorted(images.keys() - wanted.keys()):
        why = "are in no list of ImageSets/Main" if lists else "have no annotation"
        remarks.append(f"{len(left)} images {why} and are left out: {several(left)}")
    return rows, remarks


def _voc_lists(folder: Path) -> dict[str, tuple[str, str]]:
    """Split of each image that the lists name, and file and line that name it; images only in ``trainval`` are ``train``."""
    found: dict[str, tuple[str, str]] = {}
    for split in (*SPLITS, "trainval"):
        path = folder / f"{split}.txt"
        if not path.is_file():
            continue
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            raise DataError(f"{path}: not readable as UTF-8 text ({exc})") from exc
        for number, line in enumerate(lines, start=1):
            if not (words := line.split()):
                continue
            before = found.get(words[0])
            if split == "trainval" and before and before[0] != "test":
                continue
            if before:
                raise DataError(f"{path}:{number}: {words[0]} is listed already in {before[1]}; an image belongs to one split")
            found[words[0]] = "train" if split == "trainval" else split, f"{path}:{number}"
    return found


class _Image(msgspec.Struct):
    id: int | str
    file_name: str
    width: Any = None
    height: Any = None


class _Category(msgspec.Struct):
    id: int | str
    name: str


class _Annotation(msgspec.Struct):
    image_id: int | str
    category_id: int | str
    bbox: Box


class _Coco(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def coco_files(root: Path) -> list[Path]:
    """JSON files in a data folder or in its ``annotations`` that are COCO sets of boxes; [] if there are none.

    Raises ``DataError`` for a file ``*.json`` there that cannot be read or is not JSON, and for an incomplete COCO set if no
    file there is a complete one (captions, for example, have no categories).
    """
    missing = {
        p: lacks for pattern in ("*.json", "annotations/*.json") for p in sorted(root.glob(pattern)) if (lacks := _lacks(p)) is not None
    }
    whole = [path for path, lacks in missing.items() if not lacks]
    if missing and not whole:
        path, lacks = next(iter(missing.items()))
        raise DataError(f"{path}: looks like a COCO set but has no {', '.join(lacks)}; complete it or move it away")
    return whole


def _lacks(path: Path) -> list[str] | None:
    """The parts that a COCO set lacks, [] if it is complete; None for a file that is not a COCO set."""
    if path.name.startswith(".") or not path.is_file():
        return None
    try:
        keys = msgspec.json.decode(path.read_bytes(), type=dict[str, msgspec.Raw]).keys()
    except msgspec.ValidationError:
        return None
    except (OSError, msgspec.DecodeError, ValueError, RecursionError) as exc:
        raise DataError(f"{path}: not readable JSON ({exc}); repair it or move it away") from exc
    return [name for name in _Coco.__struct_fields__ if name not in keys] if {"images", "annotations"} & keys else None


def read_coco(root: Path, files: list[Path]) -> tuple[list[Row], list[str]]:
    """Rows and remarks of a COCO set; ``files`` are those of ``coco_files``.

    The split is the word train, val or test in a file's name (``instances_val2017``). If there is one file only and its name
    has none of these words, the rows have no split. Raises ``DataError`` naming the file for a
    set that cannot be read or contradicts itself, for a missing image, and for one of several files that names no split.
    """
    rows: list[Row] = []
    found: list[Found] = []
    for path in files:
        split = re.search(r"(?<![a-z])(train|val|test)(?![a-z])", path.stem.lower())
        more, of = _read_coco_file(root, path, split[0] if split else "")
        rows, found = rows + more, found + of
    unnamed = sorted({row.where.partition(":")[0] for row in rows if not row.split})
    if unnamed and len(files) > 1:
        raise DataError(f"{root}: {unnamed[0]} names no split; put train, val or test into its name")
    return rows, of_several_classes(found)


def _read_coco_file(root: Path, path: Path, split: str) -> tuple[list[Row], list[Found]]:
    try:
        coco = msgspec.json.decode(path.read_bytes(), type=_Coco)
    except (OSError, msgspec.DecodeError, ValueError, RecursionError) as exc:
        raise DataError(f"{path}: not a COCO set of boxes ({exc})") from exc
    names = {category.id: category.name for category in coco.categories}
    boxes: dict[int | str, Found] = {image.id: [] for image in coco.images}
    for what, known, listed in (("images", boxes, coco.images), ("categories", names, coco.categories)):
        if len(known) < len(listed):
            raise DataError(f"{path}: two {what} have the same id; ids must be unique")
    for number, annotation in enumerate(coco.annotations):
        where = f"annotations[{number}]"
        if annotation.image_id not in boxes or annotation.category_id not in names:
            raise DataError(f"{path}: {where} names an image or a category that the file does not have")
        try:
            boxes[annotation.image_id].append((names[annotation.category_id], _box(where, *annotation.bbox)))
        except ValueError as exc:
            raise DataError(f"{path}: {exc}") from exc
    # COCO's own layout: instances_train2017.json beside a folder train2017.
    folders = [root, root / "images", root / path.stem.split("_")[-1], root / "images" / path.stem.split("_")[-1]]
    rows = []
    for image in coco.images:
        where = f"{path.name}: image {image.id}"
        file = next((p for folder in folders if is_file(p := inside(folder, image.file_name, where))), None)
        if file is None:
            raise DataError(f"{where}: no {image.file_name} in {several([str(f) for f in folders])}")
        of = boxes[image.id]
        boxes_of = tuple(box for _, box in of)
        rows.append(Row(file, label_of(of), split, where, boxes=boxes_of, size=_size(image.width, image.height)))
    return rows, list(boxes.values())
