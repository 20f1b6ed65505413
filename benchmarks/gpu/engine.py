"""The compiled engine: how long it takes to load, tiles/s by batch size, and what the device does for one batch."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.item import Result, Where
from pipeline.config.model_file import find_model

SIZES = (16, 64, 128, 256)
REPEATS = 5
MEASURE_S = 0.4


def compile_line(where: Where) -> None:
    """Seconds of the first start of ``ilcs-line``, the lines' model; on a CPU of ``ilcs-neu``. Later items find the code."""
    began = time.monotonic()
    load("ilcs-line" if where.on_gpu else "ilcs-neu", where.cache, where.device)
    where.keep({"load_s": round(time.monotonic() - began, 1)})


def load(name: str, cache: Path, device: str) -> Any:
    """Open the compiled engine of a shipped model as a line does, and print how long each part of compiling took."""
    import torch

    from nodes.infer.engines.load import open_engine

    engine = open_engine("compiled", find_model(name), cache / "engines", SIZES[-1] if device == "cuda" else 4)
    print(name, torch._dynamo.utils.compile_times(repr="str", aggregate=True), flush=True)
    return engine


def engine_line(where: Where) -> None:
    """The engine of ``ilcs-line``, the demo's model: seconds to load, tiles/s by batch size, on a GPU one profiled batch."""
    _engine("ilcs-line", where)


def engine_neu(where: Where) -> None:
    """The same as ``engine_line`` for ``ilcs-neu``."""
    _engine("ilcs-neu", where)


def _engine(name: str, where: Where) -> None:
    import torch

    sizes = SIZES if where.on_gpu else (2, 4)
    began = time.monotonic()
    engine = load(name, where.cache, where.device)
    found: Result = {"engine": engine.name, "load_s": round(time.monotonic() - began, 1), "tiles_per_s": {}}
    where.keep(found)
    tiles = np.random.default_rng(0).integers(0, 256, (sizes[-1], 300, 300), np.uint8)
    for size in sizes:
        hosted = list(tiles[:size])
        gathered = engine.gather(hosted)
        if where.on_gpu:
            torch.cuda.synchronize()
        found["tiles_per_s"][str(size)] = {
            "engine": _rate(size, partial(engine, gathered)),
            "from_host_tiles": _rate(size, partial(lambda tiles: engine(engine.gather(tiles)), hosted)),
        }
        where.keep(found)
    if where.on_gpu:
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

    network = EagerEngine(find_model(name)).network.cuda().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
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
