"""An engine that answers wrongly does not go on: damaged at the start it is made again or refused, later the node ends."""

import re
import select
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ilcs_model.export
from nodes.infer.batches import EngineRunner
from nodes.infer.engines.contract import Output
from nodes.infer.engines.load import load_engine
from nodes.infer.engines.openvino import OpenVinoNetwork, open_openvino
from pipeline.config import Camera, Config, Infer
from pipeline.core.errors import NodeError
from tests.tiny import write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


def flip(weights: Path) -> None:
    """Negate the largest tensor, as the description beside it says where it lies: as good a file as before, of another network."""
    places = re.findall(r'offset="(\d+)" size="(\d+)"', weights.with_suffix(".xml").read_text())
    start, size = max(((int(offset), int(size)) for offset, size in places), key=lambda place: place[1])
    data = np.fromfile(weights, np.uint8)
    data[start + 3 : start + size : 4] ^= 0x80
    data.tofile(weights)


def cut(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def empty(weights: Path) -> None:
    weights.with_name("golden.npy").write_bytes(b"")


def garble(weights: Path) -> None:
    weights.with_suffix(".xml").write_text("damaged")


def test_a_converted_model_is_used_again(model: Path, tmp_path: Path) -> None:
    open_openvino(model, tmp_path, 1)
    (kept,) = tmp_path.glob("*/model.xml")
    stamp = kept.stat().st_mtime_ns

    open_openvino(model, tmp_path, 1)

    assert kept.stat().st_mtime_ns == stamp


@pytest.mark.timeout(120)
def test_processes_that_convert_the_same_at_once_all_get_it(model: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from nodes.infer.engines.openvino import open_openvino;"
        " print('ready', flush=True); sys.stdin.readline();"
        f" open_openvino(Path({str(model)!r}), Path(sys.argv[1]), 1)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "engines")]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    for process in processes:
        process.communicate("go\n", timeout=100)

    assert [process.returncode for process in processes] == [0] * 4


@pytest.mark.parametrize("damage", [flip, cut, empty, garble])
def test_a_damaged_conversion_is_made_again_and_that_is_said(
    model: Path, tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    first = open_openvino(model, tmp_path, 1)
    right = first(first.golden.tiles).logits
    del first
    (weights,) = tmp_path.glob("*/model.bin")
    damage(weights)

    second = open_openvino(model, tmp_path, 1)

    assert (second(second.golden.tiles).logits == right).all()
    assert "is damaged and is converted again" in caplog.text


def test_an_engine_that_is_wrong_even_when_made_again_is_refused(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = ilcs_model.export.to_openvino

    def badly(path: Path, target: Path) -> None:
        convert(path, target)
        flip(target.with_suffix(".bin"))

    monkeypatch.setattr(ilcs_model.export, "to_openvino", badly)
    config = Config(
        line="l",
        cameras={"top": Camera(source="folder:x")},
        infer=Infer(model=str(model), engine="openvino"),
        state_dir=str(tmp_path),
    )

    with pytest.raises(NodeError, match=r"openvino-.* answers wrongly: golden tile .* choose another infer\.engine"):
        load_engine(config)
    assert list((tmp_path / "engines").iterdir()) == []


class Failing:
    """A real engine that goes wrong when told to."""

    def __init__(self, real: OpenVinoNetwork) -> None:
        self._real, self.name, self.golden = real, real.name, real.golden
        self.go_wrong: Callable[[np.ndarray], np.ndarray] = lambda logits: logits

    def gather(self, tiles: Sequence[Any]) -> Any:
        return self._real.gather(tiles)

    def __call__(self, batch: Any) -> Output:
        return Output(self.go_wrong(self._real(batch).logits), None)


@pytest.fixture(scope="module")
def real(model: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenVinoNetwork:
    return open_openvino(model, tmp_path_factory.mktemp("engines"), 1)


def wait(runner: EngineRunner, count: int) -> list[Any]:
    """The first ``count`` results."""
    found: list[Any] = []
    while len(found) < count:
        assert select.select([runner], [], [], 60)[0]
        found += runner.results()
    return found


def device_lost(logits: np.ndarray) -> np.ndarray:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize(
    ("go_wrong", "message"),
    [
        (lambda logits: -logits, "answers wrongly"),
        (lambda logits: logits * np.nan, "answers wrongly"),
        (lambda logits: logits[:, :2], "shape"),
        (device_lost, "failed: CUDA error"),
    ],
)
def test_an_idle_engine_that_goes_wrong_is_found(real: OpenVinoNetwork, go_wrong: Callable[[np.ndarray], np.ndarray], message: str) -> None:
    engine = Failing(real)
    runner = EngineRunner(engine, check_s=0.01)
    engine.go_wrong = go_wrong

    with pytest.raises(NodeError, match=message):
        wait(runner, 1)


def test_a_busy_engine_is_checked_between_its_batches(real: OpenVinoNetwork) -> None:
    """No batch is held up for more than one golden tile, and none goes without an answer."""
    runner = EngineRunner(Failing(real), check_s=0.0)
    batch = real.gather(list(real.golden.tiles[:2]))
    for tag in range(5):
        runner.submit(tag, batch)

    found = wait(runner, 5)

    assert [tag for tag, _, _ in found] == [0, 1, 2, 3, 4]
    assert all(np.abs(scores - real.golden.scores[:2]).max() < 0.1 for _, scores, _ in found)
    assert runner.checks >= 4
    runner.close()


def test_an_engine_that_goes_wrong_under_load_is_found(real: OpenVinoNetwork) -> None:
    engine = Failing(real)
    runner = EngineRunner(engine, check_s=0.0)
    engine.go_wrong = lambda logits: -logits
    batch = real.gather(list(real.golden.tiles[:2]))
    for tag in range(100):
        runner.submit(tag, batch)

    with pytest.raises(NodeError, match="answers wrongly"):
        wait(runner, 100)
