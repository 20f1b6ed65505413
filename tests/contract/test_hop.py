"""The frame hop over real ZeroMQ, by every carrier: frames, acknowledgements, end, lost messages, garbage."""

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from pipeline.transport.dispatch import Dispatcher
from pipeline.transport.frame_receiver import FrameReceiver
from pipeline.transport.leases import LeaseTable, Slot
from pipeline.transport.messages import Ack, Durable, Frame, Message, Ready, encode, from_worker
from pipeline.transport.sockets import AT_ONCE, Router
from tests.unit.frames import meta

FRAMES = 300


@pytest.fixture(params=["inproc", "ipc", "tcp"])
def endpoint(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {"inproc": "inproc://hop", "ipc": f"ipc://{tmp_path}/hop", "tcp": f"tcp://127.0.0.1:{port}"}[request.param]


WORKERS = ("w", "a", "b")


class Desk:
    """A dispatcher behind a real socket; ``pump`` runs both ends until a condition holds."""

    def __init__(self, endpoint: str, frames: int) -> None:
        self.table = LeaseTable(64)
        self.router = Router(endpoint)
        self.dispatcher = Dispatcher(self.table, self.router.send, self._done)
        self.receivers: list[FrameReceiver] = []
        self.got: list[int] = []
        self.ended: list[int] = []
        self._frames, self._next = frames, 0

    def receiver(self, endpoint: str, worker: str, *, acks: bool = True) -> FrameReceiver:
        def receive(message: Frame, _: list[memoryview]) -> None:
            self.got.append(message.ref.meta.frame)
            if acks:
                receiver.ack(message.ref)

        receiver = FrameReceiver(endpoint, worker, credits=8, on_frame=receive)
        self.receivers.append(receiver)
        return receiver

    def _done(self, slot: Slot, invalid: str) -> None:
        assert slot.meta is not None
        self.ended.append(slot.meta.frame)
        self.table.release(slot)

    def _hear(self, address: bytes, message: Message) -> None:
        self.dispatcher.receive(address, from_worker(message, WORKERS), time.monotonic_ns())

    def pump(self, until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not until():
            assert time.monotonic() < deadline, (self.got[-5:], self.ended[-5:])
            now = time.monotonic_ns()
            while self._next < self._frames and (slot := self.table.write()) is not None:
                self.table.ready(slot, meta(self._next))
                self._next += 1
            self.router.deliver(self._hear)
            self.dispatcher.grant(now)
            for receiver in self.receivers:
                receiver.turn(now)

    def close(self) -> None:
        for receiver in self.receivers:
            receiver.dealer.close()
        self.router.close()


def ended_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.fixture
def desk(endpoint: str) -> Iterator[Desk]:
    found = Desk(endpoint, FRAMES)
    yield found
    found.close()


def test_every_frame_arrives_and_ends_once_in_order(desk: Desk, endpoint: str) -> None:
    desk.receiver(endpoint, "w")

    desk.pump(lambda: len(desk.ended) == FRAMES)

    assert desk.got == desk.ended == list(range(FRAMES))


def test_two_workers_share_the_frames(desk: Desk, endpoint: str) -> None:
    desk.receiver(endpoint, "a")
    desk.receiver(endpoint, "b")

    desk.pump(lambda: len(desk.ended) == FRAMES)

    assert sorted(desk.got) == list(range(FRAMES))


def test_the_end_is_confirmed_only_when_nothing_is_held(desk: Desk, endpoint: str) -> None:
    """PUSH/PULL would lose the last messages of a clean close; here the close waits for the answer."""
    receiver = desk.receiver(endpoint, "w")
    desk.pump(lambda: len(desk.ended) == FRAMES)

    desk.pump(lambda: desk.dispatcher.end("e1"))

    assert len(receiver) == 0


def test_a_worker_that_comes_back_under_its_name_gets_the_frames_it_had(desk: Desk, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.transport.frame_receiver.PID", ended_process())
    dead = desk.receiver(endpoint, "w", acks=False)
    desk.pump(lambda: len(desk.got) == 8)
    desk.receivers.remove(dead)
    dead.dealer.close()

    monkeypatch.setattr("pipeline.transport.frame_receiver.BOOT", "another life")
    desk.receiver(endpoint, "w")
    desk.pump(lambda: len(desk.ended) == FRAMES)

    assert sorted(desk.ended) == list(range(FRAMES))


def test_garbage_is_counted_and_harms_nobody(desk: Desk, endpoint: str) -> None:
    """Wrong bytes, no parts, too many parts, messages a worker never sends."""
    peer: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    peer.setsockopt(zmq.LINGER, 0)
    peer.connect(endpoint)
    for parts in ([b""], [b"\x00" * 1000], [b"{}"], [b"x"] * 9, [b"\x93\x01\x02"], [encode(Durable(keys=("k",)))]):
        peer.send_multipart(parts)
    desk.receiver(endpoint, "w")

    desk.pump(lambda: len(desk.ended) == FRAMES and desk.router.refused == 6)

    peer.close()


def test_a_flood_holds_nobody_up(tmp_path: Path) -> None:
    """However much arrives, a turn comes to its end: the worker's heartbeat is heard, and the supervisor hears of the node."""
    router = Router(f"ipc://{tmp_path}/hop")
    flood: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    flood.setsockopt(zmq.LINGER, 0)
    flood.connect(f"ipc://{tmp_path}/hop")
    stop = threading.Event()

    def pour() -> None:
        while not stop.is_set():
            with contextlib.suppress(zmq.Again):
                flood.send(b"x", zmq.DONTWAIT)

    pouring = threading.Thread(target=pour)
    pouring.start()
    try:
        deadline = time.monotonic() + 20
        while router.refused < 5 * AT_ONCE:
            before = router.refused
            assert list(router.receive()) == []
            assert router.refused - before <= AT_ONCE
            assert time.monotonic() < deadline
    finally:
        stop.set()
        pouring.join()
        flood.close()
        router.close()


def test_sockets_carry_large_parts_whole(tmp_path: Path) -> None:
    """Tiles between processes: a message with two parts of megabytes arrives as it was sent."""
    endpoint = f"ipc://{tmp_path}/large"
    router = Router(endpoint)
    got: list[list[bytes]] = []
    receiver = FrameReceiver(endpoint, "w", 4, lambda _, payload: got.append([bytes(p) for p in payload]))
    table = LeaseTable(1)
    slot = table.write()
    assert slot is not None
    table.ready(slot, meta(0))
    payload = (bytes(3_000_000), b"\xab" * 2_000_000)
    dispatcher = Dispatcher(table, lambda a, m: router.send(a, m, payload if isinstance(m, Frame) else ()), lambda *_: None)
    stop = threading.Event()

    while not got:
        now = time.monotonic_ns()
        receiver.turn(now)
        for address, message, _ in router.receive():
            assert isinstance(message, Ready | Ack)
            dispatcher.receive(address, message, now)
        dispatcher.grant(now)
        stop.wait(0.001)

    assert got == [list(payload)]
    receiver.dealer.close()
    router.close()
