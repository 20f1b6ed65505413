"""What a simulated strip planted, as JSON lines: what events can be measured against."""

import logging
from pathlib import Path

import msgspec

from nodes.capture.sim.strip import Truth
from pipeline.errors import NodeError


class TruthFile:
    """``{"epoch", "frame", "label", "box_px", "contrast", "position_m"}`` a line; places as in defect events."""

    def __init__(self, path: Path, epoch: str, height: int, mm_along: float | None, log: logging.Logger, *, append: bool) -> None:
        """Raises ``NodeError`` where the file cannot be written."""
        self._path, self._epoch, self._height, self._mm, self._log = path, epoch, height, mm_along, log
        self._incomplete = False
        try:
            self._write(b"", "ab" if append else "wb")
        except OSError as exc:
            raise NodeError(f"{path}: the simulator's truth cannot be written: {exc.strerror}") from exc

    def add(self, planted: list[Truth]) -> None:
        """Append. Trouble with the file later on ends no camera; that the file is not complete is said once."""
        if not planted:
            return
        try:
            self._write(b"".join(msgspec.json.encode(self._describe(t)) + b"\n" for t in planted), "ab")
        except OSError as exc:
            if not self._incomplete:
                self._log.warning("%s: the simulator's truth is not complete: %s", self._path, exc.strerror)
            self._incomplete = True

    def _write(self, lines: bytes, mode: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open(mode) as file:
            file.write(lines)

    def _describe(self, truth: Truth) -> dict[str, object]:
        _, y, _, h = truth.box
        metres = None if self._mm is None else round((truth.frame * self._height + y + h / 2) * self._mm / 1000, 6)
        return {
            "epoch": self._epoch,
            "frame": truth.frame,
            "label": truth.label,
            "box_px": truth.box,
            "contrast": truth.contrast,
            "position_m": metres,
        }
