"""Whether every preprocess gives the tiles of OpenCV, and how fast each is.

    python -m benchmarks.preprocess --data DIR [--model ilcs-neu] [--devices cpu,dali] [--out FILE]

Takes the test images of a data set, and frames of noise. Prints for each preprocess the largest difference of a grey
level by operation, the labels that differ, and images/s and tiles/s, the preprocessors in turn. DALI's CPU and GPU
backends take a run each: whether both work in one process is not known.
"""

import argparse
import csv
import json
import logging
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.line import commit, machine
from nodes.infer.engines.eager import EagerEngine
from nodes.preprocess.choose_preprocess import make_preprocess
from pipeline.config import Camera, Config, Infer
from pipeline.config import Preprocess as Settings
from pipeline.config.model_file import find_model, read_model
from pipeline.core.frame import FrameMeta, FrameRef
from pipeline.core.tiles import Pixels, Preprocess

LOG = logging.getLogger("benchmark")
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="ilcs-neu")
    parser.add_argument("--devices", default="cpu,dali", help="cpu first: cpu,dali or, on a CUDA device, cpu,gpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with (args.data / "split.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    files = [np.fromfile(args.data / "images" / row["file"], np.uint8) for row in rows]
    devices: list[str] = args.devices.split(",")
    rng = np.random.default_rng(0)
    strips = [rng.integers(0, 256, (300, 900), np.uint8) for _ in range(64)]
    large = [rng.integers(0, 256, (700, 1000), np.uint8) for _ in range(16)]
    whole = {device: _make(device, "whole", args.model) for device in devices}
    grid = {device: _make(device, "grid", args.model) for device in devices}
    real = {device: _tiles(whole[device], files) for device in devices}
    labels = _labels(args.model, real)
    files_speed, strips_speed = _speed(whole, files), _speed(grid, strips)
    found: dict[str, Any] = {}
    for device in devices:
        found[whole[device].name] = {
            "largest_difference": {
                "images, decoded and resized 200 to 300": _furthest(real[device], real["cpu"]),
                "tiling": _furthest(_tiles(grid[device], strips), _tiles(grid["cpu"], strips)),
                "resize of noise, 1000 x 700 to 300 x 300": _furthest(_tiles(whole[device], large), _tiles(whole["cpu"], large)),
            },
            "labels_that_differ": int((labels[device] != labels["cpu"]).sum()),
            "encoded_images_per_s": round(files_speed[device], 1),
            "raw_900x300_tiles_per_s": round(strips_speed[device] * 4, 1),
        }
    result = {"machine": machine(), "commit": commit(), "model": args.model, "images": len(rows), "preprocess": found}
    print(json.dumps(result, indent=2))
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


def _make(device: str, layout: str, model: str) -> Preprocess:
    settings = Settings(layout=layout, tile_px=300, overlap_px=32, device=device)  # type: ignore[arg-type]
    config = Config(line="b", cameras={"top": Camera(source="folder:x")}, infer=Infer(model=model), preprocess=settings, state_dir="x")
    return make_preprocess(config, read_model(find_model(model)).recipe, LOG)


def _run(preprocess: Preprocess, frames: Sequence[Pixels]) -> list[Any]:
    """Tiles of each frame, as many frames at once as the preprocess takes."""
    leased = []
    for k, data in enumerate(frames):
        shape = None if data.ndim == 1 else (data.shape[0], data.shape[1])
        meta = FrameMeta(camera="top", epoch="e", frame=k, shape=shape, length=data.nbytes, arrived_ns=0, captured_ns=0)
        leased.append((FrameRef(meta=meta, slot=0, generation=1, attempt=1), data))
    step = preprocess.frames_at_once
    return [tiled.tiles for k in range(0, len(leased), step) for tiled in preprocess(leased[k : k + step])]


def _tiles(preprocess: Preprocess, frames: Sequence[Pixels]) -> Pixels:
    return np.concatenate([t if isinstance(t, np.ndarray) else t.cpu().numpy() for t in _run(preprocess, frames)])


def _furthest(one: Pixels, other: Pixels) -> int:
    return int(np.abs(one.astype(np.int16) - other).max())


def _speed(by_device: dict[str, Preprocess], frames: Sequence[Pixels]) -> dict[str, float]:
    """Frames a second, medians; the tiles stay where they are made."""
    speeds: dict[str, list[float]] = {device: [] for device in by_device}
    for _ in range(ROUNDS):
        for device, preprocess in by_device.items():
            began = time.perf_counter()
            _run(preprocess, frames)
            speeds[device].append(len(frames) / (time.perf_counter() - began))
    return {device: statistics.median(found) for device, found in speeds.items()}


def _labels(model: str, tiles: dict[str, Pixels]) -> dict[str, Any]:
    """Labels by the float32 network of what each preprocess made of the same images."""
    engine = EagerEngine(find_model(model))
    return {d: np.concatenate([engine(t[k : k + 16]).logits.argmax(1) for k in range(0, len(t), 16)]) for d, t in tiles.items()}


if __name__ == "__main__":
    main()
