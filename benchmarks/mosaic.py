"""Whether a grid finds in each of its tiles what a model finds in a single image: mosaics of NEU test images.

    python -m benchmarks.mosaic --neu DIR [--model ilcs-line] [--frames 100] [--out FILE]

Each frame is 4 x 3 test images drawn at random, at the model's scale, and goes through a line with ``layout: grid`` and no
overlap. A cell's label is that of the event that covers most of it, the smaller one of two.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.line import commit, machine

ROOT = Path(__file__).resolve().parents[1]
COLUMNS, ROWS, CELL = 4, 3, 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neu", type=Path, required=True)
    parser.add_argument("--model", default="ilcs-line")
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        truth = _draw(args.neu, Path(folder) / "mosaics", args.frames)
        events = _inspect(Path(folder), args.model)
    right, total, wrong = 0, 0, dict[str, int]()
    for name, labels in truth.items():
        mine = [e for e in events if e["source"] == name]
        for k, label in enumerate(labels):
            found = _label(mine, (k % COLUMNS * CELL, k // COLUMNS * CELL))
            right, total = right + (found == label), total + 1
            if found != label:
                wrong[f"{label} as {found}"] = wrong.get(f"{label} as {found}", 0) + 1
    share = round(right / total, 4)
    results = {"machine": machine(), "commit": commit(), "model": args.model, "cells": total, "right": share, "wrong": wrong}
    print(json.dumps(results, indent=2))
    if args.out is not None:
        args.out.write_text(json.dumps(results, indent=2) + "\n")


def _draw(neu: Path, folder: Path, frames: int) -> dict[str, list[str]]:
    """Write the mosaics; labels of the cells of each, row by row."""
    folder.mkdir()
    with (neu / "split.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    rng, truth = np.random.default_rng(0), {}
    for frame in range(frames):
        chosen = [rows[int(k)] for k in rng.choice(len(rows), COLUMNS * ROWS, replace=False)]
        images = [np.asarray(cv2.imread(str(neu / "images" / row["file"]), cv2.IMREAD_GRAYSCALE), np.uint8) for row in chosen]
        cells = [cv2.resize(image, (CELL, CELL), interpolation=cv2.INTER_LINEAR) for image in images]
        picture = np.vstack([np.hstack(cells[k : k + COLUMNS]) for k in range(0, len(cells), COLUMNS)])
        name = f"mosaic_{frame:03}.png"
        cv2.imwrite(str(folder / name), picture)
        truth[name] = [row["class"] for row in chosen]
    return truth


def _inspect(folder: Path, model: str) -> list[dict[str, Any]]:
    """The defect events of a line over the mosaics."""
    config = folder / "mosaic.yaml"
    config.write_text(
        json.dumps(
            {
                "line": "mosaic",
                "cameras": {"top": {"source": f"folder:{folder}/mosaics", "when_full": "block"}},
                "preprocess": {"layout": "grid", "tile_px": CELL},
                "infer": {"model": model},
                "state_dir": str(folder / "state"),
            }
        )
    )
    command = [sys.executable, "-m", "pipeline"]
    subprocess.run([*command, "run", str(config)], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    printed = subprocess.run([*command, "events", str(config), "--type", "defect"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in printed.stdout.splitlines()]


def _label(events: list[dict[str, Any]], corner: tuple[int, int]) -> str:
    """What the line says of the cell at ``corner``."""

    def covered(event: dict[str, Any]) -> tuple[float, float]:
        x, y, w, h = event["box_px"]
        across = min(x + w, corner[0] + CELL) - max(x, corner[0])
        along = min(y + h, corner[1] + CELL) - max(y, corner[1])
        return max(0, across) * max(0, along), -w * h

    best = max(events, key=covered, default=None)
    return "nothing" if best is None or covered(best)[0] == 0 else str(best["label"])


if __name__ == "__main__":
    main()
