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
"""Images a second that a line takes from ``folder / "images"``, so that a test knows how long it runs at least."""


class Line:
    """``linepipe run`` with a configuration of its own in ``folder``.

    ``shared`` is a folder with ``tiny.safetensors``; converted models are kept there for other lines. ``changes`` are sections of
    the configuration: a dict is merged into the section, except ``placement``, another value replaces it.
    """

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
        """Start the line and return at once; what it prints goes to ``log.txt``."""
        with (self.folder / "log.txt").open("w") as log:
            self.process = subprocess.Popen(self.command(*options), stdout=log, stderr=subprocess.STDOUT, text=True)

    def command(self, *options: str) -> list[str]:
        """The command line of ``linepipe run`` with a summary and ``options``."""
        return [*LINEPIPE, "run", str(self.config), "--summary", str(self.folder / "summary.json"), *options]

    def start_shell(self, script: str, *options: str, **environment: str) -> None:
        """Start a bash script in a session of its own, in ``folder``; RUN in it is replaced by ``command(*options)``."""
        (self.folder / "log.txt").touch()
        self._in_shell = True
        script = script.replace("RUN", shlex.join(self.command(*options)))
        self.process = subprocess.Popen(
            ["bash", "-c", script], text=True, start_new_session=True, cwd=self.folder, env={**os.environ, **environment}
        )

    def supervisor(self) -> psutil.Process:
        """The process of ``linepipe run``, also when a shell or ``nohup`` started it. Raises ``AssertionError`` if there is none."""
        assert self.process is not None
        top = psutil.Process(self.process.pid)
        for found in [top, *top.children(recursive=True)]:
            words = found.cmdline()
            if words[1:4] == [*LINEPIPE[1:], "run"]:
                return found
        raise AssertionError("no supervisor")

    def finish(self, code: int = 0) -> dict[str, Any]:
        """Wait up to 90 s for the end with this exit code; returns the summary, {} if there is none."""
        assert self.process is not None
        found = self.process.wait(90)
        assert found == code, self.log
        path = self.folder / "summary.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def run(self, *options: str) -> dict[str, Any]:
        """Start, wait for the end, and return the summary."""
        self.start(*options)
        return self.finish()

    @property
    def log(self) -> str:
        """What the line has printed so far."""
        return (self.folder / "log.txt").read_text()

    def status(self) -> dict[str, Any]:
        """The live status from ``status.json``; {} before there is one."""
        path = self.state / "status.json"
        return json.loads(path.read_bytes()) if path.exists() else {}

    def wait_until(self, condition: Callable[[dict[str, Any]], Any], what: str) -> dict[str, Any]:
        """Wait until the live status fulfils ``condition``, and return it.

        ``what`` names it in the ``AssertionError`` that is raised after 120 s, and when the line ends before.
        """
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process is not None and self.process.poll() is None, f"ended before {what}: {self.log}"
            status = self.status()
            if status and condition(status):
                return status
            time.sleep(0.02)
        raise AssertionError(f"never came: {what}; {self.status()}; {self.log}")

    def wait_inspected(self, count: int) -> dict[str, Any]:
        """Wait until camera ``top`` has ``count`` inspected frames, as ``wait_until`` does."""
        return self.wait_until(lambda s: s["cameras"]["top"]["inspected"] >= count, f"{count} inspected frames")

    def kill(self, node: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a node's process."""
        os.kill(self.pid(node), number)

    def pid(self, node: str) -> int:
        """Process id of a node, found by its command line. Raises ``AssertionError`` if it does not run."""
        assert self.process is not None
        for child in self.supervisor().children():
            if child.status() != psutil.STATUS_ZOMBIE and f"node {node} " in " ".join(child.cmdline()):
                return child.pid
        raise AssertionError(f"no process of node {node}")

    def server_pid(self) -> int:
        """Process id of the line's embedded Valkey."""
        assert self.process is not None
        (found,) = [c.pid for c in self.supervisor().children() if "valkey-server" in " ".join(c.cmdline())]
        return found

    @property
    def ended(self) -> bool:
        """Whether the line does not run: it has ended, or was not started."""
        return self.process is None or self.process.poll() is not None

    def wait_for(self, seconds: float) -> None:
        """Let it run for ``seconds``; returns earlier if it ends."""
        assert self.process is not None
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass

    def events(self, *options: str) -> list[dict[str, Any]]:
        """What ``linepipe events`` prints with these options."""
        return [json.loads(line) for line in self.cli("events", *options).stdout.splitlines()]

    def defects(self) -> list[dict[str, Any]]:
        """Defect events of the last run."""
        return self.events("--run", "last", "--type", "defect")

    def cli(self, command: str, *options: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run another command on this line's configuration; it must end within 60 s with this exit code and without a traceback."""
        done = subprocess.run([*LINEPIPE, command, str(self.config), *options], capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def close(self) -> None:
        """Kill the line if it still runs, and what a script has started."""
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
