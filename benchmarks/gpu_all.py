"""Everything that needs a GPU, in one go: tests, parity, throughput, a whole line, training.

    python3 -m benchmarks.gpu_all [--out benchmarks/results] [--only STEP]

Run in the repository's root; README.md beside this says what a machine needs. Writes gpu_STEP.json for each step, with
the machine's name, and gpu_STEP.log with what the step printed. Steps run one after another in processes of their own:
one that fails is recorded with its error, the rest goes on, and the exit code is 1. Without CUDA it says so and exits 0.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.line import commit, machine, run_line
from pipeline.model_file import find_model

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 600
"""Of one step."""
SIZES = (1, 4, 16, 64, 256)
REPEATS = 7
_NEU = [Path(os.environ.get("LINEPIPE_NEU_DIR", "")), *(folder / "shared" / "data" / "neu-det" for folder in (ROOT.parent, ROOT))]
NEU = next((path for path in _NEU if (path / "split.csv").is_file()), None)
Result = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", metavar="DIR")
    parser.add_argument("--only", choices=STEPS, metavar="STEP", help=", ".join(STEPS))
    args = parser.parse_args()
    out: Path = args.out.resolve()
    import torch

    if not torch.cuda.is_available():
        print(f"no CUDA device that torch {torch.__version__} can use: nothing was run")
        return 0
    out.mkdir(parents=True, exist_ok=True)
    if args.only is not None:
        _write(out, args.only, STEPS[args.only](out))
        return 0
    failed = [name for name in STEPS if not _run(name, out)]
    print(f"failed: {', '.join(failed)}" if failed else "all steps passed")
    return 1 if failed else 0


def _run(name: str, out: Path) -> bool:
    """One step in a process of its own; whatever becomes of it is on disk afterwards."""
    log = out / f"gpu_{name}.log"
    began = time.monotonic()
    with log.open("w") as file:
        command = [sys.executable, "-m", "benchmarks.gpu_all", "--only", name, "--out", str(out)]
        try:
            code = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, timeout=LIMIT_S).returncode
            error = f"ended with exit code {code}"
        except subprocess.TimeoutExpired:
            code, error = 1, f"was not done after {LIMIT_S} s"
    if code != 0:
        _write(out, name, {"error": error, "log": log.read_text(errors="replace").splitlines()[-30:]})
    print(f"{name}: {'ok' if code == 0 else error}, {time.monotonic() - began:.0f} s", flush=True)
    return code == 0


def _write(out: Path, name: str, result: Result) -> None:
    import torch

    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        gpu = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        gpu = f"{torch.cuda.get_device_name()} (no nvidia-smi)"
    about = {"gpu": gpu, "torch": str(torch.__version__), "machine": machine(), "commit": commit()}
    (out / f"gpu_{name}.json").write_text(json.dumps({**about, **result}, indent=2) + "\n")


def tests(_: Path) -> Result:
    """``pytest tests/gpu``"""
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-q", "-ra", "--durations=5"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout)
    if done.returncode != 0:
        sys.exit(done.returncode)
    return {"pytest": done.stdout.splitlines()[-1]}


def parity(out: Path) -> Result:
    """The compiled engine against the float32 network: NEU's images where they are, else noise."""
    data = ["--data", str(NEU)] if NEU is not None else []
    return _script("benchmarks.parity", out, *data, "--engines", "compiled")


def preprocess(out: Path) -> Result:
    """The GPU's tiles against OpenCV's, and how fast they come."""
    if NEU is None:
        sys.exit("no NEU images: set LINEPIPE_NEU_DIR")
    return _script("benchmarks.preprocess", out, "--data", str(NEU))


def engine(_: Path) -> Result:
    """Tiles a second by batch size: the compiled engine from host tiles to scores, and plain torch on the same GPU."""
    import torch

    from nodes.infer.engines.cuda import CudaEngine
    from nodes.infer.engines.eager import EagerEngine

    model = find_model("ilcs-neu")
    tiles = np.random.default_rng(0).integers(0, 256, (SIZES[-1], 300, 300), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        compiled = CudaEngine(model, Path(folder), SIZES[-1])
        cold_s = time.monotonic() - began
        began = time.monotonic()
        CudaEngine(model, Path(folder), SIZES[-1])
        warm_s = time.monotonic() - began
    network = EagerEngine(model).network.cuda().to(memory_format=torch.channels_last)

    def plain(batch: Any) -> None:
        with torch.inference_mode(), torch.autocast("cuda", dtype=torch.bfloat16):
            network(batch).float().cpu()

    found: Result = {}
    for size in SIZES:
        hosted, there = list(tiles[:size]), torch.from_numpy(tiles[:size, None]).cuda()
        gathered = compiled.gather(hosted)
        found[str(size)] = {
            "compiled_from_host_tiles": _rate(size, lambda hosted=hosted: compiled(compiled.gather(hosted))),
            "compiled": _rate(size, lambda gathered=gathered: compiled(gathered)),
            "eager_bf16": _rate(size, lambda there=there: plain(there)),
        }
    return {"engine": compiled.name, "load_s": {"cold": round(cold_s, 1), "again": round(warm_s, 1)}, "tiles_per_s": found}


def _rate(size: int, call: Callable[[], object]) -> float:
    """Median of several; each lasts about a second."""
    call()
    rates = []
    for _ in range(REPEATS):
        began, calls = time.perf_counter(), 0
        while (took := time.perf_counter() - began) < 1.0:
            call()
            calls += 1
        rates.append(size * calls / took)
    return round(statistics.median(rates), 1)


def line(_: Path) -> Result:
    """The demo line at its own rate, offered far more frames than one camera can give, and on NEU as fast as it goes."""
    flood = ["--set", "cameras.top.source=sim:strip?seed=7&fps=5000", "--set", "infer.max_batch=64"]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        found = {
            "demo": run_line(work / "demo", "deploy/line1.yaml", ["--for", "20s"]),
            "saturated": run_line(work / "flood", "deploy/line1.yaml", [*flood, "--for", "20s"]),
        }
        if NEU is not None:
            source = ["--set", f"cameras.top.source=folder:{NEU / 'images'}"]
            found["folder"] = run_line(work / "neu", "deploy/neu-folder.yaml", source)
    return found


def training(_: Path) -> Result:
    """A whole run of the full recipe on NEU, judged on test on the way; without NEU a few epochs on noise."""
    from ilcs_model.data.dataset import open_dataset
    from ilcs_model.training.run import train
    from ilcs_model.training.settings import SMALL_UNTIL, Settings

    settings = Settings(epochs=60 if NEU is not None else 5)
    remarks: list[str] = []
    epochs: list[Result] = []

    def report(record: Result) -> None:
        if "remark" in record:
            remarks.append(record["remark"])
        elif "done" not in record:
            epochs.append(record)

    with tempfile.TemporaryDirectory() as folder:
        data = NEU if NEU is not None else _noise(Path(folder) / "noise")
        began = time.monotonic()
        train(open_dataset(data), Path(folder) / "run", settings, report=report)
        whole_s = time.monotonic() - began
    crops = int(SMALL_UNTIL * len(epochs))
    return {
        "data": "NEU" if NEU is not None else "noise",
        "how": [text for text in remarks if "tiles by" in text],
        "epochs": len(epochs),
        "batch": settings.batch,
        "with_compiling_and_judging_s": round(whole_s, 1),
        "training_s_to_top1": {str(level): _seconds_to(epochs, level) for level in (0.975, 0.99)},
        "crops": _pace(epochs[1:crops]),
        "whole_tiles": _pace(epochs[crops + 1 :]),
        "top1": epochs[-1].get("judged_accuracy"),
    }


def _seconds_to(epochs: list[Result], level: float) -> float | None:
    """Of training, to the first judgement that reached ``level``; there are 12 in a run."""
    spent = 0.0
    for epoch in epochs:
        spent += epoch["seconds"]
        if epoch.get("judged_accuracy", 0.0) >= level:
            return round(spent, 1)
    return None


def _pace(epochs: list[Result]) -> Result:
    """Medians over epochs, the first left out: it compiles."""
    return {key: round(statistics.median(e[key] for e in epochs), 3) for key in ("images_per_s", "loader_share") if epochs}


def _noise(root: Path) -> Path:
    """A data set of noise: 2 classes of 160 images."""
    import cv2

    rng = np.random.default_rng(0)
    root.mkdir()
    with (root / "split.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "class", "split"])
        for k in range(320):
            cv2.imwrite(str(root / f"{k}.jpg"), rng.integers(0, 256, (200, 200), np.uint8))
            rows.writerow([f"{k}.jpg", f"class{k % 2}", "train"])
    return root


def _script(module: str, out: Path, *options: str) -> Result:
    """What another benchmark writes."""
    target = out / f"gpu_{module.rpartition('.')[2]}.part"
    subprocess.run([sys.executable, "-m", module, *options, "--out", str(target)], cwd=ROOT, check=True)
    found: Result = json.loads(target.read_text())
    target.unlink()
    return found


STEPS: dict[str, Callable[[Path], Result]] = {
    "tests": tests,
    "parity": parity,
    "engine": engine,
    "line": line,
    "training": training,
    "preprocess": preprocess,
}

if __name__ == "__main__":
    sys.exit(main())
