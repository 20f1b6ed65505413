"""The messages of linepipe's protocols, their bytes, and the rules for each kind of sender. No sockets.

A message is one msgpack map; tiles that travel between processes follow it as further parts. Decoding checks types and bounds
(``ProtocolError``). ``from_worker``, ``from_client`` and ``from_child`` check whether a sender may send the message.

Frame hop (worker <-> dispatcher): Ready, Ack up; Frame, End down.
Publish hop (client <-> publish):  Submit up; Durable down.
node -> supervisor:                 Heartbeat.
"""

import uuid
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
BOOT = uuid.uuid4().hex
"""Id of this process's life. A new one under a known name shows the receiver that the process was started again."""


class Held(Record, frozen=True, kw_only=True):
    """One frame that a worker has: what is needed to find its lease again."""

    epoch: Word
    frame: Count
    slot: Number
    generation: Count


class Ready(Record, frozen=True, kw_only=True, tag="ready"):
    """Sent when a worker starts and then as its heartbeat: it can hold ``credits`` frames and holds ``held`` now.

    A dispatcher leases frames again that it takes for leased and that the worker does not report as held: so a lost message does
    no harm.
    """

    version: Number
    worker: Word
    boot: Word
    credits: Number
    model: ModelId | None
    pid: Number = 0
    """Id of its process. Another process can use the worker's name only after this one has ended."""
    held: Annotated[tuple[Held, ...], MANY] = ()
    ended: Annotated[tuple[Word, ...], MANY] = ()
    """Epochs of which the worker has got the End and has no frame left."""


class Tiled(Record, frozen=True, kw_only=True):
    """What preprocess made of a frame; the tiles and then the frame's pixels follow as parts of the message."""

    boxes: Annotated[tuple[tuple[Number, Number, Number, Number], ...], MANY]
    """x, y, width, height of each tile in the frame, in pixels."""
    columns: Number
    """Tiles per row of the grid."""
    side: Number
    """Side of a tile, in pixels."""
    size: tuple[Number, Number]
    """Height and width of the frame, in pixels."""
    invalid: Reason
    """Why the frame is invalid; empty if it is not."""
    received_ns: Count
    tiled_ns: Count


class Frame(Record, frozen=True, kw_only=True, tag="frame"):
    """A frame leased to the worker; one credit is used until its Ack. If ``tiled`` is None, its bytes are in the ring."""

    ref: FrameRef
    tiled: Tiled | None = None


class Ack(Record, frozen=True, kw_only=True, tag="ack"):
    """The frame's verdict is durable; its slot may be used again. ``invalid``: the reason if that verdict is invalid, or empty."""

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
    """Key of the sender's record before it, while that may not be durable: publish takes this one only after it. Otherwise empty."""


class Durable(Record, frozen=True, kw_only=True, tag="durable"):
    """The records with these keys are durable: on disk, also after a power loss."""

    keys: Annotated[tuple[Key, ...], MANY]
    stands: dict[Key, Reason] = msgspec.field(default_factory=dict)
    """By key, for a verdict that was refused because its frame already had one: the reason if that earlier one is invalid, or empty."""


class Heartbeat(Record, frozen=True, kw_only=True, tag="heartbeat"):
    """What a node does now; ``progress`` grows with each turn of its work loop."""

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
    """One message -> its bytes, without a check of bounds."""
    return _encoder.encode(message)


def decode(data: bytes) -> Message:
    """Bytes -> one message. Raises ``ProtocolError`` if they are no message, or one whose types or bounds are wrong."""
    try:
        message: Message = _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise ProtocolError(f"not a linepipe message: {exc}") from exc
    return message


def held(ref: FrameRef) -> Held:
    """What identifies a leased frame in Ready and Ack."""
    return Held(epoch=ref.meta.epoch, frame=ref.meta.frame, slot=ref.slot, generation=ref.generation)


def from_worker(message: Message, workers: Collection[str]) -> Ready | Ack:
    """Check a message that a dispatcher got from one of the nodes ``workers``, and return it.

    Raises ``ProtocolError`` for another kind of message, another version of the protocol, or an unknown worker or reason.
    """
    if isinstance(message, Ready):
        _expect(message.version == VERSION, f"worker {message.worker!r} speaks version {message.version}, this is {VERSION}")
        _expect(message.worker in workers, f"no worker is named {message.worker!r}")
        return message
    _expect(isinstance(message, Ack), f"a worker does not send {type(message).__name__}")
    assert isinstance(message, Ack)
    _expect(message.invalid in FATES, f"{message.invalid!r} is no reason")
    return message


def from_client(message: Message, config: Config) -> Publishable:
    """Check a message that publish got from a node of the line, and return the record in it.

    Raises ``ProtocolError`` for another kind of message, an unknown camera or reason, a verdict without a model or with both defects and
    a reason, a gap without a reason or with its ends reversed, or a ledger that does not balance.
    """
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
    """Check a message that the supervisor got from a node, and return it; ``pids`` are the processes that it has started, by node.

    Raises ``ProtocolError`` for another kind of message, or one of any other process.
    """
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
