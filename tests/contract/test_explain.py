"""``linepipe explain``: the place that a network names is shown and boxed where it is; a person's mistake is named."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ilcs_model import ARCHITECTURES, create
from ilcs_model.data.dataset import Dataset
from ilcs_model.data.images import read_image
from ilcs_model.errors import DataError
from ilcs_model.evaluation.heat import look
from ilcs_model.files import load_model, save_model
from ilcs_model.info import TileRecipe
from nodes.infer.join_tiles import Tiles, _place
from nodes.offline.locate import box_scores
from pipeline.cli.main import main
from tests.tiny import tiny_info

ROOT = Path(__file__).resolve().parents[2]
SIDE, CELL = 64, 4
CLASSES = ("dark", "bright", "ok")


class Lamps(nn.Module):
    """Names ``bright`` what has bright cells, the more the surer; ``ok`` what is all grey. Black cells speak for ``dark``."""

    def __init__(self, *, locate: bool) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([[0.0, 100.0], [300.0, -30.0], [0.0, 0.0]]))  # of bright and black cells
        self.bias = nn.Parameter(torch.tensor([0.0, 0.0, 1.0]))
        self.located = locate

    def features(self, tiles: Tensor) -> Tensor:
        """(N, 2, S / 4, S / 4): how bright, how black; of a coloured tile, how red."""
        x = nn.functional.avg_pool2d(tiles[:, :1].float() / 255, CELL)
        return torch.cat([(x - 0.8).relu(), (0.2 - x).relu()], 1)

    def classify(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) @ self.weights.T + self.bias

    def forward(self, tiles: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.features(tiles)
        return (self.classify(x), 10 * x[:, 0] - 0.5) if self.located else self.classify(x)


@pytest.fixture
def lamps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a model file of ``Lamps``: lamps(locate=True)."""
    monkeypatch.setattr("ilcs_model.files.create", lambda *_, locate=False, **__: Lamps(locate=locate))

    def write(*, locate: bool, decode: Literal["grey", "rgb"] = "grey") -> Path:
        recipe = TileRecipe(size_px=SIDE, decode=decode)
        info = tiny_info(name="lamps", architecture="lamps", classes=CLASSES, recipe=recipe, locate=locate)
        save_model(path := tmp_path / "lamps.safetensors", Lamps(locate=locate), info)
        return path

    return write


def picture(path: Path, *, lamp: tuple[int, int, int, int] | None = (160, 0, 40, 20), size: tuple[int, int] = (200, 100)) -> Path:
    """A grey image of ``size`` (w, h), black at the bottom left, with a bright box (x, y, w, h)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((size[1], size[0]), 128, np.uint8)
    if lamp is not None:
        image[-(size[1] // 3) :, : size[0] // 6] = 0
        x, y, w, h = lamp
        image[y : y + h, x : x + w] = 255
    cv2.imwrite(str(path), image)
    return path


def explain(*args: str | Path) -> int:
    """Exit code of ``linepipe explain``."""
    with pytest.raises(SystemExit) as ended:
        main(["explain", *map(str, args)])
    return int(ended.value.code or 0)


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "explain.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("locate", "method"), [(True, "map"), (False, "grad-cam")])
def test_the_box_is_where_the_defect_is_in_pixels_of_the_image(
    lamps: Callable[..., Path], tmp_path: Path, *, locate: bool, method: str
) -> None:
    image = picture(tmp_path / "in" / "a.png")

    assert explain(lamps(locate=locate), image, "--out", tmp_path / "out") == 0

    (found,) = records(tmp_path / "out")
    assert (found["file"], found["label"], found["method"]) == (str(image), "bright", method)
    (box,) = found["boxes"]
    assert box == pytest.approx((160, 0, 40, 20), abs=14)  # a cell is 12.5 x 6.25 pixels, and heat is spread over its neighbours
    x, y = found["peak"]
    assert 160 <= x < 200 and 0 <= y < 20
    shown = cv2.imread(str(tmp_path / "out" / "a.png"))
    assert shown is not None and shown.shape[1] > 2 * 300
    assert (tmp_path / "out" / "contact-sheet.png").is_file()


def test_grad_cam_is_hot_at_what_speaks_for_the_class_and_cold_at_what_speaks_against_it(
    lamps: Callable[..., Path], tmp_path: Path
) -> None:
    network, info = load_model(lamps(locate=False))
    image = picture(tmp_path / "a.png", lamp=(48, 0, 16, 16), size=(SIDE, SIDE))

    found = look(network, torch.from_numpy(read_image(image))[None, None], locate=info.locate)

    assert found.heat.shape == (1, SIDE, SIDE)
    assert found.heat.min() == 0 and found.heat.max() == 1
    assert found.heat[0, :14, 50:].min() > 0.9
    assert found.heat[0, 20:, :].max() == 0  # also where it is black


def test_a_network_that_sees_nothing_is_cold_everywhere(lamps: Callable[..., Path]) -> None:
    network, _ = load_model(lamps(locate=False))

    found = look(network, torch.full((2, 1, SIDE, SIDE), 128, dtype=torch.uint8), locate=False)

    assert found.scores.argmax(1).tolist() == [2, 2]
    assert found.heat.max() == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_network_can_be_explained_without_a_map(architecture: str) -> None:
    torch.manual_seed(0)
    tiles = torch.randint(0, 256, (2, 1, 300, 300), dtype=torch.uint8)

    found = look(create(architecture, 3).eval(), tiles, locate=False)

    assert found.heat.shape == (2, 300, 300)
    assert found.heat.min() >= 0 and found.heat.max() <= 1
    assert np.allclose(found.scores.sum(1), 1)


@pytest.mark.parametrize("locate", [True, False])
def test_a_model_of_coloured_images_is_shown_their_colours(lamps: Callable[..., Path], tmp_path: Path, *, locate: bool) -> None:
    image = np.full((100, 200, 3), 128, np.uint8)
    image[0:20, 160:200] = (60, 60, 255)  # red, in OpenCV's order
    image[60:80, 20:60] = (255, 60, 60)
    cv2.imwrite(str(tmp_path / "a.png"), image)

    assert explain(lamps(locate=locate, decode="rgb"), tmp_path / "a.png", "--out", tmp_path / "out") == 0

    (found,) = records(tmp_path / "out")
    assert found["label"] == "bright"
    (box,) = found["boxes"]
    assert box == pytest.approx((160, 0, 40, 20), abs=14)
    shown = cv2.imread(str(tmp_path / "out" / "a.png"))
    assert shown is not None
    assert (np.ptp(shown[:, : shown.shape[1] // 2].astype(int), axis=2) > 150).any()  # beside the heat lies the image, in colour


def test_clean_material_has_no_box(lamps: Callable[..., Path], tmp_path: Path) -> None:
    assert explain(lamps(locate=True), picture(tmp_path / "in" / "a.png", lamp=None), "--out", tmp_path / "out") == 0

    assert [(r["label"], r["boxes"]) for r in records(tmp_path / "out")] == [("ok", [])]


def test_the_boxes_together_are_the_box_that_the_line_gives(lamps: Callable[..., Path], tmp_path: Path) -> None:
    network, _ = load_model(lamps(locate=True))
    image = read_image(picture(tmp_path / "in" / "a.png", lamp=(0, 0, 9, 33), size=(SIDE, SIDE)))
    image[40:60, 40:61] = 255
    cv2.imwrite(str(tmp_path / "in" / "a.png"), image)
    explain(tmp_path / "lamps.safetensors", tmp_path / "in", "--out", tmp_path / "out")

    _, cells = network(torch.from_numpy(image)[None, None])
    tiles = Tiles(((0, 0, SIDE, SIDE),), 1, [0], np.ones((1, 3), np.float32), cells.detach().numpy())
    boxes = np.array(records(tmp_path / "out")[0]["boxes"])
    assert len(boxes) == 2
    left, top = boxes[:, :2].min(0)
    right, bottom = (boxes[:, :2] + boxes[:, 2:]).max(0)
    assert (left, top, right - left, bottom - top) == _place(tiles, 0)


def test_files_of_one_name_get_pictures_of_their_own_and_each_file_one(lamps: Callable[..., Path], tmp_path: Path) -> None:
    source = tmp_path / "in"
    for name in ("a/x.png", "b/x.png", "b/x.bmp", "contact-sheet.png"):
        picture(source / name)

    assert explain(lamps(locate=True), source, source / "a", source / "b" / "x.png", "--out", source / "out") == 0
    assert explain(tmp_path / "lamps.safetensors", source, "--out", source / "out") == 0  # what it wrote is no input

    found = records(source / "out")
    assert len(found) == 4
    assert {r["picture"] for r in found} == {"x.png", "x-2.png", "x-3.png", "contact-sheet-2.png"}
    assert len(list((source / "out").iterdir())) == 6


def test_a_file_that_is_no_image_is_named_and_the_others_are_done(
    lamps: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.jpg").write_bytes(b"\xff\xd8 no image")
    (tmp_path / "in" / "c.png").touch()
    picture(tmp_path / "in" / "d.png").rename(tmp_path / "in" / os.fsdecode(b"\xff\n.png"))  # no UTF-8

    assert explain(lamps(locate=True), tmp_path / "in", "--out", tmp_path / "out", "--json") == 1

    said = capfd.readouterr()
    assert "b.jpg: not a readable image" in said.err and "c.png: not a readable image" in said.err
    report = json.loads(said.out)
    assert (report["images"], report["labels"], len(report["unreadable"])) == (2, {"bright": 2}, 2)
    assert [Path(str(r["file"])).name for r in records(tmp_path / "out")] == ["a.png", os.fsdecode(b"\xff\n.png")]


def test_a_mistake_is_named_before_anything_is_written(
    lamps: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, image = lamps(locate=True), picture(tmp_path / "in" / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    for args, says in (
        (("no-model", image, "--out", tmp_path / "out"), "no shipped model 'no-model'"),
        ((tmp_path / "bad.safetensors", image, "--out", tmp_path / "out"), "bad.safetensors: not a readable safetensors file"),
        ((model, tmp_path / "nowhere", "--out", tmp_path / "out"), "nowhere: no such file or folder"),
        ((model, tmp_path / "empty", "--out", tmp_path / "out"), "no images in"),
        ((model, image, "--out", tmp_path / "file"), "is a file"),
        ((model, image, "--out", tmp_path / "file" / "out"), "cannot be made"),
        ((model, image, "--out", tmp_path / "in"), "would be written over"),
        ((model, tmp_path / "in", "--out", tmp_path / "in"), "would be written over"),
    ):
        assert explain(*args) == 2
        assert says in " ".join(capfd.readouterr().err.split())
    assert not (tmp_path / "out").exists()
    assert [p.name for p in (tmp_path / "in").iterdir()] == ["a.png"]


def test_a_model_is_scored_against_annotated_boxes(lamps: Callable[..., Path], tmp_path: Path) -> None:
    network, info = load_model(lamps(locate=True))
    files = tuple(picture(tmp_path / f"{k}.png", lamp=(160, 0, 40, 20)) for k in range(3))
    data = Dataset(
        root=tmp_path,
        classes=CLASSES,
        files=files,
        labels=(1, 0, 1),
        splits=("test",) * 3,
        boxes=(((155, 0, 45, 25),), ((0, 70, 30, 30),), None),
    )

    found = box_scores(network, info, data, [0, 1, 2])

    assert found.overall.images == 2
    assert (found.classes["bright"].pointing, found.classes["dark"].pointing) == (1, 0)
    assert found.classes["bright"].iou > 0.6 and found.classes["dark"].iou == 0
    with pytest.raises(DataError, match="none of these images has annotated boxes"):
        box_scores(network, info, data, [2])


def test_the_shipped_model_explains_itself_in_a_process_of_its_own(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png")
    images, out = str(tmp_path / "in"), str(tmp_path / "out")
    command = [sys.executable, "-m", "pipeline", "explain", "ilcs-line", images, "--out", out, "--json"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)

    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert (report["model"], report["method"], report["images"]) == ("ilcs-line", "map", 1)
