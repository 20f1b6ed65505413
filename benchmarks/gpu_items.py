"""The items that ``gpu_all`` runs, each in a process of its own: ``python -m benchmarks.gpu_items NAME --out FILE``.

An item keeps what it has found so far after every figure, before the next is measured.
"""

import argparse
import ctypes
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.line import run_line
from pipeline.model_file import find_model

ROOT = Path(__file__).resolve().parents[1]
SIZES = (16, 64, 128, 256)
REPEATS = 5
MEASURE_S = 0.4
FLOOD_FPS = 20_000
_NEU = [Path(os.environ.get("LINEPIPE_NEU_DIR", "")), *(folder / "shared" / "data" / "neu-det" for folder in (ROOT.parent, ROOT))]
NEU = next((path for path in _NEU if (path / "split.csv").is_file()), None)
Result = dict[str, Any]


class Where(NamedTuple):
    """What an item is told."""

    device: str
    cache: Path
    """Shared by all items of a run: compiled code is made once."""
    keep: Callable[[Result], None]
    """Puts what the item has found so far on disk."""


def about(where: Where) -> None:
    """Versions, the card, whether the driver pins read-only mappings, and what a copy to the device gains by it."""
    import torch

    names = ("torch", "triton", "numpy", "opencv-python-headless", "nvidia-dali-cuda130", "msgspec", "pyzmq", "redis")
    found: Result = {"python": sys.version.split()[0], "versions": {name: _version(name) for name in names}}
    where.keep(found)
    if where.device == "cpu":
        return
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    found["gpu"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    where.keep(found)
    from nodes.preprocess.cuda import Pinned, driver
    from pipeline.ring import Ring, new_memfd

    torch.zeros(1, device="cuda")
    cuda = driver()
    assert cuda is not None
    value, device = ctypes.c_int(-1), ctypes.c_int(0)
    cuda.cuDeviceGetAttribute(ctypes.byref(value), 113, device)
    found["read_only_host_register_supported"] = value.value
    ring = Ring.create(new_memfd("pin"), 64, 2 << 20)
    for name, mapped in (("read_only", Ring.attach(os.dup(ring.fd))), ("writable", ring)):
        memory = mapped.memory
        before = _copy_gb_s(memory)
        pinned = Pinned(memory)
        found[f"pin_{name}_mapping"] = {"refusal": pinned.refusal, "gb_per_s": {"before": before, "after": _copy_gb_s(memory)}}
        pinned.close()
        where.keep(found)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _copy_gb_s(memory: Any) -> float:
    import torch

    there = torch.empty(memory.nbytes, dtype=torch.uint8, device="cuda")
    here = ctypes.c_void_p(memory.ctypes.data)
    copy = ctypes.CDLL("libcuda.so.1").cuMemcpyHtoD_v2
    rates = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        copy(ctypes.c_uint64(there.data_ptr()), here, ctypes.c_size_t(memory.nbytes))
        rates.append(memory.nbytes / (time.perf_counter() - began) / 1e9)
    return round(statistics.median(rates), 2)


def compile_both(where: Where) -> None:
    """Both shipped models, at the same time in two processes: how long the first start takes. Later items find the code."""
    began = time.monotonic()
    names = ("ilcs-line", "ilcs-neu") if where.device == "cuda" else ("ilcs-neu",)
    code = "import sys; from pathlib import Path; from benchmarks.gpu_items import load; load(sys.argv[1], Path(sys.argv[2]), sys.argv[3])"
    started = {name: subprocess.Popen([sys.executable, "-c", code, name, str(where.cache), where.device], cwd=ROOT) for name in names}
    found: Result = {}
    while started:
        for name in [name for name, process in started.items() if process.poll() is not None]:
            if started.pop(name).returncode != 0:
                sys.exit(f"{name} failed")
            found[name] = {"load_s": round(time.monotonic() - began, 1)}
            where.keep(found)
        time.sleep(0.2)


def load(name: str, cache: Path, device: str) -> Any:
    """The compiled engine, as a line opens it; says what took how long."""
    import torch

    from nodes.infer.engines.load import open_engine

    engine = open_engine("compiled", find_model(name), cache / "engines", SIZES[-1] if device == "cuda" else 4)
    print(name, torch._dynamo.utils.compile_times(repr="str", aggregate=True), flush=True)
    return engine


def engine_line(where: Where) -> None:
    """``ilcs-line``, the demo's: load, tiles/s by batch size, one profiled batch."""
    _engine("ilcs-line", where)


def engine_neu(where: Where) -> None:
    """The same of ``ilcs-neu``."""
    _engine("ilcs-neu", where)


def _engine(name: str, where: Where) -> None:
    import torch

    sizes = SIZES if where.device == "cuda" else (2, 4)
    began = time.monotonic()
    engine = load(name, where.cache, where.device)
    found: Result = {"engine": engine.name, "load_s": round(time.monotonic() - began, 1), "tiles_per_s": {}}
    where.keep(found)
    tiles = np.random.default_rng(0).integers(0, 256, (sizes[-1], 300, 300), np.uint8)
    for size in sizes:
        hosted = list(tiles[:size])
        gathered = engine.gather(hosted)
        if where.device == "cuda":
            torch.cuda.synchronize()
        found["tiles_per_s"][str(size)] = {
            "engine": _rate(size, lambda gathered=gathered: engine(gathered)),
            "from_host_tiles": _rate(size, lambda hosted=hosted: engine(engine.gather(hosted))),
        }
        where.keep(found)
    if where.device == "cuda":
        found["profile_64"] = _profile(engine, engine.gather(list(tiles[:64])))
        where.keep(found)
        found["eager_bf16_tiles_per_s"] = _plain(name, tiles[:64])
        where.keep(found)


def _profile(engine: Any, batch: Any) -> Result:
    """The device operations of one batch: how many, their time together, and the longest."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        engine(batch)
        torch.cuda.synchronize()
    rows = [(event.key, event.count, event.self_device_time_total) for event in seen.key_averages()]
    rows.sort(key=lambda row: -row[2])
    return {
        "operations": sum(count for _, count, _ in rows),
        "device_us": round(sum(us for _, _, us in rows), 1),
        "longest": [{"name": key[:90], "count": count, "us": round(us, 1)} for key, count, us in rows[:15]],
    }


def _plain(name: str, tiles: Any) -> float:
    """The network without being compiled, bfloat16, tiles on the device."""
    import torch

    from nodes.infer.engines.eager import EagerEngine, parts

    network = EagerEngine(find_model(name)).network.cuda().to(memory_format=torch.channels_last)
    there = torch.from_numpy(tiles[:, None]).cuda()

    def run() -> None:
        with torch.inference_mode(), torch.autocast("cuda", dtype=torch.bfloat16):
            parts(network(there))[0].float().cpu()

    return _rate(len(tiles), run)


def _rate(size: int, call: Callable[[], object]) -> float:
    """Tiles a second, median of several."""
    call()
    rates = []
    for _ in range(REPEATS):
        began, calls = time.perf_counter(), 0
        while (took := time.perf_counter() - began) < MEASURE_S:
            call()
            calls += 1
        rates.append(size * calls / took)
    return round(statistics.median(rates), 1)


def parity(where: Where) -> None:
    """The compiled engine against the float32 network on the CPU: NEU's images where they are, else noise."""
    data = ["--data", str(NEU)] if NEU is not None else []
    where.keep(_script("benchmarks.parity", where, *data, "--engines", "compiled", "--cache", str(where.cache)))


def preprocess(where: Where) -> None:
    """The GPU's tiles against OpenCV's, and how fast they come."""
    if NEU is None:
        sys.exit("no NEU images: set LINEPIPE_NEU_DIR")
    where.keep(
        _script("benchmarks.preprocess", where, "--data", str(NEU), "--devices", "cpu,gpu" if where.device == "cuda" else "cpu,dali")
    )


def _script(module: str, where: Where, *options: str) -> Result:
    """What another benchmark writes."""
    target = where.cache / f"{module}.part"
    subprocess.run([sys.executable, "-m", module, *options, "--out", str(target)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    found: Result = json.loads(target.read_text())
    return found


def tests_engine(where: Where) -> None:
    """``tests/gpu`` without DALI and training."""
    where.keep(_pytest(where, "tests/gpu/test_cuda.py", "tests/gpu/test_engine.py"))


def tests_dali(where: Where) -> None:
    """``tests/gpu/test_dali.py``"""
    where.keep(_pytest(where, "tests/gpu/test_dali.py"))


def tests_training(where: Where) -> None:
    """``tests/gpu/test_training.py``"""
    where.keep(_pytest(where, "tests/gpu/test_training.py"))


def _pytest(where: Where, *files: str) -> Result:
    command = [sys.executable, "-m", "pytest", *files, "-q", "-ra", "--durations=5", "-p", "no:cacheprovider"]
    environment = {**os.environ, "LINEPIPE_TEST_ENGINES": str(where.cache / "engines")}
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    print(done.stdout)
    if done.returncode != 0:
        sys.exit(done.returncode)
    return {"pytest": done.stdout.splitlines()[-1]}


def line(where: Where) -> None:
    """The demo line at its own rate, then far more frames than one camera can give, cut by OpenCV."""
    _line(where, "cpu")


def line_dali(where: Where) -> None:
    """The same with DALI on the GPU."""
    _line(where, "gpu" if where.device == "cuda" else "dali")


def _line(where: Where, device: str) -> None:
    seconds, largest = ("8s", 256) if where.device == "cuda" else ("3s", 4)
    common = ["--set", f"preprocess.device={device}", "--set", "infer.engine=compiled", "--for", seconds]
    source = f"cameras.top.source=sim:strip?seed=7&fps={FLOOD_FPS}&repeat=64"
    flood = ["--set", source, "--set", "cameras.top.when_full=block", "--set", f"infer.max_batch={largest}"]
    large = ["--set", "cameras.top.frame_px=[8192, 2048]", "--set", "cameras.top.pixel_mm=[0.25, 0.25]"]
    found: Result = {}
    kinds = {"demo": [], "flood_900x300": flood, "flood_8192x2048": [*flood, *large]}
    for name, options in kinds.items():
        state = where.cache / f"{name}-{device}"
        state.mkdir(parents=True)
        (state / "engines").symlink_to(where.cache / "engines")  # the code is compiled already
        found[name] = run_line(state, "deploy/line1.yaml", [*common, *options])
        where.keep(found)


def training(where: Where) -> None:
    """A whole run of the full recipe on NEU in 40 s of training, compiled, judged on test on the way; without NEU on noise."""
    from ilcs_model.data.dataset import open_dataset
    from ilcs_model.training.run import train
    from ilcs_model.training.settings import SMALL_UNTIL, Settings

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(where.cache / "engines" / "inductor")
    began = time.monotonic()
    length: Any = {"epochs": 30} if where.device == "cuda" else {"epochs": 1, "norm_images": 16}
    settings = Settings(**length, batch=64 if where.device == "cuda" else 16)
    data = open_dataset(NEU if NEU is not None and where.device == "cuda" else _noise(where.cache / "noise"))
    epochs: list[Result] = []
    found: Result = {"data": data.root.name, "settings": length, "remarks": [], "epochs": epochs}

    def report(record: Result) -> None:
        if "remark" in record:
            found["remarks"].append(record["remark"])
        elif "done" not in record:
            epochs.append(
                {key: record[key] for key in ("loss", "seconds", "images_per_s", "loader_share", "judged_accuracy") if key in record}
            )
            found["since_start_s"] = round(time.monotonic() - began, 1)
            where.keep(found)

    train(data, where.cache / "run", settings, report=report)
    small = int(SMALL_UNTIL * len(epochs))
    found |= {"whole_run_s": round(time.monotonic() - began, 1), "crops": _pace(epochs[1:small]), "whole_tiles": _pace(epochs[small + 1 :])}
    where.keep(found)


def _pace(epochs: list[Result]) -> Result:
    """Medians over epochs, the first left out: it compiles."""
    return {key: round(statistics.median(e[key] for e in epochs), 3) for key in ("images_per_s", "loader_share") if epochs}


def _noise(root: Path) -> Path:
    """A data set of noise: 2 classes of 16 images."""
    import cv2

    rng = np.random.default_rng(0)
    for k in range(32):
        folder = root / f"class{k % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{k}.jpg"), rng.integers(0, 256, (200, 200), np.uint8))
    return root


ITEMS: dict[str, Callable[[Where], None]] = {
    "about": about,
    "compile": compile_both,
    "engine-neu": engine_neu,
    "engine-line": engine_line,
    "parity": parity,
    "tests-engine": tests_engine,
    "line": line,
    "tests-dali": tests_dali,
    "preprocess": preprocess,
    "line-dali": line_dali,
    "training": training,
    "tests-training": tests_training,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=ITEMS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    args = parser.parse_args()

    def keep(found: Result) -> None:
        part = args.out.with_suffix(".part")
        part.write_text(json.dumps(found))
        os.replace(part, args.out)

    ITEMS[args.name](Where(args.device, args.cache, keep))


if __name__ == "__main__":
    main()
