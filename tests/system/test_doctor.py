"""``linepipe doctor``: what is wrong is named with what to do; a broken library neither crashes nor hangs it."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load, topology
from pipeline.config.topology import runtime_dir
from pipeline.core.errors import ConfigError
from pipeline.diagnostics import libraries, machine
from tests.conftest import Server
from tests.system.line import LINEPIPE

ROOT = Path(__file__).resolve().parents[2]


def doctor(*args: str, code: int, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*LINEPIPE, "doctor", *args], capture_output=True, text=True, timeout=110, cwd=ROOT, env={**os.environ, **environment}
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done


def findings(*args: str, code: int, **environment: str) -> dict[str, dict[str, Any]]:
    """By name; the last of a name counts."""
    found = json.loads(doctor(*args, "--json", code=code, **environment).stdout)
    for each in found:
        assert set(each) == {"name", "status", "found", "advice"}
        assert (each["advice"] == "") == (each["status"] == "ok"), each
    return {each["name"]: each for each in found}


def stub(folder: Path, name: str, program: str) -> None:
    """A library of that name that does something else when it is imported."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(f"import os, time\n{program}\n")


def test_this_machine_and_the_demo_line_are_fit(tmp_path: Path) -> None:
    found = findings("deploy/line1.yaml", "--set", f"state_dir={tmp_path}/state", code=0)

    assert {"Python", "torch", "openvino", "OpenCV", "PyAV", "Valkey", "shared memory", "clock"} <= set(found)
    assert {"configuration", "runtime folder", "state_dir", "disk", "ring memory"} <= set(found)
    assert not (tmp_path / "state").exists()  # it looks and touches nothing


def test_without_a_configuration_it_prints_a_line_each(tmp_path: Path) -> None:
    lines = doctor(code=0).stdout.splitlines()

    assert len(lines) >= 10
    for line in lines:
        assert re.match(r"(ok|warning|failed) +\S.{18}\S", line), line
    assert not any("state_dir" in line for line in lines)


def test_broken_libraries_are_named_and_the_rest_is_still_looked_at(tmp_path: Path) -> None:
    stub(tmp_path, "torch", "os.abort()")
    stub(tmp_path, "openvino", "raise ImportError('libmissing.so.3: cannot open')")
    stub(tmp_path, "av", "print('no report')")

    found = findings(code=1, PYTHONPATH=str(tmp_path))

    assert {name for name, each in found.items() if each["status"] == "failed"} == {"torch", "openvino", "PyAV"}
    assert "killed by signal 6" in found["torch"]["found"]
    assert "libmissing.so.3" in found["openvino"]["found"]
    assert "pip install --force-reinstall torch" in found["torch"]["advice"]
    assert found["OpenCV"]["status"] == "ok"


def test_onnx_is_looked_at_for_a_line_that_runs_it(tmp_path: Path) -> None:
    stub(tmp_path, "onnxruntime", "raise ImportError('libmissing.so.3: cannot open')")
    line = ("deploy/line1.yaml", "--set", f"state_dir={tmp_path}/state")

    found = findings(*line, "--set", "infer.engine=onnx", code=1, PYTHONPATH=str(tmp_path))

    assert {name for name, each in found.items() if each["status"] == "failed"} == {"ONNX Runtime"}
    assert "libmissing.so.3" in found["ONNX Runtime"]["found"]
    assert found["ONNX"]["status"] == "ok"
    assert not {"ONNX", "ONNX Runtime"} & set(findings(*line, code=0, PYTHONPATH=str(tmp_path)))


def test_a_library_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(tmp_path, "cv2", "time.sleep(1000)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(libraries, "PROBE_S", 2.0)

    (found,) = [each for each in libraries.findings(needs_server=True) if each.name == "OpenCV"]

    assert found.status == "failed"
    assert "no answer within 2 s" in found.found


def test_what_is_wrong_with_a_line_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    wrong = ("state_dir=" + str(tmp_path / "file"), "publish.redis=redis://127.0.0.1:1/0", "cameras.top.slots=4096")
    sizes = ("cameras.top.frame_px=[50000, 1000]", "cameras.top.source=sim:strip?fps=1")
    changes = [part for change in (*wrong, *sizes) for part in ("--set", change)]

    found = findings("deploy/line1.yaml", *changes, code=1)

    assert {n for n, each in found.items() if each["status"] == "failed"} == {"configuration", "state_dir", "ring memory", "redis"}
    assert "is a file" in found["configuration"]["found"]
    assert "cannot be written" in found["state_dir"]["found"]
    assert "lower cameras.*.slots" in found["ring memory"]["advice"]
    assert "127.0.0.1:1" in found["redis"]["found"]


def test_a_configuration_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    path = tmp_path / "line.yaml"
    path.write_text("line: [")

    found = findings(str(path), code=1)

    assert "line.yaml" in found["configuration"]["found"]
    assert found["torch"]["status"] == "ok"


@pytest.mark.parametrize("args", [["nowhere.yaml"], ["--set", "line=x"], ["--fast"], ["deploy"]])
def test_wrong_usage_is_exit_code_2(args: list[str]) -> None:
    doctor(*args, code=2)


def test_a_server_that_keeps_nothing_is_a_warning(server: Server) -> None:
    server.kill()
    server.start("--appendonly", "no", "--maxmemory-policy", "allkeys-lru")

    found = findings("deploy/line1.yaml", "--set", f"publish.redis={server.url}", code=0)

    assert found["redis"]["status"] == found["redis version"]["status"] == "ok"
    assert found["redis persistence"]["status"] == found["redis eviction"]["status"] == "warning"


def test_a_server_that_hides_its_settings_or_wants_a_password_is_said(server: Server) -> None:
    server.kill()
    server.start("--rename-command", "INFO", "")
    change = ("deploy/line1.yaml", "--set", f"publish.redis={server.url}")
    assert findings(*change, code=0)["redis settings"]["status"] == "warning"

    server.kill()
    server.start("--requirepass", "secret")
    assert "LINEPIPE_REDIS_PASSWORD" in findings(*change, code=1)["redis"]["found"]


def test_a_control_group_bounds_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of the groups above this process is the tightest, in both versions of control groups."""
    groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for _, controllers, path in groups:
        base = tmp_path / "memory" if controllers == "memory" else tmp_path
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers == "memory" else ("memory.max", "memory.current")
        folder = base / path.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in zip(names, ("5000000", "2000000"), strict=True):
            (folder / name).write_text(text)
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)

    assert machine.memory_free() == 3_000_000


def test_a_stranger_in_place_of_the_runtime_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology, "Path", lambda _: tmp_path)
    (tmp_path / f"linepipe-{os.getuid()}").write_text("")

    with pytest.raises(ConfigError, match="is not a private folder of yours; remove it"):
        runtime_dir(load(ROOT / "deploy" / "line1.yaml"))
