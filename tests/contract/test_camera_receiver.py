"""A worker's way to a camera's frames, over real sockets: capture may stand still, die, and come back with another ring."""

import gc
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.config.topology import Endpoints
from pipeline.core.frame import FrameRef
from pipeline.transport.frame_receiver import CameraReceiver, Leased
from pipeline.transport.leases import LeaseTable
from pipeline.transport.messages import Frame
from pipeline.transport.ring import Ring, RingServer, new_memfd
from pipeline.transport.sockets import Router
from tests.unit.frames import meta


class Line:
    """A worker's receiver, and the sockets of a capture node that serves when the test wants."""

    def __init__(self, folder: Path) -> None:
        self.endpoints = Endpoints(folder)
        self.path = self.endpoints.ring("top")
        self.router = Router(self.endpoints.frames("top"))
        self.got: list[Leased] = []
        self.mapped = 0
        self.receiver = CameraReceiver(self.endpoints, "top", "inspect", 2, self.got.append, on_ring=self._on_ring)
        self.addresses: set[bytes] = set()
        self.come_back()

    def _on_ring(self, *_: object) -> None:
        self.mapped += 1

    def come_back(self) -> None:
        """A capture node with a ring of its own, in the place of the one that was."""
        self.ring, self.table = Ring.create(new_memfd("test"), slots=4, slot_bytes=4096), LeaseTable(4)
        self.server = RingServer(self.path, self.ring)

    def frame(self, number: int, epoch: str) -> FrameRef:
        """The next frame, leased; its first byte is its number."""
        slot = self.table.write()
        assert slot is not None
        self.ring.state.begin_writing(slot)
        self.ring.slot(slot.number)[:4] = number
        self.table.ready(slot, meta(number, epoch))
        self.ring.state.commit(self.ring.state.ready(slot))
        return self.table.lease("inspect").ref()

    def turn(self) -> None:
        self.receiver.turn(time.monotonic_ns())
        self.addresses |= {address for address, _, _ in self.router.receive()}

    def wait(self, until: Callable[[], object], step: Callable[[], object] = lambda: None) -> None:
        deadline = time.monotonic() + 30
        while not until():
            assert time.monotonic() < deadline
            step()
            self.turn()
            time.sleep(0.001)

    def send(self, ref: FrameRef) -> None:
        for address in self.addresses:
            self.router.send(address, Frame(ref=ref))

    def close(self) -> None:
        self.receiver.frames.dealer.close()
        self.router.close()
        self.server.close()


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    found = Line(tmp_path)
    yield found
    found.close()


def test_a_capture_node_that_stands_still_holds_up_no_worker(line: Line) -> None:
    """So many ask it already that one more cannot even wait in line."""
    crowd: list[socket.socket] = []
    while len(crowd) < 100:
        crowd.append(socket.socket(socket.AF_UNIX))
        crowd[-1].setblocking(False)
        try:
            crowd[-1].connect(str(line.path))
        except BlockingIOError:
            break
    assert len(crowd) < 100
    for _ in range(20):
        line.receiver._next_try_ns = 0
        line.turn()
    assert line.mapped == 0

    for one in crowd:
        one.close()
    line.server.serve()
    line.receiver._next_try_ns = 0
    line.turn()  # asks, and does not wait for the answer
    line.server.serve()

    line.wait(lambda: line.mapped)


def test_a_worker_goes_on_with_the_same_ring_when_capture_comes_back(line: Line) -> None:
    line.wait(lambda: line.addresses, line.server.serve)

    for number, epoch in enumerate("abc"):
        line.send(line.frame(number, epoch))
        line.wait(lambda n=number: len(line.got) > n)  # type: ignore[misc]

    assert [int(leased.data[0, 0]) for leased in line.got] == [0, 1, 2]
    assert line.mapped == 1


def test_a_worker_never_takes_a_frame_from_the_ring_that_was(line: Line) -> None:
    """The new ring has a frame of the same number in the same slot under the same generation. Until it is there, none is taken."""
    line.wait(lambda: line.addresses, line.server.serve)
    line.send(line.frame(0, "a"))
    line.wait(lambda: line.got)
    line.server.close()
    line.come_back()
    line.frame(0, "b")
    ref = line.frame(1, "b")

    def serve_and_send() -> None:
        line.server.serve()
        line.send(ref)

    line.send(ref)
    line.wait(lambda: line.receiver.frames.dealer.refused)
    line.wait(lambda: len(line.got) == 2, serve_and_send)

    assert np.array_equal(line.got[1].data, np.full((2, 2), 1, np.uint8))
    assert line.mapped == 2


@pytest.mark.parametrize("damaged", [False, True])
def test_rings_that_were_given_up_leave_no_descriptor(line: Line, damaged: bool) -> None:
    if damaged:
        os.pwrite(line.ring.fd, bytes(8), 0)
    counts = []
    for _ in range(5):
        before = line.mapped, line.receiver.frames.dealer.refused
        line.receiver._lacking = True
        line.wait(lambda b=before: (line.mapped, line.receiver.frames.dealer.refused) != b, line.server.serve)  # type: ignore[misc]
        gc.collect()
        counts.append(len(os.listdir("/proc/self/fd")))

    assert len(set(counts)) == 1
    assert (line.mapped == 0) == damaged
