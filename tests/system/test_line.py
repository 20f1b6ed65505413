"""A whole line, undisturbed: what goes in is accounted for and comes out."""

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import psutil
import pytest

from pipeline.core.events import Event
from pipeline.core.status import LineStatus, Summary, json_schema
from tests.system.line import Line, balanced

SCHEMA = json_schema(Event, "linepipe event", closed=True)
FRAMES = 40


@pytest.fixture
def line(make_line: Callable[..., Line], tmp_path: Path) -> Line:
    """Classifies a folder of images, every one an event, and ends by itself. Defects, labels and places differ from image to image."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(1)
    for k in range(FRAMES):
        picture, level = np.zeros((64, 64), np.uint8), 20 + 5 * k
        picture[8 * (k % 5) :, 8 * (k % 7) :] = level  # on the borders of JPEG's blocks, so that black stays black
        picture[picture > 0] += rng.integers(0, 20, np.count_nonzero(picture), np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"image_{k:04}.jpg"), picture)
    return make_line()


def test_a_folder_is_inspected_to_its_last_image_and_a_second_run_does_the_same(line: Line) -> None:
    """Ledger, summary, stream and image files agree; every event fits the schema; ids never repeat."""
    seen: set[str] = set()
    for _ in range(2):
        summary = line.run()
        events = line.events("--run", "last")

        assert summary["cameras"]["top"]["inspected"] == FRAMES
        assert balanced(summary["cameras"]["top"])
        assert {kind: sum(e["type"] == kind for e in events) for kind in summary["events"]} == summary["events"]
        defects = [e for e in events if e["type"] == "defect"]
        assert sorted(e["source"] for e in defects) == [f"image_{k:04}.jpg" for k in range(FRAMES)]
        assert {e["epoch"] for e in defects} == set(summary["cameras"]["top"]["epochs"])
        jsonschema.validate(summary, json_schema(Summary, "", closed=True), cls=jsonschema.Draft202012Validator)
        jsonschema.validate(line.status(), json_schema(LineStatus, "", closed=True), cls=jsonschema.Draft202012Validator)
        for event in events:
            jsonschema.validate(event, SCHEMA, cls=jsonschema.Draft202012Validator)
        for event in defects:
            crop = cv2.imread(str(line.state / "images" / event["image"]), cv2.IMREAD_GRAYSCALE)
            assert crop is not None and crop.shape == (64, 64)
        ids = {e["id"] for e in events}
        assert len(ids) == len(events)
        assert not ids & seen
        seen |= ids
    assert len(line.events()) == len(seen)


@pytest.mark.parametrize("placement", [{"inspect": ["preprocess", "infer"]}, {"pre": ["preprocess"], "gpu": ["infer"]}])
def test_tiles_made_by_dali_give_the_same(line: Line, make_line: Callable[..., Line], placement: dict[str, list[str]]) -> None:
    by_opencv = {e["source"]: e for e in (line.run(), line.defects())[1]}
    assert len({e["label"] for e in by_opencv.values()}) == 3 and len({tuple(e["box_px"]) for e in by_opencv.values()}) == 35

    by_dali = make_line(preprocess={"device": "dali"}, placement=placement)
    summary = by_dali.run()

    assert "preprocess dali-cpu" in by_dali.log
    assert balanced(summary["cameras"]["top"])
    found = {e["source"]: e for e in by_dali.defects()}
    assert found.keys() == by_opencv.keys()
    for source, right in by_opencv.items():
        assert (found[source]["label"], found[source]["box_px"]) == (right["label"], right["box_px"])
        assert found[source]["score"] == pytest.approx(right["score"], abs=0.05), source


def test_preprocess_and_infer_in_processes_of_their_own_give_the_same(line: Line, make_line: Callable[..., Line]) -> None:
    together = {e["source"]: (e["label"], e["score"], e["box_px"]) for e in (line.run(), line.defects())[1]}

    apart = make_line(placement={"pre": ["preprocess"], "gpu": ["infer"]})
    summary = apart.run()

    assert balanced(summary["cameras"]["top"])
    assert {e["source"]: (e["label"], e["score"], e["box_px"]) for e in apart.defects()} == together


def test_bad_images_are_counted_with_their_reason_and_the_line_goes_on(line: Line, tmp_path: Path) -> None:
    """Each bad file is a gap event that names it; the good ones are inspected."""
    folder = tmp_path / "images"
    whole = (folder / "image_0000.jpg").read_bytes()
    huge = cv2.imencode(".png", np.zeros((8000, 8000), np.uint8))[1].tobytes()
    bad = {
        "a_empty.jpg": (b"", "empty"),
        "b_text.jpg": (b"this is no image\n" * 20, "format"),
        "c_cut.jpg": (whole[: len(whole) // 2], "truncated"),
        "d_corrupt.jpg": (whole[: len(whole) // 2] + b"\xff\xd9", "corrupt"),
        "e_huge.png": (huge, "too_large"),
        "f_\ufffd\x1b[31m.jpg": (b"", "empty"),
    }
    for name, (data, _) in bad.items():
        path = os.fsencode(folder) + b"/" + name.encode().replace("\ufffd".encode(), b"\xff")  # not every name is UTF-8
        with open(path, "wb") as file:
            file.write(data)

    summary = line.run()

    camera = summary["cameras"]["top"]
    assert camera["inspected"] == FRAMES
    assert camera["invalid"] == Counter(reason for _, reason in bad.values())
    assert "\x1b" not in line.log
    assert balanced(camera)
    gaps = {e["source"]: e["reason"] for e in line.events("--type", "gap")}
    assert gaps == {name: reason for name, (_, reason) in bad.items()}


def test_three_times_the_load_drops_visibly_and_balances(make_line: Callable[..., Line]) -> None:
    """A network of real size. Gap events cover exactly the frames that were dropped: none twice, none missing, none that was inspected."""
    camera = {"source": "sim:strip?seed=1&fps=400", "frame_px": [300, 300], "when_full": "drop_oldest", "slots": 8}
    line = make_line(cameras={"top": camera}, preprocess={"layout": "grid"}, infer={"model": "ilcs-neu"})

    summary = line.run("--frames", "1200")

    top = summary["cameras"]["top"]
    assert top["acquired"] == 1200
    assert top["dropped"]["full"] > 300
    assert balanced(top)
    events = line.events("--run", "last")
    dropped = [k for e in events if e["type"] == "gap" for k in range(e["first"], e["last"] + 1)]
    inspected = {e["frame"] for e in events if e["type"] == "defect"}
    assert sorted([*dropped, *inspected]) == list(range(1200))
    assert len(dropped) == top["dropped"]["full"]


def test_a_first_signal_drains_and_a_second_stops_at_once(make_line: Callable[..., Line]) -> None:
    camera = {"source": "sim:strip?seed=1&fps=30", "frame_px": [300, 300], "when_full": "drop_oldest"}
    line = make_line(cameras={"top": camera}, preprocess={"layout": "grid"})
    line.start()
    line.wait_inspected(5)
    assert line.process is not None

    line.process.send_signal(signal.SIGINT)
    summary = line.finish()

    assert balanced(summary["cameras"]["top"])
    assert "acquired" in line.log

    line.start()
    line.wait_until(lambda s: s["phase"] == "running", "a running line")
    nodes = psutil.Process(line.process.pid).children(recursive=True)
    line.process.send_signal(signal.SIGTERM)
    line.process.send_signal(signal.SIGINT)
    assert line.process.wait(10) in (0, 130)
    assert [node for node in nodes if node.is_running() and node.status() != psutil.STATUS_ZOMBIE] == []


def test_while_it_runs_everybody_can_look(make_line: Callable[..., Line]) -> None:
    """ps tells who is who; events and status work from outside; a second line on the same state folder is refused."""
    camera = {"source": "sim:strip?seed=1&fps=20", "frame_px": [300, 300], "when_full": "drop_oldest"}
    line = make_line(cameras={"top": camera}, preprocess={"layout": "grid"})
    line.start()
    line.wait_inspected(20)

    assert all(line.pid(node) for node in ("capture.top", "inspect", "publish"))
    assert line.defects()
    status = json.loads(line.cli("status", "--json").stdout)
    assert status["running"]
    assert status["nodes"]["inspect"]["state"] == "running"
    assert "capture.top" in line.cli("status").stdout
    assert "another line runs" in line.cli("run", code=2).stderr
    for lock in line.state.glob("**/*lock"):  # a person tidies up
        lock.unlink()
    assert "another line runs" in line.cli("run", code=2).stderr

    os.kill(line.process.pid, signal.SIGTERM)  # type: ignore[union-attr]
    line.finish()
    assert not json.loads(line.cli("status", "--json").stdout)["running"]


def test_for_counts_from_the_first_frame(make_line: Callable[..., Line]) -> None:
    camera = {"source": "sim:strip?seed=1&fps=20", "frame_px": [300, 300], "when_full": "drop_oldest"}
    line = make_line(cameras={"top": camera}, preprocess={"layout": "grid"})

    summary = line.run("--for", "3s")

    assert 3.0 <= summary["duration_s"] < 4.0
    assert 50 <= summary["cameras"]["top"]["acquired"] <= 80
