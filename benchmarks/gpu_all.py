"""Everything that needs a GPU, in one go and within minutes, the most important first.

    python3 -m benchmarks.gpu_all [--out benchmarks/results/gpu] [--items NAME,NAME] [--device cuda]

Run in the repository's root; README.md beside this says what a machine needs. Each item of ``benchmarks.gpu`` runs in a process
of its own and is ended, with all that it started, after its limit. Writes two files: OUT.json, after every figure, so that
a run that is cut off keeps what it has; and OUT.log, what the items printed. An item that fails is recorded with its error, the rest goes
on, and the exit code is 1. Without CUDA it says so and exits 0. ``--device cpu`` runs the same items where there is no
GPU, on noise and with four times the limits: it tries this program, and its figures mean nothing.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.line import commit, machine

ROOT = Path(__file__).resolve().parents[1]
LIMITS_S = {
    "about": 30,
    "tests-dali": 75,
    "compile": 240,
    "line-large-dali": 75,
    "line-demo-dali": 75,
    "tests-training": 90,
    "training": 90,
    "line-flood": 75,
    "line-demo": 75,
    "engine-line": 75,
    "tests-engine": 75,
    "preprocess": 45,
    "line-large": 75,
    "engine-neu": 150,
    "parity": 75,
}
"""Items in their order, and the seconds each may take. Those never measured come first. Hosts differ: two models
compiled at once took 86 s beside an H200 and more than 150 s beside an H100, both with 16 cores."""
CPU_FACTOR = 4
"""With ``--device cpu`` each item may take this many times as long: two cores compile for minutes what a GPU's host does in one."""
_PR_SET_CHILD_SUBREAPER = 36
TAIL = 40
"""Lines of an item's output that are kept with its error."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu", metavar="PATH")
    parser.add_argument("--items", default=",".join(LIMITS_S), metavar="NAME,NAME", help="of " + ", ".join(LIMITS_S))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where compiled code is kept for another call (else: thrown away)")
    args = parser.parse_args()
    names: list[str] = args.items.split(",")
    if unknown := [name for name in names if name not in LIMITS_S]:
        parser.error(f"no item {', '.join(unknown)}; there are {', '.join(LIMITS_S)}")
    if args.device == "cuda" and not _has_cuda():
        return 0
    out: Path = args.out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"machine": machine(), "commit": commit(), "device": args.device, "items": {}}
    failed = []
    become_subreaper()
    with tempfile.TemporaryDirectory() as temporary, out.with_suffix(".log").open("w") as log:
        cache: Path = (args.cache or Path(temporary)).resolve()
        cache.mkdir(parents=True, exist_ok=True)
        for name in names:
            part = cache / f"{name}.json"
            part.unlink(missing_ok=True)
            command = [sys.executable, "-m", "benchmarks.gpu", name, "--out", str(part), "--cache", str(cache), "--device", args.device]

            def note(found: dict[str, Any], name: str = name) -> None:
                record["items"][name] = found
                _write(out.with_suffix(".json"), record)

            limit_s = LIMITS_S[name] * (CPU_FACTOR if args.device == "cpu" else 1)
            found = run_item(command, limit_s, part, log, note)
            print(f"{name}: {found.get('error', 'ok')}, {found['took_s']} s", flush=True)
            failed += [name] if "error" in found else []
    print(f"failed: {', '.join(failed)}" if failed else "all items passed")
    return 1 if failed else 0


def run_item(command: list[str], limit_s: float, part: Path, log: Any, note: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Run one item for at most ``limit_s`` seconds, end all processes that came from this one, and return what it found.

    ``took_s`` is added, and ``error`` if it failed. The item writes ``part`` as it goes; ``note`` is called with its content
    about once a second. ``log`` is an open file that gets the item's output.
    """
    start, began = log.tell(), time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    code = None
    while code is None and time.monotonic() - began < limit_s:
        try:
            code = process.wait(min(1.0, limit_s))
        except subprocess.TimeoutExpired:
            pass
        note(_found(part))
    end_descendants()
    process.wait()
    found = {**_found(part), "took_s": round(time.monotonic() - began, 1)}
    if code != 0:
        log.flush()
        found["error"] = f"was not done after {limit_s} s" if code is None else f"ended with exit code {code}"
        found["log"] = _since(Path(log.name), start)[-TAIL:]
    note(found)
    return found


def become_subreaper() -> None:
    """Make orphaned descendants children of this process, so that it can end them. Raises ``OSError`` if the kernel refuses."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def end_descendants() -> None:
    """Kill every process that came from this one, whatever session or group it belongs to, and wait until all have ended."""
    while left := psutil.Process().children(recursive=True):
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        psutil.wait_procs(left, timeout=1.0)


def _has_cuda() -> bool:
    """Asked in a process of its own: this one must not hold the device."""
    code = "import torch; print(torch.cuda.is_available(), torch.__version__)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    if answer[0] != "True":
        print(f"no CUDA device that torch {answer[1]} can use: nothing was run")
    return answer[0] == "True"


def _found(part: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(part.read_text()) if part.is_file() else {}
    return found


def _write(target: Path, record: dict[str, Any]) -> None:
    part = target.with_suffix(".part")
    part.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(part, target)


def _since(file: Path, start: int) -> list[str]:
    with file.open("rb") as log:
        log.seek(start)
        return log.read().decode(errors="replace").splitlines()


if __name__ == "__main__":
    sys.exit(main())
