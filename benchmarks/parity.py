"""Whether a deployed engine gives what the trained network gives, on every image of a data set; speed beside it.

    python benchmarks/parity.py --data DIR [--model ilcs-neu] [--out FILE]

Prints labels that differ and the largest difference of a probability, Top-1 by split of both, and tiles/s in batches of
16, the two engines in turn.
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

from benchmarks.line import commit, machine
from nodes.infer.engine import EagerEngine, OpenVinoEngine
from nodes.infer.verdict import softmax
from pipeline.model_file import find_model, read_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="ilcs-neu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    path = find_model(args.model)
    classes = read_model(path).classes
    with (args.data / "split.csv").open() as file:
        rows = list(csv.DictReader(file))
    images = [cv2.imread(str(args.data / "images" / row["file"]), cv2.IMREAD_GRAYSCALE) for row in rows]
    tiles = np.stack([cv2.resize(image, (300, 300)) for image in images])
    with tempfile.TemporaryDirectory() as folder:
        engines = {"eager": EagerEngine(path), "openvino": OpenVinoEngine(path, "sha256:parity", Path(folder))}
        scores: dict[str, list[Any]] = {name: [] for name in engines}
        speeds: dict[str, list[float]] = {name: [] for name in engines}
        for start in range(0, len(tiles), 16):
            for name, engine in engines.items():
                batch = tiles[start : start + 16]
                began = time.perf_counter()
                scores[name].append(softmax(engine(batch)))
                speeds[name].append(len(batch) / (time.perf_counter() - began))
    found = {name: np.concatenate(parts) for name, parts in scores.items()}
    truth = np.array([classes.index(row["class"]) for row in rows])
    split = np.array([row["split"] for row in rows])
    result = {
        "machine": machine(),
        "commit": commit(),
        "model": args.model,
        "images": len(rows),
        "engine": engines["openvino"].name,
        "labels_that_differ": int((found["eager"].argmax(1) != found["openvino"].argmax(1)).sum()),
        "largest_difference_of_a_probability": round(float(np.abs(found["eager"] - found["openvino"]).max()), 5),
        "top1": {name: {s: round(float((p.argmax(1) == truth)[split == s].mean()), 5) for s in set(split)} for name, p in found.items()},
        "tiles_per_s": {name: round(statistics.median(v), 1) for name, v in speeds.items()},
    }
    print(json.dumps(result, indent=2))
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
