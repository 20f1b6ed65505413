"""Makes one event of a defect across the border of two frames: its parts wait here until their neighbours are known.

On a continuous strip the end of one frame is the beginning of the next. A part that comes near such a border is held
until the frame beyond it has its verdict or is known to be missing, but at most ``HOLD_NS``; what belongs together then
becomes one event. Pure: the spool makes the waiting parts durable.
"""

from collections import defaultdict
from collections.abc import Iterable

import msgspec

from nodes.publish.make_events import place
from pipeline.config import Config
from pipeline.core.events import DefectEvent
from pipeline.core.frame import NEAR_PX

HOLD_NS = 2_000_000_000
"""Longest wait of a part for a neighbouring frame."""
MOST_FRAMES = 32
"""Frames in one event at most: a longer defect becomes several events, so that it is not held back for ever."""
REMEMBERED = 4096  # frames per camera and epoch that are remembered as known

Key = tuple[str, str]  # camera, epoch


class Stitched(msgspec.Struct, frozen=True):
    """One event and the parts that went into it, in the order of frames."""

    event: DefectEvent
    parts: tuple[DefectEvent, ...]


class Stitcher:
    """Holds parts of defects, by camera and epoch. Used from one thread."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._parts: dict[Key, list[tuple[int, DefectEvent]]] = defaultdict(list)
        self._known: dict[Key, dict[int, None]] = defaultdict(dict)  # a set that keeps its order

    def waits(self, event: object) -> bool:
        """Whether an event is a part that may go on in a neighbouring frame, and so must be given to ``add``."""
        return isinstance(event, DefectEvent) and (self._above(event) or self._below(event))

    def add(self, part: DefectEvent, now_ns: int) -> None:
        """Hold a part, which must be durable already. ``now_ns``: monotonic."""
        self._parts[part.camera, part.epoch].append((now_ns, part))

    @property
    def held(self) -> int:
        """Number of parts that wait."""
        return sum(map(len, self._parts.values()))

    def know(self, camera: str, epoch: str, frames: Iterable[int]) -> None:
        """Note that these frames have their verdict, or will have none."""
        known = self._known[camera, epoch]
        known.update(dict.fromkeys(frames))
        while len(known) > REMEMBERED:
            del known[next(iter(known))]

    def take(self, now_ns: int, *, everything: bool) -> list[Stitched]:
        """Remove and return the defects that are complete, have waited for ``HOLD_NS``, or span ``MOST_FRAMES``.

        ``everything``: all of them. The caller must give their parts back to ``add`` if it cannot store them. ``now_ns``: monotonic.
        """
        done = []
        for key, waiting in self._parts.items():
            for group in self._groups(waiting):
                oldest = min(arrived for arrived, _ in group)
                parts = tuple(sorted((p for _, p in group), key=lambda p: (p.frame, p.box_px)))
                long = parts[-1].frame - parts[0].frame + 1 >= MOST_FRAMES
                if everything or long or now_ns - oldest > HOLD_NS or all(self._settled(key, p) for p in parts):
                    done.append(Stitched(self._join(parts), parts))
                    for member in group:
                        waiting.remove(member)
        return done

    def _settled(self, key: Key, part: DefectEvent) -> bool:
        known = self._known[key]
        above = not self._above(part) or part.frame == 0 or part.frame - 1 in known
        return above and (not self._below(part) or part.frame + 1 in known)

    def _groups(self, waiting: list[tuple[int, DefectEvent]]) -> list[list[tuple[int, DefectEvent]]]:
        """The parts grouped: those of one group belong together, directly or through others."""
        groups: list[list[tuple[int, DefectEvent]]] = []
        for item in sorted(waiting, key=lambda w: w[1].frame):
            mine = [g for g in groups if any(self._continues(p, item[1]) for _, p in g)]
            groups = [g for g in groups if g not in mine]
            groups.append([member for g in mine for member in g] + [item])
        return groups

    def _continues(self, a: DefectEvent, b: DefectEvent) -> bool:
        """Whether ``b`` goes on where ``a`` leaves the frame before."""
        if a.frame + 1 != b.frame or a.label != b.label or not self._below(a) or not self._above(b):
            return False
        (ax, ay, aw, ah), (bx, by, bw, _) = a.box_px, b.box_px
        across, along = max(ax, bx) - min(ax + aw, bx + bw), (self._height(a) or 0) - (ay + ah) + by
        return max(across, along) <= NEAR_PX

    def _above(self, event: DefectEvent) -> bool:
        return self._height(event) is not None and event.box_px[1] <= NEAR_PX

    def _below(self, event: DefectEvent) -> bool:
        height = self._height(event)
        return height is not None and event.box_px[1] + event.box_px[3] >= height - NEAR_PX

    def _height(self, event: DefectEvent) -> int | None:
        """Rows of a frame of a camera that sees a continuous strip, else None."""
        camera = self._config.cameras.get(event.camera)  # None: a part left by a run with other cameras
        if camera is None or camera.speed_mps is None or camera.frame_px is None or self._config.preprocess.layout != "grid":
            return None
        return camera.frame_px[1]

    def _join(self, parts: tuple[DefectEvent, ...]) -> DefectEvent:
        """One event in place of the first part: its box reaches beyond that frame; score and image are those of the best part."""
        first, best = parts[0], max(parts, key=lambda p: p.score)
        if len(parts) == 1:
            return first
        height = self._height(first) or 0
        boxes = [(x, y + (p.frame - first.frame) * height, w, h) for p in parts for x, y, w, h in [p.box_px]]
        left, top = min(b[0] for b in boxes), min(b[1] for b in boxes)
        right, bottom = max(b[0] + b[2] for b in boxes), max(b[1] + b[3] for b in boxes)
        box = (left, top, right - left, bottom - top)
        box_mm, position_m = place(self._config, first.camera, first.frame, box)
        return msgspec.structs.replace(
            first, score=best.score, scores=best.scores, image=best.image, box_px=box, box_mm=box_mm, position_m=position_m
        )
