"""Engines: whatever executes the model gives the reference's scores, for any number of tiles."""

import itertools
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from nodes.infer.engine import EagerEngine, Engine, OpenVinoEngine, load_engine
from nodes.infer.verdict import softmax
from pipeline.config import Camera, Config, Infer
from pipeline.errors import ConfigError
from pipeline.model_file import find_model, read_model

MODEL = find_model("ilcs-neu")


@pytest.fixture(scope="module", params=["eager", "openvino"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    if request.param == "eager":
        return EagerEngine(MODEL)
    return OpenVinoEngine(MODEL, "sha256:test", tmp_path_factory.mktemp("engines"))


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
    found = engine(tiles[-count:])

    assert found.shape == (count, 6)
    assert np.abs(found - reference(tiles[-count:])).max() < 0.2


def test_a_tile_is_judged_alike_alone_and_in_company(engine: Engine, tiles: np.ndarray) -> None:
    together = softmax(engine(tiles))

    assert np.abs(softmax(engine(tiles[2:3])) - together[2:3]).max() < 0.02


def test_labels_of_real_images_are_the_references(engine: Engine, reference: EagerEngine, neu_dir: Path) -> None:
    """Ten of each class here; `benchmarks/parity.py` takes all 1,530."""
    files = sorted((neu_dir / "images").glob("*.jpg"))
    chosen = [f for _, group in itertools.groupby(files, lambda f: f.name.rpartition("_")[0]) for f in list(group)[:10]]
    images = np.stack([cv2.resize(cv2.imread(str(f), cv2.IMREAD_GRAYSCALE), (300, 300)) for f in chosen])

    assert (engine(images).argmax(1) == reference(images).argmax(1)).all()


def test_a_converted_model_is_used_again_and_a_damaged_one_is_made_anew(tmp_path: Path, tiles: np.ndarray) -> None:
    first = OpenVinoEngine(MODEL, "sha256:x", tmp_path)(tiles)
    (kept,) = tmp_path.glob("*/model.xml")
    stamp = kept.stat().st_mtime_ns

    assert (OpenVinoEngine(MODEL, "sha256:x", tmp_path)(tiles) == first).all()
    assert kept.stat().st_mtime_ns == stamp

    kept.write_text("damaged")
    assert (OpenVinoEngine(MODEL, "sha256:x", tmp_path)(tiles) == first).all()


@pytest.mark.parametrize("engine_name", ["eager", "openvino"])
def test_a_truncated_model_is_refused_with_its_name(tmp_path: Path, engine_name: str) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(MODEL.read_bytes()[:100_000])
    config = Config(
        line="l",
        cameras={"top": Camera(source="folder:x")},
        infer=Infer(model=str(broken), engine=engine_name),  # type: ignore[arg-type]
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
from nodes.infer.engine import OpenVinoEngine
OpenVinoEngine(Path({str(MODEL)!r}), "sha256:t", Path({str(tmp_path)!r}))
sys.exit(any(name.startswith("openvino_telemetry.") for name in sys.modules))
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)
