"""The events that a line publishes: a public contract. Pure.

Every field is always there; what may be unknown is null. A later version may add fields, and readers pass over them. Times
are RFC 3339 in UTC.
"""

from datetime import UTC, datetime
from enum import StrEnum

import msgspec

VERSION = 1


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    v: int
    id: str
    line: str


class ModelRef(msgspec.Struct, frozen=True, kw_only=True):
    """The model that judged."""

    name: str
    digest: str


class DefectEvent(_Event, frozen=True, kw_only=True, tag="defect"):
    """A defect on the material."""

    camera: str
    epoch: str
    frame: int
    piece: str | None
    captured_at: str
    label: str
    score: float
    scores: dict[str, float]
    source: str | None
    box_px: tuple[int, int, int, int]
    box_mm: tuple[float, float, float, float] | None
    position_m: float | None
    model: ModelRef
    image: str | None
    attempt: int


class GapEvent(_Event, frozen=True, kw_only=True, tag="gap"):
    """Frames that were not inspected, first to last inclusive; last is null when it cannot be known."""

    camera: str
    epoch: str
    first: int
    last: int | None
    position_m: tuple[float, float | None] | None
    reason: str
    source: str | None
    at: str


class CoverageEvent(_Event, frozen=True, kw_only=True, tag="coverage"):
    """A camera's ledger: acquired = inspected + dropped + invalid + in_flight."""

    camera: str
    epoch: str
    acquired: int
    inspected: int
    dropped: dict[str, int]
    invalid: dict[str, int]
    in_flight: int
    at: str


class AlarmKind(StrEnum):
    """What an alarm is about; of a camera, node, sink or consumer group its name follows, as ``KIND:NAME``."""

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
        """The name of the alarm that is about ``name``."""
        return f"{self}:{name}"


class AlarmEvent(_Event, frozen=True, kw_only=True, tag="alarm"):
    """Something that needs a person (``active``), or its end."""

    name: str
    active: bool
    text: str
    at: str


Event = DefectEvent | GapEvent | CoverageEvent | AlarmEvent
TYPES = ("defect", "gap", "coverage", "alarm")
FIELDS = {str(kind.__struct_config__.tag): frozenset(kind.__struct_fields__) for kind in (DefectEvent, GapEvent, CoverageEvent, AlarmEvent)}
"""Names of the fields that every event of a type has."""


def timestamp(wall_ns: int) -> str:
    """ns since 1970 -> ``2026-11-22T10:00:00.123456Z``."""
    seconds, ns = divmod(wall_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=ns // 1000)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def encode(event: Event) -> bytes:
    """One event as JSON."""
    return msgspec.json.encode(event)
