"""A worker's frames from one camera: the frame hop and the ring behind it, joined."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ProtocolError
from pipeline.frame import FrameRef, ModelId
from pipeline.link import FrameLink
from pipeline.ring import Ring, RingRequest
from pipeline.topology import Endpoints
from pipeline.wire import Frame

RETRY_NS = 50_000_000


class Leased:
    """A frame in this worker's hands."""

    def __init__(self, ref: FrameRef, ring: Ring, link: FrameLink) -> None:
        self.ref, self._ring, self._link = ref, ring, link
        self.data: NDArray[np.uint8] = ring.pixels(ref)
        """Its bytes, a view into the ring: valid while ``current`` and until ``ack``."""

    def current(self) -> bool:
        """Whether the slot still holds this frame; if not, whatever was read is worthless."""
        return self._ring.is_current(self.ref)

    def ack(self, invalid: str = "") -> None:
        """Its verdict is durable."""
        self._link.ack(self.ref, invalid)

    def forget(self) -> None:
        """The frame was taken back; somebody else answers for it."""
        self._link.forget(self.ref)


class Intake:
    """Asks one camera's capture for frames, once its ring is there.

    ``on_ring`` is called with the camera's name and the memory of each ring that is mapped.
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
        self.link = FrameLink(endpoints.frames(camera), worker, credits, self._receive, model)

    def turn(self, now_ns: int) -> None:
        if self._lacking and now_ns >= self._next_try_ns:
            self._next_try_ns = now_ns + RETRY_NS
            self._ask()
        if self._ring is not None:
            self.link.turn(now_ns)

    def _receive(self, message: Frame, _: list[memoryview]) -> None:
        assert self._ring is not None
        if not self._ring.holds(message.ref):
            self._lacking = True
            raise ProtocolError(f"frame {message.ref.meta.frame} of camera {self._camera} is not in the ring that is known")
        self._on_frame(Leased(message.ref, self._ring, self.link))

    def _ask(self) -> None:
        try:
            ring = self._request.turn()
        except (ProtocolError, OSError, ValueError) as exc:
            self.link.dealer.refuse(ProtocolError(f"camera {self._camera} gives no ring: {exc}"))
            return
        if ring is not None:
            self._ring, self._lacking = ring, False
            self._on_ring(self._camera, ring.memory)
