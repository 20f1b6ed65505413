"""What runs on a GPU machine can be run without one, and keeps to its limits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]


def test_the_gpu_tests_are_collected_where_dali_is_not_installed() -> None:
    code = """
import sys
import pytest
sys.modules["nvidia.dali"] = None
sys.exit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", "tests/gpu"]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)

    assert done.returncode == 0, done.stdout + done.stderr
    for file in ("test_cuda.py", "test_engine.py", "test_training.py"):
        assert f"tests/gpu/{file}::" in done.stdout


def test_an_item_is_ended_after_its_limit_with_all_that_it_started(tmp_path: Path) -> None:
    """Also what lies in another session, as the nodes of a line do; what it had found stays."""
    item = """
import json, pathlib, subprocess, sys, time
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
pathlib.Path(sys.argv[1]).write_text(json.dumps({"pid": child.pid}))
time.sleep(1000)
"""
    code = f"""
import json, sys
from pathlib import Path
from benchmarks import gpu_all
gpu_all.become_subreaper()
noted = []
with open({str(tmp_path / "log")!r}, "w") as log:
    part = Path({str(tmp_path / "part.json")!r})
    found = gpu_all.run_item([sys.executable, "-c", {item!r}, str(part)], 3, part, log, noted.append)
print(json.dumps([found, noted[-1] == found]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)

    found, noted = json.loads(done.stdout)
    assert found["error"] == "was not done after 3 s"
    assert noted
    assert not psutil.pid_exists(found["pid"])


def test_the_whole_run_works_without_a_gpu_and_says_what_failed(tmp_path: Path) -> None:
    """The machine is described; an item that cannot work is recorded with its error, and the rest goes on."""
    command = [sys.executable, "-m", "benchmarks.gpu_all", "--device", "cpu", "--out", str(tmp_path / "gpu"), "--items"]
    no_compiler = {**os.environ, "PATH": "/nonexistent"}

    done = subprocess.run([*command, "compile,about"], cwd=ROOT, env=no_compiler, capture_output=True, text=True, timeout=110)

    record = json.loads((tmp_path / "gpu.json").read_text())
    assert done.returncode == 1
    assert "needs a C++ compiler" in " ".join(record["items"]["compile"]["log"])
    assert record["items"]["about"]["python"] == sys.version.split()[0]
