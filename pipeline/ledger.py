"""The count of every frame of a camera: acquired = inspected + dropped + invalid + in flight. Pure.

Counters live in a flat array of int64, so that they can lie in the ring's memory and outlive the process that counts.
"""

from collections.abc import MutableSequence

import msgspec

from pipeline.bounds import Count

DROP_REASONS = ("full", "shutdown")
"""``full``: the ring had no free slot. ``shutdown``: the line was stopped before the frame was inspected."""
INVALID_REASONS = ("empty", "format", "truncated", "corrupt", "too_large", "unreadable", "poison", "model")
"""``empty``: no bytes. ``format``: not JPEG, PNG or BMP. ``truncated``, ``corrupt``: damaged. ``too_large``: over a
limit. ``unreadable``: the file could not be read. ``poison``: two workers died over it. ``model``: scores not finite."""
REASONS = (*DROP_REASONS, *INVALID_REASONS)
"""Why a frame was not inspected."""

FATES = ("", *REASONS)
"""How a frame can end: by its reason, or empty: it was inspected."""

_FIELDS = ("acquired", "inspected", *(f"dropped:{r}" for r in DROP_REASONS), *(f"invalid:{r}" for r in INVALID_REASONS))
_INDEX = {name: k for k, name in enumerate(_FIELDS)}
SIZE = len(_FIELDS)


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger at one moment, as the summary and the ``coverage`` event show it."""

    acquired: Count
    inspected: Count
    dropped: dict[str, Count]
    invalid: dict[str, Count]
    in_flight: Count


class Ledger:
    """Counts frames into ``cells`` (at least ``SIZE`` integers, by default its own)."""

    def __init__(self, cells: MutableSequence[int] | None = None) -> None:
        self._cells = [0] * SIZE if cells is None else cells

    def acquire(self) -> None:
        self._add("acquired")

    def inspect(self) -> None:
        self._add("inspected")

    def drop(self, reason: str) -> None:
        """``reason``: one of ``DROP_REASONS``."""
        self._add(f"dropped:{reason}")

    def invalidate(self, reason: str) -> None:
        """``reason``: one of ``REASONS``."""
        self._add(f"{'dropped' if reason in DROP_REASONS else 'invalid'}:{reason}")

    @property
    def acquired(self) -> int:
        return int(self._cells[0])

    def account(self) -> Account:
        counts = {name: int(self._cells[k]) for name, k in _INDEX.items()}
        ended = sum(counts.values()) - counts["acquired"]
        return Account(
            acquired=counts["acquired"],
            inspected=counts["inspected"],
            dropped=_by_reason(counts, "dropped:"),
            invalid=_by_reason(counts, "invalid:"),
            in_flight=counts["acquired"] - ended,
        )

    def _add(self, name: str) -> None:
        self._cells[_INDEX[name]] += 1


def _by_reason(counts: dict[str, int], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): n for name, n in counts.items() if name.startswith(prefix) and n}
