"""How long a line gives no verdict after its inspecting process was killed, or stood still.

    python -m benchmarks.restart [--times 5] [--out FILE]

The demo line, with a defect in every frame. Each time the inspecting process gets SIGKILL: seconds until the first event is in
Redis whose frame was captured later. Then SIGSTOP: seconds until that process is gone, and until such an event. Beside it the
same start of one process by hand: importing, and loading the engine.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import redis

from benchmarks.line import ROOT, commit, machine
from benchmarks.outage import STREAM, start_server

SETTLED_S = 5.0
BY_HAND = """
import time; begun = time.perf_counter()
import cv2, nodes.infer.node, nodes.preprocess.node
from pathlib import Path; from nodes.infer.engines.load import open_engine; from pipeline.config.model_file import find_model
imported = time.perf_counter()
open_engine('openvino', find_model('ilcs-line'), Path({cache!r}), 16)
print(imported - begun, time.perf_counter() - imported)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), args.times)
    result = {"machine": machine(), "commit": commit(), **found}
    print(json.dumps(result, indent=2))
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


def measure(folder: Path, times: int) -> dict[str, Any]:
    """Disturb a line ``times`` times in each way; all durations in seconds. ``folder`` gets its state and that of its Redis."""
    (folder / "redis").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = start_server(folder / "redis", port)
    options = ["--set", f"publish.redis=redis://127.0.0.1:{port}/0", "--set", f"state_dir={folder / 'state'}"]
    options += ["--set", "infer.min_score=0.0", "--set", "cameras.top.source=sim:strip?seed=7&fps=4"]
    line = subprocess.Popen([sys.executable, "-m", "pipeline", "run", "deploy/line1.yaml", *options], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(port=port)
        _event_of_later_frame(client)
        killed = [_disturb(line.pid, client, signal.SIGKILL)[1] for _ in range(times)]
        stopped = [_disturb(line.pid, client, signal.SIGSTOP) for _ in range(times)]
        line.send_signal(signal.SIGTERM)
        line.wait()
    finally:
        line.kill()
        server.kill()
        server.wait()
    by_hand = [_by_hand(folder / "state" / "engines") for _ in range(times)]
    return {
        "after_sigkill_s": {"each": killed, "median": statistics.median(killed)},
        "after_sigstop_s": {"gone": [gone for gone, _ in stopped], "next_event": [event for _, event in stopped]},
        "by_hand_s": {"import": [a for a, _ in by_hand], "engine": [b for _, b in by_hand]},
    }


def _disturb(supervisor: int, client: "redis.Redis", number: int) -> tuple[float, float]:
    """Seconds until the process is gone, and until the next event."""
    time.sleep(SETTLED_S)
    (node,) = [c for c in psutil.Process(supervisor).children() if "node inspect " in " ".join(c.cmdline())]
    begun, at = time.monotonic(), datetime.now(UTC)
    os.kill(node.pid, number)
    while node.is_running() and node.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.002)
    gone = time.monotonic() - begun
    _event_of_later_frame(client, at)
    return round(gone, 3), round(time.monotonic() - begun, 3)


def _event_of_later_frame(client: "redis.Redis", since: datetime | None = None) -> None:
    """Wait for a defect event of a frame captured after ``since``."""
    last: Any = client.xrevrange(STREAM, count=1)
    at = last[0][0] if last else "0-0"
    while True:
        found: Any = client.xread({STREAM: at}, count=1, block=100)
        for _, entries in found:
            for entry in entries:
                at, event = entry[0], json.loads(entry[1][b"data"])
                if event["type"] == "defect" and (since is None or datetime.fromisoformat(event["captured_at"]) > since):
                    return


def _by_hand(cache: Path) -> tuple[float, float]:
    done = subprocess.run([sys.executable, "-c", BY_HAND.format(cache=str(cache))], cwd=ROOT, capture_output=True, text=True, check=True)
    imported, loaded = map(float, done.stdout.split())
    return round(imported, 3), round(loaded, 3)


if __name__ == "__main__":
    main()
