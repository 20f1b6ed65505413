"""What a whole line costs: frames/s, latency by stage, CPU and memory by process, beside the same work in one process.

    python benchmarks/line.py [--images DIR] [--runs 3] [--out benchmarks/results/NAME.json]

Two workloads, each run several times (medians are shown):
  demo    deploy/line1.yaml for 20 s: latency at the demo's rate
  folder  every image of DIR as fast as it goes (deploy/neu-folder.yaml); the reference does decode, resize and model on
          the same files in one process, batches of 16: what is left after the pipeline's own cost
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil

from nodes.infer.engines.openvino import open_openvino
from nodes.preprocess.opencv import decode
from pipeline.config.model_file import find_model

ROOT = Path(__file__).resolve().parents[1]
POLL_S = 0.1


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        demo = [run_line(work / "demo", "deploy/line1.yaml", ["--for", "20s"]) for _ in range(args.runs)]
        results: dict[str, Any] = {"machine": machine(), "commit": commit(), "runs": args.runs, "demo": _median(demo)}
        if args.images is not None:
            source = ["--set", f"cameras.top.source=folder:{args.images}"]
            pairs = [(run_line(work / "neu", "deploy/neu-folder.yaml", source), _reference(args.images, work)) for _ in range(args.runs)]
            results["folder"] = _median([line for line, _ in pairs])
            results["reference_images_per_s"] = round(statistics.median(r for _, r in pairs), 1)
            ratios = [line["frames_per_s"] / reference for line, reference in pairs]
            results["folder_over_reference"] = round(statistics.median(ratios), 3)
    print(json.dumps(results, indent=2))
    if args.out is not None:
        args.out.write_text(json.dumps(results, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def run_line(state: Path, config: str, options: list[str]) -> dict[str, Any]:
    """Run a line until it ends: figures of its summary, CPU seconds per 1,000 frames and peak MiB of each of its processes.

    ``state`` becomes its ``state_dir``, ``state`` with the suffix .json its summary. The line must have one camera, and inspect
    at least one frame.
    """
    summary = state.with_suffix(".json")
    command = [sys.executable, "-m", "pipeline", "run", config, "--set", f"state_dir={state}", "--summary", str(summary), *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    used = _watch(process)
    found = json.loads(summary.read_text())
    (camera,) = found["cameras"].values()
    return {
        "frames": camera["inspected"],
        "dropped": sum(camera["dropped"].values()),
        **found["throughput"],
        "latency_ms": found["latency_ms"],
        "cpu_s_per_1000_frames": {name: 1000 * cpu / camera["inspected"] for name, (cpu, _) in used.items()},
        "peak_memory_mib": {name: peak for name, (_, peak) in used.items()},
        "engine": found["engine"],
    }


def _watch(process: "subprocess.Popen[bytes]") -> dict[str, tuple[float, float]]:
    """CPU seconds and peak memory (proportional set size, MiB) of every process of a line, by name, until it ends."""
    used: dict[str, tuple[float, float]] = {}
    while process.poll() is None:
        try:
            for child in [psutil.Process(process.pid), *psutil.Process(process.pid).children()]:
                name, times = _name(child), child.cpu_times()
                peak = child.memory_full_info().pss / 2**20
                used[name] = (times.user + times.system, max(peak, used.get(name, (0.0, 0.0))[1]))
        except psutil.Error:
            pass
        time.sleep(POLL_S)
    return used


def _name(process: psutil.Process) -> str:
    line = process.cmdline()
    if not line:  # it has just ended
        raise psutil.NoSuchProcess(process.pid)
    if "node" in line:
        return line[line.index("node") + 1]
    return "redis" if "valkey" in line[0] else "supervisor"


def _reference(images: Path, work: Path) -> float:
    """Images a second through decode, resize and model in one process, batches of 16."""
    model = find_model("ilcs-neu")
    engine = open_openvino(model, work / "engines", 16)
    files = sorted(images.glob("*.jpg"))
    engine(np.zeros((16, 300, 300), np.uint8))
    started = time.perf_counter()
    for group in [files[k : k + 16] for k in range(0, len(files), 16)]:
        engine(np.stack([cv2.resize(decode(np.fromfile(f, np.uint8), 10**8), (300, 300)) for f in group]))
    return len(files) / (time.perf_counter() - started)


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of every figure, key by key."""
    found: dict[str, Any] = {}
    for key, value in runs[0].items():
        values = [r[key] for r in runs if r.get(key) is not None]
        if isinstance(value, dict):
            found[key] = _median(values)
        elif isinstance(value, str) or not values:
            found[key] = value
        else:
            found[key] = round(statistics.median(values), 2)
    return found


def machine() -> str:
    """This machine in words: processor, memory, system."""
    cpu = next((x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), "?")
    return f"{psutil.cpu_count()} x {cpu}, {psutil.virtual_memory().total >> 30} GiB, {platform.system()} {platform.machine()}"


def commit() -> str:
    """The commit of the checkout; without git the value of ``LINEPIPE_COMMIT``, or ``unknown``."""
    try:
        command = ["git", "describe", "--always", "--dirty"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("LINEPIPE_COMMIT", "unknown")


if __name__ == "__main__":
    main()
