"""The preprocess node placed apart, over real sockets: between a capture node and an infer node that may be gone."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodes.preprocess.node import _Preprocess
from pipeline.config import Camera, Config, Infer
from pipeline.config.topology import find_process
from pipeline.runtime.node import NodeContext
from pipeline.transport.frame_receiver import FrameReceiver
from pipeline.transport.messages import Ready
from pipeline.transport.ring import Ring, RingServer, new_memfd
from pipeline.transport.sockets import Router


class Line:
    """A preprocess node, and what a capture and an infer node would be to it."""

    def __init__(self, folder: Path) -> None:
        placement = {"pre": ["preprocess"], "gpu": ["infer"]}
        config = Config(
            line="l",
            cameras={"top": Camera(source="folder:x")},
            infer=Infer(model="ilcs-neu"),
            state_dir=str(folder),
            placement=placement,  # type: ignore[arg-type]
        )
        self.node = NodeContext(config, find_process(config, "pre"), folder)
        self.camera = Router(self.node.endpoints.frames("top"))
        self.rings = RingServer(self.node.endpoints.ring("top"), Ring.create(new_memfd("test"), slots=4, slot_bytes=4096))
        self.preprocess = _Preprocess(self.node)
        self.infer = FrameReceiver(self.node.endpoints.tiles, "gpu", 2, lambda *_: None)
        self.infer_runs = True
        self.heartbeats = 0

    def wait(self, until: Callable[[], object]) -> None:
        deadline = time.monotonic() + 30
        while not until():
            assert time.monotonic() < deadline
            self.rings.serve()
            self.preprocess.turn()
            if self.infer_runs:
                self.infer.turn(time.monotonic_ns())
            self.heartbeats += sum(isinstance(message, Ready) for _, message, _ in self.camera.receive())
            time.sleep(0.001)

    def close(self) -> None:
        self.preprocess.close()
        self.rings.close()
        self.camera.close()
        self.infer.dealer.close()
        self.node.close()


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    found = Line(tmp_path)
    yield found
    found.close()


def test_capture_hears_from_it_also_while_its_infer_node_is_gone(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else capture would take it for dead, and blame it for the frames that it has."""
    line.wait(lambda: line.heartbeats)
    line.infer_runs = False
    monkeypatch.setattr("pipeline.transport.dispatch.SILENT_NS", 100_000_000)
    line.wait(lambda: not line.preprocess._dispatcher.has_worker)

    before = line.heartbeats
    line.wait(lambda: line.heartbeats > before + 1)
