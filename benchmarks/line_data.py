"""Makes the data that ``ilcs-line`` is trained on: NEU images and crops of them, and tiles of the simulated strip.

    python benchmarks/line_data.py --neu DIR --out line-data
    linepipe train --data line-data --out runs/line --name ilcs-line

The card of ``ilcs-line`` says how the shipped one was trained.

``out`` is a folder that ``linepipe train`` reads (split.csv with masks). Splits: ``train`` (NEU train rows, training seeds),
``val`` (seeds of its own), ``test`` (NEU test rows, whole). The demo's seed and those of ``benchmarks/strip.py`` are in none.
"""

import argparse
import csv
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from nodes.capture.sources.sim import VERSION
from nodes.capture.sources.sim.strip import Strip

TILE = 300
TRAIN_SEEDS, VAL_SEEDS = range(1000, 1100), range(2000, 2010)
FRAMES_PER_SEED, FRAME = 13, (900, 1200)
FAINTEST = 0.13  # contrast below which a planted defect is neither called one in training nor called clean
CROP_PX = (100, 160)  # side of a NEU crop
CLEAN_CLASSES = ("inclusion", "patches", "scratches")  # the others have defects outside their boxes too
Image = NDArray[np.uint8]
Box = tuple[int, int, int, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neu", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    out = _Folder(args.out)
    _neu(out, args.neu)
    for split, seeds in (("train", TRAIN_SEEDS), ("val", VAL_SEEDS)):
        for seed in seeds:
            _strip(out, seed, split)
    out.close({"neu": args.neu.name, "simulator": VERSION, "train_seeds": str(TRAIN_SEEDS), "val_seeds": str(VAL_SEEDS)})


class _Folder:
    """Files under ``images`` and ``masks``, and the rows of split.csv."""

    def __init__(self, root: Path) -> None:
        self._root, self._rows = root, list[tuple[str, str, str, str]]()
        (root / "images").mkdir(parents=True)
        (root / "masks").mkdir()

    def add(self, name: str, image: Image, label: str, split: str, mask: Image | None = None) -> None:
        cv2.imwrite(str(self._root / "images" / name), image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        where = "none" if label == "ok" else ""
        if mask is not None and label != "ok":
            where = f"masks/{name}"
            cv2.imwrite(str(self._root / where), mask)
        self._rows.append((name, label, split, where))

    def close(self, origin: dict[str, str]) -> None:
        with (self._root / "split.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("file", "class", "split", "mask"))
            writer.writerows(self._rows)
        (self._root / "origin.json").write_text(json.dumps(origin, indent=1))


def _neu(out: _Folder, root: Path) -> None:
    """Whole images; of train rows also defect crops of every class and clean crops, cut at the same scales."""
    rng = np.random.default_rng(0)
    with (root / "split.csv").open(newline="") as file:
        rows = [(r["file"], r["class"], r["split"]) for r in csv.DictReader(file)]
    for name, label, split in rows:
        image = np.asarray(cv2.imread(str(root / "images" / name), cv2.IMREAD_GRAYSCALE), np.uint8)
        stem = Path(name).stem
        out.add(f"{stem}.png", image, label, split)
        if split != "train":
            continue
        boxes = _boxes(root / "annotations" / f"{stem}.xml")
        clean = _crop(rng, image, boxes, clean=True) if label in CLEAN_CLASSES else None
        if clean is not None:
            out.add(f"{stem}_clean.png", clean, "ok", split)
        defect = _crop(rng, image, boxes, clean=False)
        if defect is not None:
            out.add(f"{stem}_defect.png", defect, label, split)


def _boxes(path: Path) -> list[Box]:
    found = []
    for box in ET.parse(path).iter("bndbox"):
        left, top, right, bottom = (int(float(box.findtext(k) or 0)) for k in ("xmin", "ymin", "xmax", "ymax"))
        found.append((left, top, right, bottom))
    return found


def _crop(rng: np.random.Generator, image: Image, boxes: list[Box], *, clean: bool) -> Image | None:
    """A square without any box, or with a box's middle in it; None if there seems to be none."""
    height, width = image.shape
    for _ in range(200):
        side = int(rng.integers(CROP_PX[0], CROP_PX[1] + 1))
        x, y = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
        if clean:
            hit = any(x < r and left < x + side and y < b and top < y + side for left, top, r, b in boxes)
        else:
            hit = not any(x < (left + r) / 2 < x + side and y < (top + b) / 2 < y + side for left, top, r, b in boxes)
        if not hit:
            return image[y : y + side, x : x + side]
    return None


def _strip(out: _Folder, seed: int, split: str) -> None:
    """Tiles of some frames of a strip: as many with a defect in them as there are windows to be had, and as many clean."""
    rng, width, height = np.random.default_rng((seed, 99)), *FRAME
    strip = Strip(seed, width, height)
    for frame in range(FRAMES_PER_SEED):
        picture, mask = strip.render(frame), strip.mask(frame)
        wanted = 1
        defects = [d for d in strip.labels(frame) if d[2] >= FAINTEST]
        for k, (label, (x, y, w, h), _) in enumerate(2 * defects):
            left = int(np.clip(_column(rng, x + w // 2, width), 0, width - TILE))
            top = int(np.clip(y + h // 2 - rng.integers(-20, TILE + 20), 0, height - TILE))
            window = np.s_[top : top + TILE, left : left + TILE]
            if _visible(mask[window], (x - left, y - top, w, h)):
                out.add(f"s{seed}_{frame}_{k}.png", picture[window], label, split, mask[window])
                wanted += 1
        for k in range(4 * wanted):
            left, top = _column(rng, int(rng.integers(0, width)), width), int(rng.integers(0, height - TILE + 1))
            window = np.s_[top : top + TILE, left : left + TILE]
            if wanted and not mask[window].any():
                out.add(f"s{seed}_{frame}_ok{k}.png", picture[window], "ok", split)
                wanted -= 1


def _column(rng: np.random.Generator, x: int, width: int) -> int:
    """Where a window with column ``x`` in it may begin; one in three lies at the nearer border of the frame."""
    if rng.random() < 0.33:
        return 0 if x < TILE else width - TILE if x >= width - TILE else int(np.clip(x - rng.integers(0, TILE), 0, width - TILE))
    return int(np.clip(x - rng.integers(0, TILE), 0, width - TILE))


def _visible(mask: Image, box: Box) -> bool:
    """Whether enough of the defect lies in the window: 10 px of it in one direction, and 30 pixels in all."""
    x, y, w, h = box
    part = mask[max(0, y) : max(0, y + h), max(0, x) : max(0, x + w)]
    if part.size == 0:
        return False
    longest = max(np.ptp(np.flatnonzero(part.any(axis))) + 1 if part.any() else 0 for axis in (0, 1))
    return bool(longest >= 10 and np.count_nonzero(part) >= 30)


if __name__ == "__main__":
    main()
