"""What a line reports: its status while it runs, the summary of a run (both public contracts), and the facts of its nodes. Pure.

Every field is always there; what is not known is null.
"""

from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pipeline.core.ledger import Account
from pipeline.core.message_bounds import Count, Label, Number, Text, Word


class Phase(StrEnum):
    """Where a run is between its start and its end."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"
    FAILED = "failed"


class NodeState(StrEnum):
    """What a process of a line does now."""

    STOPPED = "stopped"
    STARTING = "starting"
    WAITING = "waiting"
    RUNNING = "running"
    RESTARTING = "restarting"
    ENDED = "ended"
    FAILED = "failed"


class SinkFacts(msgspec.Struct, frozen=True, kw_only=True):
    """State of one sink other than Redis."""

    state: Annotated[Text | None, Meta(description="connecting, up, or away: WHY")]
    backlog: Annotated[Count | None, Meta(description="events that it has not confirmed")]


class Facts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node reports to the supervisor in its heartbeat; each node fills the fields that it knows."""

    error: Text | None = None
    """Why the node ends; only in its last heartbeat."""
    refused: Count = 0
    """Messages that it refused, because no node of the line sends them."""
    waiting: Count = 0
    """Frames (capture) or records (publish) that wait."""
    held: Count = 0
    """Frames that a worker has in hand."""
    stale: Count = 0
    """Messages that were ignored, because they belong to an earlier life or lease."""
    frames: Count = 0
    tiles: Count = 0
    camera: Word | None = None
    epoch: Word | None = None
    engine: Label | None = None
    model: Label | None = None
    batches: Count = 0
    golden_checks: Count = 0
    events: dict[Word, Count] = {}
    duplicates: Count = 0
    """Records that came twice."""
    backlog: Count | None = None
    """Events that Redis has not confirmed."""
    spool: Text | None = None
    """``ok``, or why the spool cannot be written."""
    redis: Text | None = None
    """connecting, up, or away: WHY."""
    url: Text | None = None
    sinks: dict[Word, SinkFacts] = {}
    latency: dict[Word, dict[Number, Count]] = {}
    """``Histogram.bins`` (``pipeline.core.histogram``) of each stage, by its name."""


Milliseconds = Annotated[float | None, Meta(description="ms; null before the first defect")]


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Time from a frame's arrival to the confirmation of its events, or one stage's share of it."""

    p50: Milliseconds
    p99: Milliseconds


class RedisPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where the events of a line are."""

    url: Annotated[str, Meta(description="of the server")]
    stream: Annotated[str, Meta(description="name of the stream")]


class CameraSummary(Account, frozen=True, kw_only=True):
    """A camera's ledger, and its epochs."""

    epochs: Annotated[list[str], Meta(description="ids of its epochs, in order")]


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """Rates from the first frame to the last verdict."""

    frames_per_s: Annotated[float, Meta(description="inspected frames a second, of all cameras")]
    tiles_per_s: Annotated[float | None, Meta(description="tiles a second; null in the status")] = None


class SpoolSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What waits for Redis."""

    backlog: Annotated[int | None, Meta(description="events that Redis has not confirmed")]
    delivered: Annotated[bool, Meta(description="whether publish ended in order and Redis has everything")]


ByName = dict[str, int]


class Summary(msgspec.Struct, kw_only=True):
    """What a run did, as ``--summary`` and ``STATE_DIR/summary.json`` hold it."""

    line: Annotated[str, Meta(description="name of the line")]
    error: Annotated[str | None, Meta(description="why the run ended before its end, or what it left undone")]
    duration_s: Annotated[float, Meta(description="seconds from the first frame until the line began to stop")]
    cameras: Annotated[dict[str, CameraSummary], Meta(description="ledger of each camera")]
    events: Annotated[ByName, Meta(description="events of this run by type")]
    spool: Annotated[SpoolSummary, Meta(description="what waits for Redis")]
    sinks: Annotated[dict[str, SinkFacts], Meta(description="what waits for the other sinks, by name")] = {}
    throughput: Annotated[Throughput, Meta(description="rates")]
    latency_ms: Annotated[dict[str, Latency], Meta(description="total, capture, preprocess, infer, publish")]
    restarts: Annotated[ByName, Meta(description="restarts by process; those that had none are left out")]
    engine: Annotated[str | None, Meta(description="engine that ran, with precision and device")]
    redis: Annotated[RedisPlace, Meta(description="where the events are")]


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One process of a line."""

    state: Annotated[NodeState, Meta(description="what it does")]
    pid: Annotated[int | None, Meta(description="process id; null while there is none")]
    restarts: Annotated[int, Meta(description="how often it was started again")]
    reason: Annotated[str | None, Meta(description="why it does not run")]
    retry_in_s: Annotated[float | None, Meta(description="seconds to the next start")]
    refused: Annotated[int, Meta(description="messages that it refused: no node of the line sends them")]


class SpoolStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What waits for Redis now."""

    backlog: Annotated[int | None, Meta(description="events that Redis has not confirmed")]
    redis: Annotated[str | None, Meta(description="connecting, up, or away: WHY")]


class LineStatus(msgspec.Struct, kw_only=True):
    """A line as it is now: ``linepipe status --json``, ``STATE_DIR/status.json``."""

    line: Annotated[str, Meta(description="name of the line")]
    phase: Annotated[Phase, Meta(description="where the run stands")]
    duration_s: Annotated[float, Meta(description="seconds since the first frame")]
    nodes: Annotated[dict[str, NodeStatus], Meta(description="processes by name")]
    cameras: Annotated[dict[str, Account], Meta(description="ledger of each camera")]
    events: Annotated[ByName, Meta(description="events of this run by type")]
    spool: Annotated[SpoolStatus, Meta(description="what waits for Redis")]
    sinks: Annotated[dict[str, SinkFacts], Meta(description="state of the other sinks, by name")] = {}
    throughput: Annotated[Throughput, Meta(description="rates")]
    latency_ms: Annotated[dict[str, Latency], Meta(description="total, capture, preprocess, infer, publish")]
    engine: Annotated[str | None, Meta(description="engine that runs, with precision and device")]
    redis: Annotated[RedisPlace, Meta(description="where the events are")]
    refused: Annotated[int, Meta(description="messages that the supervisor refused: no node of the line sends them")] = 0
    running: Annotated[bool | None, Meta(description="whether the line runs now; null in status.json")] = None


def json_schema(kind: Any, title: str, *, closed: bool = False) -> dict[str, Any]:
    """JSON Schema (2020-12) of ``kind``, a msgspec Struct or a union of some.

    It is made for readers: unknown fields are allowed, because a later version may add some. With ``closed`` it refuses them,
    which is right for what linepipe itself writes.
    """
    (root,), components = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    for found in components.values() if closed else ():
        if "properties" in found:
            found["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **root, "$defs": components}
