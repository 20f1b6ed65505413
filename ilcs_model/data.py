"""Labelled images: which files belong to which class and split, and batches of tiles made from them."""

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import msgspec
import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Tensor

from ilcs_model.errors import DataError
from ilcs_model.info import Recipe

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp"}
HELD_OUT = 0.1  # share of each class kept for testing where the folder names no split
CELL = 8  # side in pixels of what one value of a network's map stands for
KEPT = 0.6  # share of a mask that a random crop must keep
_TRIES = 6
Tile = NDArray[np.uint8]


class Batch(NamedTuple):
    """What a network learns from at once."""

    tiles: Tensor
    """uint8 (N, 1, S, S)."""
    labels: Tensor
    """int64 (N,)."""
    maps: Tensor | None
    """float32 (N, S // 8, S // 8), 1 where the defect is, 0 elsewhere, -1 where it is not known; None: nobody asked."""


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """Files, labels (indices into ``classes``) and the name of the split each file belongs to."""

    root: Path
    classes: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    splits: tuple[str, ...]
    masks: tuple[str, ...] = ()
    """Of each file: an image whose bright pixels are the defect, ``none``: there is none, or empty: not known. () without masks."""

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


def open_dataset(root: Path) -> Dataset:
    """A folder with ``split.csv`` (columns file, class, split; files under ``images/`` or beside it) or class sub-folders.

    Class sub-folders name no split: every tenth image of a class, by name, is held out as ``test``. Raises
    ``DataError`` if there is nothing to train on, a listed file is missing, or a class has no training image.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    rows = _read_split(root) if (root / "split.csv").is_file() else _read_folders(root)
    classes = tuple(sorted({row[1] for row in rows}))
    if len(classes) < 2:
        raise DataError(f"{root}: found {len(classes)} class(es); a classifier needs at least two")
    trained = {label for _, label, split, _ in rows if split == "train"}
    if missing := [c for c in classes if c not in trained]:
        raise DataError(f"{root}: no image of class {', '.join(missing)} in split 'train'")
    return Dataset(
        root=root,
        classes=classes,
        files=tuple(row[0] for row in rows),
        labels=tuple(classes.index(row[1]) for row in rows),
        splits=tuple(row[2] for row in rows),
        masks=tuple(row[3] for row in rows),
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


def read_image(path: Path) -> Tile:
    """One image as grey uint8 (H, W), a damaged JPEG refused as the line does. Raises ``DataError`` naming the file."""
    try:
        data = np.fromfile(path, np.uint8)
        if data[:2].tobytes() == b"\xff\xd8":
            return np.asarray(simplejpeg.decode_jpeg(data, colorspace="GRAY", strict=True)[:, :, 0], np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    except (OSError, ValueError, cv2.error) as exc:
        raise DataError(f"{path}: not a readable image ({exc}); remove it or replace it") from exc
    if image is None:
        raise DataError(f"{path}: not a readable image; remove it or replace it")
    return np.asarray(image, np.uint8)


def to_tile(image: Tile, recipe: Recipe) -> Tile:
    """Grey uint8 (H, W) -> tile (S, S) by the model's recipe."""
    side = recipe.size_px
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)


class Draw(NamedTuple):
    """One random augmentation: a crop of 65-100 % of the area, flips, blur, contrast and brightness."""

    matrix: NDArray[np.float64]
    """(2, 3): pixel centres of the tile -> those of the image; a negative scale is a flip."""
    sigma: float
    """Of the blur in pixels; 0: none."""
    gain: float
    """Contrast about the tile's mean, then"""
    offset: float
    """grey levels added."""
    target: NDArray[np.float32] | None
    """What a map should show of the image's mask after this crop, (S // 8, S // 8); None without a mask."""


def draw(shape: tuple[int, ...], recipe: Recipe, rng: np.random.Generator, mask: Tile | None = None) -> Draw:
    """Draw an augmentation for an image of ``shape`` (H, W); a crop that loses most of its mask is drawn again."""
    side, target = recipe.size_px, None
    for _ in range(_TRIES):
        matrix = _geometry(shape, side, rng)
        if mask is None:
            break
        found = _warp(mask, matrix, side)
        target = target_map(found)
        if np.count_nonzero(found) >= KEPT * np.count_nonzero(mask) * (side / shape[0]) * (side / shape[1]):
            break
    sigma = rng.uniform(0.3, 1.5) if rng.random() < 0.3 else 0.0
    return Draw(matrix, sigma, rng.uniform(0.75, 1.25), rng.uniform(-25, 25), target)


def augment(image: Tile, recipe: Recipe, drawn: Draw) -> Tile:
    """Grey uint8 (H, W) -> tile (S, S) as drawn."""
    tile = _warp(image, drawn.matrix, recipe.size_px)
    if drawn.sigma:
        tile = np.asarray(cv2.GaussianBlur(tile, (0, 0), drawn.sigma), np.uint8)
    middle = float(tile.mean())
    return np.asarray(cv2.convertScaleAbs(np.clip((tile - middle) * drawn.gain + middle + drawn.offset, 0, 255)), np.uint8)


def _geometry(shape: tuple[int, ...], side: int, rng: np.random.Generator) -> NDArray[np.float64]:
    height, width = shape
    scale = np.sqrt(rng.uniform(0.65, 1.0))
    w, h = scale * width, scale * height
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    if rng.random() < 0.5:
        left, w = left + w, -w
    if rng.random() < 0.5:
        top, h = top + h, -h
    sx, sy = w / side, h / side
    return np.array([[sx, 0, left + sx / 2 - 0.5], [0, sy, top + sy / 2 - 0.5]])


def _warp(image: Tile, matrix: NDArray[np.float64], side: int) -> Tile:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REFLECT_101), np.uint8)


def target_map(mask: Tile) -> NDArray[np.float32]:
    """Mask of a tile (S, S) -> the map a network should give, (S // 8, S // 8): 1 where a tenth of the cell is defect."""
    n = mask.shape[0] // CELL
    cells = (mask[: n * CELL, : n * CELL] > 127).reshape(n, CELL, n, CELL)
    return (cells.mean((1, 3)) >= 0.1).astype(np.float32)


def train_batches(data: Dataset, recipe: Recipe, batch: int, seed: tuple[int, ...]) -> Iterator[Batch]:
    """One epoch of augmented, shuffled, full batches; the remainder is left out.

    The same seed gives the same epoch. Batches are made two ahead in a thread.
    """

    def make(group: NDArray[np.int64]) -> Batch:
        images = [read_image(data.files[i]) for i in group]
        drawn = draw_group(data, group, [image.shape for image in images], recipe, seed)
        tiles = [augment(image, recipe, d) for image, d in zip(images, drawn, strict=True)]
        return Batch(torch.from_numpy(np.stack(tiles))[:, None], *answers(data, group, drawn, recipe))

    return ahead(epoch_groups(data, batch, seed), make)


def epoch_groups(data: Dataset, batch: int, seed: tuple[int, ...]) -> list[NDArray[np.int64]]:
    """Indices of the training images in an epoch's order, in full batches; one short batch if there are too few."""
    order = np.random.default_rng(seed).permutation(data.split("train"))
    return [order[k : k + batch] for k in range(0, len(order) - batch + 1, batch)] or [order]


def draw_group(data: Dataset, group: NDArray[np.int64], shapes: list[tuple[int, ...]], recipe: Recipe, seed: tuple[int, ...]) -> list[Draw]:
    """What is drawn for each image of a batch; every image has its own stream of numbers."""
    masks = [_mask(data, int(i), shape) for i, shape in zip(group, shapes, strict=True)]
    streams = [np.random.default_rng((*seed, int(i))) for i in group]
    return [draw(shape, recipe, rng, mask) for shape, rng, mask in zip(shapes, streams, masks, strict=True)]


def answers(data: Dataset, group: NDArray[np.int64], drawn: list[Draw], recipe: Recipe) -> tuple[Tensor, Tensor | None]:
    """Labels of a batch, and its target maps if the data has masks."""
    labels = torch.tensor([data.labels[i] for i in group])
    if not data.locates:
        return labels, None
    cells = (recipe.size_px // CELL, recipe.size_px // CELL)
    blank = {"none": np.zeros(cells, np.float32), "": np.full(cells, -1, np.float32)}
    maps = [blank[data.masks[i]] if d.target is None else d.target for i, d in zip(group, drawn, strict=True)]
    return labels, torch.from_numpy(np.stack(maps))


def ahead(groups: list[NDArray[np.int64]], make: Callable[[NDArray[np.int64]], Batch]) -> Iterator[Batch]:
    """Make batches in a thread, two before they are asked for."""
    with ThreadPoolExecutor(1, thread_name_prefix="loader") as pool:
        waiting = [pool.submit(make, g) for g in groups[:2]]
        for k in range(len(groups)):
            ready = waiting.pop(0).result()
            if k + 2 < len(groups):
                waiting.append(pool.submit(make, groups[k + 2]))
            yield ready


def _mask(data: Dataset, index: int, shape: tuple[int, ...]) -> Tile | None:
    """The mask of an image of ``shape``, if it has one. Raises ``DataError`` naming a file of another size."""
    name = data.masks[index] if data.masks else ""
    if name in ("", "none"):
        return None
    mask = read_image(data.root / name)
    if mask.shape != shape:
        (height, width), (h, w) = shape, mask.shape
        raise DataError(f"{data.root / name}: {w} x {h} pixels, but its image {data.files[index].name} has {width} x {height}")
    return mask


def plain_batches(data: Dataset, indices: list[int], recipe: Recipe, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Tiles as the running line would cut them, in the order of ``indices``: uint8 (N, 1, S, S) and int64 (N,)."""
    for k in range(0, len(indices), batch):
        group = indices[k : k + batch]
        tiles = np.stack([to_tile(read_image(data.files[i]), recipe) for i in group])
        yield torch.from_numpy(tiles)[:, None], torch.tensor([data.labels[i] for i in group])
