"""``linepipe eval --boxes``, and colour models, which only the engine eager runs."""

import json
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch

from ilcs_model import create
from ilcs_model.files import load_model, save_model
from ilcs_model.info import TileRecipe
from pipeline.cli.main import main
from tests.tiny import write_tiny_model

XML = (
    "<annotation><object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object></annotation>"
)


@pytest.fixture
def bright_corners(tmp_path: Path) -> Path:
    """A VOC set: dark images of 64 pixels with a bright square of 24, which is what the boxes say."""
    root = tmp_path / "data"
    for folder in ("Annotations", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    for k, (label, x, y) in enumerate((c, x, y) for c in "abc" for x in (0, 40) for y in (0, 40)):
        image = np.full((64, 64), 20, np.uint8)
        image[y : y + 24, x : x + 24] = 230
        cv2.imwrite(str(root / "JPEGImages" / f"{k}.png"), image)
        (root / "Annotations" / f"{k}.xml").write_text(XML.format(label, x + 1, y + 1, x + 24, y + 24))
    return root


def run(*args: object) -> int:
    with pytest.raises(SystemExit) as done:
        main(["eval", *map(str, args)])
    assert isinstance(done.value.code, int)
    return done.value.code


@pytest.mark.parametrize("brightest", [True, False])
def test_places_are_held_against_annotated_boxes(
    bright_corners: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], brightest: bool
) -> None:
    """A network whose map is brightness points into every box, one of darkness into none; the centre lies in none."""
    path = write_tiny_model(tmp_path)
    network, info = load_model(path)
    with torch.no_grad():
        network.get_parameter("conv.weight").abs_().mul_(1 if brightest else -1)
        network.get_parameter("conv.bias").fill_(0 if brightest else 9)
    save_model(path, network, info)

    assert run(path, bright_corners, "--split", "all", "--boxes", "--json") == 0

    boxes = json.loads(capfd.readouterr().out)["boxes"]
    assert set(boxes["classes"]) == {"a", "b", "c"}
    assert boxes["overall"]["images"] == 12
    assert boxes["overall"]["pointing"] == float(brightest)
    assert boxes["overall"]["centre"] == 0
    assert run(path, bright_corners, "--split", "all", "--boxes") == 0
    assert "pointing" in capfd.readouterr().out


def test_data_without_boxes_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_tiny_model(tmp_path)
    for label in "ab":
        (tmp_path / "data" / label).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "data" / label / "0.png"), np.zeros((8, 8), np.uint8))

    assert run(path, tmp_path / "data", "--boxes") == 2

    assert "none of these images has annotated boxes" in capfd.readouterr().err


def test_a_colour_model_is_judged_by_eager_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    template = write_tiny_model(tmp_path)
    info = load_model(template)[1]
    torch.manual_seed(0)
    colour = {"architecture": "mobilenet_v2", "locate": False, "classes": ("blue", "red"), "recipe": TileRecipe(decode="rgb", size_px=32)}
    info = msgspec.structs.replace(info, **colour)
    save_model(path := tmp_path / "colour.safetensors", create("mobilenet_v2", 2).eval(), info)
    for label, bgr in (("blue", (220, 30, 30)), ("red", (30, 30, 220))):
        (tmp_path / "data" / label).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "data" / label / "0.png"), np.full((8, 8, 3), bgr, np.uint8))

    assert run(path, tmp_path / "data", "--json") == 0
    assert json.loads(capfd.readouterr().out)["images"] == 2
    assert run(path, tmp_path / "data", "--engine", "openvino") == 2
    assert "--engine eager" in capfd.readouterr().err
