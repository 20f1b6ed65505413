"""Redis away for a minute under load: what it costs the frames.

    python -m benchmarks.outage [--away 60] [--fps 4] [--out FILE]

Runs the demo line, at ``--fps`` (a small machine cannot do its ten), twice against a Redis of its own: undisturbed, and
with Redis killed after 10 s and started again after ``--away``. A frame's way to its verdict (capture, preprocess, infer)
should not notice: nothing dropped, the same p99. Of the events: whether all arrived, in the order in which they were accepted.
"""

import argparse
import json
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import redis

from benchmarks.line import ROOT, commit, machine
from pipeline.redis.server import server_program

BEFORE_S, AFTER_S = 10, 20
STAGES = ("capture", "preprocess", "infer")
STREAM = "linepipe:line1:events"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--away", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--fps", type=float, default=4.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {name: _run(Path(folder) / name, args.away, args.fps, name == "away") for name in ("undisturbed", "away")}
    result = {"machine": machine(), "commit": commit(), "away_s": args.away, "fps": args.fps, **found}
    print(json.dumps(result, indent=2))
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


def _run(folder: Path, away_s: float, fps: float, disturbed: bool) -> dict[str, Any]:
    (folder / "redis").mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = start_server(folder / "redis", port)
    summary, state = folder / "summary.json", folder / "state"
    options = ["--set", f"publish.redis=redis://127.0.0.1:{port}/0", "--set", f"state_dir={state}", "--summary", str(summary)]
    options += ["--set", f"cameras.top.source=sim:strip?seed=7&fps={fps}"]
    duration = ["--for", f"{BEFORE_S + away_s + AFTER_S:.0f}s"]
    line = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "run", "deploy/line1.yaml", *options, *duration], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    backlog = 0
    if disturbed:
        while not _status(state).get("duration_s", 0) > BEFORE_S:
            time.sleep(0.1)
        server.kill()
        server.wait()
        time.sleep(away_s)
        backlog = _status(state)["spool"]["backlog"]
        server = start_server(folder / "redis", port)
    line.wait()
    accepted = [row[0] for row in sqlite3.connect(state / "spool" / "events.db").execute("SELECT id FROM events ORDER BY seq")]
    entries = cast(list[tuple[bytes, dict[bytes, bytes]]], redis.Redis(port=port).xrange(STREAM))
    sent = [fields[b"id"].decode() for _, fields in entries]
    server.kill()
    server.wait()
    told = json.loads(summary.read_text())
    camera = told["cameras"]["top"]
    return {
        "frames": camera["acquired"],
        "dropped": sum(camera["dropped"].values()),
        "p99_ms": {stage: told["latency_ms"][stage]["p99"] for stage in STAGES},
        "p50_ms": {stage: told["latency_ms"][stage]["p50"] for stage in STAGES},
        "backlog_before_redis_came_back": backlog,
        "events": {"accepted": len(accepted), "in_stream": len(sent), "all_in_order": sent == accepted},
    }


def start_server(folder: Path, port: int) -> "subprocess.Popen[bytes]":
    """Start a Redis-compatible server on 127.0.0.1 that keeps its data in ``folder``, and wait until it answers, without a limit."""
    command = [str(server_program()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--appendonly", "yes", "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port)
    while True:
        try:
            client.ping()
            return process
        except redis.ConnectionError:
            time.sleep(0.02)


def _status(state: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((state / "status.json").read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return found


if __name__ == "__main__":
    main()
