"""The machine: versions, the card, and whether the driver reads a camera's ring directly."""

import ctypes
import importlib.metadata
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks.gpu.item import Result, Where

REPEATS = 5


def about(where: Where) -> None:
    """Versions; on a GPU also the card, whether the driver pins read-only mappings, and GB/s of a copy before and after that."""
    import torch

    names = ("torch", "triton", "numpy", "opencv-python-headless", "nvidia-dali-cuda130", "msgspec", "pyzmq", "redis")
    found: Result = {"python": sys.version.split()[0], "versions": {name: _version(name) for name in names}}
    where.keep(found)
    if not where.on_gpu:
        return
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    found["gpu"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    where.keep(found)
    from pipeline.system.cuda import Pinned, driver
    from pipeline.transport.ring import Ring, new_memfd

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
