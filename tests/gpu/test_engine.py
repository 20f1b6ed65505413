"""The compiled engine on a CUDA machine gives the reference's answers, whatever it is handed and whichever thread asks."""

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from nodes.infer.batches import EngineRunner
from nodes.infer.engines.contract import softmax
from nodes.infer.engines.cuda import CudaEngine
from nodes.infer.engines.eager import EagerEngine
from nodes.infer.engines.golden_tiles import WrongAnswerError
from nodes.infer.engines.load import load_engine
from pipeline.config import Camera, Config, Infer
from pipeline.config.model_file import find_model
from pipeline.system.cuda import has_cuda
from tests.tiny import SIDE, write_tiny_model

MODEL = find_model("ilcs-neu")
MAX_BATCH = 24
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where compiled code is kept; ``benchmarks.gpu_all`` names a folder that has it already."""
    return Path(os.environ.get("LINEPIPE_TEST_ENGINES") or tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def engine(engines: Path) -> CudaEngine:
    return CudaEngine(MODEL, engines, MAX_BATCH)


@pytest.fixture(scope="module")
def tiles() -> np.ndarray:
    """Noise of several grains, MAX_BATCH tiles."""
    rng = np.random.default_rng(0)
    return np.stack([np.kron(rng.integers(0, 256, (30, 30), np.uint8), np.ones((10, 10), np.uint8)) for _ in range(MAX_BATCH)])


@pytest.fixture(scope="module")
def right(tiles: np.ndarray) -> np.ndarray:
    """Probabilities by the reference."""
    return softmax(EagerEngine(MODEL)(tiles).logits)


def check(engine: CudaEngine, given: list[object], right: np.ndarray) -> None:
    logits, maps = engine(engine.gather(given))
    assert maps is not None and maps.shape == (len(right), 37, 37)
    assert logits.shape == right.shape
    assert np.abs(softmax(logits) - right).max() < 0.1
    sure = np.sort(right, axis=1)
    clear = sure[:, -1] - sure[:, -2] > 0.1
    assert (logits.argmax(1) == right.argmax(1))[clear].all()


@pytest.mark.parametrize("count", [1, 2, 3, 8, 13, 16, 17, 24])
def test_every_batch_size_gives_the_references_labels(engine: CudaEngine, tiles: np.ndarray, right: np.ndarray, count: int) -> None:
    check(engine, list(tiles[:count]), right[:count])


def test_a_smaller_batch_after_a_larger_one_sees_its_own_tiles(engine: CudaEngine, tiles: np.ndarray, right: np.ndarray) -> None:
    """The graphs share memory and their buffers keep old tiles."""
    for count in (24, 3, 16, 1, 24, 2):
        check(engine, list(tiles[-count:]), right[-count:])


def test_tiles_may_lie_on_the_device(engine: CudaEngine, tiles: np.ndarray, right: np.ndarray) -> None:
    there = torch.from_numpy(tiles).cuda()

    check(engine, list(there[:5]), right[:5])
    check(engine, [tiles[0], there[1], tiles[2]], right[:3])


def test_batches_may_be_gathered_while_others_run(engine: CudaEngine, tiles: np.ndarray, right: np.ndarray) -> None:
    """As in a line: gathered in one thread, run in another, two under way, golden tiles in between."""
    runner = EngineRunner(engine, check_s=0.0)
    found: list[tuple[int, np.ndarray]] = []
    submitted = 0
    while len(found) < 200:
        while submitted < 200 and runner.running < 2:
            first = submitted % 16
            runner.submit(first, engine.gather(list(tiles[first : first + 1 + submitted % 8])))
            submitted += 1
        found += [(first, scores) for first, scores, _ in runner.results()]

    for first, scores in found:
        assert np.abs(scores - right[first : first + len(scores)]).max() < 0.1
    assert runner.checks > 0
    runner.close()


def test_a_thread_that_did_not_load_it_may_run_it(engine: CudaEngine, tiles: np.ndarray, right: np.ndarray) -> None:
    problems: list[BaseException] = []

    def run() -> None:
        try:
            check(engine, list(tiles[:7]), right[:7])
        except BaseException as exc:
            problems.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

    assert problems == []


def test_the_golden_tiles_find_damaged_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged where they lie on the device, after the graphs were captured."""
    eager = EagerEngine(write_tiny_model(tmp_path))
    monkeypatch.setattr("nodes.infer.engines.cuda.EagerEngine", lambda path: eager)
    engine = CudaEngine(tmp_path, tmp_path, 2)
    engine.golden.check(engine, 2)

    with torch.no_grad():
        eager.network.get_parameter("fc.weight").mul_(-50)
    torch.cuda.synchronize()

    with pytest.raises(WrongAnswerError):
        engine.golden.check(engine, 2)


def test_a_network_that_locates_gives_a_map_for_each_tile(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path)
    found = CudaEngine(path, tmp_path / "engines", 8)
    tiles = found.golden.tiles

    right = EagerEngine(path)(tiles)
    logits, maps = found(found.gather(list(tiles[:5])))

    assert maps is not None and right.maps is not None
    assert maps.shape == (5, SIDE // 4, SIDE // 4)
    assert np.abs(maps - right.maps[:5]).max() < 0.02
    assert np.abs(logits - right.logits[:5]).max() < 0.02


def test_auto_is_the_compiled_engine_here(tmp_path: Path, engines: Path) -> None:
    (tmp_path / "engines").symlink_to(engines)
    infer = Infer(model="ilcs-neu", max_batch=4)
    config = Config(line="l", cameras={"top": Camera(source="folder:x")}, infer=infer, state_dir=str(tmp_path))

    assert has_cuda()
    assert load_engine(config).engine.name.endswith("-cuda")
