"""The simulated strip: frozen by its version, true to its truth."""

import hashlib
import itertools
import json
import logging
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from nodes.capture.sources.sim import VERSION, defects, plan
from nodes.capture.sources.sim.source import StripSource, TruthFile
from nodes.capture.sources.sim.strip import Strip, Truth

LOG = logging.getLogger("sim")
WIDTH, HEIGHT = 900, 300
FIRST = [
    (11, "inclusion", (788, 38, 9, 19), 0.1715),
    (12, "rolled-in_scale", (121, 10, 41, 52), 0.1428),
    (12, "rolled-in_scale", (614, 119, 33, 32), 0.2428),
]


@pytest.fixture(scope="module")
def strip() -> Strip:
    return Strip(7, WIDTH, HEIGHT)


@pytest.fixture(scope="module")
def planted(strip: Strip) -> list[Truth]:
    return [t for frame in range(600) for t in strip.truth(frame)]


def test_another_process_draws_the_same_bytes(strip: Strip) -> None:
    code = (
        "import hashlib; from nodes.capture.sources.sim.strip import Strip; s = Strip(7, 900, 300);"
        "print(hashlib.sha256(b''.join(s.render(k).tobytes() for k in (0, 5, 1234))).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    assert other == hashlib.sha256(b"".join(strip.render(k).tobytes() for k in (0, 5, 1234))).hexdigest()


def test_this_version_plants_what_it_always_planted(planted: list[Truth]) -> None:
    """Models are trained on it: whoever changes what is drawn gives it a new VERSION, and new numbers here."""
    assert VERSION == "strip-1"
    assert [(t.frame, t.label, t.box, t.contrast) for t in planted[:3]] == FIRST


def test_every_class_is_planted_within_the_stated_ranges(planted: list[Truth]) -> None:
    counts = Counter(t.label for t in planted)

    assert set(counts) == set(defects.DRAW)
    assert min(counts.values()) > 20
    assert all(plan.CONTRAST[0] <= t.contrast <= plan.CONTRAST[1] for t in planted)
    assert all(t.box[0] >= 0 and t.box[0] + t.box[2] <= WIDTH for t in planted)


def test_some_defects_lie_across_tile_and_frame_borders(planted: list[Truth]) -> None:
    assert sum(t.box[1] + t.box[3] > HEIGHT for t in planted) > 20
    assert sum(t.box[0] < 300 < t.box[0] + t.box[2] for t in planted) > 10


def test_no_two_defects_are_near_each_other(planted: list[Truth]) -> None:
    boxes = [(t.box[0], t.frame * HEIGHT + t.box[1], t.box[2], t.box[3]) for t in planted]
    for a, b in itertools.pairwise(boxes):
        gaps = [max(a[k], b[k]) - min(a[k] + a[k + 2], b[k] + b[k + 2]) for k in (0, 1)]
        assert max(gaps) >= plan.APART_PX - 20  # a box may be somewhat smaller than the stamp it belongs to


def test_a_defect_is_seen_where_the_truth_says(strip: Strip, planted: list[Truth]) -> None:
    """Its pixels differ from the clean steel around them by about its contrast, darker or brighter by class."""
    seen = 0
    for truth in planted:
        x, y, w, h = truth.box
        if truth.contrast < 0.3 or y < 20 or y + h > HEIGHT - 20 or truth.label == "rolled-in_scale":
            continue
        picture, mask = strip.render(truth.frame).astype(float), strip.mask(truth.frame) > 0
        around = np.zeros_like(mask)
        around[y - 15 : y + h + 15, max(0, x - 15) : x + w + 15] = True
        inside = mask & around
        assert inside[y : y + h, x : x + w].sum() == inside.sum() > 0
        share = picture[inside].mean() / picture[around & ~mask].mean() - 1
        assert share * (1 if truth.label == "scratches" else -1) > 0.35 * truth.contrast, truth
        seen += 1
    assert seen > 50


def test_what_begins_in_one_frame_goes_on_in_the_next(strip: Strip, planted: list[Truth]) -> None:
    for truth in planted:
        _, y, _, h = truth.box
        if y + h > HEIGHT + 10 and truth.label == "patches":
            assert strip.mask(truth.frame)[-1].any()
            assert strip.mask(truth.frame + 1)[0].any()


def test_the_truth_file_tells_each_defect_once_whatever_frames_were_read(tmp_path: Path, strip: Strip) -> None:
    """Frames that the ring had no room for are never read; what is planted there is told all the same."""
    path = tmp_path / "truth" / "top.jsonl"
    source = StripSource(7, WIDTH, HEIGHT, TruthFile(path, "e", HEIGHT, 0.25, LOG, append=False))
    into = np.zeros(source.slot_bytes, np.uint8)
    for frame in (0, 1, 5, 6, 40):
        source.read(frame, into)
    again = StripSource(7, WIDTH, HEIGHT, TruthFile(path, "f", HEIGHT, 0.25, LOG, append=True))
    again.read(41, into)

    lines = [json.loads(line) for line in path.read_text().splitlines()]

    expected = [t for frame in range(42) for t in strip.truth(frame)]
    assert [(t["frame"], t["label"], tuple(t["box_px"])) for t in lines] == [(t.frame, t.label, t.box) for t in expected]
    middle = expected[0].frame * HEIGHT + expected[0].box[1] + expected[0].box[3] / 2
    assert lines[0]["position_m"] == pytest.approx(middle * 0.25 / 1000, abs=1e-6)
    assert set(lines[0]) == {"epoch", "frame", "label", "box_px", "contrast", "position_m"}


def test_a_truth_file_that_cannot_be_written_any_more_ends_no_camera(
    tmp_path: Path, strip: Strip, caplog: pytest.LogCaptureFixture
) -> None:
    """Its folder moves away: it is made again. Something else lies there: that is said once."""
    folder = tmp_path / "truth"
    truth = TruthFile(folder / "top.jsonl", "e", HEIGHT, 0.25, LOG, append=False)
    planted = next(t for frame in range(100) if (t := strip.truth(frame)))
    folder.rename(tmp_path / "moved")
    truth.add(planted)
    assert len((folder / "top.jsonl").read_text().splitlines()) == len(planted)

    folder.rename(tmp_path / "moved again")
    folder.write_text("")
    truth.add(planted)
    truth.add(planted)

    assert [record.getMessage() for record in caplog.records] == [
        f"{folder / 'top.jsonl'}: the simulator's truth is not complete: File exists"
    ]


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (64, 1), (40, 700), (300, 3000)])
def test_odd_frames_are_drawn_too(size: tuple[int, int]) -> None:
    odd = Strip(1, *size)

    assert odd.render(3).shape == odd.mask(3).shape == size[::-1]


def test_a_repeated_strip_begins_again_and_its_truth_is_told_once(tmp_path: Path, strip: Strip) -> None:
    truth = TruthFile(tmp_path / "truth.jsonl", "e", HEIGHT, 0.25, LOG, append=False)
    source = StripSource(7, WIDTH, HEIGHT, truth, repeat=13)
    into = np.zeros(WIDTH * HEIGHT, np.uint8)

    for frame in range(40):
        source.read(frame, into)
        assert (into.reshape(HEIGHT, WIDTH) == strip.render(frame % 13)).all()

    told = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    assert [(t["frame"], t["label"]) for t in told] == [(frame, label) for frame, label, _, _ in FIRST]
