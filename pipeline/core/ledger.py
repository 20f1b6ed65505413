"""The count of every frame of a camera: acquired = inspected + dropped + invalid + in flight. Pure.

Each frame ends with one fate; the ring's memory has a counter for each (``pipeline.transport.ring_state``).
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from pipeline.core.message_bounds import Count

DROP_REASONS = ("full", "shutdown", "lost")
"""``full``: the ring had no free slot. ``shutdown``: the line was stopped before the frame was inspected. ``lost``: the camera
numbered the frame, and it never came."""
INVALID_REASONS = ("empty", "format", "truncated", "corrupt", "too_large", "unreadable", "poison", "model")
"""``empty``: no bytes. ``format``: not JPEG, PNG or BMP. ``truncated``, ``corrupt``: damaged. ``too_large``: over a
limit. ``unreadable``: the file could not be read. ``poison``: two workers died over it. ``model``: scores not finite."""
REASONS = (*DROP_REASONS, *INVALID_REASONS)
"""Why a frame was not inspected."""

FATES = ("", *REASONS)
"""How a frame can end: with one of the reasons, or inspected (an empty string)."""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger at one moment, as the summary and the ``coverage`` event show it."""

    acquired: Annotated[Count, Meta(description="frames taken from the camera")]
    inspected: Annotated[Count, Meta(description="frames that were judged")]
    dropped: Annotated[dict[str, Count], Meta(description="frames without room or time, by reason")]
    invalid: Annotated[dict[str, Count], Meta(description="frames that cannot be inspected, by reason")]
    in_flight: Annotated[Count, Meta(description="frames that are none of the three yet")]


def account(acquired: int, ended: Sequence[int]) -> Account:
    """The ledger of a camera that has acquired so many frames, of which ``ended[k]`` ended as ``FATES[k]`` says.

    Reasons with no frames are left out. Raises ``ValueError`` unless ``ended`` has one number for each of ``FATES``.
    """
    counts = dict(zip(FATES, ended, strict=True))
    return Account(
        acquired=acquired,
        inspected=counts[""],
        dropped={reason: counts[reason] for reason in DROP_REASONS if counts[reason]},
        invalid={reason: counts[reason] for reason in INVALID_REASONS if counts[reason]},
        in_flight=acquired - sum(ended),
    )


NOTHING_YET = account(0, [0] * len(FATES))
"""The ledger before the first frame."""
