"""What travels between processes: a frame's reference, its verdict, the records that become events. Frozen, in msgpack.

Their bounds (``pipeline.core.message_bounds``) are checked as a message is decoded, not as an object is made. ``key`` names a
record: one that is submitted twice is published once.
"""

from typing import Annotated

import msgspec

from pipeline.core.ledger import Account
from pipeline.core.message_bounds import IMAGE, MANY, Count, Key, Label, Number, Reason, Score, Text, Word

NEAR_PX = 32
"""Parts with one label that are at most this far apart, in neighbouring tiles or frames, are one defect."""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of what travels: keyword-only, immutable."""


class FrameMeta(Record, frozen=True, kw_only=True):
    """What capture knows of one frame. Monotonic stamps are CLOCK_MONOTONIC, comparable between processes of a host."""

    camera: Word
    epoch: Word
    """Life of the capture node that acquired it, or of its connection to a live camera."""
    frame: Count
    """Number within the run, from 0, dropped frames included."""
    shape: tuple[Number, Number] | None
    """Height and width of raw grey uint8 pixels; None: ``length`` bytes of an encoded image."""
    length: Count
    """Bytes in the slot."""
    arrived_ns: Count
    """Monotonic time at which the whole frame was in the ring."""
    captured_ns: Count
    """The same moment on the wall clock, ns since 1970 UTC."""
    source: Text | None = None
    """File name for ``folder:``, with the time in the file for ``video:`` (``clip.mp4#12.480s``); None for live cameras."""
    reason: Reason = ""
    """Why capture itself found the frame invalid (its file could not be read, for instance); empty if nothing was wrong so far."""


class FrameRef(Record, frozen=True, kw_only=True):
    """A leased frame: in which slot its bytes are, and in which generation of the slot."""

    meta: FrameMeta
    slot: Number
    """Number of the slot in the camera's ring, from 0."""
    generation: Count
    """How often the slot had been written when it got this frame; with another number the slot holds another frame."""
    attempt: Number
    """1 for the first worker that gets the frame."""


class Defect(Record, frozen=True, kw_only=True):
    """One defect of a frame."""

    label: Label
    score: Score
    """How surely it is a defect, 0..1."""
    scores: Annotated[dict[Label, Score], MANY]
    """Scores of all classes, of the tile with the highest."""
    box_px: tuple[Number, Number, Number, Number]
    """x, y, width, height in the frame's own pixels."""
    png: Annotated[bytes, IMAGE]
    """The tile that shows it best, as a PNG file."""


class Stamps(Record, frozen=True, kw_only=True):
    """When a frame passed each stage: CLOCK_MONOTONIC in ns; 0 if it did not get there."""

    received_ns: Count = 0
    tiled_ns: Count = 0
    judged_ns: Count = 0


class ModelId(Record, frozen=True, kw_only=True):
    """Name of the model that judged, and digest (``sha256:...``) of its file."""

    name: Label
    digest: Word


class Verdict(Record, frozen=True, kw_only=True, tag="verdict"):
    """The result for one frame: inspected with its defects, or invalid with a reason."""

    meta: FrameMeta
    attempt: Number
    model: ModelId | None
    tiles: Number = 0
    invalid: Reason = ""
    """A reason from ``pipeline.core.ledger.INVALID_REASONS``, or ``shutdown``; empty if the frame was inspected."""
    defects: Annotated[tuple[Defect, ...], MANY] = ()
    stamps: Stamps = Stamps()

    @property
    def key(self) -> str:
        """Unique within a line; the same for every verdict on one frame."""
        return f"verdict/{self.meta.camera}/{self.meta.epoch}/{self.meta.frame}"


class Gap(Record, frozen=True, kw_only=True, tag="gap"):
    """Frames of one camera that were not inspected, first to last inclusive."""

    camera: Word
    epoch: Word
    first: Count
    last: Count | None
    """None when it cannot be known (the capture node died)."""
    reason: Reason
    at_ns: Count
    """When it was noticed: wall clock, ns since 1970 UTC."""

    @property
    def key(self) -> str:
        """Unique within a line; ``last`` and the time are not part of it."""
        return f"gap/{self.camera}/{self.epoch}/{self.first}/{self.reason}"


class Coverage(Record, frozen=True, kw_only=True, tag="coverage"):
    """A camera's ledger, once a second."""

    camera: Word
    epoch: Word
    number: Count
    """Number of this record within the life of its capture process, from 0."""
    account: Account
    at_ns: Count
    """When it was counted: wall clock, ns since 1970 UTC."""

    @property
    def key(self) -> str:
        """Unique within a line."""
        return f"coverage/{self.camera}/{self.epoch}/{self.number}"


class Alarm(Record, frozen=True, kw_only=True, tag="alarm"):
    """Something that needs a person, or its end."""

    name: Key
    """As ``pipeline.core.events.AlarmKind`` makes it."""
    active: bool
    """Whether it begins; False: it ends."""
    text: Text
    at_ns: Count
    """When it was noticed: wall clock, ns since 1970 UTC."""

    @property
    def key(self) -> str:
        """Unique within a line: the same alarm at the same moment is one record."""
        return f"alarm/{self.name}/{self.at_ns}"


Publishable = Verdict | Gap | Coverage | Alarm
