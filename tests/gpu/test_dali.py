"""On a CUDA machine: DALI on the GPU gives OpenCV's tiles, on the device, straight from the ring's memory."""

import logging
import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("nvidia.dali", reason="needs DALI")

from ilcs_model.data.dali_loader import dali_batches
from ilcs_model.data.dataset import open_dataset
from ilcs_model.data.loader import Epoch, train_batches
from ilcs_model.info import TileRecipe
from nodes.preprocess.choose_preprocess import make_preprocess
from pipeline.core.tiles import Pixels, TiledFrame
from pipeline.system.cuda import Pinned
from pipeline.transport.ring import Ring, new_memfd
from tests.contract.test_dali_loader import write_images
from tests.contract.test_preprocess import LOG, RECIPE, config, encoded, furthest, lease, noise, run

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def host(tiled: TiledFrame) -> Pixels:
    assert tiled.tiles.is_cuda
    assert tiled.tiles.dtype == torch.uint8
    return tiled.tiles.cpu().numpy()


@CUDA
def test_auto_chooses_the_gpu_here(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert make_preprocess(config("auto", "grid", 300, 0), RECIPE, LOG).name == "dali-gpu"

    assert "preprocess dali-gpu" in caplog.text


@CUDA
def test_a_grid_is_cut_without_a_change_and_lies_on_the_device() -> None:
    frames = [noise(300, 900, 1), noise(700, 1000, 2), noise(300, 300, 3)]

    tiled = run("gpu", frames, overlap_px=32)

    for frame, found in zip(frames, tiled, strict=True):
        tiles = host(found)
        assert tiles.shape == (len(found.boxes), 300, 300)
        for tile, (x, y, w, h) in zip(tiles, found.boxes, strict=True):
            assert (tile == frame[y : y + h, x : x + w]).all()


@pytest.mark.parametrize("size", [(200, 200), (700, 1000), (1, 1), (1, 500), (301, 299), (4000, 7)])
@CUDA
def test_a_whole_frame_is_resized_as_opencv_does(size: tuple[int, int]) -> None:
    frame = noise(*size)

    (tiled,) = run("gpu", [frame], layout="whole")

    assert furthest(host(tiled)[0], cv2.resize(frame, (300, 300), interpolation=cv2.INTER_LINEAR)) <= 2


@CUDA
def test_many_frames_of_many_sizes_come_back_in_order_and_stay_as_they_were() -> None:
    preprocess = make_preprocess(config("gpu", "grid", 300, 0), RECIPE, LOG)
    rounds = [[noise(300, 300 + 30 * k, seed=10 * r + k) for k in range(1, 9)] for r in range(5)]

    found = [preprocess([lease(frame) for frame in frames]) for frames in rounds]

    for frames, tiled in zip(rounds, found, strict=True):
        for frame, one in zip(frames, tiled, strict=True):
            assert (host(one)[0] == frame[:, :300]).all()
            assert (host(one)[-1] == frame[:, -300:]).all()


@CUDA
def test_encoded_frames_are_decoded_exactly_and_a_bad_one_leaves_its_neighbours_alone() -> None:
    """Decoding is done on the host, so there is no difference to allow for."""
    smooth = cv2.GaussianBlur(noise(300, 300, 1), (0, 0), 5)
    jpeg, png = encoded("jpeg", smooth), encoded("png", smooth)
    cut_short = np.concatenate([jpeg[: jpeg.size // 2], np.array([0xFF, 0xD9], np.uint8)])

    tiled = run("gpu", [jpeg, cut_short, png])

    assert [t.invalid for t in tiled] == ["", "corrupt", ""]
    assert len(tiled[1].tiles) == 0
    assert (host(tiled[0])[0] == cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE)).all()
    assert (host(tiled[2])[0] == smooth).all()


@CUDA
def test_frames_go_from_a_rings_read_only_mapping_to_the_device() -> None:
    """Pinned or not, as the driver decides; it is said which, and the tiles are right either way."""
    ring = Ring.create(new_memfd("test"), 4, 300 * 900)
    reader = Ring.attach(os.dup(ring.fd))
    frame = noise(300, 900)
    ring.slot(2)[: frame.size] = frame.reshape(-1)
    preprocess = make_preprocess(config("gpu", "grid", 300, 0), RECIPE, LOG)

    how = [preprocess.adopt("top", mapped.memory) for mapped in (Ring.attach(os.dup(ring.fd)), reader)]
    view = reader.slot(2)[: frame.size].reshape(frame.shape)
    (tiled,) = preprocess([(lease(frame)[0], view)])

    assert how[0] == how[1]
    assert how[0].startswith(("pinned", "copied by the driver"))
    assert (host(tiled) == np.stack([frame[:, x : x + 300] for x in (0, 300, 600)])).all()


@CUDA
def test_a_refusal_to_pin_has_a_name_and_breaks_nothing() -> None:
    torch.zeros(1, device="cuda")
    odd = Pinned(np.empty(0, np.uint8))

    assert odd.refusal.startswith("CUDA_ERROR")
    odd.close()
    assert torch.ones(8, device="cuda").sum().item() == 8


@CUDA
def test_anonymous_memory_is_pinned_and_let_go() -> None:
    torch.zeros(1, device="cuda")
    memory = np.frombuffer(mmap.mmap(-1, 1 << 20), np.uint8)
    first = Pinned(memory)
    assert not first.refusal or first.refusal.startswith("CUDA_ERROR")
    first.close()
    second = Pinned(memory)
    assert second.refusal == first.refusal  # registering twice would be refused with another reason
    second.close()


def test_training_tiles_are_those_of_the_other_loader(tmp_path: Path, device: Literal["cpu", "cuda"]) -> None:
    write_images(tmp_path / "data", 20)
    data = open_dataset(tmp_path / "data")
    epoch = Epoch(TileRecipe(), 8, (3, 1))
    pairs = zip(train_batches(data, epoch), dali_batches(data, epoch, device=device), strict=True)

    for (tiles, labels, _), (found, found_labels, _) in pairs:
        assert found.device.type == device
        assert found.shape == tiles.shape
        assert torch.equal(found_labels, labels)
        assert (found.cpu().int() - tiles.int()).abs().max() <= 3


@CUDA
@pytest.mark.parametrize("width", [2, 31, 257, 300, 513])
def test_frames_of_any_width_are_cut_by_a_new_process(width: int) -> None:
    """A new process, because DALI's own bug needs memory that nobody has written: a width that is no multiple of 32 read it."""
    done = subprocess.run([sys.executable, "-c", _ONE_FRAME, str(width)], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "equal"


_ONE_FRAME = """
import sys
import numpy as np
from nodes.preprocess.dali import TileGraph
from pipeline.config.model_file import TileRecipe
side = int(sys.argv[1])
frame = np.random.default_rng(0).integers(0, 256, (side, side), np.uint8)
graph = TileGraph(TileRecipe(decode="grey", size_px=side, resize="bilinear"), "gpu", 16)
(tiles,) = graph([frame], [((0, 0, side, side),)])
print("equal" if (tiles[0].cpu().numpy() == frame).all() else "differs")
"""
