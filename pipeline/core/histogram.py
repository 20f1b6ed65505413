"""Latency histograms: logarithmic bins of 5 %, from 10 microseconds. Those of several processes and lives can be added. Pure."""

import math
from collections import Counter

_BASE_NS = 10_000
_RATIO = math.log(1.05)


class Histogram:
    """Counts durations; quantiles are right to within a bin (5 %). ``bins``: counts to begin with, as ``bins`` gives them."""

    def __init__(self, bins: dict[int, int] | None = None) -> None:
        self._bins: Counter[int] = Counter(bins or {})

    def add(self, duration_ns: int) -> None:
        """Count one duration. All up to 10 microseconds are in the first bin, also 0 and negative ones."""
        self._bins[max(0, math.ceil(math.log(max(duration_ns, 1) / _BASE_NS) / _RATIO))] += 1

    def merge(self, bins: dict[int, int]) -> None:
        """Add the counts of another histogram, as its ``bins`` gives them."""
        self._bins.update(bins)

    @property
    def bins(self) -> dict[int, int]:
        """A copy of the counts by number of bin; the upper edge of bin k is 10 microseconds times 1.05 ** k."""
        return dict(self._bins)

    def quantile_ms(self, share: float) -> float | None:
        """Upper edge, in ms, of the bin in which ``share`` (0..1) of all durations is reached; None if nothing was counted."""
        wanted = share * self._bins.total()
        reached = 0
        for index in sorted(self._bins):
            reached += self._bins[index]
            if reached >= wanted:
                return float(_BASE_NS * math.exp(index * _RATIO) / 1e6)
        return None
