"""Engines: whatever executes the model gives the reference's scores, for any number of tiles."""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ilcs_model.export import fold_norms
from nodes.infer.engines.compiled import CompiledEngine
from nodes.infer.engines.contract import softmax
from nodes.infer.engines.cuda import batch_sizes
from nodes.infer.engines.eager import EagerEngine
from nodes.infer.engines.golden_tiles import Engine
from nodes.infer.engines.load import _best, load_engine
from nodes.infer.engines.onnx import open_onnx
from nodes.infer.engines.openvino import open_openvino
from pipeline.config import Camera, Config, Infer
from pipeline.config.model_file import find_model, read_model
from pipeline.core.errors import ConfigError
from tests.conftest import ROOT
from tests.tiny import SIDE, write_tiny_model

MODEL = find_model("ilcs-neu")
COMPILES = [
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++: apt-get install g++"),
    pytest.mark.timeout(900),  # about a minute on two idle cores
]
ENGINES = ["eager", "openvino", "onnx", pytest.param("compiled", marks=COMPILES)]


def make(kind: str, path: Path, cache: Path) -> Engine:
    if kind == "openvino":
        return open_openvino(path, cache, 16)
    if kind == "onnx":
        return open_onnx(path, cache, 16)
    return EagerEngine(path) if kind == "eager" else CompiledEngine(path, cache)


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return make(request.param, MODEL, tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def reference() -> EagerEngine:
    return EagerEngine(MODEL)


@pytest.fixture(scope="module")
def tiles() -> np.ndarray:
    """Smooth random pictures, and a flat one: 90,000 pixels of one grey level are more than bfloat16 can count."""
    rng = np.random.default_rng(0)
    pictures = [cv2.resize(rng.integers(0, 256, (30, 30), np.uint8), (300, 300)) for _ in range(4)]
    return np.stack([*pictures, np.full((300, 300), 150, np.uint8)])


@pytest.mark.parametrize("count", [1, 3, 5])
def test_scores_are_the_references(engine: Engine, reference: EagerEngine, tiles: np.ndarray, count: int) -> None:
    found = engine(engine.gather(list(tiles[-count:])))

    assert found.logits.shape == (count, 6)
    right = reference(tiles[-count:])
    assert np.abs(found.logits - right.logits).max() < 0.2
    assert found.maps is not None and right.maps is not None
    assert ((found.maps > 0) == (right.maps > 0)).mean() > 0.99


def test_folded_batch_norms_give_the_same_network(reference: EagerEngine, tiles: np.ndarray) -> None:
    folded = EagerEngine(MODEL)
    fold_norms(folded.network)

    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in folded.network.modules()) == 1
    assert np.abs(folded(tiles).logits - reference(tiles).logits).max() < 1e-3


@pytest.mark.parametrize("engine", [pytest.param("compiled", marks=COMPILES)], indirect=True)
def test_no_batch_size_is_compiled_apart(engine: Engine, tiles: np.ndarray) -> None:
    with torch.compiler.set_stance("fail_on_recompile"):
        for count in (1, 2, 3, 5):
            engine(engine.gather(list(tiles[:count])))


@pytest.mark.parametrize("kind", [pytest.param("compiled", marks=COMPILES)])
def test_the_first_batches_find_the_code_compiled(kind: str, tmp_path: Path) -> None:
    """Compiling takes a minute on a small machine: once, not again at the first batch."""
    engine = make(kind, write_tiny_model(tmp_path), tmp_path / "engines")

    with torch.compiler.set_stance("fail_on_recompile"):
        for count in (1, 5):
            engine(engine.gather(list(engine.golden.tiles[:count])))


def test_a_tile_is_judged_alike_alone_and_in_company(engine: Engine, tiles: np.ndarray) -> None:
    together = softmax(engine(tiles).logits)

    assert np.abs(softmax(engine(tiles[2:3]).logits) - together[2:3]).max() < 0.02


def test_golden_tiles_show_every_class_and_are_answered(engine: Engine) -> None:
    assert set(engine.golden.scores.argmax(1)) == set(range(6))
    for count in (1, len(engine.golden.tiles), 16):
        engine.golden.check(engine, count)


@pytest.mark.long
def test_labels_of_real_images_are_the_references(engine: Engine, reference: EagerEngine, neu_dir: Path) -> None:
    """Ten of each class here; `benchmarks/parity.py` takes all 1,530."""
    files = sorted((neu_dir / "images").glob("*.jpg"))
    chosen = [f for _, group in itertools.groupby(files, lambda f: f.name.rpartition("_")[0]) for f in list(group)[:10]]
    pictures = [np.asarray(cv2.imread(str(f), cv2.IMREAD_GRAYSCALE), np.uint8) for f in chosen]
    images = np.stack([np.asarray(cv2.resize(picture, (300, 300)), np.uint8) for picture in pictures])

    assert (engine(images).logits.argmax(1) == reference(images).logits.argmax(1)).all()


@pytest.mark.parametrize("kind", ENGINES)
def test_a_network_that_locates_gives_a_map_for_each_tile(kind: str, tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path)
    found = make(kind, path, tmp_path / "engines")
    tiles = EagerEngine(path).golden.tiles

    right = EagerEngine(path)(tiles)
    for count in (1, 5):
        logits, maps = found(found.gather(list(tiles[:count])))
        assert maps is not None and right.maps is not None and maps.dtype == np.float32
        assert maps.shape == (count, SIDE // 4, SIDE // 4)
        assert np.abs(maps - right.maps[:count]).max() < 0.02
        assert np.abs(logits - right.logits[:count]).max() < 0.2


@pytest.mark.parametrize("kind", [pytest.param("compiled", marks=COMPILES)])
def test_compiled_code_is_found_again_by_the_next_start(kind: str, tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path)
    program = f"""
import torch
from pathlib import Path
from nodes.infer.engines.compiled import CompiledEngine
CompiledEngine(Path({str(path)!r}), Path({str(tmp_path)!r}))
print(torch._dynamo.utils.counters["inductor"]["fxgraph_cache_hit"])
"""
    command = [sys.executable, "-c", program]
    hits = [subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout for _ in range(2)]

    assert hits == ["0\n", "1\n"], kind


def test_a_missing_compiler_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ConfigError, match=r"apt-get install g\+\+"):
        CompiledEngine(MODEL, tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch has CUDA here")
def test_a_gpu_that_torch_cannot_use_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("nodes.infer.engines.load.has_cuda", lambda: True)

    assert _best() == "openvino"
    assert "cannot use it" in caplog.text


@pytest.mark.parametrize("engine_name", ["eager", "openvino", "onnx", "compiled"])
def test_a_truncated_model_is_refused_with_its_name(tmp_path: Path, engine_name: str) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(MODEL.read_bytes()[:100_000])
    config = Config(
        line="l",
        cameras={"top": Camera(source="folder:x")},
        infer=Infer(model=str(broken), engine=engine_name),
        state_dir=str(tmp_path),
    )

    with pytest.raises(ConfigError, match=r"broken\.safetensors"):
        load_engine(config)


def test_the_shipped_model_says_what_it_is() -> None:
    model = read_model(MODEL)

    assert model.name == "ilcs-neu"
    assert model.classes == ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches")
    assert MODEL.stat().st_size < 10_000_000


def test_converting_a_model_reports_to_nobody(tmp_path: Path) -> None:
    """OpenVINO's converter would send usage data; a plant's machine does not."""
    program = f"""
import sys
from pathlib import Path
from nodes.infer.engines.openvino import open_openvino
open_openvino(Path({str(write_tiny_model(tmp_path))!r}), Path({str(tmp_path)!r}), 1)
sys.exit(any(name.startswith("openvino_telemetry.") for name in sys.modules))
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)


def test_onnx_runtime_reports_to_nobody(tmp_path: Path) -> None:
    """It would keep an id of the machine and a queue of reports under the home folder, and send them."""
    path = write_tiny_model(tmp_path)
    open_onnx(path, tmp_path / "engines", 1)
    program = f"""
from pathlib import Path
from nodes.infer.engines.onnx import open_onnx
engine = open_onnx(Path({str(path)!r}), Path({str(tmp_path / "engines")!r}), 1)
engine(engine.golden.tiles)
"""
    (home := tmp_path / "home").mkdir()
    # It is silent where it takes the machine for a build server, told by many variables: none is passed on.
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)

    assert list(home.rglob("*")) == []


@pytest.mark.parametrize("engine_name", ["openvino", "onnx"])
def test_a_converted_model_needs_no_torch(tmp_path: Path, engine_name: str) -> None:
    """A node that was killed is back before torch would be imported."""
    program = f"""
import sys
from pathlib import Path
from pipeline.config import Camera, Config, Infer
from nodes.infer.engines.load import load_engine
infer = Infer(model={str(write_tiny_model(tmp_path))!r}, engine={engine_name!r})
load_engine(Config(line="l", cameras={{"top": Camera(source="folder:x")}}, infer=infer, state_dir={str(tmp_path)!r}))
print("torch" in sys.modules)
"""
    answers = [subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout for _ in range(2)]

    assert answers == ["True\n", "False\n"]


def test_the_batch_sizes_captured_on_a_gpu_end_with_the_largest() -> None:
    assert [batch_sizes(n) for n in (1, 2, 3, 16, 24)] == [[2], [2], [2, 3], [2, 4, 8, 16], [2, 4, 8, 16, 24]]
