"""Preprocessors: whatever cuts and resizes gives the tiles that OpenCV gives, and no bad image harms another."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.infer.engines.openvino import open_openvino
from nodes.preprocess.choose_preprocess import make_preprocess
from nodes.preprocess.dali import DaliPreprocess, TileGraph
from nodes.preprocess.opencv import cut
from pipeline.config import Camera, Config, Infer, Preprocess
from pipeline.config.model_file import TileRecipe, find_model
from pipeline.core.errors import ConfigError, NodeError
from pipeline.core.frame import FrameMeta, FrameRef
from pipeline.core.tiles import Pixels, TiledFrame, grid
from pipeline.system.cuda import driver

RECIPE = TileRecipe(decode="grey", size_px=300, resize="bilinear")
LOG = logging.getLogger("test")
Run = Callable[..., list[TiledFrame]]


def config(device: str, layout: str, tile_px: int, overlap_px: int) -> Config:
    how = Preprocess(layout=layout, tile_px=tile_px, overlap_px=overlap_px, device=device)  # type: ignore[arg-type]
    return Config(line="l", cameras={"top": Camera(source="folder:x")}, infer=Infer(model="ilcs-neu"), preprocess=how, state_dir="x")


def lease(data: Pixels) -> tuple[FrameRef, Pixels]:
    """A frame as a node gets it: raw if it has two dimensions, encoded if one."""
    shape = None if data.ndim == 1 else (data.shape[0], data.shape[1])
    meta = FrameMeta(camera="top", epoch="e", frame=0, shape=shape, length=data.nbytes, arrived_ns=0, captured_ns=0)
    data.flags.writeable = False  # as in a worker's mapping of the ring
    return FrameRef(meta=meta, slot=0, generation=1, attempt=1), data


def run(device: str, frames: Sequence[Pixels], layout: str = "grid", tile_px: int = 300, overlap_px: int = 0) -> list[TiledFrame]:
    preprocess = make_preprocess(config(device, layout, tile_px, overlap_px), RECIPE, LOG)
    leased = [lease(frame) for frame in frames]
    step = preprocess.frames_at_once
    return [tiled for k in range(0, len(leased), step) for tiled in preprocess(leased[k : k + step])]


@pytest.fixture(params=["cpu", "dali"])
def tile(request: pytest.FixtureRequest) -> Run:
    """Every preprocess that runs without a GPU: ``tile(frames, layout, tile_px, overlap_px)``."""
    return lambda *args, **kwargs: run(request.param, *args, **kwargs)


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)


def encoded(kind: str, picture: np.ndarray) -> Pixels:
    return cv2.imencode(f".{kind}", picture)[1].reshape(-1)


def furthest(one: Pixels, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other).max())


def test_a_grid_is_cut_without_a_change(tile: Run) -> None:
    frame = noise(300, 900)

    (tiled,) = tile([frame], overlap_px=32)

    assert tiled.boxes == ((0, 0, 300, 300), (268, 0, 300, 300), (536, 0, 300, 300), (600, 0, 300, 300))
    assert tiled.columns == 4
    for found, (x, y, w, h) in zip(tiled.tiles, tiled.boxes, strict=True):
        assert (found == frame[y : y + h, x : x + w]).all()


@pytest.mark.parametrize("size", [(200, 200), (700, 1000), (1, 1), (1, 500), (301, 299), (4000, 7)])
def test_a_whole_frame_is_resized_as_opencv_does(tile: Run, size: tuple[int, int]) -> None:
    frame = noise(*size)

    (tiled,) = tile([frame], layout="whole")

    assert tiled.tiles.shape == (1, 300, 300)
    assert tiled.tiles.dtype == np.uint8
    assert furthest(tiled.tiles[0], cv2.resize(frame, (300, 300), interpolation=cv2.INTER_LINEAR)) <= 1


@pytest.mark.parametrize("kind", ["jpeg", "png", "bmp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_encoded_frames_become_grey_pixels(tile: Run, kind: str, channels: int) -> None:
    """ITU-R 601 luma; the pixels for the crops are those that the tiles were made of."""
    colours = cv2.resize(np.random.default_rng(1).integers(0, 256, (30, 30, channels), np.uint8), (300, 300)).reshape(300, 300, -1)
    data = encoded(kind, colours)

    (tiled,) = tile([data])

    assert not tiled.invalid
    assert (tiled.pixels == cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)).all()
    assert (tiled.tiles[0] == tiled.pixels).all()


def test_a_bad_image_leaves_its_neighbours_alone(tile: Run) -> None:
    good, smooth = noise(300, 300), cv2.GaussianBlur(noise(300, 300, 1), (0, 0), 5)
    jpeg = encoded("jpeg", smooth)
    end = np.array([0xFF, 0xD9], np.uint8)
    frames = {
        "": good,
        "truncated": jpeg[: jpeg.size // 2],
        "corrupt": np.concatenate([jpeg[: jpeg.size // 2], end]),
        "format": np.frombuffer(b"a text file named .jpg", np.uint8).copy(),
    }

    tiled = tile([*frames.values(), jpeg])

    assert [t.invalid for t in tiled] == [*frames, ""]
    assert [t.tiles.shape for t in tiled] == [(1, 300, 300)] + [(0, 300, 300)] * 3 + [(1, 300, 300)]
    assert (tiled[0].tiles[0] == good).all()
    assert (tiled[4].tiles[0] == cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE)).all()


def test_frames_of_different_sizes_share_a_call_and_all_come_back() -> None:
    """Nothing is held back, and what was given before is not overwritten by what comes later."""
    preprocess = make_preprocess(config("dali", "grid", 64, 0), RECIPE, LOG)
    sizes = [(64, 64), (100, 200), (30, 500), (1, 1), (700, 64)]
    frames = [lease(noise(*size, seed=k)) for k, size in enumerate(sizes)]
    opencv = [t.tiles for t in run("cpu", [data for _, data in frames], tile_px=64)]

    together = preprocess(frames)
    alone = [preprocess([frame])[0] for frame in frames]

    assert len(together) == len(alone) == len(frames)
    for one, other, reference in zip(together, alone, opencv, strict=True):
        assert (one.tiles == other.tiles).all()
        assert furthest(one.tiles, reference) <= 1


@pytest.fixture(scope="module")
def graph() -> TileGraph:
    return TileGraph(RECIPE, "cpu", 4)


@given(st.integers(1, 400), st.integers(1, 400), st.integers(16, 400), st.integers(8, 400), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_any_frame_in_any_grid_gives_the_tiles_of_opencv(
    graph: TileGraph, height: int, width: int, tile_px: int, step: int, seed: int
) -> None:
    frame = noise(height, width, seed)
    boxes, _ = grid(width, height, tile_px, max(0, tile_px - max(step, tile_px // 8)))

    (found,) = graph([frame], [boxes])

    assert furthest(found, cut(frame, boxes, RECIPE.size_px)) <= (0 if boxes[0][2:] == (300, 300) else 1)


def test_labels_of_real_images_do_not_depend_on_who_resized_them(neu_dir: Path, tmp_path: Path) -> None:
    """Sixty here; `benchmarks/preprocess.py` takes all test images."""
    files = [np.fromfile(path, np.uint8) for path in sorted((neu_dir / "images").glob("*.jpg"))[::26][:60]]
    opencv, dali = (np.concatenate([t.tiles for t in run(device, files, layout="whole")]) for device in ("cpu", "dali"))
    engine = open_openvino(find_model("ilcs-neu"), tmp_path, 16)

    assert furthest(opencv, dali) <= 1
    for k in range(0, len(files), 16):
        assert (engine(opencv[k : k + 16]).logits.argmax(1) == engine(dali[k : k + 16]).logits.argmax(1)).all()


class _FailsOnBlack:
    """A real graph, but for one kind of frame."""

    def __init__(self, *args: object) -> None:
        self._graph = TileGraph(*args)  # type: ignore[arg-type]

    def __call__(self, frames: Sequence[Pixels], boxes: Sequence[tuple[tuple[int, int, int, int], ...]]) -> list[Pixels]:
        if any(frame.size > 4 and not frame.any() for frame in frames):
            raise RuntimeError("a shape it does not like, say")
        return self._graph(frames, boxes)


def test_a_frame_that_dali_fails_on_becomes_invalid_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.preprocess.dali.TileGraph", _FailsOnBlack)
    frames = [noise(300, 300, 1), np.zeros((300, 300), np.uint8), noise(300, 300, 2)]

    tiled = run("dali", frames)

    assert [t.invalid for t in tiled] == ["", "corrupt", ""]
    assert [len(t.tiles) for t in tiled] == [len(t.boxes) for t in tiled] == [1, 0, 1]
    assert (tiled[2].tiles[0] == frames[2]).all()


@pytest.mark.parametrize("error", [MemoryError("x"), RuntimeError("CUDA runtime API error cudaErrorMemoryAllocation (2):\nout of memory")])
def test_a_full_device_ends_the_node_and_no_frame_is_called_corrupt(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    preprocess = DaliPreprocess(config("dali", "grid", 300, 0), RECIPE, LOG, "cpu")

    def full(frames: Sequence[Pixels], boxes: object) -> None:
        raise error

    monkeypatch.setattr(
        "nodes.preprocess.dali.TileGraph", lambda *_: lambda frames, boxes: None if frames[0].size == 4 else full(frames, boxes)
    )
    monkeypatch.setattr(preprocess, "_graph", full)

    with pytest.raises(NodeError, match="memory is full"):
        preprocess([lease(noise(300, 300))])


def test_a_dali_that_works_no_more_ends_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    preprocess = DaliPreprocess(config("dali", "grid", 300, 0), RECIPE, LOG, "cpu")

    def broken(*_: object) -> None:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr("nodes.preprocess.dali.TileGraph", broken)
    monkeypatch.setattr(preprocess, "_graph", broken)

    with pytest.raises(NodeError, match="the device is gone"):
        preprocess([lease(noise(300, 300))])


def test_a_gpu_that_is_not_there_is_refused_with_a_remedy() -> None:
    if driver() is not None:
        pytest.skip("there is a CUDA device")
    with pytest.raises(ConfigError, match=r"preprocess\.device.*set preprocess\.device to cpu"):
        make_preprocess(config("gpu", "grid", 300, 0), RECIPE, LOG)


@pytest.mark.parametrize(("device", "name"), [("auto", "opencv-cpu"), ("cpu", "opencv-cpu"), ("dali", "dali-cpu")])
def test_the_log_says_which_preprocess_runs(device: str, name: str, caplog: pytest.LogCaptureFixture) -> None:
    if device == "auto" and driver() is not None:
        pytest.skip("there is a CUDA device")
    with caplog.at_level(logging.INFO):
        make_preprocess(config(device, "grid", 300, 0), RECIPE, LOG)

    assert f"preprocess {name}" in caplog.text
    assert all(r.levelno < logging.WARNING for r in caplog.records)


def test_a_gpu_that_cannot_be_used_is_passed_over_and_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As on a machine with a driver and a torch that was built without CUDA."""
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("the CUDA device can be used")
    monkeypatch.setattr("nodes.preprocess.choose_preprocess.driver", object)
    on_cpu = msgspec.structs.replace(config("auto", "grid", 300, 0), infer=Infer(model="ilcs-neu", engine="openvino"))

    assert make_preprocess(on_cpu, RECIPE, LOG).name == "opencv-cpu"
    assert "CUDA" not in caplog.text
    assert make_preprocess(config("auto", "grid", 300, 0), RECIPE, LOG).name == "opencv-cpu"
    assert "preprocess runs on the CPU" in caplog.text
