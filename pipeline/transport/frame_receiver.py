"""The taking side of the frame hop: asks a dispatcher for frames, holds them, acknowledges them; maps the cameras' rings.

Nothing here blocks. An object is used from one thread. Times are monotonic, in ns.
"""

import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.config.topology import Endpoints
from pipeline.core.errors import ProtocolError
from pipeline.core.frame import FrameRef, ModelId
from pipeline.transport.messages import BOOT, VERSION, Ack, End, Frame, Held, Message, Ready, held
from pipeline.transport.ring import Ring, RingRequest
from pipeline.transport.sockets import Dealer

HEARTBEAT_NS = 500_000_000
EPOCHS = 1000  # the last ended epochs, which are still confirmed
PID = os.getpid()


class FrameReceiver:
    """One worker's connection to one dispatcher.

    ``worker`` is the name of its process, ``credits`` the most frames that it holds at a time. ``on_frame(message, payload)`` is
    called for each frame that arrives; ``payload`` are the further parts of the message. Each frame must be ended by one ``ack`` or
    ``forget``; if ``on_frame`` raises ``ProtocolError``, the frame is forgotten and counted as refused. The constructor raises
    ``ConfigError`` if ``endpoint`` is no usable address.
    """

    def __init__(
        self,
        endpoint: str,
        worker: str,
        credits: int,
        on_frame: Callable[[Frame, list[memoryview]], None],
        model: ModelId | None = None,
    ) -> None:
        self.dealer = Dealer(endpoint)
        self._worker, self._credits, self._on_frame = worker, credits, on_frame
        self._held: dict[Held, FrameRef] = {}
        self._ended: list[str] = []
        self._next_beat_ns = 0
        self._model = model

    def __len__(self) -> int:
        """Frames that are held."""
        return len(self._held)

    def turn(self, now_ns: int) -> None:
        """Take what has arrived, calling ``on_frame``, and send the heartbeat when it is due; to be called in each turn."""
        self.dealer.deliver(self._take)
        if now_ns >= self._next_beat_ns:
            self._next_beat_ns = now_ns + HEARTBEAT_NS
            self._beat()

    def _take(self, message: Message, payload: list[memoryview]) -> None:
        if isinstance(message, Frame):
            key = held(message.ref)
            if key in self._held:
                return
            self._held[key] = message.ref
            try:
                self._on_frame(message, payload)
            except ProtocolError:
                self.forget(message.ref)
                raise
        elif isinstance(message, End):
            if message.epoch not in self._ended:
                self._ended = [*self._ended, message.epoch][-EPOCHS:]
                self._next_beat_ns = 0
        else:
            raise ProtocolError(f"a dispatcher does not send {type(message).__name__}")

    def ack(self, ref: FrameRef, invalid: str = "") -> None:
        """Acknowledge a frame, after its verdict is durable; ``invalid`` is the reason of an invalid verdict, or empty."""
        key = held(ref)
        self._held.pop(key, None)
        self.dealer.send(Ack(held=key, boot=BOOT, invalid=invalid))
        if self._ended and not self._held:
            self._next_beat_ns = 0

    def refuse_more(self) -> None:
        """Ask for no further frames, by the next heartbeat; those that are held are still finished. Cannot be undone."""
        self._credits, self._next_beat_ns = 0, 0

    def forget(self, ref: FrameRef) -> None:
        """Remove a frame that another worker has now, without an acknowledgement."""
        self._held.pop(held(ref), None)

    def _beat(self) -> None:
        busy = {key.epoch for key in self._held}
        self.dealer.send(
            Ready(
                version=VERSION,
                worker=self._worker,
                boot=BOOT,
                pid=PID,
                credits=self._credits,
                model=self._model,
                held=tuple(self._held),
                ended=tuple(e for e in self._ended if e not in busy),
            )
        )


RETRY_NS = 50_000_000


class Leased:
    """A frame of a camera's ring that this worker holds. The constructor raises ``ProtocolError`` as ``Ring.pixels`` does."""

    def __init__(self, ref: FrameRef, ring: Ring, receiver: FrameReceiver) -> None:
        self.ref, self._ring, self._receiver = ref, ring, receiver
        self.data: NDArray[np.uint8] = ring.pixels(ref)
        """Its bytes, uint8 (H, W) or (length,): a view into the ring, valid while ``current()`` and until ``ack``."""

    def current(self) -> bool:
        """Whether the slot still holds this frame. Ask after reading: if it does not, what was read must be thrown away."""
        return self._ring.is_current(self.ref)

    def ack(self, invalid: str = "") -> None:
        """Acknowledge the frame, after its verdict is durable; ``invalid`` is the reason of an invalid verdict, or empty."""
        self._receiver.ack(self.ref, invalid)

    def forget(self) -> None:
        """Remove the frame without an acknowledgement: it was taken back, and another worker has it now."""
        self._receiver.forget(self.ref)


class CameraReceiver:
    """Asks the capture node of one camera for frames, once its ring is there.

    ``worker`` and ``credits`` are as for ``FrameReceiver``. ``on_frame`` is called with each frame, which must be ended by ``ack`` or
    ``forget``. ``on_ring`` is called for each ring that is mapped, with the camera's name and the ring's whole memory (uint8,
    read-only). The constructor raises ``ConfigError`` if the endpoint is no usable address.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        camera: str,
        worker: str,
        credits: int,
        on_frame: Callable[[Leased], None],
        model: ModelId | None = None,
        on_ring: Callable[[str, NDArray[np.uint8]], None] = lambda camera, memory: None,
    ) -> None:
        self._camera, self._request = camera, RingRequest(endpoints.ring(camera))
        self._on_frame, self._on_ring = on_frame, on_ring
        self._ring: Ring | None = None
        self._lacking = True  # whether capture has a ring that is not here
        self._next_try_ns = 0
        self.frames = FrameReceiver(endpoints.frames(camera), worker, credits, self._receive, model)

    def turn(self, now_ns: int) -> None:
        """Ask for the ring every ``RETRY_NS`` while it is missing; then take frames and send heartbeats. To be called in each turn.

        A ring that cannot be used is counted as a refused message and asked for again; no heartbeat is sent before there is one.
        """
        if self._lacking and now_ns >= self._next_try_ns:
            self._next_try_ns = now_ns + RETRY_NS
            self._ask()
        if self._ring is not None:
            self.frames.turn(now_ns)

    def _receive(self, message: Frame, _: list[memoryview]) -> None:
        assert self._ring is not None
        if not self._ring.holds(message.ref):
            self._lacking = True
            raise ProtocolError(f"frame {message.ref.meta.frame} of camera {self._camera} is not in the ring that is known")
        self._on_frame(Leased(message.ref, self._ring, self.frames))

    def _ask(self) -> None:
        try:
            ring = self._request.turn()
        except (ProtocolError, OSError, ValueError) as exc:
            self.frames.dealer.refuse(ProtocolError(f"camera {self._camera} gives no ring: {exc}"))
            return
        if ring is not None:
            self._ring, self._lacking = ring, False
            self._on_ring(self._camera, ring.memory)
