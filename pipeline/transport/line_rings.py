"""Every camera's ring as the supervisor sees it: it holds the memory, so that frames and counters outlive a capture process."""

import os
from collections.abc import Iterable

from pipeline.core.errors import LinepipeError
from pipeline.core.frame import FrameMeta
from pipeline.core.ledger import NOTHING_YET, Account
from pipeline.transport.ring import Ring, new_memfd
from pipeline.transport.ring_state import NO_EPOCH


class LineRings:
    """One memfd for each of ``cameras``; their capture nodes make the rings in them."""

    def __init__(self, cameras: Iterable[str]) -> None:
        self.fds = {camera: new_memfd(f"linepipe-{camera}") for camera in cameras}
        self.epochs: dict[str, list[str]] = {camera: [] for camera in self.fds}
        """Lives of each camera's capture node, as far as ``note_epochs`` has seen them."""
        self._mapped: dict[str, Ring] = {}

    def exists(self, camera: str) -> bool:
        """Whether its capture node has made the ring."""
        return self._ring(camera) is not None

    def ended(self, camera: str) -> bool:
        """Whether its source has no further frame."""
        ring = self._ring(camera)
        return ring is not None and ring.state.ended

    def accounts(self) -> dict[str, Account]:
        """Every camera's ledger: true even when its capture node is dead."""
        return {camera: ring.state.account() if (ring := self._ring(camera)) is not None else NOTHING_YET for camera in self.fds}

    def held(self, camera: str) -> list[FrameMeta]:
        """Frames in the ring that have not ended."""
        ring = self._ring(camera)
        return [row.meta for row in ring.state.rows() if row.meta is not None] if ring is not None else []

    def note_epochs(self) -> None:
        """Called each turn: a capture node begins its epoch in its ring, and cannot be restarted before this has been seen."""
        for camera, epochs in self.epochs.items():
            ring = self._ring(camera)
            if ring is not None and (epoch := ring.state.epoch) != NO_EPOCH and epoch not in epochs:
                epochs.append(epoch)

    def _ring(self, camera: str) -> Ring | None:
        """None while its capture node has not made it."""
        fd = self.fds[camera]
        if camera not in self._mapped and os.fstat(fd).st_size:
            try:
                self._mapped[camera] = Ring.attach(fd)
            except LinepipeError:  # its header is being written
                return None
        return self._mapped.get(camera)
