"""Joins frames that were not inspected into gaps. Pure."""

from pipeline.frame import FrameMeta, Gap

MERGE_NS = 1_000_000_000


class GapMerger:
    """Adjoining frames of one epoch and reason become one gap, for at most a second each."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], Gap] = {}

    def add(self, meta: FrameMeta, reason: str, now_ns: int) -> list[Gap]:
        """Note a frame; returns the gap that it does not adjoin, which is complete now."""
        key = (meta.epoch, reason)
        gap = self._open.get(key)
        if gap is not None and gap.last == meta.frame - 1 and now_ns - gap.at_ns < MERGE_NS:
            self._open[key] = _make(meta, gap.first, reason, gap.at_ns)
            return []
        self._open[key] = _make(meta, meta.frame, reason, now_ns)
        return [gap] if gap is not None else []

    def take(self, now_ns: int, *, everything: bool = False) -> list[Gap]:
        """Gaps that have been open for a second, or all."""
        done = [k for k, g in self._open.items() if everything or now_ns - g.at_ns >= MERGE_NS]
        return [self._open.pop(k) for k in done]


def _make(meta: FrameMeta, first: int, reason: str, at_ns: int) -> Gap:
    return Gap(camera=meta.camera, epoch=meta.epoch, first=first, last=meta.frame, reason=reason, at_ns=at_ns)
