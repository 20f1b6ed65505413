"""What each sender may say. Decoding has checked types and bounds; here is what depends on who may send it, and on the line.

Each function returns the message if it fits and raises ``ProtocolError`` if not; the receiver's socket counts that and goes on.
"""

from collections.abc import Collection
from typing import Any, TypedDict

import msgspec

from pipeline.bounds import Count, Label, Number, Text, Word
from pipeline.config import Config
from pipeline.errors import ProtocolError
from pipeline.frame import Alarm, Coverage, Gap, Publishable, Verdict
from pipeline.ledger import DROP_REASONS, FATES, INVALID_REASONS
from pipeline.wire import VERSION, Ack, Message, Ready, Status, Submit


class Facts(TypedDict, total=False):
    """What nodes tell the supervisor of themselves, as far as it uses it; a fact that stands here has this type."""

    batches: Count
    backlog: Count
    camera: Word
    duplicates: Count
    engine: Label
    epoch: Word
    error: Text
    events: dict[Word, Count]
    frames: Count
    golden_checks: Count
    held: Count
    latency: dict[Word, dict[Number, Count]]
    model: Label
    redis: Text
    refused: Count
    stale: Count
    tiles: Count
    url: Text
    waiting: Count


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


def from_child(message: Message, pids: dict[str, set[int]]) -> Status:
    """A heartbeat of a process that the supervisor has started; ``pids`` by node."""
    _expect(isinstance(message, Status), f"a node does not send {type(message).__name__}")
    assert isinstance(message, Status)
    _expect(message.pid in pids.get(message.node, ()), f"process {message.pid} is no node {message.node!r}")
    try:
        msgspec.convert(message.facts, Facts)
    except msgspec.ValidationError as exc:
        raise ProtocolError(f"facts of {message.node!r}: {exc}") from exc
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
