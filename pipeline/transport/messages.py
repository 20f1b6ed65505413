"""The messages of linepipe's protocols, their bytes, and what a sender may say. No sockets.

A message is one msgpack map; tiles that travel between processes follow it as further parts. Decoding checks types
and bounds and refuses what no peer sends (``ProtocolError``). ``from_worker``, ``from_client`` and ``from_child`` check
a message against its sender.

Frame hop (worker <-> dispatcher): Ready, Ack up; Frame, End down.
Publish hop (client <-> publish):  Submit up; Durable down.
node -> supervisor:                 Heartbeat.
"""

from collections.abc import Collection
from typing import Annotated, Any

import msgspec

from pipeline.config import Config
from pipeline.core.errors import ProtocolError
from pipeline.core.frame import Alarm, Coverage, FrameRef, Gap, ModelId, Publishable, Record, Verdict
from pipeline.core.ledger import DROP_REASONS, FATES, INVALID_REASONS
from pipeline.core.message_bounds import MANY, Count, Key, Number, Reason, Text, Word
from pipeline.core.status import Facts, NodeState

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


class Heartbeat(Record, frozen=True, kw_only=True, tag="heartbeat"):
    """What a node does; ``progress`` grows with each turn of its work loop."""

    node: Word
    pid: Number
    boot: Word
    state: NodeState
    progress: Count
    facts: Facts


Message = Ready | Frame | Ack | End | Submit | Durable | Heartbeat

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


def from_worker(message: Message, workers: Collection[str]) -> Ready | Ack:
    """What one of the nodes ``workers`` says to who gives it frames."""
    if isinstance(message, Ready):
        _expect(message.version == VERSION, f"worker {message.worker!r} speaks version {message.version}, this is {VERSION}")
        _expect(message.worker in workers, f"no worker is named {message.worker!r}")
        return message
    _expect(isinstance(message, Ack), f"a worker does not send {type(message).__name__}")
    assert isinstance(message, Ack)
    _expect(message.invalid in FATES, f"{message.invalid!r} is no reason")
    return message


def from_client(message: Message, config: Config) -> Publishable:
    """The record that a node of the line submits to publish."""
    _expect(isinstance(message, Submit), f"a client does not send {type(message).__name__}")
    assert isinstance(message, Submit)
    record = message.record
    if isinstance(record, Verdict):
        _camera(record.meta.camera, config)
        _expect(record.invalid in FATES, f"{record.invalid!r} is no reason")
        _expect(not (record.invalid and record.defects), "an invalid frame has no defects")
        _expect(record.model is not None or bool(record.invalid), "a verdict names its model")
    elif isinstance(record, Gap):
        _camera(record.camera, config)
        _expect(bool(record.reason), "a gap has a reason")
        _expect(record.last is None or record.last >= record.first, f"a gap does not go from {record.first} to {record.last}")
    elif isinstance(record, Coverage):
        _camera(record.camera, config)
        _account(record)
    else:
        assert isinstance(record, Alarm)
    return record


def from_child(message: Message, pids: dict[str, set[int]]) -> Heartbeat:
    """A heartbeat of a process that the supervisor has started; ``pids`` by node."""
    _expect(isinstance(message, Heartbeat), f"a node does not send {type(message).__name__}")
    assert isinstance(message, Heartbeat)
    _expect(message.pid in pids.get(message.node, ()), f"process {message.pid} is no node {message.node!r}")
    return message


def _camera(name: str, config: Config) -> None:
    _expect(name in config.cameras, f"no camera is named {name!r}")


def _account(record: Coverage) -> None:
    account = record.account
    _expect(set(account.dropped) <= set(DROP_REASONS) and set(account.invalid) <= set(INVALID_REASONS), "a reason is unknown")
    ended = account.inspected + sum(account.dropped.values()) + sum(account.invalid.values())
    _expect(account.acquired == ended + account.in_flight, f"the account of {record.camera!r} does not balance")


def _expect(fits: Any, why: str) -> None:
    if not fits:
        raise ProtocolError(why)
