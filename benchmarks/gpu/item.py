"""What an item is told, where it finds images, and where it writes."""

import csv
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
_NEU = [Path(os.environ.get("LINEPIPE_NEU_DIR", "")), *(folder / "shared" / "data" / "neu-det" for folder in (ROOT.parent, ROOT))]
NEU = next((path for path in _NEU if (path / "split.csv").is_file()), None)
"""The NEU images, or None."""
Result = dict[str, Any]


class Where(NamedTuple):
    """What an item is told."""

    device: str
    cache: Path
    """Shared by all items of a run: compiled code is made once."""
    keep: Callable[[Result], None]
    """Puts what the item has found so far on disk."""

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def images(self) -> Path | None:
        """A data set: NEU on a GPU, None where it is missing; on a CPU noise in the same form, for NEU would take minutes."""
        return NEU if self.on_gpu else self.noise()

    def noise(self) -> Path:
        """2 classes of 16 images."""
        return _noise(self.folder("noise"))

    def folder(self, name: str) -> Path:
        """An empty folder of its own, also when ``cache`` was used before."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.cache))


def _noise(root: Path) -> Path:
    rng = np.random.default_rng(0)
    (root / "images").mkdir()
    with (root / "split.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "class", "split"])
        for k in range(32):
            cv2.imwrite(str(root / "images" / f"{k}.jpg"), rng.integers(0, 256, (200, 200), np.uint8))
            rows.writerow([f"{k}.jpg", f"class{k % 2}", "test" if k < 8 else "train"])
    return root
