"""A worker's frames from one camera: the frame hop and the ring behind it, joined."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ProtocolError
from pipeline.frame import FrameRef, ModelId
from pipeline.link import FrameLink
from pipeline.ring import Ring, fetch_ring
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
        self._camera, self._path = camera, endpoints.ring(camera)
        self._on_frame, self._on_ring = on_frame, on_ring
        self._ring: Ring | None = None
        self._epochs: set[str] = set()
        self._next_try_ns = 0
        self.link = FrameLink(endpoints.frames(camera), worker, credits, self._receive, model)

    def turn(self, now_ns: int) -> None:
        if self._ring is None and now_ns >= self._next_try_ns:
            self._next_try_ns = now_ns + RETRY_NS
            self._fetch()
        if self._ring is not None:
            self.link.turn(now_ns)

    def _receive(self, message: Frame, _: list[memoryview]) -> None:
        if message.ref.meta.epoch not in self._epochs:
            # A capture node that came back may have brought a ring of its own.
            self._epochs.add(message.ref.meta.epoch)
            self._fetch()
        if self._ring is None:
            raise ProtocolError(f"{self._path}: capture sent a frame and has no ring")
        self._on_frame(Leased(message.ref, self._ring, self.link))

    def _fetch(self) -> None:
        try:
            ring = fetch_ring(self._path)
        except (ProtocolError, ValueError) as exc:  # the latter: it cannot be mapped
            self.link.dealer.refuse(ProtocolError(f"{self._path} gives no ring: {exc}"))
            return
        if ring is not None:
            self._ring = ring
            self._on_ring(self._camera, ring.memory)
