"""Whether the GPU gives what the CPU gives: the tests, and the other benchmarks that compare."""

import json
import os
import subprocess
import sys

from benchmarks.gpu.item import NEU, ROOT, Result, Where


def parity(where: Where) -> None:
    """The compiled engine against the float32 network on the CPU, on NEU's images; on noise if they are missing or on a CPU."""
    data = ["--data", str(NEU)] if NEU is not None and where.on_gpu else []
    where.keep(_script("benchmarks.parity", where, *data, "--engines", "compiled", "--cache", str(where.cache)))


def dali_order(where: Where) -> None:
    """A DALI graph in a process that imported torch first, and in one that imported DALI first: how each ended.

    Raises ``subprocess.TimeoutExpired`` if one takes more than 40 s.
    """
    found: Result = {}
    for first, second in (("torch", "nvidia.dali"), ("nvidia.dali", "torch")):
        command = [sys.executable, "-c", _GRAPH, first, second, "gpu" if where.on_gpu else "cpu"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=40)
        found[f"{first} first"] = {"exit_code": done.returncode, "says": (done.stdout + done.stderr).strip()[-500:]}
        where.keep(found)


_GRAPH = """
import importlib, sys
for name in sys.argv[1:3]:
    importlib.import_module(name)
import numpy as np
from nodes.preprocess.dali import TileGraph
from pipeline.config.model_file import TileRecipe
graph = TileGraph(TileRecipe(decode="grey", size_px=300, resize="bilinear"), sys.argv[3], 16)
(tiles,) = graph([np.zeros((2, 2), np.uint8)], [((0, 0, 2, 2),)])
print(tuple(tiles.shape))
"""


def preprocess(where: Where) -> None:
    """The GPU's tiles against OpenCV's, and how fast they come. Exits if the NEU images are missing on a GPU."""
    images = where.images()
    if images is None:
        sys.exit("no NEU images: set LINEPIPE_NEU_DIR")
    where.keep(_script("benchmarks.preprocess", where, "--data", str(images), "--devices", "cpu,gpu" if where.on_gpu else "cpu,dali"))


def _script(module: str, where: Where, *options: str) -> Result:
    """What another benchmark writes."""
    target = where.cache / f"{module}.part"
    subprocess.run([sys.executable, "-m", module, *options, "--out", str(target)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    found: Result = json.loads(target.read_text())
    return found


def tests_engine(where: Where) -> None:
    """The tests in ``tests/gpu`` but those of DALI and training. Exits with pytest's code if any fails."""
    where.keep(_pytest(where, "tests/gpu/test_cuda.py", "tests/gpu/test_engine.py"))


def tests_dali(where: Where) -> None:
    """The tests in ``tests/gpu/test_dali.py``. Exits with pytest's code if any fails."""
    where.keep(_pytest(where, "tests/gpu/test_dali.py"))


def tests_training(where: Where) -> None:
    """The tests in ``tests/gpu/test_training.py``. Exits with pytest's code if any fails."""
    where.keep(_pytest(where, "tests/gpu/test_training.py"))


def _pytest(where: Where, *files: str) -> Result:
    command = [sys.executable, "-m", "pytest", *files, "-q", "-ra", "--durations=5", "-p", "no:cacheprovider"]
    environment = {**os.environ, "LINEPIPE_TEST_ENGINES": str(where.cache / "engines")}
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    print(done.stdout)
    if done.returncode != 0:
        sys.exit(done.returncode)
    return {"pytest": done.stdout.splitlines()[-1]}
