"""The words that travel: a frame's reference, its verdict, the records that become events. Frozen, in msgpack."""

from typing import Any

import msgspec

NEAR_PX = 32
"""Parts of one label that are this near to each other, in neighbouring tiles or frames, are one defect."""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of what travels: keyword-only, immutable."""


class FrameMeta(Record, frozen=True, kw_only=True):
    """What capture knows of one frame. Monotonic stamps are CLOCK_MONOTONIC, comparable between processes of a host."""

    camera: str
    epoch: str
    """Life of the capture node that acquired it."""
    frame: int
    """Number within the run, from 0, dropped frames included."""
    shape: tuple[int, int] | None
    """Height and width of raw grey uint8 pixels; None: ``length`` bytes of an encoded image."""
    length: int
    """Bytes in the slot."""
    arrived_ns: int
    """Monotonic time at which the whole frame was in the ring."""
    captured_ns: int
    """The same moment on the wall clock, ns since 1970 UTC."""
    source: str | None = None
    """File name for ``folder:``, with the time in the file for ``video:`` (``clip.mp4#12.480s``); None for live cameras."""
    reason: str = ""
    """Why capture itself found the frame invalid (the file could not be read, say); empty: nothing wrong so far."""


class FrameRef(Record, frozen=True, kw_only=True):
    """A leased frame: where its bytes lie and which life of the slot is meant."""

    meta: FrameMeta
    slot: int
    generation: int
    attempt: int
    """1 for the first worker that gets the frame."""


class Defect(Record, frozen=True, kw_only=True):
    """One defect of a frame."""

    label: str
    score: float
    scores: dict[str, float]
    box_px: tuple[int, int, int, int]
    """x, y, width, height in the frame's own pixels."""
    png: bytes
    """The crop as a PNG file."""


class Stamps(Record, frozen=True, kw_only=True):
    """When a frame passed each stage, monotonic ns."""

    received_ns: int = 0
    tiled_ns: int = 0
    judged_ns: int = 0


class ModelId(Record, frozen=True, kw_only=True):
    """Name and digest of the model that judged."""

    name: str
    digest: str


class Verdict(Record, frozen=True, kw_only=True, tag="verdict"):
    """The result for one frame: inspected with its defects, or invalid with a reason."""

    meta: FrameMeta
    attempt: int
    model: ModelId | None
    tiles: int = 0
    invalid: str = ""
    """Reason from ``INVALID_REASONS``, or ``shutdown``; empty: the frame was inspected."""
    defects: tuple[Defect, ...] = ()
    stamps: Stamps = Stamps()

    @property
    def key(self) -> str:
        """Unique within a line: one verdict for a frame."""
        return f"verdict/{self.meta.camera}/{self.meta.epoch}/{self.meta.frame}"


class Gap(Record, frozen=True, kw_only=True, tag="gap"):
    """Frames of one camera that were not inspected, first to last inclusive."""

    camera: str
    epoch: str
    first: int
    last: int | None
    """None when it cannot be known (the capture node died)."""
    reason: str
    at_ns: int

    @property
    def key(self) -> str:
        return f"gap/{self.camera}/{self.epoch}/{self.first}/{self.reason}"


class Coverage(Record, frozen=True, kw_only=True, tag="coverage"):
    """A camera's ledger, once a second."""

    camera: str
    epoch: str
    number: int
    account: dict[str, Any]
    at_ns: int

    @property
    def key(self) -> str:
        return f"coverage/{self.camera}/{self.epoch}/{self.number}"


class Alarm(Record, frozen=True, kw_only=True, tag="alarm"):
    """Something that needs a person, or its end."""

    name: str
    active: bool
    text: str
    at_ns: int

    @property
    def key(self) -> str:
        return f"alarm/{self.name}/{self.at_ns}"


Publishable = Verdict | Gap | Coverage | Alarm
