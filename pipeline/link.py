"""The taking side of the frame hop: asks a dispatcher for frames, holds them, acknowledges them."""

import os
import uuid
from collections.abc import Callable

from pipeline.errors import ProtocolError
from pipeline.frame import FrameRef, ModelId
from pipeline.transport import Dealer
from pipeline.wire import VERSION, Ack, End, Frame, Held, Message, Ready, held

HEARTBEAT_NS = 500_000_000
EPOCHS = 1000  # ended ones that are still confirmed
PID = os.getpid()
BOOT = uuid.uuid4().hex
"""This process's life; a dispatcher that meets a new one under a known name knows the old one is dead."""


class FrameLink:
    """One worker's connection to one dispatcher.

    ``on_frame(message, payload)`` is called for each frame that arrives; each must be ended by one ``ack``.
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
        """Frames held."""
        return len(self._held)

    def turn(self, now_ns: int) -> None:
        """Take what has arrived and send the heartbeat when it is due."""
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
        """The frame's verdict is durable."""
        key = held(ref)
        self._held.pop(key, None)
        self.dealer.send(Ack(held=key, boot=BOOT, invalid=invalid))
        if self._ended and not self._held:
            self._next_beat_ns = 0

    def refuse_more(self) -> None:
        """Ask for no further frames; those held are still finished."""
        self._credits, self._next_beat_ns = 0, 0

    def forget(self, ref: FrameRef) -> None:
        """Drop a frame that is no longer ours; no acknowledgement."""
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
