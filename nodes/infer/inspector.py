"""From tiled frames to verdicts: batches, engine, defects. The work loop that calls this is in ``nodes/infer/node.py``."""

import time
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from nodes.infer.batches import Batcher, EngineRunner
from nodes.infer.engines.load import Loaded
from nodes.infer.join_tiles import Found, Region, Tiles, find_defects, region_of
from nodes.infer.tile_labels import Rules
from pipeline.config import Config
from pipeline.core.frame import Defect, Stamps, Verdict
from pipeline.core.tiles import Pixels, TiledFrame
from pipeline.transport.outbox import Outbox

PNG_LEVEL = 1  # a crop is written once and read rarely: speed before size


class Pending:
    """A frame being judged: the scores of its tiles so far, and what to do at the end.

    ``current()``: whether the frame is still leased to this worker. ``ack(invalid)``: called when its verdict is durable.
    ``forget()``: called instead if the frame is not current any more.
    """

    def __init__(self, frame: TiledFrame, current: Callable[[], bool], ack: Callable[[str], None], forget: Callable[[], None]) -> None:
        self.frame, self.current, self.ack, self.forget = frame, current, ack, forget
        self.region = Region(0, 0, ())
        self.judged: list[int] = []
        """Indices of the tiles that the network judges."""
        self.scores: NDArray[np.float32] | None = None
        """(tiles, K); None before the first answer."""
        self.maps: NDArray[np.float32] | None = None
        """(tiles, h, w) from a network that locates, else None."""
        self.missing = 0
        """Judged tiles whose scores have not come yet."""

    def take(self, index: int, scores: NDArray[np.float32], location: NDArray[np.float32] | None) -> None:
        """Store the network's answer for tile ``index``: scores, float32 (K,), and its map, float32 (h, w), if it locates."""
        if self.scores is None:
            self.scores = np.zeros((len(self.frame.boxes), *scores.shape), np.float32)
            self.maps = None if location is None else np.zeros((len(self.frame.boxes), *location.shape), np.float32)
        self.scores[index] = scores
        if self.maps is not None:
            self.maps[index] = location
        self.missing -= 1


class Inspector:
    """Collects tiles, runs the engine, submits a verdict for every frame, and acknowledges the frame once that is durable.

    All methods are called from one thread, the work loop's; the engine runs in a thread of its own (``runner``).
    """

    def __init__(self, config: Config, loaded: Loaded, outbox: Outbox) -> None:
        settings = config.infer
        self._cameras, self._loaded, self._outbox = config.cameras, loaded, outbox
        self._rules = Rules(settings, loaded.model.classes)
        self._batcher: Batcher[tuple[Pending, int]] = Batcher(settings.max_batch, int(settings.max_wait_ms * 1e6))
        self._gather = loaded.engine.gather
        self.runner = EngineRunner(loaded.engine)
        self.tiles = self.batches = self.stale = 0

    def add(self, pending: Pending) -> None:
        """Take a frame. Its tiles wait for ``feed``; a frame that is invalid or has nothing to judge gets its verdict at once."""
        if pending.frame.invalid:
            self._conclude(pending, (), pending.frame.invalid)
            return
        frame = pending.frame
        pending.region = region_of(self._cameras[frame.ref.meta.camera], frame.pixels)
        pending.judged = [k for k, box in enumerate(frame.boxes) if pending.region.touches(box)]
        pending.missing = len(pending.judged)
        if not pending.missing:
            self._conclude(pending, (), "")
        now = time.monotonic_ns()
        for index in pending.judged:
            self._batcher.add((pending, index), now)

    def feed(self) -> None:
        """Give the engine the batches that are full or due. Lets ``RuntimeError`` of the engine's ``gather`` through."""
        while group := self._batcher.take(time.monotonic_ns(), self.runner.running):
            self.runner.submit(group, self._gather([p.frame.tiles[k] for p, k in group]))
            self.batches += 1
            self.tiles += len(group)

    def collect(self) -> None:
        """Take the engine's scores and conclude the frames whose tiles are all judged. Raises ``NodeError`` as ``results`` does."""
        for group, scores, maps in self.runner.results():
            for k, (pending, index) in enumerate(group):
                pending.take(index, scores[k], None if maps is None else maps[k])
                if not pending.missing:
                    self._finish(pending)

    def wait_ms(self, most: float) -> float:
        """Milliseconds until a batch is due, ``most`` at most; 0 or less: now."""
        due = self._batcher.due_ns(self.runner.running)
        return most if due is None else min(most, (due - time.monotonic_ns()) / 1e6)

    def _finish(self, pending: Pending) -> None:
        scores = pending.scores
        assert scores is not None
        if not np.isfinite(scores).all():
            self._conclude(pending, (), "model")
            return
        frame = pending.frame
        tiles = Tiles(frame.boxes, frame.columns, pending.judged, scores, pending.maps)
        found = find_defects(tiles, self._rules, pending.region)
        self._conclude(pending, tuple(_with_crop(f, frame.pixels) for f in found), "")

    def _conclude(self, pending: Pending, defects: tuple[Defect, ...], invalid: str) -> None:
        if not pending.current():
            self.stale += 1
            pending.forget()
            return
        frame = pending.frame
        verdict = Verdict(
            meta=frame.ref.meta,
            attempt=frame.ref.attempt,
            model=self._loaded.id,
            tiles=len(pending.judged),
            invalid=invalid,
            defects=defects,
            stamps=Stamps(received_ns=frame.received_ns, tiled_ns=frame.tiled_ns, judged_ns=time.monotonic_ns()),
        )
        self._outbox.submit(verdict, time.monotonic_ns(), pending.ack)


def _with_crop(found: Found, pixels: Pixels) -> Defect:
    """A defect whose image is the tile that shows it best; training can use that tile unchanged."""
    x, y, w, h = found.tile
    _, png = cv2.imencode(".png", pixels[y : y + h, x : x + w], [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])
    return Defect(label=found.label, score=found.score, scores=found.scores, box_px=found.box, png=png.tobytes())
