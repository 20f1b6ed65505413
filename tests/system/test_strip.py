"""The demo line finds what the simulator planted, where it planted it, and says of clean steel that it is clean."""

import json
import subprocess
from pathlib import Path

from benchmarks.strip import compare
from tests.system.line import LINEPIPE

ROOT = Path(__file__).resolve().parents[2]
FRAMES = 150


def linepipe(*arguments: str) -> str:
    return subprocess.run([*LINEPIPE, *arguments], cwd=ROOT, check=True, capture_output=True, text=True, timeout=100).stdout


def test_the_demo_line_reports_what_is_there_and_little_else(tmp_path: Path) -> None:
    """On a seed that no model was trained on; `benchmarks/strip.py` measures it on thousands of frames."""
    state = ["--set", f"state_dir={tmp_path}"]
    source = ["--set", "cameras.top.source=sim:strip?seed=9100&fps=30", "--set", "cameras.top.when_full=block"]

    linepipe("run", "deploy/line1.yaml", *state, *source, "--frames", str(FRAMES), "--summary", str(tmp_path / "s.json"))
    printed = linepipe("events", "deploy/line1.yaml", *state, "--type", "defect", "--run", "last")

    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["cameras"]["top"]["inspected"] == FRAMES
    events = [json.loads(line) for line in printed.splitlines()]
    truths = [json.loads(line) for line in (tmp_path / "truth" / "top.jsonl").read_text().splitlines()]
    planted, false, clean = compare(events, truths, FRAMES)
    found = [p for p in planted if p["found"]]
    assert len(planted) > 30
    assert len(found) >= 0.9 * len(planted)
    assert sum(p["as"] == p["label"] for p in found) >= 0.85 * len(found)
    assert sum(p["off_mm"] <= 5 for p in found) >= 0.85 * len(found)
    assert len(false) <= 0.01 * clean
    assert len({e["id"] for e in events}) == len(events) == summary["events"]["defect"]
    assert any(e["box_px"][1] + e["box_px"][3] > 300 for e in events), "no defect was joined across a frame border"
