"""How well a line inspects the simulated strip: its events against the truth, on seeds that no model was trained on.

    python -m benchmarks.strip [--frames 2000] [--seeds 9001 ...] [--fps N] [--model ilcs-line] [--out FILE]

Runs deploy/line1.yaml once a seed and compares what is in Redis with ``state_dir/truth``. Counted are defects of at least
20 px and contrast 0.2 that end before the last frame does.
  recall    share with an event whose box holds the defect's middle and is no larger than its box grown by one tile
  label     share of those whose best such event has the right label
  position  |position_m - truth| of that event, mm
  false     events that touch no planted defect at all, per 1,000 tiles that none touches
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.line import commit, machine, run_line
from nodes.capture.sources.sim import VERSION
from nodes.capture.sources.sim.plan import STATED_CONTRAST, STATED_PX
from pipeline.config import load
from pipeline.core.tiles import grid

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "deploy/line1.yaml"
NEAR_PX = 16  # an event this near to a planted defect is about it: two cells of a map
Box = tuple[float, float, float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=2000, help="of each seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[9001])
    parser.add_argument("--fps", type=float, help="in place of the demo's own rate")
    parser.add_argument("--model", default="ilcs-line")
    parser.add_argument("--keep", type=Path, help="folder for events and truth, to look at afterwards")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    strays: list[dict[str, Any]] = []
    tiles = dropped = 0
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            state = (args.keep or Path(folder)) / f"seed{seed}"
            state.parent.mkdir(parents=True, exist_ok=True)
            line, events, truths = _run(state, seed, args)
            lines.append(line)
            dropped += line["dropped"]
            found, false, clean = compare(events, truths, line["frames"])
            rows += found
            strays += false
            tiles += clean
    results = {
        "machine": machine(),
        "commit": commit(),
        "simulator": VERSION,
        "seeds": args.seeds,
        "frames": sum(line["frames"] for line in lines),
        "dropped": dropped,
        **_figures(rows, strays, tiles),
        "lines": lines,
    }
    print(json.dumps(results, indent=2))
    if args.out is not None:
        args.out.write_text(json.dumps(results, indent=2) + "\n")


def _run(state: Path, seed: int, args: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """One run: what it cost, its defect events, the truth."""
    source = f"sim:strip?seed={seed}" + (f"&fps={args.fps}" if args.fps else "")
    options = ["--set", f"cameras.top.source={source}", "--set", f"infer.model={args.model}"]
    line = run_line(state, CONFIG, [*options, "--frames", str(args.frames)])
    command = [sys.executable, "-m", "pipeline", "events", CONFIG, "--set", f"state_dir={state}", "--type", "defect", "--run", "last"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    truth = (state / "truth" / "top.jsonl").read_text()
    return line, [json.loads(x) for x in printed.splitlines()], [json.loads(x) for x in truth.splitlines()]


def compare(events: list[dict[str, Any]], truths: list[dict[str, Any]], frames: int) -> tuple[list[Any], list[Any], int]:
    """A row for each counted defect; events that touch no planted defect; how many tiles are clean.

    ``events`` are defect events of one run, ``truths`` the lines of its truth file, ``frames`` how many frames it inspected.
    """
    config = load(ROOT / CONFIG)
    width, height = config.cameras["top"].frame_px or (0, 0)
    tile = config.preprocess.tile_px
    planted = [(t, _on_strip(t, height)) for t in truths]
    reported = [(e, _on_strip(e, height)) for e in events]
    rows = []
    for truth, box in planted:
        x, y, w, h = box
        if max(w, h) < STATED_PX or truth["contrast"] < STATED_CONTRAST or y + h > frames * height:
            continue
        grown = (x - tile, y - tile, w + 2 * tile, h + 2 * tile)
        middle = (x + w / 2, y + h / 2, 0.0, 0.0)
        hits = [(e, b) for e, b in reported if _inside(middle, b) and _inside(b, grown)]
        best = max(hits, key=lambda hit: hit[0]["score"], default=None)
        row = {"label": truth["label"], "contrast": truth["contrast"], "box": box, "found": best is not None}
        if best is not None:
            event, where = best
            area = w * h / (where[2] * where[3])
            row |= {"as": event["label"], "off_mm": 1000 * abs(event["position_m"] - truth["position_m"]), "area": area}
        rows.append(row)
    about = [any(_near(b, p) for _, p in planted) for _, b in reported]
    false = [e for (e, _), known in zip(reported, about, strict=True) if not known]
    boxes, _ = grid(width, height, tile, config.preprocess.overlap_px)
    lie = [(bx, by + f * height, bw, bh) for f in range(frames) for bx, by, bw, bh in boxes]
    by_frame: dict[int, list[Box]] = {}
    for _, p in planted:
        for f in range(int(p[1] // height), int((p[1] + p[3]) // height) + 1):
            by_frame.setdefault(f, []).append(p)
    clean = sum(not any(_overlap(t, p) for p in by_frame.get(int(t[1] // height), [])) for t in lie)
    return rows, false, clean


def _figures(rows: list[dict[str, Any]], strays: list[dict[str, Any]], tiles: int) -> dict[str, Any]:
    found = [r for r in rows if r["found"]]
    off = np.array([r["off_mm"] for r in found] or [np.nan])
    labels = sorted({r["label"] for r in rows})
    return {
        "defects": len(rows),
        "recall": round(len(found) / len(rows), 4),
        "recall_by_label": {c: round(float(np.mean([r["found"] for r in rows if r["label"] == c])), 4) for c in labels},
        "label_right": round(float(np.mean([r["as"] == r["label"] for r in found])), 4),
        "taken_for": dict(Counter(f"{r['label']} as {r['as']}" for r in found if r["as"] != r["label"])),
        "position_within_5_mm": round(float(np.mean(off <= 5)), 4),
        "position_mm": {"median": round(float(np.median(off)), 2), "p95": round(float(np.percentile(off, 95)), 2)},
        "clean_tiles": tiles,
        "false_events": len(strays),
        "false_per_1000_clean_tiles": round(1000 * len(strays) / tiles, 3),
        "false_as": dict(Counter(e["label"] for e in strays)),
    }


def _on_strip(thing: dict[str, Any], height: int) -> Box:
    x, y, w, h = thing["box_px"]
    return x, y + thing["frame"] * height, w, h


def _inside(inner: Box, outer: Box) -> bool:
    (x, y, w, h), (ox, oy, ow, oh) = inner, outer
    return ox <= x and oy <= y and x + w <= ox + ow and y + h <= oy + oh


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


def _near(a: Box, b: Box) -> bool:
    return _overlap(a, (b[0] - NEAR_PX, b[1] - NEAR_PX, b[2] + 2 * NEAR_PX, b[3] + 2 * NEAR_PX))


if __name__ == "__main__":
    main()
