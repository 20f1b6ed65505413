"""The events that a line publishes: a public contract. Pure.

Every field is always there; what may be unknown is null. A later version may add fields, and readers pass over them. Times
are RFC 3339 in UTC.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

VERSION = 1


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    v: Annotated[int, Meta(description="version of the contract: 1")]
    id: Annotated[str, Meta(description="deterministic id, the same however often it is sent")]
    line: Annotated[str, Meta(description="the line")]


class ModelRef(msgspec.Struct, frozen=True, kw_only=True):
    """The model that judged."""

    name: Annotated[str, Meta(description="name of the model")]
    digest: Annotated[str, Meta(description="SHA-256 of its weights")]


class DefectEvent(_Event, frozen=True, kw_only=True, tag="defect"):
    """A defect on the material."""

    camera: Annotated[str, Meta(description="the camera")]
    epoch: Annotated[str, Meta(description="life of its capture node, or of a live camera's connection")]
    frame: Annotated[int, Meta(description="number of the frame within the run, from 0")]
    piece: Annotated[str | None, Meta(description="null in this version")]
    captured_at: Annotated[str, Meta(description="when the frame was whole, UTC, microseconds")]
    label: Annotated[str, Meta(description="class")]
    score: Annotated[
        float,
        Meta(description="how surely it is a defect, 0..1: the class's score, or 1 - `scores.ok` from a model that knows clean steel"),
    ]
    scores: Annotated[dict[str, float], Meta(description="scores of all classes, of the tile with the highest")]
    source: Annotated[
        str | None, Meta(description="file name for `folder:`, with the time for `video:` (`clip.mp4#12.480s`); null otherwise")
    ]
    box_px: Annotated[
        tuple[int, int, int, int],
        Meta(description="x, y, width, height in the frame, and beyond its lower end where the defect goes on in the next"),
    ]
    box_mm: Annotated[tuple[float, float, float, float] | None, Meta(description="the same in mm; null without `pixel_mm`")]
    position_m: Annotated[
        float | None,
        Meta(description="the box's middle along the strip, in m from the run's first frame; null without `frame_px` and `pixel_mm`"),
    ]
    model: Annotated[ModelRef, Meta(description="the model that judged")]
    image: Annotated[
        str | None,
        Meta(
            description=(
                "the tile that shows it best, under `state_dir/images/` (class sub-folders that `linepipe train` reads); null if it could "
                "not be written"
            )
        ),
    ]
    attempt: Annotated[int, Meta(description="2 when the first worker died over the frame")]


class GapEvent(_Event, frozen=True, kw_only=True, tag="gap"):
    """Frames that were not inspected, first to last inclusive; last is null when it cannot be known."""

    camera: Annotated[str, Meta(description="the camera")]
    epoch: Annotated[str, Meta(description="life of its capture node, or of a live camera's connection")]
    first: Annotated[int, Meta(description="first frame that was not inspected")]
    last: Annotated[int | None, Meta(description="last one, inclusive; null when unknown")]
    position_m: Annotated[tuple[float, float | None] | None, Meta(description="start and end of the stretch in m; end null when unknown")]
    reason: Annotated[str, Meta(description="a reason of the ledger, `capture_died` or `camera_lost`")]
    source: Annotated[str | None, Meta(description="as of a defect")]
    at: Annotated[str, Meta(description="when it was noticed, UTC, microseconds")]


class CoverageEvent(_Event, frozen=True, kw_only=True, tag="coverage"):
    """A camera's ledger: acquired = inspected + dropped + invalid + in_flight."""

    camera: Annotated[str, Meta(description="the camera")]
    epoch: Annotated[str, Meta(description="life of its capture node, or of a live camera's connection")]
    acquired: Annotated[int, Meta(description="frames taken from the camera")]
    inspected: Annotated[int, Meta(description="frames that were judged")]
    dropped: Annotated[dict[str, int], Meta(description="frames without room or time, by reason")]
    invalid: Annotated[dict[str, int], Meta(description="frames that cannot be inspected, by reason")]
    in_flight: Annotated[int, Meta(description="frames that are none of the three yet")]
    at: Annotated[str, Meta(description="when it was noticed, UTC, microseconds")]


class AlarmKind(StrEnum):
    """What an alarm is about. The name of an alarm is the kind, or ``KIND:NAME`` if it concerns one camera, node, sink or group."""

    CAMERA_LOST = "camera_lost"
    REDIS_AWAY = "redis_away"
    SINK_AWAY = "sink_away"
    REDIS_LOST = "redis_lost"
    REDIS_DIED = "redis_died"
    REDIS_DAMAGED = "redis_damaged"
    REDIS_CROWDED = "redis_crowded"
    FOREIGN_ENTRIES = "foreign_entries"
    ENTRIES_DELETED = "entries_deleted"
    CHANNEL_REFUSED = "channel_refused"
    STREAM_NOT_TRIMMED = "stream_not_trimmed"
    GROUP_IDLE = "group_idle"
    GROUP_LOST = "group_lost"
    DISK_FULL = "disk_full"
    SPOOL_STUCK = "spool_stuck"
    SPOOL_DAMAGED = "spool_damaged"
    IMAGE_NOT_KEPT = "image_not_kept"
    NODE_DIED = "node_died"
    NODE_STORM = "node_storm"
    FRAMES_UNACCOUNTED = "frames_unaccounted"
    SOCKETS_REMOVED = "sockets_removed"
    STATE_REMOVED = "state_removed"

    def of(self, name: str) -> str:
        """The name of the alarm about one camera, node, sink or consumer group: ``KIND:name``."""
        return f"{self}:{name}"


class AlarmEvent(_Event, frozen=True, kw_only=True, tag="alarm"):
    """Something that needs a person (``active``), or its end."""

    name: Annotated[str, Meta(description="which one: see below")]
    active: Annotated[bool, Meta(description="whether it begins; false: it ends")]
    text: Annotated[str, Meta(description="what happened, for people")]
    at: Annotated[str, Meta(description="when it was noticed, UTC, microseconds")]


Event = DefectEvent | GapEvent | CoverageEvent | AlarmEvent
TYPES = ("defect", "gap", "coverage", "alarm")
FIELDS = {str(kind.__struct_config__.tag): frozenset(kind.__struct_fields__) for kind in (DefectEvent, GapEvent, CoverageEvent, AlarmEvent)}
"""Names of the fields that every event of a type has."""


def timestamp(wall_ns: int) -> str:
    """Wall clock in ns since 1970 (UTC) -> ``2026-11-22T10:00:00.123456Z``; less than a microsecond is cut off."""
    seconds, ns = divmod(wall_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=ns // 1000)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def encode(event: Event) -> bytes:
    """One event as JSON (UTF-8), with its ``type``."""
    return msgspec.json.encode(event)
