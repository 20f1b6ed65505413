"""The preprocess node in a process of its own: takes frames from the cameras' rings, sends tiles to infer over ZeroMQ."""

import time
from collections import deque
from typing import Any

import msgspec
import numpy as np

from nodes.preprocess.choose_preprocess import make_preprocess
from pipeline.config.model_file import model_of_line, read_model
from pipeline.config.topology import credits_for, workers
from pipeline.core.errors import ProtocolError
from pipeline.core.status import Facts, NodeState
from pipeline.core.tiles import Pixels, TiledFrame
from pipeline.runtime.node import NodeContext, run_loop
from pipeline.transport.dispatch import Dispatcher
from pipeline.transport.frame_receiver import CameraReceiver, Leased
from pipeline.transport.leases import LeaseTable, Slot
from pipeline.transport.messages import Frame, Message, Tiled, from_worker
from pipeline.transport.sockets import Router, Waiter

IDLE_MS = 50.0


def preprocess(node: NodeContext) -> None:
    """Entry point: asks the cameras for frames once an infer node has asked for tiles; runs until it is asked to stop.

    Raises ``ConfigError`` if the model or ``preprocess.device`` cannot be used, ``NodeError`` if the model is not the one with
    which the line began or DALI fails, ``ProtocolError`` if capture leases more frames than were asked for.
    """
    run_loop(node, _Preprocess(node))


class _Preprocess:
    def __init__(self, node: NodeContext) -> None:
        self._node = node
        path, _ = model_of_line(node.config.infer.model, node.model)
        model = read_model(path)
        self._preprocess = make_preprocess(node.config, model.recipe, node.log)
        self._todo: deque[Leased] = deque()
        self._cameras = [
            CameraReceiver(
                node.endpoints, camera, node.process.name, credits_for(node.config, camera), self._todo.append, on_ring=self._adopt
            )
            for camera in node.config.cameras
        ]
        self._table = LeaseTable(sum(credits_for(node.config, camera) for camera in node.config.cameras))
        self._tiled: dict[int, tuple[Leased, TiledFrame]] = {}
        self._router = Router(node.endpoints.tiles)
        self._dispatcher = Dispatcher(self._table, self._send, self._done)
        self._workers = workers(node.config, "infer")
        self._armed = self._told = False
        self._frames = 0
        self._waiter = Waiter(self._router, *[camera.frames.dealer for camera in self._cameras])

    def turn(self) -> bool:
        now = time.monotonic_ns()
        self._router.deliver(lambda address, message: self._dispatcher.receive(address, from_worker(message, self._workers), now))
        self._dispatcher.expire(now)
        self._armed = self._armed or self._dispatcher.has_worker
        if self._armed:  # also while no infer node is known: capture needs this node's heartbeats
            for camera in self._cameras:
                camera.turn(now)
        group = [self._todo.popleft() for _ in range(min(len(self._todo), self._preprocess.frames_at_once))]
        for leased, tiled in zip(group, self._preprocess([(leased.ref, leased.data) for leased in group]), strict=True):
            self._offer(leased, tiled)
        self._dispatcher.grant(now)
        if self._node.stopping and not self._told:
            self._told = True
            for camera in self._cameras:
                camera.frames.refuse_more()
        held = any(len(camera.frames) for camera in self._cameras)
        return not self._node.stopping or (held and not self._node.out_of_time)

    @property
    def state(self) -> NodeState:
        return NodeState.RUNNING if self._dispatcher.has_worker else NodeState.WAITING

    def wait(self) -> None:
        self._waiter.wait(0 if self._todo else IDLE_MS)

    def _adopt(self, camera: str, memory: Pixels) -> None:
        if how := self._preprocess.adopt(camera, memory):
            self._node.log.info("ring of camera %s: %s", camera, how)

    def _offer(self, leased: Leased, tiled: TiledFrame) -> None:
        if not leased.current():
            leased.forget()
            return
        slot = self._table.write()
        if slot is None:
            raise ProtocolError("capture leased more frames than were asked for")
        self._frames += 1
        self._tiled[slot.number] = (leased, tiled)
        self._table.ready(slot, leased.ref.meta)

    def _send(self, address: bytes, message: Message) -> None:
        if not isinstance(message, Frame):
            self._router.send(address, message)
            return
        leased, tiled = self._tiled[message.ref.slot]
        # Deaths of both kinds of worker count: attempts before the frame came here, and those since.
        ref = msgspec.structs.replace(message.ref, attempt=message.ref.attempt + leased.ref.attempt - 1)
        height, width = tiled.pixels.shape
        described = Tiled(
            boxes=tiled.boxes,
            columns=tiled.columns,
            side=tiled.tiles.shape[-1],
            size=(height, width),
            invalid=tiled.invalid,
            received_ns=tiled.received_ns,
            tiled_ns=tiled.tiled_ns,
        )
        # The pixels travel as a copy: the ring's slot may be taken back while ZeroMQ still holds the message.
        payload = (_on_host(tiled.tiles).tobytes(), tiled.pixels.tobytes())
        self._router.send(address, Frame(ref=ref, tiled=described), payload)

    def _done(self, slot: Slot, invalid: str) -> None:
        leased, _ = self._tiled.pop(slot.number)
        leased.ack(invalid)
        self._table.release(slot)

    def facts(self) -> Facts:
        refused = self._router.refused + sum(camera.frames.dealer.refused for camera in self._cameras)
        return Facts(frames=self._frames, held=sum(len(camera.frames) for camera in self._cameras), refused=refused)

    def close(self) -> None:
        for camera in self._cameras:
            camera.frames.dealer.close(flush_ms=200)
        self._router.close()


def _on_host(tiles: Any) -> Pixels:
    """Tiles as a host array, wherever they are."""
    found: Pixels = tiles if isinstance(tiles, np.ndarray) else tiles.cpu().numpy()
    return found
