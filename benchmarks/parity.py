"""Whether deployed engines give what the trained network gives, on every image of a data set; speed beside it.

    python benchmarks/parity.py [--data DIR] [--model ilcs-neu] [--engines openvino,onnx,compiled] [--out FILE]

Prints for each engine the labels that differ from eager's and the largest difference of a probability, Top-1 by split of
all, and tiles/s in batches of 16, the engines in turn. Without --data it takes 480 tiles of noise and gives no Top-1.
"""

import argparse
import csv
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.line import commit, machine
from nodes.infer.engines.contract import softmax
from nodes.infer.engines.golden_tiles import Engine
from nodes.infer.engines.load import load_engine
from pipeline.config import Camera, Config, Infer
from pipeline.config.model_file import find_model, read_model

BATCH = 16


def main() -> None:
    args = _arguments()
    rows: list[dict[str, str]] = []
    if args.data is not None:
        with (args.data / "split.csv").open() as file:
            rows = list(csv.DictReader(file))
    tiles = _tiles(args.data, rows)
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(args.cache or temporary)
        engines = {name: _engine(name, args.model, folder) for name in ("eager", *args.engines.split(","))}
        scores: dict[str, list[Any]] = {name: [] for name in engines}
        speeds: dict[str, list[float]] = {name: [] for name in engines}
        for start in range(0, len(tiles), BATCH):
            for name, engine in engines.items():
                batch = list(tiles[start : start + BATCH])
                began = time.perf_counter()
                scores[name].append(softmax(engine(engine.gather(batch)).logits))
                speeds[name].append(len(batch) / (time.perf_counter() - began))
    found = {name: np.concatenate(parts) for name, parts in scores.items()}
    result = {
        "machine": machine(),
        "commit": commit(),
        "model": args.model,
        "images": len(tiles),
        "data": "noise" if args.data is None else args.data.name,
        "engines": {name: _compare(engine, found[name], found["eager"]) for name, engine in engines.items() if name != "eager"},
        "top1": {name: _top1(scores, rows, args.model) for name, scores in found.items()},
        "tiles_per_s": {name: round(statistics.median(v), 1) for name, v in speeds.items()},
    }
    print(json.dumps(result, indent=2))
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", default="ilcs-neu")
    parser.add_argument("--engines", default="openvino,compiled")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where converted and compiled models are kept")
    return parser.parse_args()


def _engine(name: str, model: str, folder: str) -> Engine:
    infer = Infer(model=model, engine=name, max_batch=BATCH)
    return load_engine(Config(line="parity", cameras={"top": Camera(source="folder:x")}, infer=infer, state_dir=folder)).engine


def _tiles(data: Path | None, rows: list[dict[str, str]]) -> NDArray[np.uint8]:
    """uint8 (N, 300, 300); noise has grains of 1 to 30 pixels."""
    if data is None:
        rng = np.random.default_rng(0)
        images = [rng.integers(0, 256, (10 * (1 + k % 30),) * 2, np.uint8) for k in range(480)]
    else:
        images = [np.asarray(cv2.imread(str(data / "images" / row["file"]), cv2.IMREAD_GRAYSCALE), np.uint8) for row in rows]
    return np.stack([np.asarray(cv2.resize(image, (300, 300)), np.uint8) for image in images])


def _compare(engine: Engine, found: NDArray[np.float32], right: NDArray[np.float32]) -> dict[str, Any]:
    return {
        "name": engine.name,
        "labels_that_differ": int((found.argmax(1) != right.argmax(1)).sum()),
        "largest_difference_of_a_probability": round(float(np.abs(found - right).max()), 5),
    }


def _top1(scores: NDArray[np.float32], rows: list[dict[str, str]], model: str) -> dict[str, float]:
    """Share of right labels by split."""
    classes = read_model(find_model(model)).classes
    right = np.array([classes[k] == row["class"] for k, row in zip(scores.argmax(1), rows, strict=False)])
    split = np.array([row["split"] for row in rows])
    return {name: round(float(right[split == name].mean()), 5) for name in sorted(set(split))}


if __name__ == "__main__":
    main()
