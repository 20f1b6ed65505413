"""Measures how long events take from the complete frame to Redis's reply, by stage."""

import time

import msgspec

from nodes.publish.spool.spool import Spooled
from pipeline.core.frame import Verdict
from pipeline.core.histogram import Histogram

MEASURED = 10_000  # frames that are being measured at a time; more only while Redis is away
STAGES = ("total", "capture", "preprocess", "infer", "publish")


class Latency:
    """Times of verdicts whose events are on their way. One thread calls ``confirmed``, another all other methods."""

    def __init__(self) -> None:
        self._arrived: dict[int, Verdict] = {}  # by seq of the verdict's last event, until Redis has it
        self._parts: dict[str, Verdict] = {}  # by id of a held part: taken when it becomes an event
        self._stages = {stage: Histogram() for stage in STAGES}

    def spooled(self, seq: int, verdict: Verdict) -> None:
        """The last event of a verdict is in the spool, under the number ``seq``. Not measured while ``MEASURED`` wait already."""
        if len(self._arrived) < MEASURED:
            self._arrived[seq] = msgspec.structs.replace(verdict, defects=())

    def held(self, part: str, verdict: Verdict) -> None:
        """A part of a defect, with the event id ``part``, waits for its neighbour."""
        if len(self._parts) < MEASURED:
            self._parts[part] = msgspec.structs.replace(verdict, defects=())

    def joined(self, seq: int, parts: list[str]) -> None:
        """These parts (event ids) have become the event ``seq``, whose time counts from its last frame."""
        verdicts = [v for p in parts if (v := self._parts.pop(p, None)) is not None]
        if verdicts:
            self.spooled(seq, max(verdicts, key=lambda v: v.meta.frame))

    def confirmed(self, events: list[Spooled]) -> None:
        """Redis has these events."""
        now = time.monotonic_ns()
        for event in events:
            verdict = self._arrived.pop(event.seq, None)
            if verdict is not None:
                marks = (verdict.meta.arrived_ns, verdict.stamps.received_ns, verdict.stamps.tiled_ns, verdict.stamps.judged_ns, now)
                for stage, begin, end in zip(STAGES[1:], marks, marks[1:], strict=False):
                    self._stages[stage].add(end - begin)
                self._stages["total"].add(now - marks[0])

    @property
    def facts(self) -> dict[str, dict[int, int]]:
        """For each of ``STAGES`` the bins of its histogram: bin -> count; see ``pipeline.core.histogram``."""
        return {stage: h.bins for stage, h in self._stages.items()}
