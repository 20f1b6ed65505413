"""Cameras, sinks, engines and networks of another package: found by name once it is installed, and no file of linepipe is touched."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.contract.live_camera import SIZE, LiveCamera
from tests.system.line import LINEPIPE, Line, balanced

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.compile(r"```(\w+)\n(.*?)```", re.S)


@pytest.fixture(scope="module")
def extras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of docs/extending.md, installed in a folder of its own."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    project, *texts = [text for _, text in BLOCKS.findall((ROOT / "docs" / "extending.md").read_text())]
    assert all(sum(map(bool, text.splitlines()[1:])) <= 40 for text in texts), "docstring and empty lines apart"
    files = dict(zip(("camera", "sink", "engine", "network"), texts, strict=True))
    install(source, target, project, {"steel_extras/__init__.py": "", **{f"steel_extras/{name}.py": text for name, text in files.items()}})
    return target


def install(source: Path, target: Path, project: str, files: dict[str, str]) -> None:
    for name, text in {"pyproject.toml": project, **files}.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(text)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(target)]
    subprocess.run([*pip, str(source)], check=True, capture_output=True, timeout=60)


def linepipe(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*LINEPIPE, *words], capture_output=True, text=True, timeout=100)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def posted() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that takes events: its URL, and what it was sent; the first request it refuses."""
    events: list[dict[str, Any]] = []
    refused: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if refused:
                events.append(json.loads(data))
            self.send_response(204 if refused else 503)
            refused.append(data)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/defects", events
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_line_runs_a_camera_a_sink_an_engine_and_a_network_of_another_package(
    make_line: Callable[..., Line],
    extras: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    posted: tuple[str, list[dict[str, Any]]],
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(extras), prepend=os.pathsep)
    rng = np.random.default_rng(0)
    for k in range(24):
        folder = tmp_path / "images" / ("dark", "light")[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{k}.png"), rng.integers(0, 128, (64, 64), np.uint8) + 100 * (k % 2))
    linepipe("train", "--data", str(tmp_path / "images"), "--out", str(tmp_path / "run"), "--model", "small", "--epochs", "1")
    model = tmp_path / "run" / "model.safetensors"
    device = LiveCamera(tmp_path / "camera")
    camera = {"source": f"raw:{tmp_path / 'camera'}", "frame_px": [SIZE[1], SIZE[0]], "slots": 256}
    mes, received = posted
    line = make_line(
        cameras={"top": camera}, infer={"model": str(model), "engine": "patient"}, publish={"sinks": {"mes": f"webhook:{mes}"}}
    )

    summary = line.run("--frames", "60")
    device.die()

    assert summary["engine"] == "patient-f32"
    assert summary["cameras"]["top"]["acquired"] == 60
    assert summary["cameras"]["top"]["inspected"] > 0
    assert balanced(summary["cameras"]["top"])
    assert summary["sinks"] == {"mes": {"state": "up", "backlog": 0}}
    assert received == line.events()
    assert {e["type"] for e in received} >= {"defect", "coverage"}
    assert "The sink mes" in line.log and "503" in line.log
    assert mes not in line.log, "a URL may hold a secret"
    assert not any(mes in str(e["text"]) for e in received if e["type"] == "alarm")
    report = json.loads(linepipe("eval", str(model), str(tmp_path / "images"), "--split", "all", "--engine", "patient", "--json").stdout)
    assert report["engine"] == "patient-f32"


def test_a_line_runs_a_camera_of_another_package_that_dies_and_comes_back(
    make_line: Callable[..., Line], extras: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(extras), prepend=os.pathsep)
    device = LiveCamera(tmp_path / "camera", skipped=(7, 8))
    try:
        line = make_line(cameras={"top": {"source": f"raw:{tmp_path / 'camera'}", "frame_px": [SIZE[1], SIZE[0]], "slots": 256}})
        line.start("--frames", "300")
        line.wait_inspected(20)
        device.die()
        line.wait_until(lambda _: "camera top is lost" in line.log, "a word about the lost camera")
        device = LiveCamera(tmp_path / "camera")
        summary = line.finish()
    finally:
        device.die()

    assert summary["cameras"]["top"]["acquired"] == 300
    assert balanced(summary["cameras"]["top"])
    assert summary["restarts"] == {}
    alarms = [(e["name"], e["active"]) for e in line.events("--type", "alarm")]
    assert alarms == [("camera_lost:top", True), ("camera_lost:top", False)]
    gaps = [(e["reason"], e["first"], e["last"]) for e in line.events("--type", "gap")]
    assert ("lost", 7, 8) in gaps
    assert [reason for reason, _, last in gaps if last is None] == ["camera_lost"]


def test_a_line_whose_camera_is_lost_stops_in_order(
    make_line: Callable[..., Line], extras: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(extras), prepend=os.pathsep)
    line = make_line(cameras={"top": {"source": f"raw:{tmp_path / 'camera'}", "frame_px": [40, 30]}})
    line.start()
    line.wait_until(lambda _: "camera top is lost" in line.log, "a word about the camera that is not there")
    assert line.process is not None
    line.process.terminate()

    assert line.finish()["restarts"] == {}
    assert "Traceback" not in line.log
    assert line.events("--type", "alarm")[-1]["name"] == "camera_lost:top"


def test_what_a_camera_of_another_package_lacks_is_said(
    make_line: Callable[..., Line], extras: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(extras), prepend=os.pathsep)

    for source, says in (("raw:x", "frame_px: is needed by a raw: source"), ("raw:x?a=1", "no option 'a'; raw: takes none")):
        line = make_line(cameras={"top": {"source": source}})
        assert says in linepipe("validate", str(line.config), code=2).stderr


FAULTS = """
from nodes.capture.sources.source import Awaited, SourceFrame
from pipeline.config.urls import SourceKind


class Faulty:
    live, fps, size, slot_bytes = True, None, (30, 40), 1200

    def __init__(self, url, opening):
        self.fault = url.path

    def fileno(self):
        return None

    def look(self, frame):
        if self.fault == "raises" and frame > 3:
            raise OSError("driver gone")
        return Awaited(ready=True)

    def read(self, frame, into):
        bad = frame > 3 and self.fault == "reason"
        return SourceFrame(shape=(30, 40), length=1200, reason="tired" if bad else "")

    def skip(self, frame):
        pass

    def close(self):
        raise OSError("closing fails too")


def lacks(url, camera):
    if url.path == "asked":
        raise KeyError("asked")
    return iter(())


KIND = SourceKind(example="faulty:HOW", open=Faulty, lacks=lacks)
"""


def test_a_faulty_camera_of_another_package_touches_no_other_and_is_told_in_sentences(
    make_line: Callable[..., Line], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = OFFERS.format(name="faulty", engine="faulty") + '[project.entry-points."linepipe.sources"]\nfaulty = "faulty:KIND"\n'
    (tmp_path / "faulty").mkdir()
    install(tmp_path / "faulty", tmp_path / "installed", project, {"faulty.py": FAULTS})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "installed"), prepend=os.pathsep)
    healthy = {"source": "sim:strip?seed=1&fps=10", "frame_px": [300, 300]}
    line = make_line(cameras={"top": healthy, "raises": {"source": "faulty:raises"}, "reason": {"source": "faulty:reason"}})
    line.start("--for", "6s")
    line.wait_until(lambda s: s["nodes"]["capture.raises"]["restarts"] and s["nodes"]["capture.reason"]["restarts"], "restarts")
    summary = line.finish()

    assert summary["cameras"]["top"]["inspected"] > 10
    assert all(balanced(camera) for camera in summary["cameras"].values())
    assert "Traceback" not in line.log
    assert "the source faulty: of camera raises failed in look: OSError: driver gone; mend or remove its package" in line.log
    assert "the source faulty: of camera reason failed in read: ValueError: 'tired' is no reason" in line.log
    asked = make_line(cameras={"top": {"source": "faulty:asked"}})
    assert "fails when it is asked (KeyError('asked'))" in linepipe("validate", str(asked.config), code=2).stderr


FAULTY_SINKS = """
from pipeline.config.urls import SinkKind


class Faulty:
    def __init__(self, url, opening):
        self.fault, self.feed = url.path, opening.feed
        if self.fault == "made":
            raise KeyError("made")

    def connect(self):
        if self.fault == "leaves":
            raise SystemExit(3)

    def turn(self):
        if self.fault == "raises":
            raise ValueError("x" * 10_000)
        self.feed.unsent(5)
        return self.fault == "spins"

    def close(self):
        raise OSError("closing fails too")


def unusable(url):
    if url.path == "asked":
        raise KeyError("asked")
    return ""


KIND = SinkKind(example="faulty:HOW", open=Faulty, unusable=unusable)
"""


@pytest.mark.long
def test_a_faulty_sink_of_another_package_touches_no_other_and_is_told_in_sentences(
    make_line: Callable[..., Line], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = OFFERS.format(name="faulty", engine="faulty") + '[project.entry-points."linepipe.sinks"]\nfaulty = "faulty:KIND"\n'
    (tmp_path / "faulty").mkdir()
    install(tmp_path / "faulty", tmp_path / "installed", project, {"faulty.py": FAULTY_SINKS})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "installed"), prepend=os.pathsep)
    faults = ("made", "leaves", "raises", "spins", "takes_nothing")
    sinks = {fault: f"faulty:{fault}" for fault in faults}
    line = make_line(
        cameras={"top": {"source": "sim:strip?seed=1&fps=10", "frame_px": [300, 300]}},
        publish={"sinks": {**sinks, "plant": f"jsonl:{tmp_path / 'events.jsonl'}"}},
    )
    line.start("--frames", "40")
    summary = line.finish(code=1)

    assert balanced(summary["cameras"]["top"])
    assert summary["restarts"] == {}
    assert summary["spool"]["delivered"]
    assert "Traceback" not in line.log
    events = line.events()
    assert [json.loads(text) for text in (tmp_path / "events.jsonl").read_text().splitlines()] == events
    away = {e["name"] for e in events if e["type"] == "alarm"}
    assert away >= {f"sink_away:{fault}" for fault in ("made", "leaves", "raises")}
    assert all(summary["sinks"][fault]["backlog"] == len(events) for fault in faults)
    asked = make_line(publish={"sinks": {"x": "faulty:asked"}})
    assert "fails when it is asked (KeyError('asked'))" in linepipe("validate", str(asked.config), code=2).stderr


def test_a_camera_whose_package_is_broken_ends_no_process_that_does_not_need_it(
    make_line: Callable[..., Line], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publish and readers of a line that runs read its configuration too."""
    project = OFFERS.format(name="torn", engine="torn") + '[project.entry-points."linepipe.sources"]\ntorn = "torn:KIND"\n'
    (tmp_path / "torn").mkdir()
    install(tmp_path / "torn", tmp_path / "installed", project, {"torn.py": "raise OSError('half an upgrade')"})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "installed"), prepend=os.pathsep)
    line = make_line(cameras={"top": {"source": "torn:x"}})

    assert "has never run" in linepipe("status", str(line.config), code=1).stderr
    assert "half an upgrade" in linepipe("validate", str(line.config), code=2).stderr


def test_the_schema_lists_what_is_installed(extras: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = json.loads(linepipe("schema", "config").stdout)["$defs"]["Infer"]["properties"]["engine"]["enum"]
    monkeypatch.setenv("PYTHONPATH", str(extras), prepend=os.pathsep)
    after = json.loads(linepipe("schema", "config").stdout)["$defs"]["Infer"]["properties"]["engine"]["enum"]

    assert before == ["auto", "openvino", "onnx", "compiled", "eager"]
    assert after == [*before, "patient"]
    assert "small" in linepipe("train", "--help").stdout


OFFERS = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "{name}"
version = "1"
[project.entry-points."linepipe.engines"]
{engine} = "{name}:open"
[tool.setuptools]
py-modules = ["{name}"]
"""


@pytest.mark.parametrize(
    ("engine", "offered", "says"),
    [
        ("broken", (("broken_one", "raise OSError('no driver')"),), "cannot be imported: OSError('no driver'); mend or remove it"),
        ("twice", (("one", "open = 1"), ("two", "open = 2")), "two packages offer the engine twice: one:open and two:open"),
        ("leaves", (("leaving", "raise SystemExit(0)"),), "cannot be imported: SystemExit(0); mend or remove it"),
        ("empty", (("empty_one", ""),), "cannot be imported: AttributeError"),
        ("nobodys", (), "there is no engine 'nobodys'; write auto, openvino, onnx, compiled, eager"),
    ],
)
def test_a_plug_in_that_does_not_work_is_refused_in_a_sentence(
    make_line: Callable[..., Line],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    offered: tuple[tuple[str, str], ...],
    says: str,
) -> None:
    (tmp_path / "images").mkdir()
    for name, code in offered:
        (tmp_path / name).mkdir()
        install(tmp_path / name, tmp_path / "installed", OFFERS.format(name=name, engine=engine), {f"{name}.py": code})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "installed"), prepend=os.pathsep)
    line = make_line(infer={"model": "ilcs-neu", "engine": engine})

    assert says in linepipe("validate", str(line.config), code=2).stderr


def test_a_source_that_is_none_and_a_network_that_does_not_load_are_refused_in_a_sentence(
    make_line: Callable[..., Line], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = OFFERS.format(name="odd", engine="odd") + '[project.entry-points."linepipe.sources"]\nodd = "odd:Odd"\n'
    project += '[project.entry-points."linepipe.models"]\nodd = "odd:Missing"\n'
    (tmp_path / "odd").mkdir()
    install(tmp_path / "odd", tmp_path / "installed", project, {"odd.py": "class Odd: pass"})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "installed"), prepend=os.pathsep)
    rng = np.random.default_rng(0)
    for k in range(8):
        (tmp_path / "images" / f"c{k % 2}").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "images" / f"c{k % 2}" / f"{k}.png"), rng.integers(0, 256, (64, 64), np.uint8))

    for source, says in (
        ("odd:x", "the source odd is no SourceKind"),
        ("foldr:x", "is not a known source, or its package is not installed; write folder:PATH"),
    ):
        line = make_line(cameras={"top": {"source": source}})
        assert says in linepipe("validate", str(line.config), code=2).stderr
    options = ("--data", str(tmp_path / "images"), "--out", str(tmp_path / "run"), "--model", "odd", "--epochs", "1")
    assert "the model odd (odd:Missing) cannot be imported" in linepipe("train", *options, code=2).stderr


def test_a_name_of_ours_cannot_be_taken(make_line: Callable[..., Line], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "thief").mkdir()
    install(
        tmp_path / "thief", tmp_path / "installed", OFFERS.format(name="thief", engine="eager"), {"thief.py": "raise SystemExit('taken')"}
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "installed"), prepend=os.pathsep)
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((300, 300), np.uint8))

    assert make_line(infer={"model": "ilcs-neu", "engine": "eager"}).run()["engine"] == "eager-f32"
