"""Everything that needs a GPU, in one go and within minutes, the most telling first.

    python3 -m benchmarks.gpu_all [--out benchmarks/results/gpu] [--items NAME,NAME] [--device cuda]

Run in the repository's root; README.md beside this says what a machine needs. Each item of ``gpu_items`` runs in a process
of its own and is ended, with all that it started, after its limit. Writes two files: OUT.json, after every figure, so that
a run that is cut off keeps what it has; and OUT.log, what the items printed. An item that fails is recorded with its error, the rest goes
on, and the exit code is 1. Without CUDA it says so and exits 0. ``--device cpu`` runs the same items where there is no
GPU: it tries this program, and its figures mean nothing.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.line import commit, machine

ROOT = Path(__file__).resolve().parents[1]
LIMITS_S = {
    "about": 30,
    "compile": 150,
    "engine-neu": 90,
    "engine-line": 90,
    "parity": 90,
    "tests-engine": 90,
    "line": 90,
    "tests-dali": 90,
    "preprocess": 90,
    "line-dali": 90,
    "training": 90,
    "tests-training": 90,
}
"""Items in their order, and the seconds each may take."""
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
            error, record["items"][name] = run_item(name, out.with_suffix(".json"), record, log, cache, args.device)
            print(f"{name}: {error or 'ok'}, {record['items'][name]['took_s']} s", flush=True)
            failed += [name] if error else []
    print(f"failed: {', '.join(failed)}" if failed else "all items passed")
    return 1 if failed else 0


def run_item(name: str, target: Path, record: dict[str, Any], log: Any, cache: Path, device: str) -> tuple[str, dict[str, Any]]:
    """One item: its error, empty if there was none, and what it found. ``target`` has it too, whatever becomes of it."""
    part = cache / f"{name}.json"
    part.unlink(missing_ok=True)
    start = log.tell()
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gpu_items", name, "--out", str(part), "--cache", str(cache), "--device", device],
        cwd=ROOT,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    code = None
    while code is None and time.monotonic() - began < LIMITS_S[name]:
        try:
            code = process.wait(1.0)
        except subprocess.TimeoutExpired:
            pass
        _write(target, record, name, _found(part))
    end_descendants()
    process.wait()
    error = "" if code == 0 else f"was not done after {LIMITS_S[name]} s" if code is None else f"ended with exit code {code}"
    found = {**_found(part), "took_s": round(time.monotonic() - began, 1)}
    if error:
        log.flush()
        found |= {"error": error, "log": _since(Path(log.name), start)[-TAIL:]}
    _write(target, record, name, found)
    return error, found


def become_subreaper() -> None:
    """Orphans of any depth become children of this process, so that it can end them."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def end_descendants() -> None:
    """End every process that came from this one, whatever session or group it lies in, and wait for it."""
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


def _write(target: Path, record: dict[str, Any], name: str, found: dict[str, Any]) -> None:
    whole = {**record, "items": {**record["items"], name: found}}
    part = target.with_suffix(".part")
    part.write_text(json.dumps(whole, indent=2) + "\n")
    os.replace(part, target)


def _since(file: Path, start: int) -> list[str]:
    with file.open("rb") as log:
        log.seek(start)
        return log.read().decode(errors="replace").splitlines()


if __name__ == "__main__":
    sys.exit(main())
