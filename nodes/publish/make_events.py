"""Makes events of records: their positions, ids, names of images. Pure."""

import hashlib
import re

import msgspec

from pipeline.config import Config
from pipeline.core.events import (
    VERSION,
    AlarmEvent,
    CoverageEvent,
    DefectEvent,
    Event,
    GapEvent,
    ModelRef,
    timestamp,
)
from pipeline.core.frame import Alarm, Coverage, Defect, Gap, Publishable, Verdict
from pipeline.core.ledger import REASONS


def events_of(record: Publishable, config: Config) -> list[tuple[Event, bytes]]:
    """The events of one record, each with the PNG file that belongs to it, or ``b""``; [] for a frame without defects.

    The record's camera must be in ``config``. The same record always gives the same ids.
    """
    if isinstance(record, Verdict):
        if record.invalid:
            return [(_invalid(record, config), b"")]
        return [(_defect(record, d, k, config), d.png) for k, d in enumerate(record.defects)]
    if isinstance(record, Gap):
        return [(_gap(record, config), b"")]
    if isinstance(record, Coverage):
        return [(_coverage(record, config.line), b"")]
    return [(_alarm(record, config.line), b"")]


def _defect(verdict: Verdict, defect: Defect, index: int, config: Config) -> DefectEvent:
    meta = verdict.meta
    box_mm, position_m = place(config, meta.camera, meta.frame, defect.box_px)
    identity = event_id(config.line, meta.camera, meta.epoch, meta.frame, index)
    assert verdict.model is not None
    return DefectEvent(
        v=VERSION,
        id=identity,
        line=config.line,
        camera=meta.camera,
        epoch=meta.epoch,
        frame=meta.frame,
        piece=None,
        captured_at=timestamp(meta.captured_ns),
        label=defect.label,
        score=defect.score,
        scores=defect.scores,
        source=meta.source,
        box_px=defect.box_px,
        box_mm=box_mm,
        position_m=position_m,
        model=ModelRef(name=verdict.model.name, digest=verdict.model.digest),
        image=f"{meta.camera}/{_plain(defect.label)}/{identity}.png",
        attempt=verdict.attempt,
    )


def place(
    config: Config, camera: str, frame: int, box: tuple[int, int, int, int]
) -> tuple[tuple[float, float, float, float] | None, float | None]:
    """``box_mm`` and ``position_m`` of a box given in a frame's px (x, y, width, height).

    ``box_mm``: the same in mm, None without ``pixel_mm``. ``position_m``: its middle along the strip in m, counted from the run's
    first frame; None without ``frame_px`` or ``pixel_mm``.
    """
    x, y, w, h = box
    pixel_mm, box_mm = config.cameras[camera].pixel_mm, None
    if pixel_mm is not None:
        across, along = pixel_mm
        box_mm = (round(x * across, 3), round(y * along, 3), round(w * across, 3), round(h * along, 3))
    return box_mm, _position(config, camera, frame, y + h / 2)


def _invalid(verdict: Verdict, config: Config) -> GapEvent:
    meta = verdict.meta
    gap = Gap(camera=meta.camera, epoch=meta.epoch, first=meta.frame, last=meta.frame, reason=verdict.invalid, at_ns=meta.captured_ns)
    return msgspec.structs.replace(_gap(gap, config), source=meta.source)


def invalid_ids(verdict: Verdict, line: str) -> dict[str, str]:
    """For each reason why a frame may not be inspected: the id that its gap event would have -> the reason."""
    meta = verdict.meta
    return {event_id(line, meta.camera, meta.epoch, meta.frame, meta.frame, reason): reason for reason in REASONS}


def _gap(gap: Gap, config: Config) -> GapEvent:
    start = _position(config, gap.camera, gap.first, 0)
    end = None if gap.last is None else _position(config, gap.camera, gap.last + 1, 0)
    return GapEvent(
        v=VERSION,
        id=event_id(config.line, gap.camera, gap.epoch, gap.first, gap.last, gap.reason),
        line=config.line,
        camera=gap.camera,
        epoch=gap.epoch,
        first=gap.first,
        last=gap.last,
        position_m=None if start is None else (start, end),
        reason=gap.reason,
        source=None,
        at=timestamp(gap.at_ns),
    )


def _coverage(coverage: Coverage, line: str) -> CoverageEvent:
    return CoverageEvent(
        v=VERSION,
        id=event_id(line, coverage.camera, coverage.epoch, "coverage", coverage.number),
        line=line,
        camera=coverage.camera,
        epoch=coverage.epoch,
        at=timestamp(coverage.at_ns),
        **msgspec.structs.asdict(coverage.account),
    )


def _alarm(alarm: Alarm, line: str) -> AlarmEvent:
    identity = event_id(line, "alarm", alarm.name, alarm.at_ns)
    return AlarmEvent(v=VERSION, id=identity, line=line, name=alarm.name, active=alarm.active, text=alarm.text, at=timestamp(alarm.at_ns))


def _position(config: Config, camera: str, frame: int, row: float) -> float | None:
    """Position of a frame's row along the strip, in m from the run's first frame; None if the sizes are unknown."""
    settings = config.cameras[camera]
    if settings.frame_px is None or settings.pixel_mm is None:
        return None
    return round((frame * settings.frame_px[1] + row) * settings.pixel_mm[1] / 1000, 6)


def _plain(label: str) -> str:
    """A label as a folder name."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", label) or "_"


def event_id(*parts: object) -> str:
    """A deterministic id of 32 hexadecimal digits: the same parts, compared as text, always give the same id."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]
