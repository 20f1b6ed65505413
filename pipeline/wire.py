"""The messages of linepipe's protocols and their bytes. No sockets.

A message is one msgpack map; tiles that travel between processes follow it as further parts. Decoding checks types
and bounds and refuses what no peer sends (``ProtocolError``); ``pipeline.senders`` checks what a sender may say.

Frame hop (worker <-> dispatcher): Ready, Ack up; Frame, End down.
Publish hop (client <-> publish):  Submit up; Durable down.
Status (node -> supervisor):       Status.
"""

from typing import Annotated, Any

import msgspec

from pipeline.bounds import MANY, Count, Key, Number, Reason, Text, Word
from pipeline.errors import ProtocolError
from pipeline.frame import FrameRef, ModelId, Publishable, Record

VERSION = 1


class Held(Record, frozen=True, kw_only=True):
    """One frame that a worker has: enough to find its lease again."""

    epoch: Word
    frame: Count
    slot: Number
    generation: Count


class Ready(Record, frozen=True, kw_only=True, tag="ready"):
    """Sent when a worker starts and then as its heartbeat: it can hold ``credits`` frames and holds ``held`` now.

    A dispatcher leases again what it believes leased and the worker no longer holds: a lost message heals itself.
    """

    version: Number
    worker: Word
    boot: Word
    credits: Number
    model: ModelId | None
    pid: Number = 0
    """Its process; another life under its name is believed once that is gone."""
    held: Annotated[tuple[Held, ...], MANY] = ()
    ended: Annotated[tuple[Word, ...], MANY] = ()
    """Epochs whose End the worker has seen and has nothing left of."""


class Tiled(Record, frozen=True, kw_only=True):
    """What preprocess made of a frame; the tiles and then the frame's pixels follow as parts of the message."""

    boxes: Annotated[tuple[tuple[Number, Number, Number, Number], ...], MANY]
    columns: Number
    side: Number
    size: tuple[Number, Number]
    """Height and width of the frame."""
    invalid: Reason
    received_ns: Count
    tiled_ns: Count


class Frame(Record, frozen=True, kw_only=True, tag="frame"):
    """A frame leased to the worker; one credit is used until its Ack. ``tiled`` None: its bytes lie in the ring."""

    ref: FrameRef
    tiled: Tiled | None = None


class Ack(Record, frozen=True, kw_only=True, tag="ack"):
    """The frame's verdict is durable; its slot may be used again. ``invalid``: why the verdict that stands is invalid, or empty."""

    held: Held
    boot: Word
    invalid: Reason = ""


class End(Record, frozen=True, kw_only=True, tag="end"):
    """No frame of this epoch will follow."""

    epoch: Word


class Submit(Record, frozen=True, kw_only=True, tag="submit"):
    """A record to make durable and publish. Sent again until Durable comes back."""

    record: Publishable
    after: Text = ""
    """Key of the sender's record before it, while that may not be durable: publish takes this one only behind it."""


class Durable(Record, frozen=True, kw_only=True, tag="durable"):
    """The records with these keys survive whatever is killed now."""

    keys: Annotated[tuple[Key, ...], MANY]
    stands: dict[Key, Reason] = msgspec.field(default_factory=dict)
    """For a verdict that was refused because its frame had one: why that one is invalid, or empty. One fate for each frame."""


class Status(Record, frozen=True, kw_only=True, tag="status"):
    """A node's heartbeat: ``progress`` grows with each turn of its work loop."""

    node: Word
    pid: Number
    boot: Word
    state: Word
    progress: Count
    facts: Annotated[dict[Word, Any], MANY]


Message = Ready | Frame | Ack | End | Submit | Durable | Status

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """One message -> its bytes."""
    return _encoder.encode(message)


def decode(data: bytes) -> Message:
    """Bytes -> one message. Raises ``ProtocolError``."""
    try:
        message: Message = _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise ProtocolError(f"not a linepipe message: {exc}") from exc
    return message


def held(ref: FrameRef) -> Held:
    """The identity of a leased frame."""
    return Held(epoch=ref.meta.epoch, frame=ref.meta.frame, slot=ref.slot, generation=ref.generation)
