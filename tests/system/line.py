"""A line under test: real processes, started and killed as a person or an accident would."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

LINEPIPE = [sys.executable, "-m", "pipeline"]
START_S = 120.0
FPS = 200
"""Of the images in ``folder / "images"``, so that a test knows for how long at least a line runs."""


class Line:
    """``linepipe run`` on a configuration of its own under ``folder``; ``shared``: a tiny model, and what is made of models."""

    def __init__(self, folder: Path, shared: Path, **changes: Any) -> None:
        self.folder, self.config = folder, folder / "line.yaml"
        tree: dict[str, Any] = {
            "line": "test",
            "cameras": {"top": {"source": f"folder:{folder / 'images'}?fps={FPS}", "when_full": "block"}},
            "preprocess": {"layout": "whole"},
            "infer": {"model": str(shared / "tiny.safetensors"), "min_score": 0.0},
            "state_dir": str(folder / "state"),
        }
        for key, value in changes.items():
            tree[key] = {**tree.get(key, {}), **value} if isinstance(value, dict) and key != "placement" else value
        self.config.write_text(yaml.safe_dump(tree))
        self.state = folder / "state"
        self.state.mkdir(exist_ok=True)
        if not (self.state / "engines").exists():
            (shared / "engines").mkdir(exist_ok=True)
            (self.state / "engines").symlink_to(shared / "engines")  # converting the model takes seconds; once a session is enough
        self.process: subprocess.Popen[str] | None = None
        self._in_shell = False

    def start(self, *options: str) -> None:
        with (self.folder / "log.txt").open("w") as log:
            self.process = subprocess.Popen(self.command(*options), stdout=log, stderr=subprocess.STDOUT, text=True)

    def command(self, *options: str) -> list[str]:
        return [*LINEPIPE, "run", str(self.config), "--summary", str(self.folder / "summary.json"), *options]

    def start_shell(self, script: str, *options: str, **environment: str) -> None:
        """Run ``script`` in a session of its own; RUN in it stands for the command."""
        (self.folder / "log.txt").touch()
        self._in_shell = True
        script = script.replace("RUN", shlex.join(self.command(*options)))
        self.process = subprocess.Popen(
            ["bash", "-c", script], text=True, start_new_session=True, cwd=self.folder, env={**os.environ, **environment}
        )

    def supervisor(self) -> psutil.Process:
        """The process of ``linepipe run``, also when a shell or ``nohup`` started it."""
        assert self.process is not None
        top = psutil.Process(self.process.pid)
        for found in [top, *top.children(recursive=True)]:
            words = found.cmdline()
            if words[1:4] == [*LINEPIPE[1:], "run"]:
                return found
        raise AssertionError("no supervisor")

    def finish(self, code: int = 0) -> dict[str, Any]:
        """Wait for the end; returns the summary."""
        assert self.process is not None
        found = self.process.wait(90)
        assert found == code, self.log
        path = self.folder / "summary.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def run(self, *options: str) -> dict[str, Any]:
        self.start(*options)
        return self.finish()

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text()

    def status(self) -> dict[str, Any]:
        path = self.state / "status.json"
        return json.loads(path.read_bytes()) if path.exists() else {}

    def wait_until(self, condition: Callable[[dict[str, Any]], Any], what: str) -> dict[str, Any]:
        """Wait for the live status to fulfil ``condition``."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process is not None and self.process.poll() is None, f"ended before {what}: {self.log}"
            status = self.status()
            if status and condition(status):
                return status
            time.sleep(0.02)
        raise AssertionError(f"never came: {what}; {self.status()}; {self.log}")

    def wait_inspected(self, count: int) -> dict[str, Any]:
        return self.wait_until(lambda s: s["cameras"]["top"]["inspected"] >= count, f"{count} inspected frames")

    def kill(self, node: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a node's process."""
        os.kill(self.pid(node), number)

    def pid(self, node: str) -> int:
        """Process of a node, found as a person would: by its command line."""
        assert self.process is not None
        for child in self.supervisor().children():
            if child.status() != psutil.STATUS_ZOMBIE and f"node {node} " in " ".join(child.cmdline()):
                return child.pid
        raise AssertionError(f"no process of node {node}")

    def server_pid(self) -> int:
        assert self.process is not None
        (found,) = [c.pid for c in self.supervisor().children() if "valkey-server" in " ".join(c.cmdline())]
        return found

    @property
    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def wait_for(self, seconds: float) -> None:
        """Let it run on, unless it ends before."""
        assert self.process is not None
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass

    def events(self, *options: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.cli("events", *options).stdout.splitlines()]

    def defects(self) -> list[dict[str, Any]]:
        return self.events("--run", "last", "--type", "defect")

    def cli(self, command: str, *options: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([*LINEPIPE, command, str(self.config), *options], capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def close(self) -> None:
        if self.process is None:
            return
        if self._in_shell:  # whatever it has started
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def balanced(camera: dict[str, Any]) -> bool:
    """Whether a camera's ledger balances with nothing in flight."""
    ended = camera["inspected"] + sum(camera["dropped"].values()) + sum(camera["invalid"].values())
    return bool(camera["acquired"] == ended and camera["in_flight"] == 0)
