"""The infer node, alone or with preprocess in its process (``inspect``)."""

import pkgutil
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from nodes.infer.engines.load import Loaded, load_engine
from nodes.infer.inspector import Inspector, Pending
from pipeline.config.topology import PREPROCESS, credits_for
from pipeline.core.errors import ProtocolError
from pipeline.core.status import Facts, NodeState
from pipeline.core.tiles import Pixels, Preprocess, TiledFrame
from pipeline.runtime.node import NodeContext, run_loop
from pipeline.transport.frame_receiver import CameraReceiver, FrameReceiver, Leased
from pipeline.transport.messages import Frame
from pipeline.transport.outbox import Outbox
from pipeline.transport.sockets import Waiter

IDLE_MS = 50.0


def inspect(node: NodeContext) -> None:
    """Entry point: preprocess and infer in one process, with frames straight from every camera's ring.

    Runs until it is asked to stop. Raises what ``load_engine`` and ``make_preprocess`` raise, and ``NodeError`` if the engine or
    DALI fails later.
    """
    loaded = load_engine(node.config, node.model)
    preprocess: Preprocess = pkgutil.resolve_name(PREPROCESS)(node.config, loaded.model.recipe, node.log)
    outbox = Outbox(node.endpoints.publish)
    inspector = Inspector(node.config, loaded, outbox)
    todo: deque[Leased] = deque()

    def on_ring(camera: str, memory: Pixels) -> None:
        if how := preprocess.adopt(camera, memory):
            node.log.info("ring of camera %s: %s", camera, how)

    cameras = [
        CameraReceiver(node.endpoints, camera, node.process.name, credits_for(node.config, camera), todo.append, loaded.id, on_ring)
        for camera in node.config.cameras
    ]

    def take() -> bool:
        group = [todo.popleft() for _ in range(min(len(todo), preprocess.frames_at_once))]
        for leased, tiled in zip(group, preprocess([(leased.ref, leased.data) for leased in group]), strict=True):
            inspector.add(Pending(tiled, leased.current, leased.ack, leased.forget))
        return bool(group)

    def hear(now_ns: int) -> None:
        for camera in cameras:
            camera.turn(now_ns)

    run_loop(node, _Infer(node, loaded, inspector, outbox, [camera.frames for camera in cameras], hear, take))


def infer(node: NodeContext) -> None:
    """Entry point: infer alone; tiles come over ZeroMQ from a preprocess node.

    Runs until it is asked to stop. Raises what ``load_engine`` raises, and ``NodeError`` if the engine fails later.
    """
    loaded = load_engine(node.config, node.model)
    outbox = Outbox(node.endpoints.publish)
    inspector = Inspector(node.config, loaded, outbox)
    todo: deque[Pending] = deque()

    def receive(message: Frame, payload: list[memoryview]) -> None:
        frame, ref = _unpack(message, payload), message.ref
        todo.append(Pending(frame, lambda: True, lambda invalid: receiver.ack(ref, invalid), lambda: receiver.forget(ref)))

    credits = sum(credits_for(node.config, camera) for camera in node.config.cameras)
    receiver = FrameReceiver(node.endpoints.tiles, node.process.name, credits, receive, loaded.id)

    def take() -> bool:
        if not todo:
            return False
        inspector.add(todo.popleft())
        return True

    run_loop(node, _Infer(node, loaded, inspector, outbox, [receiver], receiver.turn, take))


class _Infer:
    """The infer node as the ``Work`` of ``run_loop``: one turn serves sockets, takes frames, and feeds the engine."""

    state = NodeState.RUNNING

    def __init__(
        self,
        node: NodeContext,
        loaded: Loaded,
        inspector: Inspector,
        outbox: Outbox,
        receivers: list[FrameReceiver],
        hear: Callable[[int], None],
        take: Callable[[], bool],
    ) -> None:
        self._node, self._loaded, self._inspector, self._outbox = node, loaded, inspector, outbox
        self._receivers, self._hear, self._take = receivers, hear, take
        self._waiter = Waiter(*[receiver.dealer for receiver in receivers], outbox.dealer, inspector.runner.fileno())
        self._more = self._told = False
        node.log.info("model %s, engine %s", loaded.id.name, loaded.engine.name)

    def turn(self) -> bool:
        now = time.monotonic_ns()
        self._hear(now)
        self._outbox.turn(now)
        self._inspector.collect()
        self._more = self._take()
        self._inspector.feed()
        if self._node.stopping and not self._told:
            self._told = True
            for receiver in self._receivers:
                receiver.refuse_more()
        return not self._node.stopping or (not self._node.out_of_time and any(map(len, self._receivers)))

    def wait(self) -> None:
        self._waiter.wait(0 if self._more else self._inspector.wait_ms(IDLE_MS))

    def facts(self) -> Facts:
        return Facts(
            engine=self._loaded.engine.name,
            model=self._loaded.id.name,
            tiles=self._inspector.tiles,
            batches=self._inspector.batches,
            held=sum(map(len, self._receivers)),
            stale=self._inspector.stale,
            refused=self._outbox.dealer.refused + sum(receiver.dealer.refused for receiver in self._receivers),
            golden_checks=self._inspector.runner.checks,
        )

    def close(self) -> None:
        for receiver in self._receivers:
            receiver.dealer.close(flush_ms=200)
        self._outbox.dealer.close(flush_ms=200)
        self._inspector.runner.close()


def _unpack(message: Frame, payload: list[memoryview]) -> TiledFrame:
    """A frame and its tiles from the parts of a message. Raises ``ProtocolError`` if they do not fit together."""
    tiled = message.tiled
    if tiled is None or len(payload) != 2:
        raise ProtocolError("a frame came without its tiles")
    try:
        tiles = np.frombuffer(payload[0], np.uint8).reshape(len(tiled.boxes), tiled.side, tiled.side)
        pixels = np.frombuffer(payload[1], np.uint8).reshape(tiled.size)
    except ValueError as exc:
        raise ProtocolError(f"tiles and pixels of frame {message.ref.meta.frame} do not have the sizes that the message states") from exc
    return TiledFrame(
        ref=message.ref,
        tiles=tiles,
        pixels=pixels,
        boxes=tiled.boxes,
        columns=tiled.columns,
        invalid=tiled.invalid,
        received_ns=tiled.received_ns,
        tiled_ns=tiled.tiled_ns,
    )
