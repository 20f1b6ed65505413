"""The ring: pixels are written once, read where they lie, and cannot be harmed by a reader."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from nodes.preprocess.opencv import OpenCvPreprocess
from pipeline.config import Camera, Config, Infer, Preprocess
from pipeline.config.model_file import TileRecipe
from pipeline.core.errors import ConfigError, ProtocolError
from pipeline.core.frame import FrameRef
from pipeline.core.ledger import Account
from pipeline.transport.leases import LeaseTable
from pipeline.transport.ring import Ring, RingRequest, RingServer, new_memfd
from tests.unit.frames import meta

RECIPE = TileRecipe(decode="grey", size_px=300, resize="bilinear")


@pytest.fixture
def ring() -> Ring:
    return Ring.create(new_memfd("test"), slots=4, slot_bytes=90_000)


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def write(ring: Ring, data: bytes, shape: tuple[int, int] | None) -> FrameRef:
    """Put a frame into the ring as capture does."""
    table = LeaseTable(ring.slots)
    slot = table.write()
    assert slot is not None
    ring.slot(slot.number)[: len(data)] = np.frombuffer(data, np.uint8)
    table.ready(slot, meta(0, length=len(data), shape=shape))
    ring.state.begin_writing(slot)
    ring.state.commit(ring.state.ready(slot), ring.state.acquired())
    return table.lease("w").ref()


def attach(ring: Ring, tmp_path: Path) -> Ring:
    """A worker's view, by the real way: a descriptor over a socket."""
    server, request = RingServer(tmp_path / "ring", ring), RingRequest(tmp_path / "ring")
    assert request.turn() is None
    server.serve()
    found = request.turn()
    server.close()
    assert found is not None
    return found


def test_the_decoder_reads_the_bytes_where_capture_wrote_them(ring: Ring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No copy of a frame between the processes: the address that the decoder is given lies in the ring's mapping."""
    picture = np.random.default_rng(0).integers(0, 256, (200, 200, 1), np.uint8)
    jpeg = simplejpeg.encode_jpeg(picture, colorspace="GRAY")
    ref = write(ring, jpeg, shape=None)
    worker = attach(ring, tmp_path)
    given: list[int] = []
    real = simplejpeg.decode_jpeg

    def spy(data: np.ndarray, *args: object, **kwargs: object) -> np.ndarray:
        given.append(address(data))
        return real(data, *args, **kwargs)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", spy)
    config = Config(
        line="l",
        cameras={"top": Camera(source="folder:x")},
        infer=Infer(model="m"),
        preprocess=Preprocess(layout="whole"),
        state_dir="s",
    )

    (tiled,) = OpenCvPreprocess(config, RECIPE)([(ref, worker.pixels(ref))])

    start = address(worker.memory)
    assert [start <= a < start + len(worker.memory) - len(jpeg) for a in given] == [True]
    assert tiled.invalid == ""
    assert tiled.tiles.shape == (1, 300, 300)


def test_raw_pixels_are_cut_from_the_ring_itself(ring: Ring, tmp_path: Path) -> None:
    ref = write(ring, bytes(90_000), shape=(300, 300))
    worker = attach(ring, tmp_path)
    config = Config(line="l", cameras={"top": Camera(source="folder:x")}, infer=Infer(model="m"), state_dir="s")

    (tiled,) = OpenCvPreprocess(config, RECIPE)([(ref, worker.pixels(ref))])

    assert np.shares_memory(tiled.pixels, worker.memory)


def test_a_worker_cannot_write(ring: Ring, tmp_path: Path) -> None:
    worker = attach(ring, tmp_path)
    server = RingServer(tmp_path / "ring", ring)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.connect(str(tmp_path / "ring"))
        server.serve()
        _, (fd,), _, _ = socket.recv_fds(peer, 16, 1)
    server.close()

    with pytest.raises(ValueError, match="read-only"):
        worker.slot(0)[0] = 1
    with pytest.raises(OSError, match=r"denied|permitted|Bad file"):
        os.pwrite(fd, b"x", 0)
    os.close(fd)


def test_nobody_can_shrink_it(ring: Ring) -> None:
    """A truncated mapping would kill its readers by SIGBUS."""
    with pytest.raises(PermissionError):
        os.ftruncate(ring.fd, 0)


def test_a_worker_that_asks_for_the_ring_and_dies_harms_nobody(ring: Ring, tmp_path: Path) -> None:
    server = RingServer(tmp_path / "ring", ring)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.connect(str(tmp_path / "ring"))
    request = RingRequest(tmp_path / "ring")
    assert request.turn() is None

    server.serve()

    assert request.turn() is not None
    server.close()


def test_a_frame_that_was_replaced_while_it_was_read_is_noticed(ring: Ring) -> None:
    table = LeaseTable(1)
    slot = table.write()
    assert slot is not None
    ring.state.begin_writing(slot)
    table.ready(slot, meta(0))
    ref = table.lease("w").ref()
    assert ring.is_current(ref)

    table.release(slot)
    table.write()
    ring.state.begin_writing(slot)

    assert not ring.is_current(ref)


def test_frames_and_counters_outlive_the_process_that_wrote_them(ring: Ring) -> None:
    """A capture process dies; the next one, given the same memory, finds its frames, its count and its next number."""
    program = f"""
from pipeline.transport.leases import LeaseTable
from pipeline.transport.ring import Ring
from tests.unit.frames import meta
ring = Ring.adopt({ring.fd}); state = ring.state
state.commit(state.begin_epoch("f" * 32))
table = LeaseTable(ring.slots)
for frame in range(3):
    slot = table.write(); state.begin_writing(slot)
    ring.slot(slot.number)[:4] = frame
    table.ready(slot, meta(frame)); state.commit(state.ready(slot), state.acquired())
slot = table.lease("w", 77); state.commit(state.lease(slot))
state.commit(state.free(table.slots[1]), state.ended_as("corrupt"))
"""
    subprocess.run([sys.executable, "-c", program], pass_fds=[ring.fd], check=True, cwd=Path(__file__).parents[2])

    again = Ring.adopt(ring.fd)

    assert again is not None
    assert (again.state.next_frame, again.state.epoch) == (3, "f" * 32)
    assert ring.state.account() == Account(acquired=3, inspected=0, dropped={}, invalid={"corrupt": 1}, in_flight=2)
    held = [(r.generation, r.attempt, r.holder, r.leased, r.meta.frame) for r in again.state.rows() if r.meta]
    assert held == [(1, 1, 77, True, 0), (1, 0, 0, False, 2)]
    assert again.slot(2)[:4].tolist() == [2] * 4


@pytest.mark.parametrize("call", ["ftruncate", "posix_fallocate", "pwrite"])
def test_a_ring_that_was_being_made_is_made_again(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Capture is killed at its first system calls; the one after it needs a ring of another size."""
    fd = new_memfd("test")
    with monkeypatch.context() as patch:
        real = getattr(os, call)

        def killed(*args: object) -> None:
            real(*args)
            raise KeyboardInterrupt

        patch.setattr(os, call, killed)
        with pytest.raises(KeyboardInterrupt):
            Ring.create(fd, slots=2, slot_bytes=4096)

    left = Ring.adopt(fd)

    assert (left is None) == (call != "pwrite")
    ring = left or Ring.create(fd, slots=8, slot_bytes=4096)
    assert ring.slots == (8 if left is None else 2)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)


@pytest.mark.parametrize("wrong", [{"length": 10**9}, {"shape": (300, 301), "length": 90_000}, {"shape": (-1, -4)}])
def test_a_description_that_does_not_fit_is_refused(ring: Ring, wrong: dict[str, Any]) -> None:
    ref = FrameRef(meta=meta(0, **wrong), slot=0, generation=1, attempt=1)

    with pytest.raises(ProtocolError):
        ring.pixels(ref)


def test_too_little_memory_is_said_at_the_start() -> None:
    with pytest.raises(ConfigError, match="slots"):
        Ring.create(new_memfd("test"), slots=4096, slot_bytes=1 << 40)
