"""What is exported answers as the trained network does, or it is not there; another program needs nothing but the folder."""

import io
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import msgspec
import numpy as np
import pytest
import torch

import ilcs_model.export
from ilcs_model import create
from ilcs_model.files import load_model, save_model
from ilcs_model.info import digest, read_info
from nodes.infer.engines.contract import softmax
from nodes.infer.engines.eager import EagerEngine
from pipeline.cli.main import main
from pipeline.config.model_file import find_model
from tests.tiny import SIDE, write_tiny_model

COMPILES = [
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs g++: apt-get install g++"),
    pytest.mark.timeout(600),
]
ENGINES = ["onnx", "openvino", pytest.param("compiled", marks=COMPILES)]


def write_images(folder: Path) -> Path:
    """Twenty images of each of two classes, of another size than the tiles: every tenth is ``test``."""
    rng = np.random.default_rng(0)
    for label, lowest in (("dark", 0), ("light", 180)):
        (folder / label).mkdir(parents=True)
        for k in range(20):
            cv2.imwrite(str(folder / label / f"{label}_{k:02}.png"), rng.integers(lowest, lowest + 60, (40, 50), np.uint8))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_images(tmp_path / "data")


def linepipe(*args: object) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(arg) for arg in args])
    assert isinstance(done.value.code, int)
    return done.value.code


class Made(NamedTuple):
    """One export, made once for several tests."""

    engine: str
    out: Path
    trained: EagerEngine
    report: dict[str, Any]


@pytest.fixture(scope="module", params=ENGINES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    with redirect_stdout(io.StringIO()) as said:
        path, data = write_tiny_model(folder), write_images(folder / "data")
        assert linepipe("export", path, "--engine", request.param, "--out", folder / "out", "--data", data, "--json") == 0
        return Made(request.param, folder / "out", EagerEngine(path), json.loads(said.getvalue()))


def test_an_export_is_proven_on_every_image(made: Made) -> None:
    found = json.loads((made.out / "model.json").read_text())

    assert made.report == {"proven": True, "folder": str(made.out), **found}
    assert found["runs_as"].startswith(made.engine)
    assert found["digest"] == digest(made.out.parent / "tiny.safetensors")
    assert found["classes"] == ["a", "b", "c"]
    assert found["recipe"] == {"decode": "grey", "size_px": SIDE, "resize": "bilinear"}
    assert [p["shape"] for p in found["outputs"]] == [["N", 3], ["N", SIDE // 4, SIDE // 4]]
    assert (found["proof"]["data"], found["proof"]["images"]["tiles"]) == ("data", 40)
    assert found["proof"]["images"]["labels_that_differ"] == []
    assert found["proof"]["images"]["largest_difference"] < 0.05
    assert {p.name for p in made.out.iterdir()} == {"model.json", *found["files"]}


FOREIGN = {
    "onnx": "import onnxruntime; s = onnxruntime.InferenceSession(f'{out}/model.onnx'); found = s.run(['logits'], {'tiles': tiles})[0]",
    "openvino": "import openvino; m = openvino.Core().compile_model(f'{out}/model.xml', 'CPU'); found = m({'tiles': tiles})['logits']",
    "compiled": "import torch; m = torch._inductor.aoti_load_package(f'{out}/model.pt2');"
    " found = m(torch.from_numpy(tiles))[0].detach().numpy()",
}


def test_a_program_without_linepipe_uses_the_export(made: Made, tmp_path: Path) -> None:
    """By the names, type and shapes in model.json, with any number of tiles."""
    golden = made.trained.golden
    np.save(tmp_path / "tiles.npy", golden.tiles[:, None])
    program = f"""
import sys, numpy as np
out, n = {str(made.out)!r}, int(sys.argv[1])
tiles = np.load({str(tmp_path / "tiles.npy")!r})[:n]
{FOREIGN[made.engine]}
assert not any(name.split(".")[0] in ("ilcs_model", "nodes", "pipeline") for name in sys.modules)
np.save({str(tmp_path / "found.npy")!r}, found)
"""
    for count in (1, 6):
        subprocess.run([sys.executable, "-c", program, str(count)], check=True, env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"})
        found = softmax(np.load(tmp_path / "found.npy"))
        assert np.abs(found - golden.scores[:count]).max() < 0.05


def test_a_network_of_the_house_is_exported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """ILCS with two classes, not trained."""
    torch.manual_seed(0)
    path = tmp_path / "two.safetensors"
    info = read_info(find_model("ilcs-neu"))
    network = create("ilcs", 2, invariant=info.invariant, locate=info.locate)
    save_model(path, network, msgspec.structs.replace(info, classes=("dark", "light")))

    assert linepipe("export", path, "--engine", "onnx", "--out", tmp_path / "out") == 0
    assert "no images: give --data" in capfd.readouterr().out
    assert "mean of the tile" in json.loads((tmp_path / "out" / "model.json").read_text())["normalisation"]["formula"]


def _swap(network: Any) -> None:
    network.fc.weight.copy_(network.fc.weight.flip(0))
    network.fc.bias.copy_(network.fc.bias.flip(0))


def _move_maps(network: Any) -> None:
    """Scores as before; the map everywhere below 0."""
    right = network.forward

    def forward(tiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, maps = right(tiles)
        return logits, -maps - 1

    network.forward = forward


@pytest.fixture
def convert_badly(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], None]], None]:
    """Makes the converter see another network than the file holds."""

    def badly(change: Callable[[Any], None]) -> None:
        def load(path: Path) -> Any:
            network, info = load_model(path)
            with torch.no_grad():
                change(network)
            return network, info

        monkeypatch.setattr(ilcs_model.export, "load_model", load)

    return badly


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_a_wrong_export_is_not_left_lying_about_and_its_images_are_named(
    model: Path, data: Path, tmp_path: Path, engine: str, convert_badly: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    convert_badly(_swap)
    out = tmp_path / "out"

    assert linepipe("export", model, "--engine", engine, "--out", out, "--data", data, "--split", "test") == 1

    said = capfd.readouterr()
    assert f"{data}/dark/dark_09.png: trained a, exported c, which the trained network scores " in said.out
    assert ("--engine onnx computes in float32" in said.err) == (engine != "onnx")
    assert "labels that differ 4" in said.out
    assert f"nothing was written to {out}" in said.err
    assert not out.exists()

    assert linepipe("export", model, "--engine", engine, "--out", out, "--data", data, "--json") == 1
    report = json.loads(capfd.readouterr().out)
    assert not report["proven"] and report["folder"] is None
    assert len(report["proof"]["images"]["labels_that_differ"]) == 40


def test_golden_tiles_alone_find_a_wrong_export(model: Path, tmp_path: Path, convert_badly: Any) -> None:
    convert_badly(_swap)

    assert linepipe("export", model, "--engine", "onnx", "--out", tmp_path / "out") == 1


def test_maps_that_show_other_places_are_a_wrong_export(model: Path, tmp_path: Path, convert_badly: Any) -> None:
    convert_badly(_move_maps)

    assert linepipe("export", model, "--engine", "onnx", "--out", tmp_path / "out") == 1


def test_a_folder_is_taken_only_by_the_same_model_and_engine(
    model: Path, tmp_path: Path, convert_badly: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert linepipe("export", model, "--engine", "onnx", "--out", out) == 0
    assert linepipe("export", model, "--engine", "onnx", "--out", out) == 0
    kept = (out / "model.onnx").read_bytes()

    assert linepipe("export", model, "--engine", "openvino", "--out", out) == 2
    convert_badly(_swap)
    assert linepipe("export", model, "--engine", "onnx", "--out", out) == 1
    assert (out / "model.onnx").read_bytes() == kept

    network, info = load_model(model)
    with torch.no_grad():
        _swap(network)
    save_model(model, network, info)
    capfd.readouterr()
    assert linepipe("export", model, "--engine", "onnx", "--out", out) == 2
    assert f"{out} holds tiny (sha256:" in capfd.readouterr().err

    (out / "notes.txt").write_text("mine")
    (out / "model.json").unlink()
    assert linepipe("export", model, "--engine", "onnx", "--out", out) == 2
    assert (out / "notes.txt").exists()


def test_a_mistake_is_said_before_anything_is_converted(
    model: Path, data: Path, tmp_path: Path, convert_badly: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(network: Any) -> None:
        raise AssertionError("converted")

    convert_badly(fail)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(model.read_bytes()[:300])
    out = ["--engine", "onnx", "--out", tmp_path / "out"]
    (tmp_path / "file").write_text("x")
    colour = tmp_path / "colour.safetensors"
    network, info = load_model(model)
    save_model(colour, network, msgspec.structs.replace(info, recipe=msgspec.structs.replace(info.recipe, decode="rgb")))
    (data / "dark" / "broken.png").write_bytes(b"no image")
    for args, says in (
        (["nowhere.safetensors", *out], "no model file nowhere.safetensors"),
        ([f"{tmp_path}", *out], f"{tmp_path} is a folder; name the model file in it"),
        ([cut, *out], "cut.safetensors"),
        ([colour, *out], "colour.safetensors is a colour model, and what is exported takes grey tiles; train it with --colour grey"),
        ([model, *out, "--split", "test"], "give --data too"),
        ([model, *out, "--data", tmp_path / "none"], "none: no such folder"),
        ([model, *out, "--data", data, "--split", "mine"], "no image in split 'mine'; there is test, train"),
        ([model, *out, "--data", data], "broken.png: not a readable image"),
        ([model, "--engine", "onnx", "--out", tmp_path / "file"], "is a file; name a folder"),
    ):
        assert linepipe("export", *args) == 2
        assert says in capfd.readouterr().err
        assert not (tmp_path / "out").exists()


def test_a_missing_library_is_named_with_its_extra(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    assert linepipe("export", model, "--engine", "onnx", "--out", tmp_path / "out") == 2
    assert "needs onnxruntime: pip install 'linepipe[onnx]'" in capfd.readouterr().err


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_labels_of_real_images_survive_the_export(neu_dir: Path, tmp_path: Path, engine: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Four of each class here; `benchmarks/parity.py` takes all."""
    folder = tmp_path / "neu"
    for label, group in itertools.groupby(sorted((neu_dir / "images").glob("*.jpg")), lambda file: file.name.rpartition("_")[0]):
        (folder / label).mkdir(parents=True)
        for file in list(group)[:4]:
            shutil.copy(file, folder / label)

    assert linepipe("export", "ilcs-neu", "--engine", engine, "--out", tmp_path / "out", "--data", folder) == 0
    assert "24; labels that differ 0" in capfd.readouterr().out
