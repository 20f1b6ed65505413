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
